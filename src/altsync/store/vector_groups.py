"""SQL on groups of leagues that are compared by their vectors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from altsync.db import Conn
from altsync.records import Model, Relation, entity_id


@dataclass(frozen=True, slots=True)
class GroupMember:
    """A living league, and what it is compared by."""

    id: UUID
    tag: str
    archetype: str
    model: str | None
    text_hash: str | None
    version: int

    @property
    def compared_by(self) -> tuple[str, str | None, str | None]:
        """Its group and its vector."""
        return self.archetype, self.model, self.text_hash


@dataclass(frozen=True, slots=True)
class Vectored(GroupMember):
    """A league with its vector (float32 little-endian)."""

    vector: bytes

    @property
    def neighbours_input(self) -> str:
        """What its neighbours are computed from; the same as :data:`altsync.outbox.BASIS`."""
        return f"{self.model}|{self.text_hash}|{self.archetype}"


@dataclass(frozen=True, slots=True)
class SimilarEdge:
    """A SIMILAR_TO relationship by the ids of its ends; ``score`` is a cosine."""

    source: UUID
    target: UUID
    score: float


_MEMBER = """
l.id, l.league_tag, l.sport_archetype, l.embedding_model, l.embedding_text_hash, l.version
"""

# Row by row, by the whole key: the plan of a join depends on statistics that a first load lacks.
_VECTOR = """
(SELECT e.vector FROM embedding e WHERE e.model = %(model)s AND e.dimensions = %(dimensions)s
   AND e.text_hash = l.embedding_text_hash)
"""

_OF_GROUP = """
l.deleted_at IS NULL AND l.embedding_model = %(model)s AND l.embedding_text_hash IS NOT NULL
AND (%(archetype)s::text IS NULL OR l.sport_archetype = %(archetype)s)
"""


def groups_of(
    conn: Conn, ids: Sequence[UUID], model: Model, *, across: bool
) -> dict[str | None, list[UUID]]:
    """Leagues that have a vector of ``model``, by archetype; all under None with ``across``."""
    rows = conn.execute(
        """
        SELECT sport_archetype, array_agg(id) FROM league
        WHERE id = ANY(%s) AND deleted_at IS NULL AND embedding_model = %s
        GROUP BY 1 ORDER BY 1
        """,
        (list(ids), model.name),
    ).fetchall()
    if across:
        return {None: [i for _archetype, members in rows for i in members]} if rows else {}
    return dict(rows)


def vectored(
    conn: Conn, ids: Sequence[UUID], archetype: str | None, model: Model
) -> list[Vectored]:
    """Return those of ``ids`` that are in the group, with their vectors."""
    rows = conn.execute(
        f"SELECT {_MEMBER}, {_VECTOR} FROM league l WHERE l.id = ANY(%(ids)s) AND {_OF_GROUP}",
        {"ids": list(ids), **_parameters(archetype, model)},
        binary=True,
    )
    return [Vectored(*row) for row in rows if row[-1] is not None]


def group_pages(
    conn: Conn, archetype: str | None, model: Model, size: int
) -> Iterator[list[tuple[GroupMember, bytes]]]:
    """The members of a group with their vectors, in the order of keys, ``size`` at a time.

    ``archetype`` None means all leagues. The caller's transaction stays open meanwhile.
    """
    with conn.cursor(name="group_vectors") as cursor:
        cursor.execute(
            f"""
            SELECT {_MEMBER}, {_VECTOR}
            FROM (SELECT * FROM league l WHERE {_OF_GROUP} ORDER BY l.league_tag) l
            """,
            _parameters(archetype, model),
            binary=True,
        )
        while rows := cursor.fetchmany(size):
            page = [(GroupMember(*row[:-1]), row[-1]) for row in rows if row[-1] is not None]
            if page:
                yield page


def _parameters(archetype: str | None, model: Model) -> dict[str, object]:
    return {"archetype": archetype, "model": model.name, "dimensions": model.dimensions}


def group_members(conn: Conn, ids: Sequence[UUID]) -> dict[UUID, GroupMember]:
    """Return those of ``ids`` that are living, as they are now."""
    rows = conn.execute(
        f"SELECT {_MEMBER} FROM league l WHERE l.id = ANY(%s) AND l.deleted_at IS NULL",
        (list(ids),),
    )
    return {row[0]: GroupMember(*row) for row in rows}


def similar_edges_at(conn: Conn, ids: Sequence[UUID]) -> list[SimilarEdge]:
    """The SIMILAR_TO edges from and to leagues."""
    rows = conn.execute(
        """
        SELECT source_league_id, target_league_id, strength_score::float8
        FROM league_relationship
        WHERE relationship_type = 'SIMILAR_TO'
          AND (source_league_id = ANY(%(ids)s) OR target_league_id = ANY(%(ids)s))
        """,
        {"ids": list(ids)},
    )
    return [SimilarEdge(*row) for row in rows]


def edges_from(conn: Conn, sources: Sequence[UUID]) -> dict[UUID, dict[UUID, float]]:
    """The SIMILAR_TO edges of leagues, as scores by target. A league without any is left out."""
    rows = conn.execute(
        """
        SELECT source_league_id, target_league_id, strength_score::float8
        FROM league_relationship
        WHERE relationship_type = 'SIMILAR_TO' AND source_league_id = ANY(%s)
        """,
        (list(sources),),
    )
    found: dict[UUID, dict[UUID, float]] = {}
    for source, target, score in rows:
        found.setdefault(source, {})[target] = score
    return found


def weakest_edges(conn: Conn, ids: Sequence[UUID]) -> dict[UUID, tuple[int, float]]:
    """How many SIMILAR_TO edges each league has, and the lowest score; those without are absent."""
    rows = conn.execute(
        """
        SELECT source_league_id, count(*), min(strength_score)::float8 FROM league_relationship
        WHERE relationship_type = 'SIMILAR_TO' AND source_league_id = ANY(%s) GROUP BY 1
        """,
        (list(ids),),
    )
    return {source: (count, lowest) for source, count, lowest in rows}


def write_similar_edges(
    conn: Conn, edges: Mapping[UUID, Mapping[UUID, float]], versions: Mapping[UUID, int]
) -> None:
    """Make ``edges`` (scores by source and target) the sources' SIMILAR_TO edges.

    Edges that stay keep their ids. The caller holds the locks of sources and targets.
    ``versions`` are those of the sources.
    """
    if not edges:
        return
    flat = [(s, t, score) for s, targets in edges.items() for t, score in targets.items()]
    ids = [entity_id(Relation.SIMILAR_TO, f"{s}:{t}") for s, t, _score in flat]
    conn.execute(
        """
        DELETE FROM league_relationship r
        WHERE source_league_id = ANY(%s) AND relationship_type = 'SIMILAR_TO'
          AND NOT EXISTS (SELECT 1 FROM unnest(%s::uuid[]) AS kept(id) WHERE kept.id = r.id)
        """,
        (list(edges), ids),
    )
    conn.execute(
        """
        INSERT INTO league_relationship AS r (id, source_league_id, target_league_id,
          relationship_type, strength_score, model, source_version, target_version)
        SELECT w.id, s.id, t.id, 'SIMILAR_TO', w.score, s.embedding_model, w.version, t.version
        FROM unnest(%(ids)s::uuid[], %(sources)s::uuid[], %(versions)s::bigint[],
                    %(targets)s::uuid[], %(scores)s::float8[])
          AS w(id, source, version, target, score)
        JOIN league s ON s.id = w.source AND s.deleted_at IS NULL
        JOIN league t ON t.id = w.target AND t.deleted_at IS NULL
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


def note_neighbours_input(conn: Conn, leagues: Sequence[Vectored]) -> None:
    """Write down what the neighbours of locked leagues were computed from."""
    if leagues:
        conn.execute(
            """
            UPDATE league l SET neighbours_of = r.input
            FROM unnest(%(ids)s::uuid[], %(inputs)s::text[]) AS r(id, input)
            WHERE l.id = ANY(%(ids)s) AND l.id = r.id AND l.neighbours_of IS DISTINCT FROM r.input
            """,
            {
                "ids": [one.id for one in leagues],
                "inputs": [one.neighbours_input for one in leagues],
            },
        )
