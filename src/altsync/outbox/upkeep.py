"""Enqueue backfills and another model's embeddings; purge deleted entities."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, SinkTraits, Topology
from altsync.db import Conn
from altsync.declarations import SINKS, WITH_STATUS
from altsync.entities import EntityType
from altsync.generations import model_of
from altsync.operations import Origin
from altsync.outbox.enqueue import (
    LOW_PRIORITY,
    MERGE_INTO_LIVE,
    notify,
    status_column,
)

#: Sinks with a status that wait for the embedding.
BEHIND_EMBEDDING = tuple(name for name in WITH_STATUS if SINKS[name].traits.needs_embedding)


def mark_pending(conn: Conn, entity_type: EntityType, ids: Sequence[UUID]) -> None:
    """Set the status of each sink with a live operation to pending.

    The embedding of a deleted entity is left out, as nothing is left to embed. Sinks that failed
    behind an embedding become pending with it.
    """
    for sink in WITH_STATUS:
        living = "AND l.deleted_at IS NULL" if SINKS[sink].traits.embeds else ""
        conn.execute(
            f"""
            UPDATE {entity_type} l SET {status_column(sink)} = 'pending'
            WHERE l.id = ANY(ARRAY(
              SELECT o.entity_id FROM sync_operation o
              WHERE o.entity_id = ANY(%(ids)s) AND o.sink = %(sink)s AND o.finished_at IS NULL))
            AND l.{status_column(sink)} <> 'pending' {living}
            """,
            {"ids": list(ids), "sink": sink},
        )
    for sink in BEHIND_EMBEDDING:
        conn.execute(
            f"""
            UPDATE {entity_type} l SET {status_column(sink)} = 'pending'
            WHERE l.id = ANY(%(ids)s) AND l.{status_column(sink)} = 'failed'
              AND l.embedding_sync_status = 'pending' AND l.deleted_at IS NULL
            """,
            {"ids": list(ids)},
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
    """Enqueue one page of entities for one sink, behind all other work.

    Without ``force``, only entities that the sink has not confirmed. Returns the number of
    operations and the id to go on after (None at the end).
    """
    status = status_column(sink.name)
    unconfirmed = f"l.{status} <> 'synced'" if status else "true"
    row = conn.execute(
        f"""
        WITH page AS MATERIALIZED (
          SELECT l.id, l.{entity_type.key_column} AS key, l.version, l.graph_version,
                 COALESCE(l.embedding_text_hash = l.text_hash
                          AND {model_of()} = e.config ->> 'model', false) AS embedded,
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
          {MERGE_INTO_LIVE} RETURNING 1)
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
    """Enqueue one page of the entities that the wanted model has not embedded.

    Entities with its vector whose status is not synced are included: another model may have
    failed in between. Their vectors are stored, and cost nothing. The embedding and the sinks
    behind it become pending.
    Returns the number of operations and the id to go on after (None at the end).
    """
    rows = conn.execute(
        f"""
        SELECT l.id FROM {entity_type} l LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'
        WHERE l.id > %(after)s AND l.deleted_at IS NULL
          AND (l.embedding_text_hash IS DISTINCT FROM l.text_hash
               OR {model_of()} IS DISTINCT FROM e.config ->> 'model'
               OR l.embedding_sync_status <> 'synced')
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
        SELECT '{entity_type}', id, {entity_type.key_column}, '{EMBEDDING}', 'upsert', version,
               '{Origin.MODEL}', {LOW_PRIORITY}
        FROM {entity_type} WHERE id = ANY(%(ids)s) ORDER BY id
        {MERGE_INTO_LIVE}
        """,
        {"ids": ids},
    )
    # A vector of the former model may be in progress: the one of the new model must follow.
    conn.execute(
        """
        UPDATE sync_operation SET rerun_requested = true
        WHERE entity_id = ANY(%(ids)s) AND sink = ANY(%(vector)s) AND status = 'in_progress'
        """,
        {"ids": ids, "vector": topology.vector},
    )
    columns = [status_column(sink) for sink in (EMBEDDING, *topology.vector)]
    pending = ", ".join(f"{column} = 'pending'" for column in columns if column)
    conn.execute(f"UPDATE {entity_type} SET {pending} WHERE id = ANY(%(ids)s)", {"ids": ids})
    notify(conn, [EMBEDDING])
    return len(ids), max(ids)


def forget_former_keys(conn: Conn, grace: float, limit: int = 5000) -> int:
    """Clear the former keys of entities, once no operation is left and the grace is over.

    Until then each write removes these records again, as a late write may have restored them.
    """
    count = 0
    for entity_type in entity_types():
        count += conn.execute(
            f"""
            UPDATE {entity_type} SET former_keys = '{{}}' WHERE id = ANY(ARRAY(
              SELECT id FROM {entity_type} l
              WHERE l.former_keys <> '{{}}'
                AND l.updated_at < now() - make_interval(secs => %s) AND NOT EXISTS (
                SELECT 1 FROM sync_operation o WHERE o.entity_id = l.id
                  AND (o.finished_at IS NULL OR o.status = 'dead'))
              ORDER BY id LIMIT %s FOR NO KEY UPDATE))
            """,
            (grace, limit),
        ).rowcount
    return count


def purge_deleted(conn: Conn, grace: float, limit: int = 5000) -> int:
    """Remove deleted entities for good, once every sink has confirmed and the grace is over.

    A discarded delete does not hold up its entity: the operator accepted the orphan. At most
    ``limit`` of each type, so that a transaction stays short.
    """
    count = 0
    for entity_type in entity_types():
        count += conn.execute(
            f"""
            DELETE FROM {entity_type} WHERE id = ANY(ARRAY(
              SELECT id FROM {entity_type} l
              WHERE l.deleted_at < now() - make_interval(secs => %s) AND NOT EXISTS (
                SELECT 1 FROM sync_operation o WHERE o.entity_id = l.id
                  AND (o.finished_at IS NULL OR o.status = 'dead'))
              ORDER BY id LIMIT %s FOR UPDATE))
            """,
            (grace, limit),
        ).rowcount
    return count
