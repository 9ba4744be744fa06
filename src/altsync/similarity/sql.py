"""SQL on SIMILAR_TO edges by key, and on relationships that end with a deletion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn
from altsync.declarations import columns_of
from altsync.entities import EntityType
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update, enqueue_neighbour_search
from altsync.similarity.rules import SAME_SCORE, Rules


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The edges that one entity is to have, and the candidates that its search found.

    Scores are cosines by key. ``neighbours_input_hash`` names the input of the search.
    ``version`` is the entity's version when it was read.
    """

    source: UUID
    version: int
    neighbours_input_hash: str
    edges: Mapping[str, float]
    candidates: Mapping[str, float]


def similar_edges(
    conn: Conn, kind: EntityType, sources: Sequence[UUID]
) -> dict[UUID, dict[str, float]]:
    """Return the SIMILAR_TO edges of entities to living ones, as scores by key."""
    e = kind.edge_table
    rows = conn.execute(
        f"""
        SELECT r.{e.source}, t.{kind.key_column}, r.strength_score
        FROM {e.table} r
        JOIN {kind} t ON t.id = r.{e.target} AND t.deleted_at IS NULL
        WHERE r.{e.source} = ANY(%s) AND r.relationship_type = '{e.computed}'
        """,
        (list(sources),),
    )
    found: dict[UUID, dict[str, float]] = {source: {} for source in sources}
    for source, key, score in rows:
        found[source][key] = float(score)
    return found


def similar_to(conn: Conn, kind: EntityType, targets: Sequence[UUID]) -> dict[UUID, set[str]]:
    """Return the keys of living entities whose SIMILAR_TO edges lead to each of ``targets``."""
    e = kind.edge_table
    rows = conn.execute(
        f"""
        SELECT r.{e.target}, s.{kind.key_column}
        FROM {e.table} r
        JOIN {kind} s ON s.id = r.{e.source} AND s.deleted_at IS NULL
        WHERE r.{e.target} = ANY(%s) AND r.relationship_type = '{e.computed}'
        """,
        (list(targets),),
    )
    found: dict[UUID, set[str]] = {target: set() for target in targets}
    for target, key in rows:
        found[target].add(key)
    return found


def with_new_input(conn: Conn, kind: EntityType, found: Sequence[Neighbours]) -> set[UUID]:
    """Return the entities whose neighbours were not computed from their present input yet."""
    rows = conn.execute(
        f"""
        SELECT l.id FROM {kind} l
        JOIN unnest(%(ids)s::uuid[], %(inputs)s::text[]) AS r(id, input) ON r.id = l.id
        WHERE l.id = ANY(%(ids)s) AND l.neighbours_input_hash IS DISTINCT FROM r.input
        """,
        {"ids": [n.source for n in found], "inputs": [n.neighbours_input_hash for n in found]},
    )
    return {r[0] for r in rows}


def find_asymmetric(
    conn: Conn, kind: EntityType, found: Sequence[Neighbours], rules: Rules
) -> set[UUID]:
    """Return the entities whose own edges do not fit the candidates of ``found``.

    They lack an edge that they have a place for, have it with another score, or have an edge to
    an entity of ``found`` that is no candidate of theirs.
    """
    e = kind.edge_table
    pairs = [(n.source, key, score) for n in found for key, score in n.candidates.items()]
    rows = conn.execute(
        f"""
        WITH candidates AS MATERIALIZED (
          SELECT s.source, t.id AS target, s.score
          FROM unnest(%(sources)s::uuid[], %(keys)s::text[], %(scores)s::float8[])
            AS s(source, key, score)
          JOIN {kind} t ON t.{kind.key_column} = s.key AND t.deleted_at IS NULL),
        present AS (
          SELECT r.{e.source} AS id, count(*) AS edges, min(r.strength_score) AS weakest
          FROM {e.table} r
          WHERE r.{e.source} IN (SELECT target FROM candidates)
            AND r.relationship_type = '{e.computed}' GROUP BY 1)
        SELECT s.target FROM candidates s
        LEFT JOIN {e.table} back ON back.{e.source} = s.target
          AND back.{e.target} = s.source AND back.relationship_type = '{e.computed}'
        LEFT JOIN present ON present.id = s.target
        WHERE CASE WHEN back.id IS NULL
          THEN s.score > %(enter)s AND (COALESCE(present.edges, 0) < %(top_k)s
                                        OR s.score > present.weakest + %(same)s)
          ELSE abs(back.strength_score - s.score) >= %(same)s END
        UNION
        SELECT r.{e.source} FROM {e.table} r
        WHERE r.{e.target} = ANY(%(found)s) AND r.relationship_type = '{e.computed}'
          AND NOT EXISTS (SELECT 1 FROM candidates s
                          WHERE s.source = r.{e.target} AND s.target = r.{e.source})
        """,
        {
            "sources": [p[0] for p in pairs],
            "keys": [p[1] for p in pairs],
            "scores": [p[2] for p in pairs],
            "found": [n.source for n in found],
            "enter": rules.enter,
            "top_k": rules.top_k,
            "same": SAME_SCORE,
        },
    )
    return {r[0] for r in rows}


def record_neighbours_input(conn: Conn, kind: EntityType, found: Sequence[Neighbours]) -> set[UUID]:
    """Record the input of searches of entities that have not changed since; return these.

    An entity that has changed may have had another vector in between, even if it has its former
    one now. Searches of others may have found it by that vector.
    """
    rows = conn.execute(
        f"""
        UPDATE {kind} l SET neighbours_input_hash = r.input
        FROM unnest(%(ids)s::uuid[], %(versions)s::bigint[], %(inputs)s::text[])
          AS r(id, version, input)
        WHERE l.id = ANY(%(ids)s) AND l.id = r.id AND l.version = r.version
          AND l.deleted_at IS NULL
        RETURNING l.id
        """,
        {
            "ids": [n.source for n in found],
            "versions": [n.version for n in found],
            "inputs": [n.neighbours_input_hash for n in found],
        },
    )
    return {r[0] for r in rows}


def incoming(conn: Conn, kind: EntityType, ids: Sequence[UUID]) -> set[UUID]:
    """Return the entities that have a relationship to one of ``ids``."""
    e = kind.edge_table
    rows = conn.execute(
        f"SELECT {e.source} FROM {e.table} WHERE {e.target} = ANY(%s)",
        (list(ids),),
    )
    return {r[0] for r in rows}


def delete_relationships(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], topology: Topology
) -> int:
    """Delete every relationship from and to entities that are being deleted.

    Sources of deleted edges are written to the graph. A node that is created again before its
    deletion is delivered would else keep these edges. Similar entities are searched again, as each
    has a place for another neighbour. The caller has locked the entities and the sources. Returns
    the number of enqueued updates of edges.
    """
    e = kind.edge_table
    rows = conn.execute(
        f"""
        DELETE FROM {e.table}
        WHERE {e.source} = ANY(%(ids)s) OR {e.target} = ANY(%(ids)s)
        RETURNING {e.source}, relationship_type
        """,
        {"ids": list(ids)},
    ).fetchall()
    touched = sorted({r[0] for r in rows} - set(ids))
    enqueued = enqueue_edge_update(conn, kind, touched, topology, Origin.SEED)
    to_search = {r[0] for r in rows if r[1] == e.computed} - set(ids)
    if kind.similar:
        enqueue_neighbour_search(
            conn, kind, topology.relating, sorted(to_search), delay=0.0, again=True
        )
    return enqueued


def vector_states(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], index: str
) -> dict[UUID, tuple[bool, float | None]]:
    """Return (pending, age): whether a write waits, and seconds since the last one."""
    columns = columns_of(index)
    written = columns.synced_at if columns else None
    rows = conn.execute(
        f"""
        SELECT l.id, EXISTS (SELECT 1 FROM sync_operation o WHERE o.entity_id = l.id
                             AND o.sink = ANY(%(sinks)s) AND o.finished_at IS NULL),
               abs(EXTRACT(epoch FROM now() - {f"l.{written}" if written else "NULL"}))::float8
        FROM {kind} l WHERE l.id = ANY(%(ids)s)
        """,
        {"ids": list(ids), "sinks": [EMBEDDING, index]},
    )
    return {r[0]: (r[1], r[2]) for r in rows}


def forget_neighbours(conn: Conn, kind: EntityType, key: str) -> UUID | None:
    """Clear and lock a living entity's ``neighbours_input_hash``; return its id, or None."""
    row = conn.execute(
        f"""
        UPDATE {kind} SET neighbours_input_hash = NULL
        WHERE {kind.key_column} = %s AND deleted_at IS NULL
        RETURNING id
        """,
        (key,),
    ).fetchone()
    return row[0] if row else None


def count_similar(conn: Conn, kind: EntityType, since: datetime | None = None) -> int:
    """Count SIMILAR_TO relationships, or those created since a time of the database's clock."""
    e = kind.edge_table
    row = conn.execute(
        f"""
        SELECT count(*) FROM {e.table} WHERE relationship_type = '{e.computed}'
          AND (%(since)s::timestamptz IS NULL OR created_at >= %(since)s)
        """,
        {"since": since},
    ).fetchone()
    assert row is not None
    return int(row[0])
