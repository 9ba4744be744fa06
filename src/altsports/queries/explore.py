"""Search by meaning, and read the graph around each hit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from altsports.queries.search import FoundLeague, search
from altsports.store.leagues import LeagueFilter
from altsync.errors import SinkFailure
from altsync.queries.stores import GRAPH, Stores, Unavailable, missing_graph

#: Other leagues of a hit's archetype that are shown.
OTHERS = 5

#: Similar leagues of a hit that are shown.
SIMILAR = 20

# Each subquery has a limit: an archetype may have more leagues than fit into memory.
AROUND = """
UNWIND $tags AS tag
MATCH (l:League {league_tag: tag}) WHERE l.sync_version IS NOT NULL
CALL (l) {
  MATCH (l)-[:BELONGS_TO_ARCHETYPE]->(:SportArchetype)<-[:BELONGS_TO_ARCHETYPE]-(o:League)
  WHERE o.sync_version IS NOT NULL AND o.league_tag <> l.league_tag
  WITH o ORDER BY o.tier, o.league_name, o.league_tag LIMIT $others
  RETURN collect({tag: o.league_tag, name: o.league_name}) AS others
}
CALL (l) {
  MATCH (l)-[r:SIMILAR_TO]-(s:League) WHERE s.sync_version IS NOT NULL
  WITH s, max(r.score) AS score ORDER BY coalesce(score, -1) DESC, s.league_tag LIMIT $similar
  RETURN collect({tag: s.league_tag, name: s.league_name, score: score}) AS similar
}
RETURN tag, others, similar
"""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A league beside another in the graph; ``score`` is that of their edge, if it has one."""

    league_tag: str
    league_name: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class ExploredLeague:
    """A hit, some other leagues of its archetype, and those it is similar to."""

    league: FoundLeague
    same_archetype: tuple[Neighbour, ...]
    similar_to: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class Exploration:
    """Hits, the best first, without neighbours if the graph is unavailable."""

    results: tuple[ExploredLeague, ...]
    unavailable: tuple[Unavailable, ...] = ()


def explore(
    stores: Stores,
    text: str,
    where: LeagueFilter = LeagueFilter(),  # noqa: B008  (frozen)
    *,
    top_k: int = 10,
) -> Exploration:
    """Return the hits of ``search`` with their neighbours in the graph. Raises the same."""
    found = search(stores, text, where, top_k=top_k)
    around, unavailable = _around(stores, [league.league_tag for league in found])
    results = (ExploredLeague(f, *around.get(f.league_tag, ((), ()))) for f in found)
    return Exploration(tuple(results), unavailable)


Surroundings = dict[str, tuple[tuple[Neighbour, ...], tuple[Neighbour, ...]]]


def _around(stores: Stores, tags: list[str]) -> tuple[Surroundings, tuple[Unavailable, ...]]:
    if stores.graph is None:
        return {}, (missing_graph(stores),)
    if not tags:
        return {}, ()
    try:
        records = stores.graph.query(AROUND, tags=tags, others=OTHERS, similar=SIMILAR)
    except SinkFailure as failure:
        return {}, (Unavailable(GRAPH, failure.reason),)
    return {
        record["tag"]: (_neighbours(record["others"]), _neighbours(record["similar"]))
        for record in records
    }, ()


def _neighbours(found: list[dict[str, Any]]) -> tuple[Neighbour, ...]:
    return tuple(Neighbour(f["tag"], f["name"], f.get("score")) for f in found)
