"""Enqueue searches for neighbours, and writes of the relationships that they find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from altsync.contract import SIMILARITY, Topology
from altsync.db import Conn
from altsync.declarations import MIRRORS, SINKS, pending
from altsync.entities import EntityType
from altsync.generations import model_of
from altsync.operations import Origin
from altsync.outbox.enqueue import (
    LOW_PRIORITY,
    MERGE_INTO_LIVE,
    changed_at,
    notify,
)

#: Sinks that mirror relationships.
WITH_EDGES = tuple(name for name in MIRRORS if SINKS[name].traits.edges)

#: Seconds for which a search may wait while many embeddings are in progress.
LONGEST_GATHERING = 30.0

#: Number of embedding operations from which a search waits. Fewer are edits, searched at once.
MANY = 100

#: Seconds after a batch of ``MANY`` embeddings within which the next one may come.
QUIET = 0.5


def _neighbours_input(kind: EntityType, model: str, text_hash: str) -> str:
    within = kind.similarity.within
    parts = [model, text_hash, *([f"l.{within}"] if within else [])]
    return f"concat_ws('|', {', '.join(parts)})"


def input_hash_of(kind: EntityType) -> str:
    """Return SQL for the input that the neighbours of an entity ``l`` are computed from.

    :attr:`altsync.similarity.groups.EmbeddedMember.neighbours_input` is the same in Python.
    """
    return _neighbours_input(kind, model_of(), "l.embedding_text_hash")


def input_hash_of_vector(kind: EntityType) -> str:
    """Return SQL for ``neighbours_input_hash`` of an entity ``l`` that gets its text's vector.

    The vector is by the model ``%(model)s``. The hash becomes NULL unless the last search used
    this vector. Even a return to a former vector needs a new search, as other entities may have
    been compared with the one in between.
    """
    same = _neighbours_input(kind, "%(model)s::text", "l.text_hash")
    return f"CASE WHEN l.neighbours_input_hash = {same} THEN l.neighbours_input_hash END"


def enqueue_neighbour_search(
    conn: Conn,
    kind: EntityType,
    followers: Sequence[str],
    ids: Sequence[UUID],
    *,
    delay: float = 0.0,
    again: bool = False,
) -> int:
    """Enqueue the search for neighbours of entities, ``delay`` seconds from now; return how many.

    The delay lets many changes settle first, and an index show its last writes. Without
    ``again``, only entities whose search input has changed are searched. With it, all of them
    are, behind all other work.

    The caller may leave entities unlocked if this is the last statement of the transaction: it
    waits for rows in the order of ids, and then for nothing else.
    """
    if not followers or not ids:
        return 0
    changed = "true" if again else f"l.neighbours_input_hash IS DISTINCT FROM {input_hash_of(kind)}"
    count = conn.execute(
        f"""
        INSERT INTO sync_operation AS o (entity_type, entity_id, entity_key, sink, action, version,
                                         origin, priority, available_at)
        SELECT '{kind}', l.id, l.{kind.key_column}, k.sink, 'upsert', l.version,
               '{Origin.SIMILARITY}',
               %(priority)s, now() + make_interval(secs => %(delay)s)
        FROM {kind} l CROSS JOIN unnest(%(sinks)s::text[]) k(sink)
        WHERE l.id = ANY(%(ids)s) AND l.deleted_at IS NULL AND {changed}
        ORDER BY l.id, k.sink
        {MERGE_INTO_LIVE}
        """,
        {
            "sinks": list(followers),
            "ids": list(ids),
            "delay": delay,
            "priority": LOW_PRIORITY if again else 0,
        },
    ).rowcount
    if count:
        notify(conn, followers)
    return count


def invalidate_neighbours(conn: Conn, kind: EntityType, ids: Sequence[UUID]) -> None:
    """Make the next vector of entities enqueue a search, even if it is the same vector.

    Used when a search was superseded or failed. The caller has locked the entities.
    """
    if ids:
        conn.execute(
            f"""
            UPDATE {kind} SET neighbours_input_hash = NULL
            WHERE id = ANY(%s) AND neighbours_input_hash IS NOT NULL
            """,
            (list(ids),),
        )


def end_searches(conn: Conn, ids: Sequence[UUID]) -> None:
    """Cancel searches for the neighbours of entities that are being deleted.

    A pending or dead search, or one whose lease has ended, would block the purge of its entity. A
    search in progress is left to the holder of its lease. The caller has locked the entities.
    """
    conn.execute(
        f"""
        UPDATE sync_operation SET status = 'superseded', lease_token = NULL,
          finished_at = COALESCE(finished_at, now()),
          last_error = COALESCE(last_error, 'the row is deleted')
        WHERE id = ANY(ARRAY(
          SELECT id FROM sync_operation
          WHERE entity_id = ANY(%(ids)s) AND sink = '{SIMILARITY}'
            AND (status = 'dead' OR (finished_at IS NULL
                                     AND (lease_token IS NULL OR available_at <= now())))
          ORDER BY entity_id FOR NO KEY UPDATE))
        """,
        {"ids": list(ids)},
    )


def enqueue_edge_update(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], topology: Topology, origin: Origin
) -> int:
    """Raise ``edges_version`` of entities whose relationships changed, and enqueue their writes.

    Only sinks that mirror relationships compare it; vectors are not written again. The caller has
    locked the entities. Returns the number of operations.
    """
    if not ids:
        return 0
    count = conn.execute(
        f"""
        WITH changed AS (
          UPDATE {kind} l SET edges_version = nextval('entity_version'),
                              {pending(WITH_EDGES)}
          WHERE l.id = ANY(%(ids)s) AND l.deleted_at IS NULL
          RETURNING l.id, l.{kind.key_column} AS key, l.graph_version)
        INSERT INTO sync_operation AS o
          (entity_type, entity_id, entity_key, sink, action, version, origin, changed_at)
        SELECT '{kind}', c.id, c.key, k.sink, 'upsert', c.graph_version, '{origin}',
               {changed_at(origin)}
        FROM changed c CROSS JOIN unnest(%(sinks)s::text[]) k(sink)
        ORDER BY c.id, k.sink
        {MERGE_INTO_LIVE}
        """,
        {"ids": list(ids), "sinks": topology.graph},
    ).rowcount
    if count:
        notify(conn, topology.graph)
    return count


def release_held(conn: Conn, ids: Sequence[UUID], topology: Topology) -> None:
    """Make the held first writes of entities to the graph due, as their relationships are known.

    The caller has locked the entities. An operation that waits after a failure goes on waiting.
    """
    released = conn.execute(
        """
        WITH held AS MATERIALIZED (
          SELECT id FROM sync_operation
          WHERE entity_id = ANY(%(ids)s) AND sink = ANY(%(sinks)s) AND finished_at IS NULL
            AND status = 'pending' AND attempts = 0 AND last_error IS NULL
            AND available_at > now()
          ORDER BY entity_id, sink FOR NO KEY UPDATE)
        UPDATE sync_operation o SET available_at = now() FROM held WHERE o.id = held.id
        """,
        {"ids": list(ids), "sinks": topology.graph},
    ).rowcount
    if released:
        notify(conn, topology.graph)


def due_searches(conn: Conn, sink: str, ids: Sequence[UUID]) -> set[UUID]:
    """Return those of the entities whose own search is due, and has not begun."""
    rows = conn.execute(
        """
        SELECT entity_id FROM sync_operation
        WHERE entity_id = ANY(%(ids)s) AND sink = %(sink)s AND finished_at IS NULL
          AND lease_token IS NULL AND available_at <= now()
        """,
        {"ids": list(ids), "sink": sink},
    )
    return {row[0] for row in rows}


def is_gathering(conn: Conn, sink: str, leader: str) -> bool:
    """Return whether operations of a sink should wait for more from the sink that it follows.

    A pass over a group costs as much for one entity as for hundreds, and may change the
    relationships of the pass before. So a search waits up to ``LONGEST_GATHERING`` seconds while
    many texts are embedded.
    """
    row = conn.execute(
        """
        SELECT COALESCE((SELECT available_at > now() - make_interval(secs => %(longest)s)
                         FROM sync_operation WHERE sink = %(sink)s AND finished_at IS NULL
                         ORDER BY priority, available_at LIMIT 1), false)
          AND ((SELECT count(*) FROM (
                  SELECT 1 FROM sync_operation WHERE sink = %(leader)s AND finished_at IS NULL
                  LIMIT %(many)s) x) = %(many)s
               OR EXISTS (SELECT 1 FROM delivery_batch
                          WHERE finished_at > now() - make_interval(secs => %(quiet)s)
                            AND sink = %(leader)s AND synced >= %(many)s))
        """,
        {
            "sink": sink,
            "leader": leader,
            "longest": LONGEST_GATHERING,
            "many": MANY,
            "quiet": QUIET,
        },
    ).fetchone()
    return bool(row and row[0])


def keep_edge_ids(conn: Conn, kind: EntityType, column: str, ids: Mapping[UUID, str]) -> None:
    """Record a sink's ids of relationships. The caller has locked their sources."""
    if ids:
        conn.execute(
            f"""
            UPDATE {kind.edge_table.table} r SET {column} = x.remote
            FROM unnest(%(ids)s::uuid[], %(remotes)s::text[]) AS x(id, remote)
            WHERE r.id = ANY(%(ids)s) AND r.id = x.id AND r.{column} IS DISTINCT FROM x.remote
            """,
            {"ids": list(ids), "remotes": list(ids.values())},
        )
