"""Queries of PostgreSQL alone: leagues, relationships, the audit trail."""

from __future__ import annotations

from dataclasses import dataclass

from altsports.catalogue import LEAGUE
from altsports.store import leagues as store
from altsports.store.leagues import FullLeague, LeagueFilter
from altsync.db import Conn
from altsync.queries.stores import Stores, check_count, reading, unknown_entity
from altsync.why import sql as why_sql
from altsync.why.sql import OperationRow, find_entities, operation_rows
from altsync.wording import unknown


@dataclass(frozen=True, slots=True)
class Relationship:
    """An edge of a league, seen from it; ``direction`` is ``out`` or ``in``."""

    type: str
    direction: str
    league_tag: str
    league_name: str
    score: float | None


@dataclass(frozen=True, slots=True)
class ArchetypeCount:
    """Living leagues of an archetype."""

    archetype: str
    leagues: int
    first_tier: int
    active: int


def league(source: Conn | Stores, name: str) -> FullLeague:
    """Return a league by its tag, or its seed's id, or its own id. Raises ``UnknownName``."""
    with reading(source) as conn:
        found = store.full_league(conn, name)
        if found is None:
            raise unknown_entity(conn, LEAGUE, name)
        return found


def leagues(
    source: Conn | Stores,
    where: LeagueFilter = LeagueFilter(),  # noqa: B008  (frozen)
    *,
    limit: int | None = None,
) -> list[FullLeague]:
    """Return all matching leagues, or the first ``limit``, by tier, then name."""
    if limit is not None:
        check_count("limit", limit, 1_000_000)
    with reading(source) as conn:
        return store.full_leagues(conn, where, limit=limit)


def unmatched(source: Conn | Stores, where: LeagueFilter) -> list[str]:
    """Return a sentence for each value of a filter that no league has, with similar values."""
    with reading(source) as conn:
        known = store.league_choices(conn)
    wanted = (
        ("league of the archetype", where.archetype, known.archetypes),
        ("league of the tier", where.tier, known.tiers),
        ("league with the status", where.status, known.statuses),
        ("contract with the status", where.contract_status, known.contract_statuses),
    )
    return [
        unknown(what, value, values)
        for what, value, values in wanted
        if value is not None and value not in values
    ]


def relationships(source: Conn | Stores, league_tag: str) -> list[Relationship]:
    """Return the edges of a league in PostgreSQL. Raises ``UnknownName``."""
    with reading(source) as conn:
        if not store.stored_leagues(conn, [league_tag]):
            raise unknown_entity(conn, LEAGUE, league_tag)
        found = why_sql.relationships(conn, LEAGUE, league_tag)
    return [Relationship(r.type, r.direction, r.key, r.name, r.score) for r in found]


def audit_trail(source: Conn | Stores, league_tag: str, *, limit: int = 20) -> list[OperationRow]:
    """Return the latest operations on a league, deleted or not, the newest first."""
    check_count("limit", limit)
    with reading(source) as conn:
        ids = [found for _, found in find_entities(conn, league_tag, LEAGUE)]
        return operation_rows(conn, ids=ids, limit=limit)


def archetype_counts(source: Conn | Stores) -> list[ArchetypeCount]:
    """Count the leagues of each archetype in PostgreSQL."""
    with reading(source) as conn:
        rows = conn.execute(
            """
            SELECT sport_archetype, count(*), count(*) FILTER (WHERE tier = 'TIER1'),
                   count(*) FILTER (WHERE status = 'active')
            FROM league WHERE deleted_at IS NULL GROUP BY 1 ORDER BY 2 DESC, 1
            """
        )
        return [ArchetypeCount(*row) for row in rows]
