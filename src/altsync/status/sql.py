"""Counts of entities, operations and batches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from psycopg.sql import SQL, Identifier

from altsync.db import Conn
from altsync.declarations import WITH_STATUS, columns_of
from altsync.entities import EntityType, SyncStatus

#: Number of entities with each combination of statuses, in the order of ``WITH_STATUS``.
Counts = Mapping[tuple[str, ...], int]


def count_statuses(conn: Conn, entity_type: EntityType) -> Counts:
    """Count living entities by their statuses, in the order of ``WITH_STATUS``."""
    columns = ", ".join(columns.status for s in WITH_STATUS if (columns := columns_of(s)))
    rows = conn.execute(
        f"""
        SELECT count(*), {columns} FROM {entity_type} WHERE deleted_at IS NULL GROUP BY {columns}
        """
    )
    return {tuple(r[1:]): r[0] for r in rows}


@dataclass(frozen=True, slots=True)
class Backlog:
    """The operations of one sink, by status."""

    pending: int = 0
    in_progress: int = 0
    dead: int = 0
    oldest_pending_seconds: float | None = None
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class Idle:
    """Due operations of a sink that no worker has claimed for ``seconds``.

    ``relay_silent``: no relay has sent a wake-up either.
    """

    seconds: float
    due: int
    relay_silent: bool


def idle_sinks(conn: Conn, at_least: float) -> dict[str, Idle]:
    """Return the sinks that could be claimed for, and were not for ``at_least`` seconds."""
    rows = conn.execute(
        """
        SELECT d.sink, LEAST(d.waits, w.claimed)::float8, d.due,
               w.woken >= w.claimed OR w.woken > 30
        FROM (SELECT sink, count(*) AS due,
                     EXTRACT(epoch FROM clock_timestamp() - min(available_at)) AS waits
              FROM sync_operation
              WHERE finished_at IS NULL AND available_at <= clock_timestamp() GROUP BY sink) d
        JOIN sink_state s ON s.sink = d.sink
        -- A time in the future was written before the clock was set back: it is ignored.
        CROSS JOIN LATERAL (SELECT
          CASE WHEN s.last_claim_at <= clock_timestamp() THEN s.last_claim_at END AS claim,
          CASE WHEN s.last_wake_at <= clock_timestamp() THEN s.last_wake_at END AS wake) c
        CROSS JOIN LATERAL (SELECT
          EXTRACT(epoch FROM clock_timestamp() - COALESCE(c.claim, '-infinity')) AS claimed,
          EXTRACT(epoch FROM clock_timestamp() - COALESCE(c.wake, '-infinity')) AS woken) w
        WHERE LEAST(d.waits, w.claimed) >= %s AND s.paused_since IS NULL
          AND (s.state = 'closed' OR (s.state = 'open' AND COALESCE(s.open_until <= now(), true))
               OR (s.state = 'probing' AND COALESCE(s.probe_until <= now(), true)))
        ORDER BY d.sink
        """,
        (at_least,),
    )
    return {sink: Idle(seconds, due, silent) for sink, seconds, due, silent in rows}


def backlog(conn: Conn) -> dict[str, Backlog]:
    """Count operations by sink and status."""
    return backlog_and_late(conn, ())[0]


#: Live changes by sink and age: those that are older than each of some seconds.
Late = Mapping[str, Mapping[float, int]]


def backlog_and_late(conn: Conn, ages: Sequence[float]) -> tuple[dict[str, Backlog], Late]:
    """Count operations by sink and status, and the live changes that are older than ``ages``.

    In one pass, as it reads every live row. ``ages`` are in seconds.
    """
    late = ", ".join(
        f"count(*) FILTER (WHERE changed_at < now() - interval '{float(age)} s')" for age in ages
    )
    # One SELECT for each partial index.
    rows = conn.execute(
        f"""
        SELECT sink, sum(pending)::bigint, sum(in_progress)::bigint, sum(dead)::bigint,
          EXTRACT(epoch FROM now() - min(oldest))::float8, sum(discarded)::bigint, max(late)
        FROM (
          SELECT sink, count(*) FILTER (WHERE status = 'pending') AS pending,
            count(*) FILTER (WHERE status = 'in_progress') AS in_progress, 0 AS dead,
            min(created_at) FILTER (WHERE status = 'pending') AS oldest, 0 AS discarded,
            ARRAY[{late}]::bigint[] AS late
          FROM sync_operation WHERE finished_at IS NULL GROUP BY sink
          UNION ALL
          SELECT sink, 0, 0, count(*) FILTER (WHERE status = 'dead'), NULL,
            count(*) FILTER (WHERE status = 'discarded'), NULL
          FROM sync_operation WHERE status IN ('dead', 'discarded') GROUP BY sink) halves
        GROUP BY sink
        """
    ).fetchall()
    return (
        {r[0]: Backlog(*r[1:-1]) for r in rows},
        {r[0]: dict(zip(ages, r[-1] or [0] * len(ages), strict=True)) for r in rows},
    )


@dataclass(frozen=True, slots=True)
class Leftover:
    """Living rows and live operations of a type that the catalogue lacks."""

    rows: int = 0
    operations: int = 0


def leftovers(conn: Conn, declared: Collection[EntityType]) -> dict[str, Leftover]:
    """Count what is left of types that the catalogue lacks. Only entities have the column."""
    known = [kind.value for kind in declared]
    live = conn.execute(
        "SELECT entity_type, count(*) FROM sync_operation "
        "WHERE finished_at IS NULL AND entity_type <> ALL(%s) GROUP BY entity_type",
        (known,),
    )
    operations: dict[str, int] = dict(live.fetchall())
    tables = conn.execute(
        """
        SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE a.attname = 'graph_version' AND c.relkind = 'r' AND c.relname <> ALL(%s)
          AND c.relnamespace = current_schema()::regnamespace
        """,
        (known,),
    ).fetchall()
    rows = {}
    for (table,) in tables:
        count = SQL("SELECT count(*) FROM {} WHERE deleted_at IS NULL").format(Identifier(table))
        rows[table] = int(conn.execute(count).fetchone()[0])  # type: ignore[index]
    found = {
        name: Leftover(rows.get(name, 0), operations.get(name, 0))
        for name in sorted({*rows, *operations})
    }
    return {name: one for name, one in found.items() if one.rows or one.operations}


def status_breakdown(counts: Counts, sink: str) -> dict[SyncStatus, int]:
    """Count entities by their status for one of ``WITH_STATUS``."""
    position = WITH_STATUS.index(sink)
    totals = dict.fromkeys(SyncStatus, 0)
    for key, count in counts.items():
        totals[SyncStatus(key[position])] += count
    return totals


def remote_calls(conn: Conn) -> int:
    """Return how many calls all workers have made to the sinks."""
    row = conn.execute("SELECT COALESCE(sum(remote_calls), 0) FROM delivery_batch").fetchone()
    assert row is not None
    return int(row[0])
