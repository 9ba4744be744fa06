"""Enqueuing of repairs, and versions above those of a sink that is ahead."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from altsync.contract import EMBEDDING, SinkTraits, Topology
from altsync.db import Conn
from altsync.declarations import pending
from altsync.entities import EntityType
from altsync.generations import model_of
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update
from altsync.outbox.enqueue import (
    MERGE_INTO_LIVE,
    enqueue_parameters,
    lock_entities,
    notify,
    select_operations,
    status_column,
)
from altsync.outbox.upkeep import mark_pending
from altsync.store.vectors import HAS_VECTOR

#: Versions that are skipped above a sink that is ahead: more than other sessions can draw while
#: one session moves the sequence.
MARGIN = 1_000_000

#: A plausible version is at most a day of microseconds above the clock and the sequence: clocks of
#: two servers differ by less.
DAY = 86_400_000_000

#: The end of the whole numbers that a double holds exactly. Pinecone stores doubles.
DOUBLES_END = 2**53


def given_up(
    conn: Conn,
    sink: SinkTraits,
    entity_type: EntityType,
    ids: Sequence[UUID],
    *,
    ahead: bool = False,
) -> set[UUID]:
    """Return the entities whose delivery to a sink, or whose embedding, was given up on.

    The status of the entity records it. Without a status column, the latest finished operation
    does. ``ahead``: the sink holds a higher version of the entities. Then none of them is
    returned for a guarded sink: its guard refused the writes, and the repair solves that.
    """
    if not ids or (ahead and sink.guarded):
        return set()
    column = status_column(sink.name)
    failed = f"l.{column} = 'failed'" if column else _ENDED_IN_FAILURE
    if sink.needs_embedding:
        failed += f" OR (l.embedding_sync_status = 'failed' AND NOT {_EMBEDDED})"
    rows = conn.execute(
        f"""
        SELECT l.id FROM {entity_type} l LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'
        WHERE l.id = ANY(%(ids)s) AND l.deleted_at IS NULL AND ({failed})
        """,
        {"ids": list(ids), "sink": sink.name},
    )
    return {row[0] for row in rows}


#: Whether a row ``l`` has the vector of its text by the model of ``e``.
_EMBEDDED = f"""
COALESCE(l.embedding_text_hash = l.text_hash AND {model_of()} = e.config ->> 'model', false)
"""

_ENDED_IN_FAILURE = """
(SELECT o.status IN ('dead', 'discarded') FROM sync_operation o
 WHERE o.entity_id = l.id AND o.sink = %(sink)s AND o.finished_at IS NOT NULL
 ORDER BY o.id DESC LIMIT 1)
"""


def repair(
    conn: Conn,
    sink: SinkTraits,
    entity_type: EntityType,
    ids: Sequence[UUID],
    *,
    ahead: bool = False,
) -> int:
    """Enqueue entities for one sink at their current versions; return how many.

    An entity without an embedding is embedded first, if the sink needs it. An entity whose
    vector was deleted counts as never embedded. Entities that were given up on are left out, as
    they would cost calls and fail again. ``ahead``: the sink holds a higher version of them.
    """
    lock_entities(conn, ((entity_type, i) for i in ids))
    left_out = given_up(conn, sink, entity_type, ids, ahead=ahead)
    ids = [i for i in ids if i not in left_out]
    if sink.embeds:
        conn.execute(
            f"""
            UPDATE {entity_type} l SET embedding_text_hash = NULL, embedding_model = NULL
            WHERE id = ANY(%s) AND embedding_text_hash IS NOT NULL AND NOT {HAS_VECTOR}
            """,
            (list(ids),),
        )
    count = conn.execute(
        f"""
        INSERT INTO sync_operation AS o
          (entity_type, entity_id, entity_key, sink, action, version, origin)
        SELECT '{entity_type}', l.id, l.{entity_type.key_column},
               CASE WHEN %(needs_embedding)s AND l.deleted_at IS NULL AND NOT {_EMBEDDED}
                    THEN '{EMBEDDING}' ELSE %(sink)s END,
               CASE WHEN l.deleted_at IS NULL THEN 'upsert' ELSE 'delete' END,
               CASE WHEN %(edges)s THEN l.graph_version ELSE l.version END, '{Origin.RECONCILE}'
        FROM {entity_type} l LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'
        WHERE l.id = ANY(%(ids)s) ORDER BY l.id
        {MERGE_INTO_LIVE}
        """,
        {
            "ids": list(ids),
            "sink": sink.name,
            "needs_embedding": sink.needs_embedding,
            "edges": sink.edges,
        },
    ).rowcount
    mark_pending(conn, entity_type, ids)
    if count:
        notify(conn, [sink.name, EMBEDDING] if sink.needs_embedding else [sink.name])
    return count


def repair_edges(
    conn: Conn,
    sink: SinkTraits,
    kind: EntityType,
    ids: Sequence[UUID],
    topology: Topology,
    *,
    ahead: bool = False,
) -> int:
    """Enqueue the relationships of entities, including entities that never had any.

    Entities are left out as in ``repair``.
    """
    lock_entities(conn, ((kind, i) for i in ids))
    left_out = given_up(conn, sink, kind, ids, ahead=ahead)
    return enqueue_edge_update(
        conn, kind, [i for i in ids if i not in left_out], topology, Origin.RECONCILE
    )


def highest_plausible(conn: Conn) -> int:
    """Return the highest version that this database, or a backup of it, can have drawn.

    A higher version in a sink is invalid. The sequence must not follow it: it ends at 2^63, and
    seeding would end with it.
    """
    row = conn.execute(
        """
        SELECT GREATEST(last_value, LEAST(%(end)s - %(day)s, %(day)s + GREATEST(
                 last_value, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)))
        FROM entity_version
        """,
        {"end": DOUBLES_END, "day": DAY},
    ).fetchone()
    assert row is not None
    return int(row[0])


def version_above(conn: Conn, found: int) -> int:
    """Return a new version above ``found``, and above all versions drawn.

    An implausible ``found`` is ignored: the version is below it then.
    """
    # Without the lock, two sessions that move the sequence at once could set it back.
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('altsync.entity_version'))")
    row = conn.execute("SELECT nextval('entity_version')").fetchone()
    assert row is not None
    if row[0] <= found <= highest_plausible(conn):
        conn.execute("SELECT setval('entity_version', %s)", (found + MARGIN,))
        row = conn.execute("SELECT nextval('entity_version')").fetchone()
        assert row is not None
    return int(row[0])


def bump_versions(
    conn: Conn,
    sink: SinkTraits,
    entity_type: EntityType,
    ids: Sequence[UUID],
    found: int,
    topology: Topology,
) -> int:
    """Give entities versions above ``found``, and enqueue them for all sinks; return how many.

    Entities that were given up on for another reason are left out. A text whose embedding was
    given up on is not embedded again: the sinks that need it fail at once, without a call.
    """
    version_above(conn, found)
    lock_entities(conn, ((entity_type, i) for i in ids))
    left_out = given_up(conn, sink, entity_type, ids, ahead=True)
    ids = [i for i in ids if i not in left_out]
    conn.execute(
        f"""
        WITH changed AS (
          UPDATE {entity_type} l SET version = nextval('entity_version'), updated_at = now(),
            {pending()}
          WHERE l.id = ANY(%(ids)s) AND l.deleted_at IS NULL
          RETURNING l.id, l.{entity_type.key_column} AS key, l.version, l.graph_version,
            COALESCE(l.embedding_text_hash = l.text_hash AND {model_of()} =
              (SELECT config ->> 'model' FROM sink_state WHERE sink = '{EMBEDDING}'), false)
              OR l.embedding_sync_status = 'failed' AS embedded)
        {select_operations(entity_type, "changed", origin=Origin.RECONCILE)}
        """,
        {"ids": list(ids), **enqueue_parameters(topology)},
    )
    mark_pending(conn, entity_type, ids)
    notify(conn, topology.names)
    return len(ids)
