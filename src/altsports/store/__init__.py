"""SQL of queries about leagues and examples. Functions take a connection and never commit."""

from altsports.store.examples import (
    FullExample,
    example_categories,
    example_vectors,
    full_examples,
)
from altsports.store.leagues import (
    Contract,
    Document,
    FullLeague,
    LeagueChoices,
    LeagueFilter,
    StoredLeague,
    full_league,
    full_leagues,
    full_leagues_by_tag,
    full_leagues_of_archetypes,
    league_choices,
    league_vectors,
    stored_leagues,
)

__all__ = [
    "Contract",
    "Document",
    "FullExample",
    "FullLeague",
    "LeagueChoices",
    "LeagueFilter",
    "StoredLeague",
    "example_categories",
    "example_vectors",
    "full_examples",
    "full_league",
    "full_leagues",
    "full_leagues_by_tag",
    "full_leagues_of_archetypes",
    "league_choices",
    "league_vectors",
    "stored_leagues",
]
