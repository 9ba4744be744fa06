"""The progress of the sinks with the entities of one seeding run."""

from __future__ import annotations

from dataclasses import dataclass

from altsync.catalogue.current import entity_types, related_types, searched_types
from altsync.contract import EMBEDDING, SIMILARITY, SinkTraits
from altsync.db import Conn
from altsync.declarations import WITH_STATUS
from altsync.entities import EntityType

#: Sinks that ``altsync seed --wait`` can wait for.
FOLLOWED = (*WITH_STATUS, SIMILARITY)


@dataclass(frozen=True, slots=True)
class RunProgress:
    """The progress of one sink with the entities of one seeding run."""

    changed: int
    synced: int
    failed: int

    @property
    def waiting(self) -> int:
        """Return how many entities the sink has neither confirmed nor given up on."""
        return self.changed - self.synced - self.failed


def note_seen(conn: Conn) -> None:
    """Add the entities that the lines of a run name to ``changed_in_run``.

    Another session may have written them. A relationship's line adds the source. Refused lines
    add nothing.
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

    An entity is synced when the sink has confirmed its current version and no operation of it
    is live. An entity without an embedding fails for the sinks that need one. Read several sinks
    in one snapshot: what one sink settles is enqueued for the next one.
    """
    if sink.similar:
        return _similarity_progress(conn, sink.follows or EMBEDDING)
    changed = synced = failed = 0
    for entity_type in entity_types():
        row = conn.execute(
            f"""
            SELECT count(*),
              count(*) FILTER (WHERE l.id IS NULL
                OR (NOT live AND l.{sink.name}_sync_status = 'synced')),
              count(*) FILTER (WHERE {_failed(sink)})
            FROM {_entities_of_run(entity_type, sink.name)}
            """
        ).fetchone()
        assert row is not None
        changed, synced, failed = changed + row[0], synced + row[1], failed + row[2]
    if sink.edges:
        changed += _live_neighbours(conn, sink.name)
    return RunProgress(changed, synced, failed)


def _entities_of_run(entity_type: EntityType, sink: str) -> str:
    """Return SQL for the entities ``l`` of a run; ``live``: the sink has an operation for one."""
    return f"""
        (SELECT * FROM changed_in_run WHERE entity_type = '{entity_type}') c
        LEFT JOIN {entity_type} l ON l.id = c.id
        CROSS JOIN LATERAL (SELECT EXISTS (
          SELECT 1 FROM sync_operation o WHERE o.entity_id = c.id
            AND o.sink = '{sink}' AND o.finished_at IS NULL) AS live) o
    """


def _failed(sink: SinkTraits) -> str:
    """Return the SQL condition that a sink, or its embedder, has given up on an entity."""
    if sink.similar:
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
        FROM {_entities_of_run(kind, sink.name)} WHERE {_failed(sink)}
        """
        for kind in entity_types()
        if sink.takes(kind)
    ]
    if not parts:
        return []
    rows = conn.execute(f"{' UNION ALL '.join(parts)} ORDER BY 1, 2 LIMIT %s", (limit,))
    return [FailedEntity(sink.name, *row) for row in rows]


def _similarity_progress(conn: Conn, follows: str) -> RunProgress:
    """Count entities whose neighbours are searched after the sink ``follows`` confirmed them."""
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
        edges = kind.edge_table
        row = conn.execute(
            f"""
            SELECT count(DISTINCT o.entity_id)
            FROM sync_operation o
            WHERE o.finished_at IS NULL AND o.sink = %s
              AND o.entity_id IN (
                SELECT r.{edges.source} FROM {edges.table} r
                JOIN changed_in_run c ON c.id = r.{edges.target} WHERE r.seed_id IS NULL
                UNION
                SELECT r.{edges.target} FROM {edges.table} r
                JOIN changed_in_run c ON c.id = r.{edges.source} WHERE r.seed_id IS NULL)
              AND NOT EXISTS (SELECT 1 FROM changed_in_run c WHERE c.id = o.entity_id)
            """,
            (sink,),
        ).fetchone()
        assert row is not None
        count += row[0]
    return count
