"""Records of delivered batches: written, counted and pruned."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime

from altsync.db import Conn
from altsync.freshness import counted
from altsync.operations import Settlement
from altsync.outbox.freshness import COUNT
from altsync.outbox.retention import RANGE


def record_batch(
    conn: Conn,
    sink: str,
    worker: str,
    claimed: int,
    settlement: Settlement,
    *,
    calls: int,
    tokens: int,
    seconds: float,
) -> None:
    """Record a delivered batch, for throughput, remote calls, cost and freshness over time."""
    outcomes = asdict(settlement)
    ages = counted(outcomes.pop("ages"))
    # One statement, without a transaction that would hold the minute's rows for longer.
    fresh = f"WITH fresh AS ({COUNT}) " if ages else ""
    conn.execute(
        f"""
        {fresh}
        INSERT INTO delivery_batch (sink, worker, claimed, synced, superseded, retried, dead, lost,
                                    remote_calls, tokens, seconds)
        VALUES (%(sink)s, %(worker)s, %(claimed)s, %(synced)s, %(superseded)s, %(retried)s,
                %(dead)s, %(lost)s, %(calls)s, %(tokens)s, %(seconds)s)
        """,
        {
            "sink": sink,
            "worker": worker,
            "claimed": claimed,
            **outcomes,
            "buckets": list(ages),
            "counts": list(ages.values()),
            "calls": calls,
            "tokens": tokens,
            "seconds": seconds,
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
