"""Count and rank archetypes in the graph; read their leagues from PostgreSQL."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from altsports.store import leagues as store
from altsports.store.leagues import FullLeague, LeagueFilter
from altsync.queries.stores import Stores, check_count, require_graph

RANKED = """
MATCH (l:League)-[:BELONGS_TO_ARCHETYPE]->(a:SportArchetype)
WHERE l.sync_version IS NOT NULL AND a.sync_version IS NOT NULL
  AND ($tier IS NULL OR l.tier = $tier) AND ($status IS NULL OR l.status = $status)
RETURN a.name AS archetype, count(l) AS count ORDER BY count DESC, archetype LIMIT $limit
"""


@dataclass(frozen=True, slots=True)
class ArchetypeLeagues:
    """An archetype, the number of its leagues in the graph, and its leagues in PostgreSQL."""

    archetype: str
    count: int
    leagues: tuple[FullLeague, ...]


def archetypes(
    stores: Stores,
    *,
    tier: str | None = None,
    status: str | None = None,
    limit: int = 100,
    each: int | None = None,
) -> list[ArchetypeLeagues]:
    """Return archetypes by the number of leagues that match, the largest first.

    ``limit``: archetypes at most; ``each``: leagues of one at most, None for all. Raises
    ``MissingStore`` or ``SinkFailure`` when the graph is unavailable.
    """
    check_count("limit", limit)
    if each is not None:
        check_count("each", each, 1_000_000)
    records = require_graph(stores).query(RANKED, tier=tier, status=status, limit=limit)
    names = [record["archetype"] for record in records]
    where = LeagueFilter(tier=tier, status=status)
    members: dict[str, list[FullLeague]] = defaultdict(list)
    with stores.database.autocommit() as conn:
        for league in store.full_leagues_of_archetypes(conn, names, where, each=each):
            members[league.sport_archetype].append(league)
    return [
        ArchetypeLeagues(record["archetype"], record["count"], tuple(members[record["archetype"]]))
        for record in records
    ]
