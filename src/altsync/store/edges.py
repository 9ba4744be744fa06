"""Leagues and the relationships between them, as PostgreSQL holds them."""

from __future__ import annotations

from dataclasses import dataclass

from altsync.db import Conn


@dataclass(frozen=True, slots=True)
class LeagueNode:
    """A living league. ``archetype`` is its archetype's name."""

    tag: str
    name: str
    archetype: str
    tier: str | None
    status: str


@dataclass(frozen=True, slots=True)
class LeagueEdge:
    """A relationship by the tags of its ends. ``score`` goes up to 1."""

    source: str
    target: str
    kind: str
    score: float | None


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """A league, its nearest neighbours, and every relationship among them."""

    centre: LeagueNode
    neighbours: tuple[LeagueNode, ...]
    edges: tuple[LeagueEdge, ...]


def neighbourhood(conn: Conn, league_tag: str, *, limit: int) -> Neighbourhood | None:
    """A living league with the ``limit`` it is most strongly related to, in either direction.

    None when there is no such league.
    """
    centre = conn.execute(
        """
        SELECT id, league_tag, league_name, sport_archetype, tier, status
        FROM league WHERE league_tag = %s AND deleted_at IS NULL
        """,
        (league_tag,),
    ).fetchone()
    if centre is None:
        return None
    others = conn.execute(
        """
        SELECT l.id, l.league_tag, l.league_name, l.sport_archetype, l.tier, l.status
        FROM (SELECT target_league_id AS id, strength_score FROM league_relationship
              WHERE source_league_id = %(id)s
              UNION ALL
              SELECT source_league_id, strength_score FROM league_relationship
              WHERE target_league_id = %(id)s) r
        JOIN league l ON l.id = r.id
        WHERE l.deleted_at IS NULL AND l.id <> %(id)s
        GROUP BY l.id ORDER BY max(r.strength_score) DESC NULLS LAST, l.league_tag LIMIT %(limit)s
        """,
        {"id": centre[0], "limit": limit},
    ).fetchall()
    edges = conn.execute(
        """
        SELECT s.league_tag, t.league_tag, r.relationship_type, r.strength_score::float8
        FROM league_relationship r
        JOIN league s ON s.id = r.source_league_id JOIN league t ON t.id = r.target_league_id
        WHERE r.source_league_id = ANY(%(ids)s) AND r.target_league_id = ANY(%(ids)s)
        ORDER BY r.strength_score DESC NULLS LAST, s.league_tag, t.league_tag, 3
        """,
        {"ids": [centre[0], *(r[0] for r in others)]},
    )
    return Neighbourhood(
        LeagueNode(*centre[1:]),
        tuple(LeagueNode(*r[1:]) for r in others),
        tuple(LeagueEdge(*r) for r in edges),
    )


@dataclass(frozen=True, slots=True)
class LeagueChoices:
    """Values that living leagues and their contracts have, for people to choose from."""

    archetypes: tuple[str, ...]
    tiers: tuple[str, ...]
    statuses: tuple[str, ...]
    contract_statuses: tuple[str, ...]


def league_choices(conn: Conn) -> LeagueChoices:
    """The values that are there now, sorted."""
    row = conn.execute(
        """
        SELECT ARRAY(SELECT DISTINCT sport_archetype FROM league
                     WHERE deleted_at IS NULL ORDER BY 1),
               ARRAY(SELECT DISTINCT tier FROM league
                     WHERE deleted_at IS NULL AND tier IS NOT NULL ORDER BY 1),
               ARRAY(SELECT DISTINCT status FROM league WHERE deleted_at IS NULL ORDER BY 1),
               ARRAY(SELECT DISTINCT status FROM contract ORDER BY 1)
        """
    ).fetchone()
    assert row is not None
    return LeagueChoices(*(tuple(values) for values in row))
