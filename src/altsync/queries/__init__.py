"""Queries about the entities of any catalogue, with plain data as results.

PostgreSQL decides in queries over several stores: entities that are deleted there are left out,
and every row is the current one. Results of the graph alone may be a moment behind.
"""

from __future__ import annotations

from altsync.queries.explore import Exploration, Explored, explore
from altsync.queries.graph import neighbours
from altsync.queries.kinds import entity_named, filter_fields, only_entity
from altsync.queries.search import Found, search
from altsync.queries.similar import SimilarEntities, SimilarEntity, similar
from altsync.queries.sql import Link
from altsync.queries.stores import MissingStore, Stores, Unavailable, UnknownName
from altsync.queries.versions import Answers

__all__ = [
    "Answers",
    "Exploration",
    "Explored",
    "Found",
    "Link",
    "MissingStore",
    "SimilarEntities",
    "SimilarEntity",
    "Stores",
    "Unavailable",
    "UnknownName",
    "entity_named",
    "explore",
    "filter_fields",
    "neighbours",
    "only_entity",
    "search",
    "similar",
]
