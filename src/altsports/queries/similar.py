"""Find a league's neighbours in the graph and in the vector index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altsports.catalogue import LEAGUE
from altsports.queries.search import LEAGUES
from altsports.store import leagues as store
from altsports.store.leagues import StoredLeague
from altsync.errors import SinkFailure
from altsync.queries.nearest import cosines
from altsync.queries.stores import (
    GRAPH,
    MOST,
    Stores,
    Unavailable,
    check_count,
    index_name,
    missing_graph,
    missing_index,
    unknown_entity,
)

#: Leagues of the same archetype that are compared though the index did not return them.
SIBLINGS = 1000

#: Edges that are stronger than a shared archetype.
STRONG = ("SIMILAR_TO", "COMPETES_WITH")

EDGES = """
MATCH (l:League {league_tag: $tag})-[r:SIMILAR_TO|COMPETES_WITH|SAME_ARCHETYPE]-(n:League)
WHERE n.sync_version IS NOT NULL AND n.league_tag <> $tag
  AND ($archetype IS NULL OR n.sport_archetype = $archetype)
RETURN n.league_tag AS tag, type(r) AS edge, r.score AS score,
       startNode(r).league_tag = $tag AS out
ORDER BY coalesce(score, -1) DESC, tag, out DESC LIMIT $limit
"""

# Matches of the index come first, so that the limit leaves none of them out.
OF_SAME_ARCHETYPE = """
MATCH (l:League {league_tag: $tag})-[:BELONGS_TO_ARCHETYPE]->(a:SportArchetype)
MATCH (n:League)-[:BELONGS_TO_ARCHETYPE]->(a)
WHERE n.league_tag <> $tag AND n.sync_version IS NOT NULL
RETURN n.league_tag AS tag, a.name AS archetype
ORDER BY CASE WHEN n.league_tag IN $near THEN 0 ELSE 1 END, n.tier, tag LIMIT $limit
"""


@dataclass(frozen=True, slots=True)
class SimilarLeague:
    """A neighbour. ``sources`` are ``graph``, ``vector`` or both; ``path`` is a text.

    ``score`` is the cosine similarity of the two vectors, None when one is not embedded.
    """

    league_tag: str
    league_name: str
    sport_archetype: str
    score: float | None
    sources: tuple[str, ...]
    path: str


@dataclass(frozen=True, slots=True)
class SimilarLeagues:
    """Neighbours, the nearest first, and the unavailable stores."""

    results: tuple[SimilarLeague, ...]
    unavailable: tuple[Unavailable, ...] = ()


@dataclass(frozen=True, slots=True)
class _Edge:
    type: str
    score: float | None
    out: bool


@dataclass(frozen=True, slots=True)
class _Graph:
    """The result of the graph: edges and shared archetypes, by tag."""

    edges: Mapping[str, _Edge]
    archetypes: Mapping[str, str]
    unavailable: tuple[Unavailable, ...] = ()

    def has(self, tag: str) -> bool:
        return tag in self.edges or tag in self.archetypes


@dataclass(frozen=True, slots=True)
class _Index:
    """The result of the vector index: scores by tag, the nearest first."""

    scores: Mapping[str, float]
    unavailable: tuple[Unavailable, ...] = ()


def similar(
    stores: Stores, league_tag: str, *, top_k: int = 20, cross_archetype: bool = True
) -> SimilarLeagues:
    """Return at most ``top_k`` leagues near one, by the graph or the vector index.

    Leagues with a strong edge to it are chosen before nearer ones. Without ``cross_archetype``
    only leagues of its archetype are returned. Nothing is embedded. An unavailable store is named
    in ``unavailable``. Raises ``UnknownName``.
    """
    check_count("top_k", top_k)
    stores = stores.now()
    league = _find(stores, league_tag)
    archetype = None if cross_archetype else league.sport_archetype
    index = _query_index(stores, league, top_k, archetype)
    graph = _query_graph(stores, league_tag, list(index.scores), archetype)
    tags = index.scores.keys() | graph.edges.keys() | graph.archetypes.keys()
    scored = _scored(stores, league, tags, index.scores, archetype)
    results = [
        SimilarLeague(
            other.league_tag,
            other.league_name,
            other.sport_archetype,
            score,
            _sources(other.league_tag, graph, index),
            _path(league, other, graph),
        )
        for other, score in _chosen(scored, graph, top_k)
    ]
    return SimilarLeagues(tuple(results), graph.unavailable + index.unavailable)


def _find(stores: Stores, league_tag: str) -> StoredLeague:
    with stores.database.autocommit() as conn:
        found = store.stored_leagues(conn, [league_tag])
        if not found:
            raise unknown_entity(conn, LEAGUE, league_tag)
        return found[0]


def _query_index(stores: Stores, league: StoredLeague, top_k: int, archetype: str | None) -> _Index:
    if stores.vectors is None:
        return _Index({}, (missing_index(stores),))
    if league.vector is None:
        reason = f"{league.league_tag} is not embedded yet"
        return _Index({}, (Unavailable(index_name(stores), reason),))
    metadata = {"model": league.model, "sport_archetype": archetype}
    try:
        matches = stores.vectors.nearest(
            LEAGUE,
            league.vector,
            top_k=min(top_k + 1, MOST),  # the league itself is the first
            space=LEAGUES,
            where={name: value for name, value in metadata.items() if value is not None},
            with_metadata=False,
        )
    except SinkFailure as failure:
        return _Index({}, (Unavailable(index_name(stores), failure.reason),))
    others = [match for match in matches if match.key != league.league_tag]
    return _Index({match.key: match.score for match in others[:top_k]})


def _query_graph(stores: Stores, tag: str, near: list[str], archetype: str | None) -> _Graph:
    if stores.graph is None:
        return _Graph({}, {}, (missing_graph(stores),))
    limit = len(near) + SIBLINGS
    try:
        edges = stores.graph.query(EDGES, tag=tag, archetype=archetype, limit=SIBLINGS)
        siblings = stores.graph.query(OF_SAME_ARCHETYPE, tag=tag, near=near, limit=limit)
    except SinkFailure as failure:
        return _Graph({}, {}, (Unavailable(GRAPH, failure.reason),))
    return _Graph(_by_tag(edges), {r["tag"]: r["archetype"] for r in siblings})


def _by_tag(records: Sequence[Any]) -> dict[str, _Edge]:
    """Return the strongest edge to each neighbour: by type, score, direction."""
    found: dict[str, _Edge] = {}
    for record in records:
        edge = _Edge(record["edge"], record["score"], record["out"])
        if record["tag"] not in found or _weight(edge) > _weight(found[record["tag"]]):
            found[record["tag"]] = edge
    return found


def _weight(edge: _Edge) -> tuple[bool, float, bool]:
    return edge.type in STRONG, edge.score or 0.0, edge.out


def _scored(
    stores: Stores,
    league: StoredLeague,
    tags: set[str],
    known: Mapping[str, float],
    archetype: str | None,
) -> list[tuple[StoredLeague, float | None]]:
    """Return living leagues of ``tags`` with scores, computed for those without one."""
    with stores.database.autocommit() as conn:
        found = store.stored_leagues(conn, sorted(tags))
    found = [one for one in found if archetype in (None, one.sport_archetype)]
    comparable = {
        one.league_tag: one.vector
        for one in found
        if one.league_tag not in known and _is_comparable(league, one) and one.vector
    }
    exact: dict[str, float] = {}
    if league.vector is not None:
        scores = cosines(league.vector, list(comparable.values()))
        exact = dict(zip(comparable, scores, strict=True))
    return [(one, known.get(one.league_tag, exact.get(one.league_tag))) for one in found]


def _is_comparable(league: StoredLeague, other: StoredLeague) -> bool:
    if league.vector is None or other.vector is None:
        return False
    return league.model == other.model and len(league.vector) == len(other.vector)


Scored = tuple[StoredLeague, float | None]


def _chosen(scored: Sequence[Scored], graph: _Graph, top_k: int) -> list[Scored]:
    def is_strong(one: Scored) -> bool:
        edge = graph.edges.get(one[0].league_tag)
        return edge is not None and edge.type in STRONG

    strong = sorted(filter(is_strong, scored), key=_nearest_first)
    others = sorted((one for one in scored if not is_strong(one)), key=_nearest_first)
    return sorted([*strong, *others][:top_k], key=_nearest_first)


def _nearest_first(one: Scored) -> tuple[bool, float, str]:
    league, score = one
    return score is None, -(score or 0.0), league.league_tag


def _sources(tag: str, graph: _Graph, index: _Index) -> tuple[str, ...]:
    sources = {"graph": graph.has(tag), "vector": tag in index.scores}
    return tuple(name for name, found in sources.items() if found)


def _path(league: StoredLeague, other: StoredLeague, graph: _Graph) -> str:
    """Return the strongest connection of two leagues in words."""
    start, end = league.league_name, other.league_name
    edge = graph.edges.get(other.league_tag)
    if edge is not None:
        label = edge.type if edge.score is None else f"{edge.type} {edge.score:.2f}"
        return f"{start} -[{label}]→ {end}" if edge.out else f"{start} ←[{label}]- {end}"
    archetype = graph.archetypes.get(other.league_tag)
    if archetype is not None:
        return f"{start} → {archetype} ← {end}"
    return f"{start} ≈ {end}"
