"""Remove finished history, in ranges and short transactions."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from altsync.catalogue.current import entity_type
from altsync.contract import Topology
from altsync.db import Conn
from altsync.outbox.embedding_dependency import fail_behind
from altsync.outbox.enqueue import lock_entities

#: Ids of one range. A transaction deletes at most so many rows, in some tens of milliseconds.
RANGE = 10_000


@dataclass(frozen=True, slots=True)
class PrunedRange:
    """Counts of rows removed from one range, without and with status dead; the next id."""

    finished: int
    dead: int
    go_on: int


def claim_pruning(conn: Conn) -> bool:
    """Take the lock of pruning until this transaction ends; False when another holds it."""
    row = conn.execute(
        "SELECT pg_try_advisory_xact_lock(hashtext('altsync.prune'), hashtext(current_schema()))"
    ).fetchone()
    return bool(row and row[0])


_OLD = """
FROM sync_operation WHERE id BETWEEN %(first)s AND %(last)s
  AND COALESCE(discarded_at, finished_at) < %(before)s
  AND (status IN ('synced', 'superseded', 'discarded') OR (%(dead)s AND status = 'dead'))
"""

_COUNTS = "count(*) FILTER (WHERE status <> 'dead'), count(*) FILTER (WHERE status = 'dead')"


def prune_range(
    conn: Conn,
    topology: Topology,
    start: int,
    before: datetime,
    *,
    dead: bool = False,
    dry_run: bool = False,
) -> PrunedRange | None:
    """Remove operations that ended before ``before`` from the first range of ids from ``start``.

    None when no range is left, or when the next one is younger: ids grow with time, so all above
    are younger, too. Live rows stay, and dead ones unless ``dead``. ``dry_run`` only counts.
    """
    span: dict[str, Any] = {"start": start, "before": before, "dead": dead}
    row = conn.execute(
        """
        SELECT f.first, (SELECT min(created_at) FROM sync_operation
                         WHERE id BETWEEN f.first AND f.first + %(range)s - 1)
        FROM (SELECT min(id) AS first FROM sync_operation WHERE id >= %(start)s) f
        """,
        {**span, "range": RANGE},
    ).fetchone()
    assert row is not None
    first, oldest = row
    if first is None or oldest is None or oldest >= before:
        return None
    span |= {"first": first, "last": first + RANGE - 1}
    if dry_run:
        counts = conn.execute(f"SELECT {_COUNTS} {_OLD}", span).fetchone()
    else:
        counts = _remove(conn, topology, span)
    assert counts is not None
    return PrunedRange(counts[0], counts[1], first + RANGE)


def _remove(conn: Conn, topology: Topology, span: dict[str, Any]) -> tuple[int, int]:
    found = conn.execute(
        f"SELECT id, entity_type, entity_id {_OLD} AND status = 'dead'", span
    ).fetchall()
    dead = [(r[0], entity_type(r[1]), r[2]) for r in found]
    lock_entities(conn, ((t, i) for _, t, i in dead))
    counts = conn.execute(
        f"WITH gone AS (DELETE {_OLD} RETURNING status) SELECT {_COUNTS} FROM gone", span
    ).fetchone()
    fail_behind(conn, dead, topology)
    assert counts is not None
    return counts[0], counts[1]
