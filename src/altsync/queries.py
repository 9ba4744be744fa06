"""Questions that need one store or several, answered with plain data."""

from __future__ import annotations

from dataclasses import dataclass

from altsync import store
from altsync.db import Conn
from altsync.errors import AltsyncError
from altsync.records import EntityType
from altsync.sinks import neo4j, pinecone

#: Names of leagues shown beside a count.
SAMPLE = 4

ARCHETYPES_BY_TIER = """
MATCH (l:League)-[:BELONGS_TO_ARCHETYPE]->(a:SportArchetype)
WHERE l.tier = $tier
WITH a, l ORDER BY l.league_name
WITH a, count(l) AS count, collect(l.league_name) AS names
RETURN a.name AS archetype, count, names[..$sample] AS sample
ORDER BY count DESC, archetype
"""


@dataclass(frozen=True, slots=True)
class ArchetypeCount:
    """Living leagues of an archetype."""

    archetype: str
    leagues: int
    first_tier: int
    active: int


@dataclass(frozen=True, slots=True)
class ArchetypeRank:
    """Leagues of an archetype in the graph, with a few of their names."""

    archetype: str
    count: int
    sample: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LikeLeague:
    """A league by how near its vector is to another's (cosine, 1.0 is the same)."""

    league_tag: str
    league_name: str
    sport_archetype: str
    score: float


def archetype_counts(conn: Conn) -> list[ArchetypeCount]:
    """Leagues per archetype, by PostgreSQL."""
    return [ArchetypeCount(*row) for row in store.archetype_counts(conn)]


def archetypes_by_tier(graph: neo4j.Sink, tier: str) -> list[ArchetypeRank]:
    """Archetypes by how many of their leagues are of a tier, by the graph."""
    records = graph.query(ARCHETYPES_BY_TIER, tier=tier, sample=SAMPLE)
    return [ArchetypeRank(r["archetype"], r["count"], tuple(r["sample"])) for r in records]


def leagues_like(
    conn: Conn, vectors: pinecone.Sink, league_tag: str, *, top_k: int = 10
) -> list[LikeLeague]:
    """The leagues nearest to one, by its stored vector: nothing is embedded anew.

    Raises ``AltsyncError`` when the league is not there or not embedded yet.
    """
    vector = store.league_vector(conn, league_tag)
    if vector is None:
        raise AltsyncError(f"no embedded league with the tag {league_tag!r}")
    matches = vectors.nearest(EntityType.LEAGUE, vector, top_k=top_k + 1, space="default")
    found = [
        LikeLeague(m.key, m.metadata["league_name"], m.metadata["sport_archetype"], m.score)
        for m in matches
        if m.key != league_tag
    ]
    return found[:top_k]
