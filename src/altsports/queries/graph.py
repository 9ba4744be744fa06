"""Queries of the graph alone. Nodes without a ``sync_version`` are left out."""

from __future__ import annotations

from dataclasses import dataclass

from altsports.catalogue import LEAGUE, SPORT_ARCHETYPE
from altsports.store import leagues as store
from altsync.queries.stores import (
    Stores,
    check_count,
    require_graph,
    unknown_entity,
    unknown_of,
)
from altsync.store.reads import all_keys

#: Leagues or pairs in a result by default.
LIMIT = 100

OF_ARCHETYPE = """
MATCH (n:League)-[:BELONGS_TO_ARCHETYPE]->(a:SportArchetype {name: $archetype})
WHERE n.sync_version IS NOT NULL
RETURN n.league_tag AS league_tag, n.league_name AS league_name,
       n.sport_archetype AS sport_archetype, n.tier AS tier, n.status AS status
ORDER BY tier, league_name, league_tag LIMIT $limit
"""

SAME_ARCHETYPE = """
MATCH (l:League {league_tag: $tag})-[:BELONGS_TO_ARCHETYPE]->(a:SportArchetype)
MATCH (n:League)-[:BELONGS_TO_ARCHETYPE]->(a)
WHERE n.league_tag <> $tag AND n.sync_version IS NOT NULL
RETURN n.league_tag AS league_tag, n.league_name AS league_name,
       n.sport_archetype AS sport_archetype, n.tier AS tier, n.status AS status
ORDER BY tier, league_name, league_tag LIMIT $limit
"""

CROSS_ARCHETYPE = """
MATCH (a:League)-[r:SIMILAR_TO]->(b:League)
WHERE a.sport_archetype <> b.sport_archetype
  AND a.sync_version IS NOT NULL AND b.sync_version IS NOT NULL
RETURN a.league_tag AS source_tag, a.league_name AS source_name,
       a.sport_archetype AS source_archetype, b.league_tag AS target_tag,
       b.league_name AS target_name, b.sport_archetype AS target_archetype,
       r.score AS score
ORDER BY coalesce(score, -1) DESC, source_tag, target_tag LIMIT $limit
"""


@dataclass(frozen=True, slots=True)
class GraphLeague:
    """A league by the properties of its node."""

    league_tag: str
    league_name: str
    sport_archetype: str
    tier: str | None
    status: str | None


@dataclass(frozen=True, slots=True)
class ArchetypePair:
    """Two similar leagues of different archetypes, in the direction of their edge."""

    source_tag: str
    source_name: str
    source_archetype: str
    target_tag: str
    target_name: str
    target_archetype: str
    score: float | None


def leagues_of_archetype(
    stores: Stores, archetype: str, *, limit: int = LIMIT
) -> list[GraphLeague]:
    """Return the leagues of an archetype, by tier, then name. Raises ``UnknownName``."""
    check_count("limit", limit)
    graph = require_graph(stores)
    with stores.database.autocommit() as conn:
        known = all_keys(conn, SPORT_ARCHETYPE)
    if archetype not in known:
        raise unknown_of("archetype", archetype, sorted(known))
    records = graph.query(OF_ARCHETYPE, archetype=archetype, limit=limit)
    return [GraphLeague(**record) for record in records]


def leagues_of_same_archetype(
    stores: Stores, league_tag: str, *, limit: int = LIMIT
) -> list[GraphLeague]:
    """Return the other leagues of a league's archetype, by tier. Raises ``UnknownName``."""
    check_count("limit", limit)
    graph = require_graph(stores)
    with stores.database.autocommit() as conn:
        if not store.stored_leagues(conn, [league_tag]):
            raise unknown_entity(conn, LEAGUE, league_tag)
    records = graph.query(SAME_ARCHETYPE, tag=league_tag, limit=limit)
    return [GraphLeague(**record) for record in records]


def cross_archetype_pairs(stores: Stores, *, limit: int = LIMIT) -> list[ArchetypePair]:
    """Return similar leagues of different archetypes, the most similar first."""
    check_count("limit", limit)
    records = require_graph(stores).query(CROSS_ARCHETYPE, limit=limit)
    return [ArchetypePair(**record) for record in records]
