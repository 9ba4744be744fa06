"""SQL on the relationships between entities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from altsync.contract import EMBEDDING, SinkVersion, Topology
from altsync.db import Conn, Database
from altsync.declarations import columns_of
from altsync.entities import EntityType
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_edge_update, enqueue_neighbour_search
from altsync.outbox.enqueue import lock_entities
from altsync.similarity.groups import write_similar_edges


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


@dataclass(frozen=True, slots=True)
class Rules:
    """When an entity is similar to another: the numbers of ``Similar``.

    ``across``: entities of all groups are compared. ``debounce``: seconds after a new vector until
    its neighbours are searched.
    """

    enter: float = 0.80
    leave: float = 0.77
    top_k: int = 10
    across: bool = False
    debounce: float = 2.0


#: The rules of an entity type.
RulesOf = Callable[[EntityType], Rules]


def declared_rules(debounce: float) -> RulesOf:
    """Return the rules that the catalogue declares."""

    def rules(kind: EntityType) -> Rules:
        said = kind.similarity
        return Rules(said.enter, said.leave, said.top, said.within is None, debounce)

    return rules


@dataclass(frozen=True, slots=True)
class Related:
    """What one round of similarity changed: edges, and entities that are looked at once more."""

    added: int = 0
    rescored: int = 0
    removed: int = 0
    rerun_requested: int = 0


#: A change of a score that is none: models and indexes round.
SAME_SCORE = 0.001


def similar_edges(
    conn: Conn, kind: EntityType, sources: Sequence[UUID]
) -> dict[UUID, dict[str, float]]:
    """The SIMILAR_TO edges of entities to living ones, as scores by key."""
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
    for source, tag, score in rows:
        found[source][tag] = float(score)
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
    for target, tag in rows:
        found[target].add(tag)
    return found


def relate(
    conn: Conn,
    kind: EntityType,
    found: Sequence[Neighbours],
    rules: Rules,
    topology: Topology,
    follower: str,
) -> Related:
    """Make SIMILAR_TO what was found, in the caller's transaction.

    Entities whose edges changed are carried to the graph. Where an entity itself had changed, its
    neighbours are asked again when their own edges disagree with what it saw; an entity that was
    only asked again asks no other, so that one change never goes round in circles. An entity looks
    once more itself where it has changed, or a neighbour of its choice is deleted, meanwhile.
    """
    sources = [n.source for n in found]
    targets = _ids_of(conn, kind, {tag for n in found for tag in n.edges})
    lock_entities(conn, ((kind, i) for i in {*sources, *targets.values()}))
    now = similar_edges(conn, kind, sources)
    living = _ids_of(conn, kind, targets)
    moved = _moved(conn, kind, found)
    counts = Related()
    changed: dict[UUID, Neighbours] = {}
    for one in found:
        wanted = {tag: score for tag, score in one.edges.items() if tag in living}
        difference = _difference(now[one.source], wanted)
        if difference != Related():
            changed[one.source] = one
            counts = _sum(counts, difference)
    _rewrite(conn, kind, list(changed.values()), living)
    noted = _note_neighbours_input(conn, kind, found)
    enqueue_edge_update(conn, kind, list(changed), topology, Origin.SIMILARITY)
    again = find_asymmetric(conn, kind, [n for n in found if n.source in moved], rules)
    again |= {n.source for n in found if n.source not in noted or n.edges.keys() - living.keys()}
    asked = enqueue_neighbour_search(
        conn, kind, [follower], sorted(again), delay=rules.debounce, again=True
    )
    return _sum(counts, Related(rerun_requested=asked))


def _difference(now: Mapping[str, float], wanted: Mapping[str, float]) -> Related:
    kept = now.keys() & wanted.keys()
    return Related(
        added=len(wanted.keys() - now.keys()),
        rescored=sum(abs(now[tag] - wanted[tag]) >= SAME_SCORE for tag in kept),
        removed=len(now.keys() - wanted.keys()),
    )


def _sum(one: Related, other: Related) -> Related:
    return Related(
        one.added + other.added,
        one.rescored + other.rescored,
        one.removed + other.removed,
        one.rerun_requested + other.rerun_requested,
    )


def _moved(conn: Conn, kind: EntityType, found: Sequence[Neighbours]) -> set[UUID]:
    """Entities that were never looked at as they are now."""
    rows = conn.execute(
        f"""
        SELECT l.id FROM {kind} l
        JOIN unnest(%(ids)s::uuid[], %(inputs)s::text[]) AS r(id, input) ON r.id = l.id
        WHERE l.id = ANY(%(ids)s) AND l.neighbours_input_hash IS DISTINCT FROM r.input
        """,
        {"ids": [n.source for n in found], "inputs": [n.neighbours_input_hash for n in found]},
    )
    return {r[0] for r in rows}


def _ids_of(conn: Conn, kind: EntityType, tags: Mapping[str, UUID] | set[str]) -> dict[str, UUID]:
    """Ids of living entities by their keys."""
    rows = conn.execute(
        f"SELECT {kind.key_column}, id FROM {kind} "
        f"WHERE {kind.key_column} = ANY(%s) AND deleted_at IS NULL",
        (list(tags),),
    )
    return {r[0]: r[1] for r in rows}


def find_asymmetric(
    conn: Conn, kind: EntityType, found: Sequence[Neighbours], rules: Rules
) -> set[UUID]:
    """Entities whose own edges do not fit what ``found`` saw of them.

    They should know a new neighbour and have room for it, or know it by another score, or know
    one that saw nothing of them.
    """
    e = kind.edge_table
    pairs = [(n.source, tag, score) for n in found for tag, score in n.candidates.items()]
    rows = conn.execute(
        f"""
        WITH seen AS MATERIALIZED (
          SELECT s.source, t.id AS target, s.score
          FROM unnest(%(sources)s::uuid[], %(tags)s::text[], %(scores)s::float8[])
            AS s(source, tag, score)
          JOIN {kind} t ON t.{kind.key_column} = s.tag AND t.deleted_at IS NULL),
        standing AS (
          SELECT r.{e.source} AS id, count(*) AS edges, min(r.strength_score) AS weakest
          FROM {e.table} r
          WHERE r.{e.source} IN (SELECT target FROM seen)
            AND r.relationship_type = '{e.computed}' GROUP BY 1)
        SELECT s.target FROM seen s
        LEFT JOIN {e.table} back ON back.{e.source} = s.target
          AND back.{e.target} = s.source AND back.relationship_type = '{e.computed}'
        LEFT JOIN standing ON standing.id = s.target
        WHERE CASE WHEN back.id IS NULL
          THEN s.score > %(enter)s AND (COALESCE(standing.edges, 0) < %(top_k)s
                                        OR s.score > standing.weakest + %(same)s)
          ELSE abs(back.strength_score - s.score) >= %(same)s END
        UNION
        SELECT r.{e.source} FROM {e.table} r
        WHERE r.{e.target} = ANY(%(moved)s) AND r.relationship_type = '{e.computed}'
          AND NOT EXISTS (SELECT 1 FROM seen s
                          WHERE s.source = r.{e.target} AND s.target = r.{e.source})
        """,
        {
            "sources": [p[0] for p in pairs],
            "tags": [p[1] for p in pairs],
            "scores": [p[2] for p in pairs],
            "moved": [n.source for n in found],
            "enter": rules.enter,
            "top_k": rules.top_k,
            "same": SAME_SCORE,
        },
    )
    return {r[0] for r in rows}


def _rewrite(
    conn: Conn, kind: EntityType, found: Sequence[Neighbours], living: Mapping[str, UUID]
) -> None:
    """Make what was found the entities' SIMILAR_TO edges. Edges that stay keep their ids."""
    edges = {
        one.source: {living[tag]: score for tag, score in one.edges.items() if tag in living}
        for one in found
    }
    write_similar_edges(conn, kind, edges, {one.source: one.version for one in found})


def _note_neighbours_input(conn: Conn, kind: EntityType, found: Sequence[Neighbours]) -> set[UUID]:
    """Write down what neighbours were computed from; returns the entities that it is true of.

    Not of an entity that has changed since it was read: it may have had another vector in
    between, by which others have seen it, even if it has the same one again.
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
    """Entities that have a relationship to one of ``ids``."""
    e = kind.edge_table
    rows = conn.execute(
        f"SELECT {e.source} FROM {e.table} WHERE {e.target} = ANY(%s)",
        (list(ids),),
    )
    return {r[0] for r in rows}


def delete_relationships(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], topology: Topology
) -> int:
    """Remove every relationship from and to entities that are being deleted.

    Entities that pointed to them are carried to the graph: a node that is there again before its
    deletion was delivered is never removed, and would keep their edges. Those that were similar
    are asked again: each can hold another neighbour. The caller has locked the entities, and
    those that point to them. Returns how many operations carry.
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
    carried = enqueue_edge_update(conn, kind, touched, topology, Origin.SEED)
    left = {r[0] for r in rows if r[1] == e.computed} - set(ids)
    if kind.similar:
        enqueue_neighbour_search(conn, kind, topology.relating, sorted(left), delay=0.0, again=True)
    return carried


def vector_standing(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], index: str
) -> dict[UUID, tuple[bool, float | None]]:
    """Of entities: whether their vector is still on its way to an index, and its age in seconds."""
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


def related_entities(database: Database, kind: EntityType) -> Iterator[SinkVersion]:
    """Living entities whose neighbours were computed, with what from, page by page."""
    after = UUID(int=0)
    while True:
        with database.autocommit() as conn:
            rows = conn.execute(
                f"""
                SELECT id, {kind.key_column}, version, neighbours_input_hash, embedding_model
                FROM {kind}
                WHERE id > %s AND deleted_at IS NULL ORDER BY id LIMIT 1000
                """,
                (after,),
            ).fetchall()
        if not rows:
            return
        for _id, tag, version, input_hash, model in rows:
            if input_hash is not None:
                yield SinkVersion(tag, version, input_hash, model)
        after = rows[-1][0]


def forget_neighbours(conn: Conn, kind: EntityType, tag: str) -> UUID | None:
    """Have a living entity's neighbours count as never looked for, and lock it; None without."""
    row = conn.execute(
        f"""
        UPDATE {kind} SET neighbours_input_hash = NULL
        WHERE {kind.key_column} = %s AND deleted_at IS NULL
        RETURNING id
        """,
        (tag,),
    ).fetchone()
    return row[0] if row else None


def count_similar(conn: Conn, kind: EntityType, since: datetime | None = None) -> int:
    """SIMILAR_TO relationships, of all time or made since a time of the database's clock."""
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
