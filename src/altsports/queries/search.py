"""Search leagues by meaning in the vector index; filter and complete them in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from altsports.catalogue import LEAGUE
from altsports.store import leagues as store
from altsports.store.leagues import FullLeague, LeagueFilter
from altsync.entities import Model
from altsync.projection import Scalar
from altsync.queries.nearest import Page, Search
from altsync.queries.stores import Stores, check_count, question_vector, require_vectors

#: The namespace of leagues.
LEAGUES = "default"


@dataclass(frozen=True, slots=True)
class FoundLeague(FullLeague):
    """A league with its cosine to the query text."""

    score: float


def search(
    stores: Stores,
    text: str,
    where: LeagueFilter = LeagueFilter(),  # noqa: B008  (frozen)
    *,
    top_k: int = 50,
) -> list[FoundLeague]:
    """Return the leagues nearest in meaning to a text, the best first.

    ``top_k`` leagues are returned whenever that many embedded ones match. Raises
    ``MissingStore`` or ``SinkFailure`` when the text cannot be embedded or searched for.
    """
    check_count("top_k", top_k)
    stores = stores.now()
    index = require_vectors(stores)
    vector = question_vector(stores, text)
    metadata = index_filter(where, stores.model)

    def read(tags: Sequence[str], limit: int) -> list[FullLeague]:
        with stores.database.autocommit() as conn:
            return store.full_leagues_by_tag(conn, tags, where, limit=limit)

    @contextmanager
    def rest(seen: Sequence[str]) -> Iterator[Iterable[Page]]:
        with stores.database.transaction() as conn:
            yield store.league_vectors(conn, where, stores.model, without=seen)

    found = Search(
        vector,
        query=lambda count: index.nearest(
            LEAGUE,
            vector,
            top_k=count,
            space=LEAGUES,
            where=metadata,
            with_metadata=False,
        ),
        read=read,
        key=lambda league: league.league_tag,
        rest=rest,
    )
    return [with_score(league, score) for league, score in found.best(top_k)]


def index_filter(where: LeagueFilter, model: Model) -> dict[str, Scalar]:
    """Return the part of a filter that the vector index can check."""
    wanted = {
        "status": where.status,
        "sport_archetype": where.archetype,
        "tier": where.tier,
        "model": model.name,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def with_score(league: FullLeague, score: float) -> FoundLeague:
    """Return a league with its score."""
    known: dict[str, Any] = {f.name: getattr(league, f.name) for f in fields(FullLeague)}
    return FoundLeague(**known, score=score)
