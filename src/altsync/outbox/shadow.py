"""Operations for a shadow: the indexes of another model, kept in step with the serving ones.

A shadow's operations follow those of its sinks: settling a vector's write enqueues the same entity
for the shadow. They have names, leases, retries and a breaker of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from altsync.contract import EMBEDDING, SHADOW, SinkTraits, Topology
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.generations import SHADOW_DIMENSIONS, SHADOW_MODEL
from altsync.operations import Origin, Outcome
from altsync.outbox.enqueue import LOW_PRIORITY, MERGE_INTO_LIVE, notify

#: The operation that embeds for a shadow.
SHADOW_EMBEDDING = SHADOW + EMBEDDING

#: Whether the shadow's model has a vector of the text of the entity ``l``, in SQL.
_STORED = f"""
EXISTS (SELECT 1 FROM embedding e WHERE e.model = {SHADOW_MODEL}
          AND e.dimensions = {SHADOW_DIMENSIONS} AND e.text_hash = l.text_hash)
"""

_INSERT = """
INSERT INTO sync_operation AS o
  (entity_type, entity_id, entity_key, sink, action, version, origin, priority, namespaces)
"""


def follow_in_shadow(conn: Conn, sink: SinkTraits, ended: Sequence[Outcome]) -> None:
    """Enqueue the entities of settled operations for the shadow, while there is one.

    After a vector's write or failure the same sink of the shadow follows, once the text is
    embedded. After the embedding, every sink of the shadow follows, see ``embedded_in_shadow``.
    The operation takes over the namespaces that the settled one has left.
    """
    for kind, ids in _by_type(ended).items():
        conn.execute(
            f"""
            {_INSERT}
            SELECT '{kind}', l.id, p.entity_key,
                   CASE WHEN l.deleted_at IS NOT NULL OR {_STORED} THEN %(shadow)s
                        ELSE '{SHADOW_EMBEDDING}' END,
                   CASE WHEN l.deleted_at IS NULL THEN 'upsert' ELSE 'delete' END,
                   l.version, '{Origin.MODEL}', p.priority, p.namespaces
            FROM sync_operation p JOIN {kind} l ON l.id = p.entity_id
            WHERE p.id = ANY(%(ids)s) AND {SHADOW_MODEL} IS NOT NULL
            ORDER BY l.id {MERGE_INTO_LIVE}
            """,
            {"ids": ids, "shadow": SHADOW + sink.name},
        )
    if ended:
        notify(conn, [SHADOW_EMBEDDING, SHADOW + sink.name])


def embedded_in_shadow(conn: Conn, synced: Sequence[Outcome], topology: Topology) -> None:
    """Enqueue the vectors of a shadow, whose texts were just embedded."""
    sinks = [SHADOW + name for name in topology.vector]
    for kind, ids in _by_type(synced).items():
        conn.execute(
            f"""
            {_INSERT}
            SELECT '{kind}', l.id, l.{kind.key_column}, k.sink, 'upsert', l.version,
                   '{Origin.MODEL}', p.priority, p.namespaces
            FROM sync_operation p JOIN {kind} l ON l.id = p.entity_id
            CROSS JOIN unnest(%(sinks)s::text[]) k(sink)
            WHERE p.id = ANY(%(ids)s) AND l.deleted_at IS NULL AND {_STORED}
            ORDER BY l.id, k.sink {MERGE_INTO_LIVE}
            """,
            {"ids": ids, "sinks": sinks},
        )
    if synced:
        notify(conn, sinks)


def _by_type(outcomes: Sequence[Outcome]) -> dict[EntityType, list[int]]:
    groups: dict[EntityType, list[int]] = {}
    for one in outcomes:
        groups.setdefault(one.op.entity_type, []).append(one.op.id)
    return groups


def fill_shadow(
    conn: Conn,
    topology: Topology,
    kind: EntityType,
    *,
    after: UUID | None = None,
    only: Sequence[UUID] | None = None,
    limit: int = 5000,
) -> tuple[int, UUID | None]:
    """Enqueue one page of the embedded entities of a type for the shadow, behind all other work.

    An entity that waits for its embedding follows when that is written. ``only`` are the entities
    to enqueue, all by default. Returns the number of entities, and the id to go on after, None at
    the end.
    """
    row = conn.execute(
        f"""
        WITH page AS MATERIALIZED (
          SELECT l.id, l.{kind.key_column} AS key, l.version, l.deleted_at IS NOT NULL AS deleted,
                 l.embedding_text_hash = l.text_hash AS embedded, {_STORED} AS stored
          FROM {kind} l
          WHERE l.id > %(after)s AND (l.deleted_at IS NULL OR %(only)s::uuid[] IS NOT NULL)
            AND (%(only)s::uuid[] IS NULL OR l.id = ANY(%(only)s::uuid[]))
          ORDER BY l.id LIMIT %(limit)s FOR NO KEY UPDATE OF l),
        enqueued AS (
          {_INSERT}
          SELECT '{kind}', p.id, p.key, k.sink,
                 CASE WHEN p.deleted THEN 'delete' ELSE 'upsert' END, p.version,
                 '{Origin.MODEL}', {LOW_PRIORITY}, '{{}}'
          FROM page p CROSS JOIN LATERAL unnest(
            CASE WHEN p.deleted OR p.stored THEN %(sinks)s::text[]
                 ELSE ARRAY['{SHADOW_EMBEDDING}'] END) k(sink)
          WHERE (p.deleted OR p.embedded) AND {SHADOW_MODEL} IS NOT NULL
          ORDER BY p.id, k.sink {MERGE_INTO_LIVE} RETURNING entity_id)
        SELECT (SELECT count(DISTINCT entity_id) FROM enqueued),
               (SELECT max(id::text)::uuid FROM page), (SELECT count(*) FROM page)
        """,
        {
            "after": after or UUID(int=0),
            "only": None if only is None else list(only),
            "limit": limit,
            "sinks": [SHADOW + name for name in topology.vector],
        },
    ).fetchone()
    assert row is not None
    count, last, read = row
    if count:
        notify(conn, [traits.name for traits in topology.shadows])
    return count, last if read == limit else None


def has_due_work(conn: Conn, sink: str) -> bool:
    """Return whether a sink has due operations that a worker may claim: its shadow waits then."""
    row = conn.execute(
        """
        SELECT EXISTS (
          SELECT 1 FROM sync_operation WHERE sink = %(sink)s AND finished_at IS NULL
            AND available_at <= now() AND lease_token IS NULL)
          AND EXISTS (SELECT 1 FROM sink_state WHERE sink = %(sink)s AND state = 'closed'
                        AND paused_since IS NULL)
        """,
        {"sink": sink},
    ).fetchone()
    return bool(row and row[0])
