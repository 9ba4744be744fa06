"""Search by meaning, and read the graph around each hit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from altsync.entities import EntityType
from altsync.errors import SinkFailure
from altsync.queries.graph import Around, living, read_around, siblings_of
from altsync.queries.kinds import Kind, Where, entity_named
from altsync.queries.search import RELATIONSHIPS, Found, search
from altsync.queries.sql import Link
from altsync.queries.stores import GRAPH, Stores, Unavailable, missing_graph
from altsync.queries.versions import Versions, ask

#: Siblings of a hit that are shown: other entities of its parent.
OTHERS = 5


@dataclass(frozen=True, slots=True)
class Explored(Found):
    """A hit with the relationships of the graph. ``siblings`` have the same parent."""

    siblings: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Exploration:
    """Hits, the best first, without relationships if the graph is unavailable.

    ``versions`` are those that the stores had: see ``Versions``.
    """

    results: tuple[Explored, ...]
    unavailable: tuple[Unavailable, ...] = ()
    versions: Versions = field(default_factory=dict, compare=False)


def explore(
    stores: Stores, kind: Kind, text: str, where: Where | None = None, *, top_k: int = 10
) -> Exploration:
    """Return the hits of ``search`` with their relationships in the graph. Raises the same."""
    kind = entity_named(kind)
    asked = ask(stores, GRAPH)
    hits = search(stores, kind, text, where, top_k=top_k)
    around, unavailable = _around(stores, kind, [one.key for one in hits])
    results = []
    for one in hits:
        near = around.get(one.key, Around())
        parts = (one.entity, one.key, one.name, one.score, one.content)
        results.append(Explored(*parts, tuple(near.links), tuple(near.siblings)))
    for missing in unavailable:
        asked.unavailable(missing.store)
    return Exploration(tuple(results), unavailable, {**hits.versions, **asked.versions})


def _around(
    stores: Stores, kind: EntityType, keys: Sequence[str]
) -> tuple[dict[str, Around], tuple[Unavailable, ...]]:
    if stores.graph is None:
        return {}, (missing_graph(stores),)
    if not keys:
        return {}, ()
    try:
        found = read_around(stores.graph, kind, keys, limit=RELATIONSHIPS)
        siblings = siblings_of(stores.graph, kind, keys, (), limit=OTHERS)
    except SinkFailure as failure:
        return {}, (Unavailable(GRAPH, failure.reason),)
    with stores.database.autocommit() as conn:
        for key, one in found.items():
            one.links = living(conn, one.links)
            one.siblings = living(conn, siblings.get(key, []))
    return found, ()
