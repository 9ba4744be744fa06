"""Questions that need one store or several, answered with plain data.

Where a question joins stores, PostgreSQL has the last word: what is deleted there is no answer,
and every row is the current one. What the graph answers alone may be a moment behind.
"""

from __future__ import annotations

from altsync.queries.archetypes import ArchetypeLeagues, archetypes
from altsync.queries.examples import FoundExample, examples
from altsync.queries.explore import Exploration, ExploredLeague, Neighbour, explore
from altsync.queries.graph import (
    ArchetypePair,
    GraphLeague,
    cross_archetype_pairs,
    leagues_of_archetype,
    leagues_of_same_archetype,
)
from altsync.queries.leagues import (
    ArchetypeCount,
    Relationship,
    archetype_counts,
    audit_trail,
    league,
    leagues,
    relationships,
    unmatched,
)
from altsync.queries.search import FoundLeague, search
from altsync.queries.similar import SimilarLeague, SimilarLeagues, similar
from altsync.queries.stores import MissingStore, Stores, Unavailable, UnknownName
from altsync.store import (
    Contract,
    Document,
    FullExample,
    FullLeague,
    LeagueFilter,
    OperationRow,
)

__all__ = [
    "ArchetypeCount",
    "ArchetypeLeagues",
    "ArchetypePair",
    "Contract",
    "Document",
    "Exploration",
    "ExploredLeague",
    "FoundExample",
    "FoundLeague",
    "FullExample",
    "FullLeague",
    "GraphLeague",
    "LeagueFilter",
    "MissingStore",
    "Neighbour",
    "OperationRow",
    "Relationship",
    "SimilarLeague",
    "SimilarLeagues",
    "Stores",
    "Unavailable",
    "UnknownName",
    "archetype_counts",
    "archetypes",
    "audit_trail",
    "cross_archetype_pairs",
    "examples",
    "explore",
    "league",
    "leagues",
    "leagues_of_archetype",
    "leagues_of_same_archetype",
    "relationships",
    "search",
    "similar",
    "unmatched",
]
