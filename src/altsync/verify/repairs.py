"""Enqueuing what a comparison found, and numbers above those of a sink that is ahead."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from altsync.contract import EMBEDDING, SinkTraits, Topology
from altsync.db import Conn
from altsync.declarations import pending
from altsync.entities import EntityType
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

#: Numbers that are skipped above a sink that is ahead: more than other sessions can draw while
#: one of them moves the sequence.
MARGIN = 1_000_000

#: Versions above the clock and the sequence that are believed of a sink: a day of microseconds.
#: Clocks of two servers differ by less, and this database's own sequence does not count as wrong.
DAY = 86_400_000_000

#: Where whole numbers end that a double holds exactly, as Pinecone keeps them.
DOUBLES_END = 2**53


def given_up(
    conn: Conn,
    sink: SinkTraits,
    entity_type: EntityType,
    ids: Sequence[UUID],
    *,
    above: bool = False,
) -> set[UUID]:
    """Return those of the entities whose delivery to a sink, or whose embedding, was given up on.

    The entity's status keeps that when the operation is discarded or pruned. A sink without a
    status column has its latest finished operation instead. ``above``: the sink has a higher
    version of them. A sink with a guard refuses each write for that, and a repair ends it, so
    that none of them counts.
    """
    if not ids or (above and sink.guarded):
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


#: Whether a row ``l`` has the vector of its text by the model that ``e`` wants.
_EMBEDDED = """
COALESCE(l.embedding_text_hash = l.text_hash AND l.embedding_model = e.config ->> 'model', false)
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
    above: bool = False,
) -> int:
    """Enqueue entities for one sink at their current versions; returns how many.

    What is not embedded, for a sink that needs it, starts with its embedding. An entity whose
    vector is gone counts as never embedded. Entities that were given up on are left out: they
    would be paid for, and fail, again. ``above``: the sink has a higher version of them.
    """
    lock_entities(conn, ((entity_type, i) for i in ids))
    refused = given_up(conn, sink, entity_type, ids, above=above)
    ids = [i for i in ids if i not in refused]
    if sink.name == EMBEDDING:
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
    above: bool = False,
) -> int:
    """Have the relationships of entities written again, even of those that never had any.

    Entities are left out as by ``repair``.
    """
    lock_entities(conn, ((kind, i) for i in ids))
    refused = given_up(conn, sink, kind, ids, above=above)
    return enqueue_edge_update(
        conn, kind, [i for i in ids if i not in refused], topology, Origin.RECONCILE
    )


def highest_believable(conn: Conn) -> int:
    """The highest version that some life of this database can have given out.

    A sink that holds a higher one is not ahead but wrong: the sequence follows no such number,
    for near 2^63 it would end, and all seeding with it.
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
    """A new version above ``found``, and above all that were drawn.

    What is not believable of ``found`` moves nothing: the version is below it then.
    """
    # Two that move the sequence at once would set it back.
    conn.execute("SELECT pg_advisory_xact_lock(hashtext('altsync.entity_version'))")
    row = conn.execute("SELECT nextval('entity_version')").fetchone()
    assert row is not None
    if row[0] <= found <= highest_believable(conn):
        conn.execute("SELECT setval('entity_version', %s)", (found + MARGIN,))
        row = conn.execute("SELECT nextval('entity_version')").fetchone()
        assert row is not None
    return int(row[0])


def lift(
    conn: Conn,
    sink: SinkTraits,
    entity_type: EntityType,
    ids: Sequence[UUID],
    found: int,
    topology: Topology,
) -> int:
    """Give entities new versions above ``found``, which ``sink`` holds; enqueue them everywhere.

    Returns how many: those that were given up on for another reason are left out. A text whose
    embedding was given up on is not tried again: the sinks behind it end at once, without a
    call, and stay failed.
    """
    version_above(conn, found)
    lock_entities(conn, ((entity_type, i) for i in ids))
    refused = given_up(conn, sink, entity_type, ids, above=True)
    ids = [i for i in ids if i not in refused]
    conn.execute(
        f"""
        WITH changed AS (
          UPDATE {entity_type} l SET version = nextval('entity_version'), updated_at = now(),
            {pending()}
          WHERE l.id = ANY(%(ids)s) AND l.deleted_at IS NULL
          RETURNING l.id, l.{entity_type.key_column} AS key, l.version, l.graph_version,
            COALESCE(l.embedding_text_hash = l.text_hash AND l.embedding_model =
              (SELECT config ->> 'model' FROM sink_state WHERE sink = '{EMBEDDING}'), false)
              OR l.embedding_sync_status = 'failed' AS embedded)
        {select_operations(entity_type, "changed", origin=Origin.RECONCILE)}
        """,
        {"ids": list(ids), **enqueue_parameters(topology)},
    )
    mark_pending(conn, entity_type, ids)
    notify(conn, topology.names)
    return len(ids)
