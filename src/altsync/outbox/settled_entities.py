"""Write the outcomes of operations to their entities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import Columns, SinkTraits, Topology
from altsync.db import Conn
from altsync.declarations import columns_of
from altsync.entities import EntityType, Model, SyncStatus
from altsync.operations import Dead, Outcome, Synced
from altsync.outbox.edges import (
    enqueue_neighbour_search,
    input_hash_of_vector,
    invalidate_neighbours,
    keep_edge_ids,
)
from altsync.outbox.enqueue import MERGE_INTO_LIVE, notify, status_column
from altsync.outbox.marks import KEEP, Marks, parameters

T = TypeVar("T", bound=Outcome)

#: Plain texts: psycopg sends an array of an enum's members one by one.
_SYNCED, _FAILED = SyncStatus.SYNCED.value, SyncStatus.FAILED.value

# `= ANY(ids)` repeats the join's condition, to avoid a sequential scan of the table.
_FROM_OUTCOMES = """
FROM unnest(%(ids)s::uuid[], %(versions)s::bigint[], %(statuses)s::text[],
            %(remote_ids)s::text[], %(namespaces)s::text[], %(flips)s::bool[])
  AS r(id, version, status, remote_id, namespace, flips)
WHERE l.id = ANY(%(ids)s) AND l.id = r.id
"""


def _by_type(outcomes: Sequence[T]) -> dict[EntityType, list[T]]:
    """Group outcomes by entity type, in the order of locks."""
    groups: dict[EntityType, list[T]] = {kind: [] for kind in entity_types()}
    for one in outcomes:
        groups[one.op.entity_type].append(one)
    return {kind: group for kind, group in groups.items() if group}


def _entities(outcomes: Sequence[Outcome]) -> list[UUID]:
    return [one.op.entity_id for one in outcomes]


def write_statuses(
    conn: Conn,
    sink: SinkTraits,
    synced: Sequence[Synced],
    dead: Sequence[Dead],
    reruns: set[int],
    marks: Marks,
) -> None:
    """Write statuses, remote ids, namespaces and marks; no status where a rerun follows."""
    columns = columns_of(sink.name)
    if columns is None:
        for kind in {kind for kind, _ in marks}:
            conn.execute(KEEP, parameters(sink, kind, marks))
        return
    changes = ", ".join(_changes(columns, sink))
    outcomes: list[Synced | Dead] = [*synced, *dead]
    for kind, group in _by_type(outcomes).items():
        written = [one if isinstance(one, Synced) else None for one in group]
        kept = parameters(sink, kind, marks)
        # In one statement: each costs a round of the pipeline.
        marked = f"WITH marked AS ({KEEP}) " if kept else ""
        conn.execute(
            f"{marked}UPDATE {kind} l SET {changes} {_FROM_OUTCOMES}",
            {
                **(kept or {}),
                "ids": _entities(group),
                "versions": [one.version for one in group],
                "statuses": [_SYNCED if one else _FAILED for one in written],
                "remote_ids": [one and one.remote_id for one in written],
                "namespaces": [one and one.namespace for one in written],
                "flips": [one.op.id not in reruns for one in group],
            },
        )


def _changes(columns: Columns, sink: SinkTraits) -> Iterator[str]:
    """Yield assignments in SQL.

    A status changes only with ``flips``, while the row has the version that was written. Remote id
    and namespace change in any case: they are where the sink holds the entity now.
    """
    version = "graph_version" if sink.edges else "version"
    status = columns.status
    # A deleted entity needs no embedding: its status stays synced.
    living = "AND l.deleted_at IS NULL" if sink.embeds else ""
    yield (
        f"{status} = CASE WHEN r.flips AND l.{version} = r.version {living} "
        f"THEN r.status ELSE l.{status} END"
    )
    kept = {
        columns.remote_id: "r.remote_id",
        columns.namespace: "r.namespace",
        columns.synced_at: "now()",
    }
    for column, value in kept.items():
        if column is not None:
            yield f"{column} = CASE WHEN r.status = 'synced' THEN {value} ELSE l.{column} END"


# One subquery for each row, as :data:`altsync.store.vectors.VECTOR` is.
_KEPT = """
(SELECT true FROM embedding e WHERE e.model = %(model)s AND e.dimensions = %(dimensions)s
   AND e.text_hash = l.text_hash)
"""


def give_vectors(conn: Conn, synced: Sequence[Synced], topology: Topology, model: Model) -> None:
    """Point entities to their vectors, and enqueue the sinks that waited for them.

    The hash of the text decides: a change outside the text keeps the vector. An entity whose text
    changed meanwhile gets nothing, as its newer operation is live.
    """
    waiting = "".join(
        f"{column} = 'pending', " for sink in topology.vector if (column := status_column(sink))
    )
    for kind, group in _by_type(synced).items():
        searched = f"neighbours_input_hash = {input_hash_of_vector(kind)}, " if kind.similar else ""
        conn.execute(
            f"""
            WITH stored AS (
              UPDATE {kind} l SET {waiting}{searched}
                embedding_text_hash = l.text_hash, embedding_model = %(model)s,
                embedding_sync_status = 'synced', embedding_updated_at = now()
              WHERE l.id = ANY(%(ids)s) AND l.deleted_at IS NULL AND {_KEPT}
              RETURNING l.id, l.{kind.key_column} AS key, l.version)
            INSERT INTO sync_operation AS o
              (entity_type, entity_id, entity_key, sink, action, version, origin, first_version,
               changed_at)
            SELECT '{kind}', s.id, s.key, k.sink, 'upsert', s.version, 'embedding',
                   r.first_version, r.changed_at
            FROM stored s
            JOIN unnest(%(ids)s::uuid[], %(first_versions)s::bigint[], %(changed)s::timestamptz[])
              AS r(id, first_version, changed_at) ON r.id = s.id
            CROSS JOIN unnest(%(sinks)s::text[]) k(sink)
            ORDER BY s.id, k.sink
            {MERGE_INTO_LIVE}
            """,
            {
                "ids": _entities(group),
                "model": model.name,
                "dimensions": model.dimensions,
                "sinks": topology.vector,
                "first_versions": [one.op.first_version or one.op.version for one in group],
                "changed": [one.op.changed_at for one in group],
            },
        )
    if synced:
        notify(conn, topology.vector)


def keep_edge_ids_of(conn: Conn, column: str, synced: Sequence[Synced]) -> None:
    """Write a sink's ids of relationships to their rows."""
    for kind, group in _by_type(synced).items():
        if kind.edges:
            ids = {edge: remote for one in group for edge, remote in one.edge_ids.items()}
            keep_edge_ids(conn, kind, column, ids)


def invalidate_searches(conn: Conn, outcomes: Sequence[Outcome]) -> None:
    """Make the next vector of entities enqueue a search, as the last one did not run."""
    for kind, group in _by_type(outcomes).items():
        invalidate_neighbours(conn, kind, _entities(group))


def enqueue_searches(
    conn: Conn, synced: Sequence[Synced], sink: SinkTraits, topology: Topology
) -> None:
    """Enqueue the search for neighbours in the sinks that follow the settled one."""
    for follower in topology.followers(sink.name):
        delay = topology.traits(follower).delay
        for kind, group in _by_type(synced).items():
            if kind.similar:
                enqueue_neighbour_search(conn, kind, [follower], _entities(group), delay=delay)
