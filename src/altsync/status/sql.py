"""Counts of entities, operations and batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from altsync.catalogue.current import (
    entity_types,
    related_types,
    searched_types,
)
from altsync.contract import EMBEDDING, SIMILARITY, SinkTraits
from altsync.db import Conn
from altsync.declarations import WITH_STATUS, columns_of
from altsync.entities import EntityType, SyncStatus

#: Sinks that can be waited for.
FOLLOWED = (*WITH_STATUS, SIMILARITY)

#: How often each combination of statuses occurs, in the order of ``WITH_STATUS``.
Counts = Mapping[tuple[str, ...], int]


def count_statuses(conn: Conn, entity_type: EntityType) -> Counts:
    """Living entities by their statuses, in the order of ``WITH_STATUS``."""
    columns = ", ".join(columns.status for s in WITH_STATUS if (columns := columns_of(s)))
    rows = conn.execute(
        f"""
        SELECT count(*), {columns} FROM {entity_type} WHERE deleted_at IS NULL GROUP BY {columns}
        """
    )
    return {tuple(r[1:]): r[0] for r in rows}


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a sink has come with what one seeding run changed."""

    changed: int
    synced: int
    failed: int

    @property
    def waiting(self) -> int:
        """Not there yet, and not given up on."""
        return self.changed - self.synced - self.failed


def note_seen(conn: Conn) -> None:
    """Add what the lines of a run name to ``changed_in_run``, also what other sessions wrote.

    An entity's relationships are its own. Lines that were refused name nothing.
    """
    for entity_type in entity_types():
        conn.execute(
            f"""
            INSERT INTO changed_in_run
            SELECT '{entity_type}', l.id, l.version
            FROM seen s JOIN {entity_type} l ON l.seed_id = s.seed_id
            WHERE s.part = '{entity_type.part}' AND NOT s.rejected
            ON CONFLICT (id) DO NOTHING
            """
        )
    for kind in related_types():
        edges = kind.edge_table
        conn.execute(
            f"""
            INSERT INTO changed_in_run
            SELECT DISTINCT '{kind}', l.id, l.version
            FROM seen s JOIN {edges.table} r ON r.seed_id = s.seed_id
            JOIN {kind} l ON l.id = r.{edges.source}
            WHERE s.part = %s AND NOT s.rejected
            ON CONFLICT (id) DO NOTHING
            """,
            (edges.part,),
        )
    conn.execute("ANALYZE changed_in_run")


def run_progress(conn: Conn, sink: SinkTraits) -> RunProgress:
    """Return how far ``sink`` has come with the entities in ``changed_in_run``.

    An entity counts as reached when the sink has confirmed its current version, which is at
    least the run's, and no operation of it is live. One whose embedding was given up on has
    failed for the sinks behind it. Ask for several sinks in one snapshot: what one sink settles
    is enqueued for the next one.
    """
    if sink.name == SIMILARITY:
        return _similarity_progress(conn, sink.follows or EMBEDDING)
    changed = synced = failed = 0
    for entity_type in entity_types():
        row = conn.execute(
            f"""
            SELECT count(*),
              count(*) FILTER (WHERE l.id IS NULL
                OR (NOT live AND l.{sink.name}_sync_status = 'synced')),
              count(*) FILTER (WHERE {_failed(sink)})
            FROM {_lines_of_run(entity_type, sink.name)}
            """
        ).fetchone()
        assert row is not None
        changed, synced, failed = changed + row[0], synced + row[1], failed + row[2]
    if sink.edges:
        changed += _live_neighbours(conn, sink.name)
    return RunProgress(changed, synced, failed)


def _lines_of_run(entity_type: EntityType, sink: str) -> str:
    """Entities of a run (``l``), and whether an operation of a sink is ``live`` for them."""
    return f"""
        (SELECT * FROM changed_in_run WHERE entity_type = '{entity_type}') c
        LEFT JOIN {entity_type} l ON l.id = c.id
        CROSS JOIN LATERAL (SELECT EXISTS (
          SELECT 1 FROM sync_operation o WHERE o.entity_id = c.id
            AND o.sink = '{sink}' AND o.finished_at IS NULL) AS live) o
    """


def _failed(sink: SinkTraits) -> str:
    """The condition that a sink, or the embedder before it, has given up on an entity."""
    if sink.name == SIMILARITY:
        return f"""NOT live AND EXISTS (
            SELECT 1 FROM sync_operation o WHERE o.entity_id = l.id
              AND o.sink = '{SIMILARITY}' AND o.status = 'dead')"""
    behind = f"""OR (l.{sink.name}_sync_status = 'pending' AND l.deleted_at IS NULL
                     AND l.embedding_sync_status = 'failed')"""
    return f"""NOT live AND (l.{sink.name}_sync_status = 'failed'
                             {behind if sink.needs_embedding else ""})"""


@dataclass(frozen=True, slots=True)
class FailedEntity:
    """An entity of a run that a sink has given up on, and the last reason."""

    sink: str
    entity_type: str
    key: str
    reason: str | None


def failed_in_run(conn: Conn, sink: SinkTraits, limit: int) -> list[FailedEntity]:
    """Return entities of ``changed_in_run`` that ``sink`` has given up on, at most ``limit``."""
    parts = [
        f"""
        SELECT '{kind}', l.{kind.key_column} AS key, (
          SELECT o.last_error FROM sync_operation o
          WHERE o.entity_id = l.id AND o.sink IN ('{sink.name}', '{EMBEDDING}')
            AND o.status IN ('dead', 'discarded')
          ORDER BY o.sink <> '{sink.name}', o.id DESC LIMIT 1)
        FROM {_lines_of_run(kind, sink.name)} WHERE {_failed(sink)}
        """
        for kind in entity_types()
        if sink.takes(kind)
    ]
    if not parts:
        return []
    rows = conn.execute(f"{' UNION ALL '.join(parts)} ORDER BY 1, 2 LIMIT %s", (limit,))
    return [FailedEntity(sink.name, *row) for row in rows]


def _similarity_progress(conn: Conn, follows: str) -> RunProgress:
    """Entities whose neighbours are searched once the sink ``follows`` has confirmed them."""
    changed = synced = failed = 0
    for kind in searched_types():
        row = conn.execute(
            f"""
            SELECT count(*), count(*) FILTER (WHERE NOT waits AND NOT s.live AND NOT s.dead),
                   count(*) FILTER (WHERE s.dead AND NOT s.live)
            FROM changed_in_run c JOIN {kind} l ON l.id = c.id
            CROSS JOIN LATERAL (
              SELECT COALESCE(bool_or(o.finished_at IS NULL), false) AS live,
                     COALESCE(bool_or(o.status = 'dead'), false) AS dead
              FROM sync_operation o WHERE o.entity_id = l.id AND o.sink = '{SIMILARITY}'
                AND (o.finished_at IS NULL OR o.status = 'dead')) s
            CROSS JOIN LATERAL (
              SELECT l.deleted_at IS NULL AND l.{follows}_sync_status = 'pending'
                 AND l.embedding_sync_status <> 'failed') w(waits)
            WHERE c.entity_type = '{kind}'
            """
        ).fetchone()
        assert row is not None
        changed, synced, failed = changed + row[0], synced + row[1], failed + row[2]
    return RunProgress(changed + _live_neighbours(conn, SIMILARITY), synced, failed)


def _live_neighbours(conn: Conn, sink: str) -> int:
    """Count similar entities, besides the run's, whose operation may change edges of the run."""
    count = 0
    for kind in searched_types():
        table, source, target = (
            kind.edge_table.table,
            kind.edge_table.source,
            kind.edge_table.target,
        )
        row = conn.execute(
            f"""
            SELECT count(DISTINCT o.entity_id)
            FROM sync_operation o
            WHERE o.finished_at IS NULL AND o.sink = %s
              AND o.entity_id IN (
                SELECT r.{source} FROM {table} r
                JOIN changed_in_run c ON c.id = r.{target} WHERE r.seed_id IS NULL
                UNION
                SELECT r.{target} FROM {table} r
                JOIN changed_in_run c ON c.id = r.{source} WHERE r.seed_id IS NULL)
              AND NOT EXISTS (SELECT 1 FROM changed_in_run c WHERE c.id = o.entity_id)
            """,
            (sink,),
        ).fetchone()
        assert row is not None
        count += row[0]
    return count


@dataclass(frozen=True, slots=True)
class Backlog:
    """Operations of one sink that wait, are leased, or were given up on."""

    pending: int = 0
    in_progress: int = 0
    dead: int = 0
    oldest_pending_seconds: float | None = None
    discarded: int = 0


@dataclass(frozen=True, slots=True)
class Idle:
    """Work of a sink that is due, and that no worker has claimed for ``seconds``.

    ``relay_silent``: no relay has sent a wake-up meanwhile, either.
    """

    seconds: float
    due: int
    relay_silent: bool


def idle_sinks(conn: Conn, at_least: float) -> dict[str, Idle]:
    """Return sinks that may be claimed for, and were not for ``at_least`` seconds."""
    rows = conn.execute(
        """
        SELECT d.sink, LEAST(d.waits, w.claimed)::float8, d.due,
               w.woken >= w.claimed OR w.woken > 30
        FROM (SELECT sink, count(*) AS due,
                     EXTRACT(epoch FROM clock_timestamp() - min(available_at)) AS waits
              FROM sync_operation
              WHERE finished_at IS NULL AND available_at <= clock_timestamp() GROUP BY sink) d
        JOIN sink_state s ON s.sink = d.sink
        -- A time to come is of before the clock was set back, and says nothing.
        CROSS JOIN LATERAL (SELECT
          CASE WHEN s.last_claim_at <= clock_timestamp() THEN s.last_claim_at END AS claim,
          CASE WHEN s.last_wake_at <= clock_timestamp() THEN s.last_wake_at END AS wake) c
        CROSS JOIN LATERAL (SELECT
          EXTRACT(epoch FROM clock_timestamp() - COALESCE(c.claim, '-infinity')) AS claimed,
          EXTRACT(epoch FROM clock_timestamp() - COALESCE(c.wake, '-infinity')) AS woken) w
        WHERE LEAST(d.waits, w.claimed) >= %s
          AND (s.state = 'closed' OR (s.state = 'open' AND COALESCE(s.open_until <= now(), true))
               OR (s.state = 'probing' AND COALESCE(s.probe_until <= now(), true)))
        ORDER BY d.sink
        """,
        (at_least,),
    )
    return {sink: Idle(seconds, due, silent) for sink, seconds, due, silent in rows}


def backlog(conn: Conn) -> dict[str, Backlog]:
    """Count operations that wait, are leased, or were given up on, by sink."""
    # Two halves, as each partial index knows one of them.
    rows = conn.execute(
        """
        SELECT sink, sum(pending)::bigint, sum(in_progress)::bigint, sum(dead)::bigint,
          EXTRACT(epoch FROM now() - min(oldest))::float8, sum(discarded)::bigint
        FROM (
          SELECT sink, count(*) FILTER (WHERE status = 'pending') AS pending,
            count(*) FILTER (WHERE status = 'in_progress') AS in_progress, 0 AS dead,
            min(created_at) FILTER (WHERE status = 'pending') AS oldest, 0 AS discarded
          FROM sync_operation WHERE finished_at IS NULL GROUP BY sink
          UNION ALL
          SELECT sink, 0, 0, count(*) FILTER (WHERE status = 'dead'), NULL,
            count(*) FILTER (WHERE status = 'discarded')
          FROM sync_operation WHERE status IN ('dead', 'discarded') GROUP BY sink) halves
        GROUP BY sink
        """
    )
    return {r[0]: Backlog(*r[1:]) for r in rows}


def status_breakdown(counts: Counts, sink: str) -> dict[SyncStatus, int]:
    """Entities by their status for one of ``WITH_STATUS``."""
    place = WITH_STATUS.index(sink)
    totals = dict.fromkeys(SyncStatus, 0)
    for key, count in counts.items():
        totals[SyncStatus(key[place])] += count
    return totals


def remote_calls(conn: Conn) -> int:
    """Calls that all workers together have ever made to the sinks."""
    row = conn.execute("SELECT COALESCE(sum(remote_calls), 0) FROM delivery_batch").fetchone()
    assert row is not None
    return int(row[0])
