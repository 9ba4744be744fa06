"""Records of delivered batches: written, counted and pruned."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from altsync.costs import ledger
from altsync.costs.ledger import Bill
from altsync.db import Conn
from altsync.freshness import counted
from altsync.operations import Settlement
from altsync.outbox.freshness import COUNT
from altsync.outbox.retention import RANGE

_BATCH = """
INSERT INTO delivery_batch (sink, worker, claimed, synced, superseded, retried, dead, lost,
                            remote_calls, tokens, read_units, write_units, dollars, seconds)
VALUES (%(sink)s, %(worker)s, %(claimed)s, %(synced)s, %(superseded)s, %(retried)s,
        %(dead)s, %(lost)s, %(calls)s, %(tokens)s, %(read_units)s, %(write_units)s,
        %(dollars)s, %(seconds)s)
"""


def record_batch(
    conn: Conn,
    sink: str,
    worker: str,
    claimed: int,
    settlement: Settlement,
    *,
    calls: int,
    bill: Bill,
    seconds: float,
) -> None:
    """Record a delivered batch, for throughput, remote calls, cost and freshness over time.

    One statement, without a transaction that would hold the rows of the minute and of the day.
    """
    outcomes = asdict(settlement)
    ages = counted(outcomes.pop("ages"))
    more = [f"fresh AS ({COUNT})"] if ages else []
    more += [ledger.RECORD] if bill else []
    conn.execute(
        f"WITH {', '.join(more)} {_BATCH}" if more else _BATCH,
        {
            "worker": worker,
            "claimed": claimed,
            **outcomes,
            "buckets": list(ages),
            "counts": list(ages.values()),
            "calls": calls,
            **asdict(bill.usage),
            "dollars": bill.dollars,
            "seconds": seconds,
            **ledger.record_parameters(sink, bill),
        },
    )


def count_batches(conn: Conn, before: datetime) -> int:
    """Count the records of batches that ended before ``before``."""
    row = conn.execute(
        "SELECT count(*) FROM delivery_batch WHERE finished_at < %s", (before,)
    ).fetchone()
    assert row is not None
    return int(row[0])


def prune_batches(conn: Conn, before: datetime, *, limit: int = RANGE) -> int:
    """Remove up to ``limit`` records of batches that ended before ``before``, the oldest first."""
    return conn.execute(
        """
        DELETE FROM delivery_batch WHERE id = ANY(ARRAY(
          SELECT id FROM delivery_batch WHERE finished_at < %s ORDER BY finished_at LIMIT %s))
        """,
        (before, limit),
    ).rowcount
