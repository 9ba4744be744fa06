"""SQL of queries about leagues, with documents, contracts and relationships."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from typing import Any
from uuid import UUID

from altsports.catalogue import LEAGUE
from altsync.db import Conn
from altsync.declarations import MIRRORS, columns_of
from altsync.entities import Model
from altsync.generations import model_of
from altsync.store.vectors import VECTOR, stored_vectors


@dataclass(frozen=True, slots=True)
class LeagueFilter:
    """A filter of leagues. A field that is None matches every league.

    ``contract_status``: at least one contract has this status. ``synced``: all sinks have
    confirmed the current version.
    """

    status: str | None = None
    archetype: str | None = None
    tier: str | None = None
    contract_status: str | None = None
    synced: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """A document of a league."""

    title: str
    kind: str | None = None
    body: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contract:
    """A contract of a league."""

    title: str
    counterparty: str | None = None
    contract_type: str | None = None
    status: str = "active"
    start_date: date | None = None
    end_date: date | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FullLeague:
    """A league as PostgreSQL has it, with its documents and contracts."""

    league_tag: str
    league_name: str
    sport_name: str
    sport_archetype: str
    location: str | None
    tier: str | None
    status: str
    description: str | None
    attributes: Mapping[str, Any]
    documents: tuple[Document, ...]
    contracts: tuple[Contract, ...]


@dataclass(frozen=True, slots=True)
class StoredLeague:
    """A league's name and stored vector (float32 little-endian), None when not embedded."""

    league_tag: str
    league_name: str
    sport_archetype: str
    vector: bytes | None
    model: str | None


#: The columns of ``FullLeague``. Parts are gathered per league, so that rows do not multiply.
_FULL = """
l.league_tag, l.league_name, l.sport_name, l.sport_archetype, l.location, l.tier, l.status,
l.description, l.attributes,
(SELECT jsonb_agg(jsonb_build_object('title', d.title, 'kind', d.kind, 'body', d.body,
                                     'attributes', d.attributes) ORDER BY d.seed_id)
 FROM document d WHERE d.league_id = l.id),
(SELECT jsonb_agg(jsonb_build_object('title', c.title, 'counterparty', c.counterparty,
                                     'contract_type', c.contract_type, 'status', c.status,
                                     'start_date', c.start_date, 'end_date', c.end_date,
                                     'attributes', c.attributes) ORDER BY c.seed_id)
 FROM contract c WHERE c.league_id = l.id)
"""


def matches(where: LeagueFilter) -> tuple[str, dict[str, Any]]:
    """Return a condition on living leagues (``league l``) and its parameters."""
    clauses = ["l.deleted_at IS NULL"]
    columns = {"status": "status", "archetype": "sport_archetype", "tier": "tier"}
    parameters: dict[str, Any] = {}
    for name, column in columns.items():
        if getattr(where, name) is not None:
            clauses.append(f"l.{column} = %({name})s")
            parameters[name] = getattr(where, name)
    if where.contract_status is not None:
        clauses.append(
            "EXISTS (SELECT FROM contract k "
            "WHERE k.league_id = l.id AND k.status = %(contract_status)s)"
        )
        parameters["contract_status"] = where.contract_status
    if where.synced:
        # The sinks that the database is set up for, whatever the settings of this process.
        clauses += [
            f"(l.{own.status} = 'synced' OR NOT EXISTS "
            f"(SELECT FROM sink_state s WHERE s.sink = '{sink}'))"
            for sink in MIRRORS
            if (own := columns_of(sink))
        ]
    return " AND ".join(clauses), parameters


def full_leagues(conn: Conn, where: LeagueFilter, *, limit: int | None = None) -> list[FullLeague]:
    """Return matching leagues by tier, then name."""
    condition, parameters = matches(where)
    rows = conn.execute(
        f"""
        SELECT {_FULL} FROM league l WHERE {condition}
        ORDER BY l.tier NULLS LAST, l.league_name, l.league_tag LIMIT %(limit)s
        """,
        {**parameters, "limit": limit},
    )
    return [_full_league(row) for row in rows]


def full_leagues_by_tag(
    conn: Conn, tags: Sequence[str], where: LeagueFilter, *, limit: int
) -> list[FullLeague]:
    """Return the leagues of ``tags`` that match, in the order of ``tags``, the first ``limit``."""
    condition, parameters = matches(where)
    rows = conn.execute(
        f"""
        WITH hit AS MATERIALIZED (
          SELECT l.id, place
          FROM unnest(%(tags)s::text[]) WITH ORDINALITY AS wanted (tag, place)
          JOIN league l ON l.league_tag = wanted.tag WHERE {condition}
          ORDER BY place LIMIT %(limit)s
        )
        SELECT {_FULL} FROM hit JOIN league l USING (id) ORDER BY hit.place
        """,
        {**parameters, "tags": list(tags), "limit": limit},
    )
    return [_full_league(row) for row in rows]


def full_leagues_of_archetypes(
    conn: Conn, archetypes: Sequence[str], where: LeagueFilter, *, each: int | None = None
) -> list[FullLeague]:
    """Return matching leagues of ``archetypes``, at most ``each`` of one, by tier, then name."""
    condition, parameters = matches(where)
    rows = conn.execute(
        f"""
        WITH hit AS MATERIALIZED (
          SELECT l.id, row_number() OVER (
            PARTITION BY l.sport_archetype
            ORDER BY l.tier NULLS LAST, l.league_name, l.league_tag) AS place
          FROM league l WHERE l.sport_archetype = ANY(%(archetypes)s) AND {condition}
        )
        SELECT {_FULL} FROM hit JOIN league l USING (id)
        WHERE %(each)s::bigint IS NULL OR hit.place <= %(each)s
        ORDER BY l.sport_archetype, hit.place
        """,
        {**parameters, "archetypes": list(archetypes), "each": each},
    )
    return [_full_league(row) for row in rows]


def full_league(conn: Conn, name: str) -> FullLeague | None:
    """Return a living league by its tag, or else by its seed's id or its own id."""
    row = conn.execute(
        f"""
        SELECT {_FULL} FROM league l
        WHERE l.deleted_at IS NULL AND l.id = ANY(ARRAY[
          (SELECT id FROM league WHERE league_tag = %(name)s AND deleted_at IS NULL),
          (SELECT id FROM league WHERE seed_id = %(name)s AND deleted_at IS NULL),
          %(id)s::uuid])
        ORDER BY l.league_tag = %(name)s DESC, l.seed_id = %(name)s DESC LIMIT 1
        """,
        {"name": name, "id": _as_uuid(name)},
    ).fetchone()
    return _full_league(row) if row else None


def stored_leagues(conn: Conn, tags: Sequence[str]) -> list[StoredLeague]:
    """Return names and stored vectors of the living leagues among ``tags``."""
    rows = conn.execute(
        f"""
        SELECT league_tag, league_name, sport_archetype, {VECTOR}, {model_of()}
        FROM league l WHERE league_tag = ANY(%s) AND deleted_at IS NULL
        """,
        (list(tags),),
        binary=True,
    )
    return [StoredLeague(*row) for row in rows]


def _as_uuid(name: str) -> UUID | None:
    try:
        return UUID(name)
    except ValueError:
        return None


def _full_league(row: Sequence[Any]) -> FullLeague:
    found: dict[str, Any] = dict(zip((f.name for f in fields(FullLeague)), row, strict=True))
    parts = {
        "documents": tuple(Document(**one) for one in found["documents"] or ()),
        "contracts": tuple(Contract(**_with_dates(one)) for one in found["contracts"] or ()),
    }
    return FullLeague(**{**found, **parts})


def _with_dates(found: dict[str, Any]) -> dict[str, Any]:
    dates = {
        name: date.fromisoformat(found[name]) if found[name] else None
        for name in ("start_date", "end_date")
    }
    return {**found, **dates}


def league_vectors(
    conn: Conn, where: LeagueFilter, model: Model, *, without: Sequence[str]
) -> Iterator[list[tuple[str, bytes]]]:
    """Yield pages of (tag, vector) of matching leagues embedded by ``model``.

    Keys of ``without`` are left out. The caller's transaction stays open meanwhile.
    """
    yield from stored_vectors(conn, LEAGUE, *matches(where), model, without=without)


@dataclass(frozen=True, slots=True)
class LeagueChoices:
    """Values that living leagues and their contracts have, for people to choose from."""

    archetypes: tuple[str, ...]
    tiers: tuple[str, ...]
    statuses: tuple[str, ...]
    contract_statuses: tuple[str, ...]


def league_choices(conn: Conn) -> LeagueChoices:
    """Return the present values, sorted."""
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
