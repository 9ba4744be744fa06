"""Queries about leagues and examples in one store or several, with plain data as results.

PostgreSQL decides in queries over several stores: rows that are deleted there are left out, and
every row is the current one. Results of the graph alone may be a moment behind.
"""

from __future__ import annotations

from altsports.queries.archetypes import ArchetypeLeagues, archetypes
from altsports.queries.examples import FoundExample, examples
from altsports.queries.explore import Exploration, ExploredLeague, Neighbour, explore
from altsports.queries.graph import (
    ArchetypePair,
    GraphLeague,
    cross_archetype_pairs,
    leagues_of_archetype,
    leagues_of_same_archetype,
)
from altsports.queries.leagues import (
    ArchetypeCount,
    Relationship,
    archetype_counts,
    audit_trail,
    league,
    leagues,
    relationships,
    unmatched,
)
from altsports.queries.search import FoundLeague, search
from altsports.queries.similar import SimilarLeague, SimilarLeagues, similar
from altsports.store.examples import FullExample
from altsports.store.leagues import Contract, Document, FullLeague, LeagueFilter
from altsync.why.sql import OperationRow

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
    "Neighbour",
    "OperationRow",
    "Relationship",
    "SimilarLeague",
    "SimilarLeagues",
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
