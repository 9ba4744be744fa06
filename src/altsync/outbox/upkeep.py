"""By hand and by the clock: failures, retries, backfill, purge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from altsync.db import Conn
from altsync.outbox.enqueue import (
    KEY_COLUMN,
    LOW_PRIORITY,
    ON_LIVE,
    enqueue_parameters,
    lock_entities,
    notify,
)
from altsync.outbox.settle import STATUS_SINKS, status_column
from altsync.records import EMBEDDING, EntityType, Origin, SinkTraits, Topology


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Dead operations with the same error."""

    sink: str
    error_kind: str
    reason: str
    count: int
    sample_keys: tuple[str, ...]
    oldest: datetime
    newest: datetime


def failures(conn: Conn, sink: str | None = None) -> list[FailureGroup]:
    """Dead operations by sink and reason, the most frequent first."""
    rows = conn.execute(
        """
        SELECT sink, error_kind, last_error, count(*),
               (array_agg(entity_type || ' ' || entity_key ORDER BY id))[1:5],
               min(finished_at), max(finished_at)
        FROM sync_operation
        WHERE status = 'dead' AND (%(sink)s::text IS NULL OR sink = %(sink)s)
        GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 3
        """,
        {"sink": sink},
    )
    return [FailureGroup(r[0], r[1], r[2], r[3], tuple(r[4]), r[5], r[6]) for r in rows]


def dead_ids(
    conn: Conn,
    *,
    sink: str | None = None,
    entity: str | None = None,
    entity_type: EntityType | None = None,
    error_kind: str | None = None,
    reason: str | None = None,
    limit: int = 1000,
) -> list[tuple[int, EntityType, UUID]]:
    """Dead operations to retry: by sink, by the entity's key, by their error, or all.

    What is given narrows the rest.
    """
    rows = conn.execute(
        """
        SELECT id, entity_type, entity_id FROM sync_operation
        WHERE status = 'dead' AND (%(sink)s::text IS NULL OR sink = %(sink)s)
          AND (%(entity)s::text IS NULL OR entity_key = %(entity)s)
          AND (%(entity_type)s::text IS NULL OR entity_type = %(entity_type)s)
          AND (%(error_kind)s::text IS NULL OR error_kind = %(error_kind)s)
          AND (%(reason)s::text IS NULL OR last_error = %(reason)s)
        ORDER BY id LIMIT %(limit)s
        """,
        {
            "sink": sink,
            "entity": entity,
            "entity_type": entity_type,
            "error_kind": error_kind,
            "reason": reason,
            "limit": limit,
        },
    )
    return [(r[0], EntityType(r[1]), r[2]) for r in rows]


def retry_dead(conn: Conn, dead: Sequence[tuple[int, EntityType, UUID]], topology: Topology) -> int:
    """Enqueue dead operations anew, at the current version of their entities.

    One whose entity is not embedded by now starts with its embedding. Returns how many were
    enqueued.
    """
    lock_entities(conn, ((t, i) for _, t, i in dead))
    count = 0
    for entity_type in EntityType:
        ids = [op_id for op_id, t, _ in dead if t is entity_type]
        if ids:
            count += conn.execute(
                _retry_statement(entity_type),
                {"ids": ids, **enqueue_parameters(topology)},
            ).rowcount
            mark_pending(conn, entity_type, [i for _, t, i in dead if t is entity_type])
    notify(conn, topology.names)
    return count


def _retry_statement(entity_type: EntityType) -> str:
    return f"""
    WITH gone AS (
      UPDATE sync_operation SET status = 'superseded'
      WHERE status = 'dead' AND id = ANY(%(ids)s) RETURNING entity_id, sink, unsure, places),
    candidates AS (
      SELECT l.id, l.{KEY_COLUMN[entity_type]} AS key, l.version, l.graph_version,
             l.deleted_at IS NOT NULL AS deleted,
             CASE WHEN gone.sink = ANY(%(vector)s::text[]) AND l.deleted_at IS NULL
                   AND (l.embedding_text_hash IS DISTINCT FROM l.text_hash
                        OR l.embedding_model IS DISTINCT FROM e.config ->> 'model')
                  THEN '{EMBEDDING}' ELSE gone.sink END AS sink,
             gone.unsure, gone.places
      FROM gone JOIN {entity_type} l ON l.id = gone.entity_id
      LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'),
    -- One per sink and entity. What an old write may still do is not forgotten.
    wanted AS (
      SELECT DISTINCT ON (id, sink) id, key, version, graph_version, deleted, sink,
             bool_or(unsure) OVER (PARTITION BY id, sink) AS unsure, places
      FROM candidates ORDER BY id, sink, cardinality(places) DESC)
    INSERT INTO sync_operation AS o
      (entity_type, entity_id, entity_key, sink, action, version, origin, unsure, places)
    SELECT '{entity_type}', id, key, sink, CASE WHEN deleted THEN 'delete' ELSE 'upsert' END,
           CASE WHEN sink = ANY(%(graph)s::text[]) THEN graph_version ELSE version END,
           'retry', unsure, places
    FROM wanted WHERE %(direct)s::text[] IS NOT NULL ORDER BY id, sink
    {ON_LIVE}
    """


def mark_pending(conn: Conn, entity_type: EntityType, ids: Sequence[UUID]) -> None:
    """A live operation means pending, for every sink that keeps a status."""
    for sink in STATUS_SINKS:
        conn.execute(
            f"""
            UPDATE {entity_type} l SET {sink}_sync_status = 'pending'
            WHERE l.id = ANY(%(ids)s) AND l.{sink}_sync_status <> 'pending' AND EXISTS (
              SELECT 1 FROM sync_operation o
              WHERE o.entity_id = l.id AND o.sink = %(sink)s AND o.finished_at IS NULL)
            """,
            {"ids": list(ids), "sink": sink},
        )


def backfill_page(
    conn: Conn,
    sink: SinkTraits,
    entity_type: EntityType,
    *,
    after: UUID | None,
    force: bool,
    limit: int = 5000,
    origin: Origin = Origin.BACKFILL,
) -> tuple[int, UUID | None]:
    """Enqueue one page of entities for one sink, behind everything else.

    Without ``force`` only those that the sink has not confirmed. Returns how many were enqueued
    and the id to go on after (None at the end).
    """
    status = status_column(sink.name)
    unconfirmed = f"l.{status} <> 'synced'" if status else "true"
    row = conn.execute(
        f"""
        WITH page AS MATERIALIZED (
          SELECT l.id, l.{KEY_COLUMN[entity_type]} AS key, l.version, l.graph_version,
                 COALESCE(l.embedding_text_hash = l.text_hash
                          AND l.embedding_model = e.config ->> 'model', false) AS embedded,
                 (%(force)s OR {unconfirmed}) AS wanted
          FROM {entity_type} l LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'
          WHERE l.id > %(after)s AND l.deleted_at IS NULL
          ORDER BY l.id LIMIT %(limit)s FOR NO KEY UPDATE OF l),
        enqueued AS (
          INSERT INTO sync_operation AS o
            (entity_type, entity_id, entity_key, sink, action, version, origin, priority)
          SELECT '{entity_type}', id, key,
                 CASE WHEN %(needs_embedding)s AND NOT embedded
                      THEN '{EMBEDDING}' ELSE %(sink)s END,
                 'upsert', CASE WHEN %(edges)s THEN graph_version ELSE version END,
                 '{origin}', {LOW_PRIORITY}
          FROM page WHERE wanted ORDER BY id
          {ON_LIVE} RETURNING 1)
        SELECT (SELECT count(*) FROM enqueued), (SELECT max(id::text)::uuid FROM page),
               ARRAY(SELECT id FROM page WHERE wanted)
        """,
        {
            "after": after or UUID(int=0),
            "force": force,
            "limit": limit,
            "sink": sink.name,
            "needs_embedding": sink.needs_embedding,
            "edges": sink.edges,
        },
    ).fetchone()
    assert row is not None
    mark_pending(conn, entity_type, row[2])
    if row[0]:
        notify(conn, [sink.name, EMBEDDING] if sink.needs_embedding else [sink.name])
    return row[0], row[1]


def reembed_page(
    conn: Conn,
    topology: Topology,
    entity_type: EntityType,
    *,
    after: UUID | None,
    limit: int = 5000,
) -> tuple[int, UUID | None]:
    """Enqueue one page of the entities that the wanted model has not embedded, behind all else.

    They become pending, and so do the sinks that wait for their vectors. Returns how many were
    enqueued and the id to go on after (None at the end).
    """
    rows = conn.execute(
        f"""
        SELECT l.id FROM {entity_type} l LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'
        WHERE l.id > %(after)s AND l.deleted_at IS NULL
          AND (l.embedding_text_hash IS DISTINCT FROM l.text_hash
               OR l.embedding_model IS DISTINCT FROM e.config ->> 'model')
        ORDER BY l.id LIMIT %(limit)s FOR NO KEY UPDATE OF l
        """,
        {"after": after or UUID(int=0), "limit": limit},
    )
    ids = [row[0] for row in rows]
    if not ids:
        return 0, None
    conn.execute(
        f"""
        INSERT INTO sync_operation AS o
          (entity_type, entity_id, entity_key, sink, action, version, origin, priority)
        SELECT '{entity_type}', id, {KEY_COLUMN[entity_type]}, '{EMBEDDING}', 'upsert', version,
               '{Origin.MODEL}', {LOW_PRIORITY}
        FROM {entity_type} WHERE id = ANY(%(ids)s) ORDER BY id
        {ON_LIVE}
        """,
        {"ids": ids},
    )
    # A vector of the former model may be on its way: it must not be taken for the last word.
    conn.execute(
        """
        UPDATE sync_operation SET asked_again = true
        WHERE entity_id = ANY(%(ids)s) AND sink = ANY(%(vector)s) AND status = 'in_progress'
        """,
        {"ids": ids, "vector": topology.vector},
    )
    columns = [status_column(sink) for sink in (EMBEDDING, *topology.vector)]
    pending = ", ".join(f"{column} = 'pending'" for column in columns if column)
    conn.execute(f"UPDATE {entity_type} SET {pending} WHERE id = ANY(%(ids)s)", {"ids": ids})
    notify(conn, [EMBEDDING])
    return len(ids), max(ids)


def purge_deleted(conn: Conn, grace: float) -> int:
    """Remove deleted entities for good, once every sink has confirmed and the grace is over."""
    count = 0
    for entity_type in EntityType:
        count += conn.execute(
            f"""
            DELETE FROM {entity_type} l
            WHERE l.deleted_at < now() - make_interval(secs => %s) AND NOT EXISTS (
              SELECT 1 FROM sync_operation o WHERE o.entity_id = l.id
                AND (o.finished_at IS NULL OR o.status = 'dead'))
            """,
            (grace,),
        ).rowcount
    return count
