"""SQL on groups of entities that are compared by their vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from altsync.db import Conn
from altsync.entities import EntityType, Model, entity_id
from altsync.generations import model_of


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A living entity and its comparison input. ``group`` is the value that both ends share."""

    id: UUID
    key: str
    group: str | None
    model: str | None
    text_hash: str | None
    version: int

    @property
    def compared_by(self) -> tuple[str | None, str | None, str | None]:
        """Return the group, and the vector's model and text hash."""
        return self.group, self.model, self.text_hash


@dataclass(frozen=True, slots=True)
class EmbeddedMember(GroupMember):
    """An entity with its vector (float32 little-endian)."""

    vector: bytes

    @property
    def neighbours_input(self) -> str:
        """Return the input of its search, as ``outbox.edges.input_hash_of`` in SQL."""
        parts = (self.model, self.text_hash, self.group)
        return "|".join(part for part in parts if part is not None)


@dataclass(frozen=True, slots=True)
class SimilarEdge:
    """A SIMILAR_TO relationship by the ids of its ends; ``score`` is a cosine."""

    source: UUID
    target: UUID
    score: float


def _member(kind: EntityType) -> str:
    within = kind.similarity.within
    group = f"l.{within}" if within else "NULL::text"
    return f"""
    l.id, l.{kind.key_column}, {group}, {model_of()}, l.embedding_text_hash, l.version
    """


# Row by row, by the whole key: the plan of a join depends on statistics that a first load lacks.
_VECTOR = """
(SELECT e.vector FROM embedding e WHERE e.model = %(model)s AND e.dimensions = %(dimensions)s
   AND e.text_hash = l.embedding_text_hash)
"""


def _of_group(kind: EntityType) -> str:
    within = kind.similarity.within
    grouped = f"AND (%(group)s::text IS NULL OR l.{within} = %(group)s)" if within else ""
    return f"""
    l.deleted_at IS NULL AND {model_of()} = %(model)s AND l.embedding_text_hash IS NOT NULL
    {grouped}
    """


def groups_of(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], model: Model, *, across: bool
) -> dict[str | None, list[UUID]]:
    """Return entities that have a vector of ``model``, by group; or all under None (``across``)."""
    rows = conn.execute(
        f"""
        SELECT {kind.similarity.within or "NULL::text"}, array_agg(id) FROM {kind} l
        WHERE id = ANY(%s) AND deleted_at IS NULL AND {model_of()} = %s
        GROUP BY 1 ORDER BY 1
        """,
        (list(ids), model.name),
    ).fetchall()
    if across:
        return {None: [i for _group, members in rows for i in members]} if rows else {}
    return dict(rows)


def embedded_members(
    conn: Conn, kind: EntityType, ids: Sequence[UUID], group: str | None, model: Model
) -> list[EmbeddedMember]:
    """Return those of ``ids`` that are in the group, with their vectors."""
    rows = conn.execute(
        f"SELECT {_member(kind)}, {_VECTOR} FROM {kind} l "
        f"WHERE l.id = ANY(%(ids)s) AND {_of_group(kind)}",
        {"ids": list(ids), **_parameters(group, model)},
        binary=True,
    )
    return [EmbeddedMember(*row) for row in rows if row[-1] is not None]


def group_pages(
    conn: Conn,
    kind: EntityType,
    group: str | None,
    model: Model,
    size: int,
    keys: Iterable[str] | None = None,
) -> Iterator[list[tuple[GroupMember, bytes]]]:
    """Yield the members of a group with their vectors, in the order of keys, ``size`` at a time.

    ``group`` None means all entities, and ``keys`` None every key. The caller's transaction stays
    open meanwhile.
    """
    chosen = "" if keys is None else f"AND l.{kind.key_column} = ANY(%(keys)s)"
    with conn.cursor(name="group_vectors") as cursor:
        cursor.execute(
            f"""
            SELECT {_member(kind)}, {_VECTOR}
            FROM (SELECT * FROM {kind} l WHERE {_of_group(kind)} {chosen}
                  ORDER BY l.{kind.key_column}) l
            """,
            {**_parameters(group, model), "keys": list(keys or ())},
            binary=True,
        )
        while rows := cursor.fetchmany(size):
            page = [(GroupMember(*row[:-1]), row[-1]) for row in rows if row[-1] is not None]
            if page:
                yield page


def keys_of(conn: Conn, kind: EntityType, ids: Iterable[UUID]) -> set[str]:
    """Return the keys of entities."""
    rows = conn.execute(f"SELECT {kind.key_column} FROM {kind} WHERE id = ANY(%s)", (list(ids),))
    return {row[0] for row in rows}


def _parameters(group: str | None, model: Model) -> dict[str, object]:
    return {"group": group, "model": model.name, "dimensions": model.dimensions}


def group_members(conn: Conn, kind: EntityType, ids: Sequence[UUID]) -> dict[UUID, GroupMember]:
    """Return those of ``ids`` that are living, as they are now."""
    rows = conn.execute(
        f"SELECT {_member(kind)} FROM {kind} l WHERE l.id = ANY(%s) AND l.deleted_at IS NULL",
        (list(ids),),
    )
    return {row[0]: GroupMember(*row) for row in rows}


def similar_edges_at(conn: Conn, kind: EntityType, ids: Sequence[UUID]) -> list[SimilarEdge]:
    """Return the SIMILAR_TO edges from and to entities."""
    e = kind.edge_table
    rows = conn.execute(
        f"""
        SELECT {e.source}, {e.target}, strength_score::float8
        FROM {e.table}
        WHERE relationship_type = '{e.computed}'
          AND ({e.source} = ANY(%(ids)s) OR {e.target} = ANY(%(ids)s))
        """,
        {"ids": list(ids)},
    )
    return [SimilarEdge(*row) for row in rows]


def edges_from(
    conn: Conn, kind: EntityType, sources: Sequence[UUID]
) -> dict[UUID, dict[UUID, float]]:
    """Return the SIMILAR_TO edges of entities that have any, as scores by target."""
    e = kind.edge_table
    rows = conn.execute(
        f"""
        SELECT {e.source}, {e.target}, strength_score::float8
        FROM {e.table}
        WHERE relationship_type = '{e.computed}' AND {e.source} = ANY(%s)
        """,
        (list(sources),),
    )
    found: dict[UUID, dict[UUID, float]] = {}
    for source, target, score in rows:
        found.setdefault(source, {})[target] = score
    return found


def weakest_edges(
    conn: Conn, kind: EntityType, ids: Sequence[UUID]
) -> dict[UUID, tuple[int, float]]:
    """Return the number and lowest score of the SIMILAR_TO edges of entities that have any."""
    e = kind.edge_table
    rows = conn.execute(
        f"""
        SELECT {e.source}, count(*), min(strength_score)::float8 FROM {e.table}
        WHERE relationship_type = '{e.computed}' AND {e.source} = ANY(%s) GROUP BY 1
        """,
        (list(ids),),
    )
    return {source: (count, lowest) for source, count, lowest in rows}


def write_similar_edges(
    conn: Conn,
    kind: EntityType,
    edges: Mapping[UUID, Mapping[UUID, float]],
    versions: Mapping[UUID, int],
) -> None:
    """Make ``edges`` (scores by source and target) the sources' SIMILAR_TO edges.

    Edges that stay keep their ids. The caller holds the locks of sources and targets.
    ``versions`` are those of the sources.
    """
    e = kind.edge_table
    if not edges:
        return
    flat = [(s, t, score) for s, targets in edges.items() for t, score in targets.items()]
    ids = [entity_id(str(e.computed), f"{s}:{t}") for s, t, _score in flat]
    conn.execute(
        f"""
        DELETE FROM {e.table} r
        WHERE {e.source} = ANY(%s) AND relationship_type = '{e.computed}'
          AND NOT EXISTS (SELECT 1 FROM unnest(%s::uuid[]) AS kept(id) WHERE kept.id = r.id)
        """,
        (list(edges), ids),
    )
    conn.execute(
        f"""
        INSERT INTO {e.table} AS r (id, {e.source}, {e.target},
          relationship_type, strength_score, model, source_version, target_version)
        SELECT w.id, s.id, t.id, '{e.computed}', w.score, {model_of("s")}, w.version, t.version
        FROM unnest(%(ids)s::uuid[], %(sources)s::uuid[], %(versions)s::bigint[],
                    %(targets)s::uuid[], %(scores)s::float8[])
          AS w(id, source, version, target, score)
        JOIN {kind} s ON s.id = w.source AND s.deleted_at IS NULL
        JOIN {kind} t ON t.id = w.target AND t.deleted_at IS NULL
        ON CONFLICT (id) DO UPDATE SET strength_score = excluded.strength_score,
          model = excluded.model, source_version = excluded.source_version,
          target_version = excluded.target_version, updated_at = now()
        WHERE (r.strength_score, r.model) IS DISTINCT FROM (excluded.strength_score, excluded.model)
        """,
        {
            "ids": ids,
            "sources": [s for s, _t, _score in flat],
            "versions": [versions[s] for s, _t, _score in flat],
            "targets": [t for _s, t, _score in flat],
            "scores": [score for _s, _t, score in flat],
        },
    )


def record_neighbours_input(
    conn: Conn, kind: EntityType, entities: Sequence[EmbeddedMember]
) -> None:
    """Record the input of the searches of locked entities."""
    if entities:
        conn.execute(
            f"""
            UPDATE {kind} l SET neighbours_input_hash = r.input
            FROM unnest(%(ids)s::uuid[], %(inputs)s::text[]) AS r(id, input)
            WHERE l.id = ANY(%(ids)s) AND l.id = r.id
              AND l.neighbours_input_hash IS DISTINCT FROM r.input
            """,
            {
                "ids": [one.id for one in entities],
                "inputs": [one.neighbours_input for one in entities],
            },
        )
