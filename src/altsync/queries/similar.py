"""An entity's neighbours in the graph and in the vector index, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from altsync.entities import EntityType
from altsync.errors import SinkFailure
from altsync.queries.graph import read_around, siblings_of
from altsync.queries.kinds import Kind, Where, entity_named, index_filter, read_filter, spaces
from altsync.queries.nearest import cosines
from altsync.queries.search import RELATIONSHIPS, Found
from altsync.queries.sql import (
    Link,
    StoredEntity,
    StoredVector,
    links_of,
    named_vectors,
    stored_entities,
)
from altsync.queries.stores import (
    GRAPH,
    MOST,
    Stores,
    Unavailable,
    check_count,
    index_name,
    missing_graph,
    missing_index,
    unknown_entity,
)
from altsync.queries.versions import Asked, Versions, ask

#: Entities with the same parent that are compared though the index did not return them.
SIBLINGS = 1000


@dataclass(frozen=True, slots=True)
class SimilarEntity(Found):
    """A neighbour. ``sources`` are ``graph``, ``vector`` or both; ``path`` is a text.

    ``score`` is the cosine similarity of the two vectors, None when one is not embedded.
    """

    sources: tuple[str, ...]
    path: str


@dataclass(frozen=True, slots=True)
class SimilarEntities:
    """Neighbours, the nearest first, and the unavailable stores.

    ``versions`` are those that the stores had: see ``Versions``.
    """

    results: tuple[SimilarEntity, ...]
    unavailable: tuple[Unavailable, ...] = ()
    versions: Versions = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True)
class _Graph:
    """The result of the graph: the strongest relationship and the shared parent, by key."""

    edges: Mapping[str, Link] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    unavailable: tuple[Unavailable, ...] = ()


@dataclass(frozen=True, slots=True)
class _Index:
    """The result of the vector index: scores by key."""

    scores: Mapping[str, float] = field(default_factory=dict)
    unavailable: tuple[Unavailable, ...] = ()


def similar(
    stores: Stores, kind: Kind, key: str, where: Where | None = None, *, top_k: int = 20
) -> SimilarEntities:
    """Return at most ``top_k`` entities near one, by the graph or the vector index.

    Entities with a relationship to it are chosen before nearer ones. Nothing is embedded. An
    unavailable store is named in ``unavailable``. Raises ``UnknownName``.
    """
    check_count("top_k", top_k)
    stores = stores.now()
    kind = entity_named(kind)
    with stores.database.autocommit() as conn:
        own = named_vectors(conn, kind, [key])
        if not own:
            raise unknown_entity(conn, kind, key)
        wanted = read_filter(conn, kind, where or {})
        namespaces = spaces(conn, kind, wanted)
    asked = ask(stores, index_name(stores), GRAPH)
    index = _query_index(stores, kind, own[0], wanted, namespaces, top_k, asked)
    graph = _query_graph(stores, kind, key, list(index.scores))
    keys = sorted(index.scores.keys() | graph.edges.keys() | graph.parents.keys())
    with stores.database.autocommit() as conn:
        rows = {one.key: one for one in stored_entities(conn, kind, keys, wanted, limit=MOST)}
        others = named_vectors(conn, kind, list(rows))
    scores = {**_exact(own[0], others, index.scores), **index.scores}
    chosen = _chosen(list(rows), scores, graph, top_k)
    with stores.database.autocommit() as conn:
        links = links_of(conn, kind, chosen, each=RELATIONSHIPS)
    results = [
        _answer(kind, own[0], rows[one], scores.get(one), links.get(one, []), graph, index)
        for one in chosen
    ]
    missing = graph.unavailable + index.unavailable
    for one in missing:
        asked.unavailable(one.store)
    return SimilarEntities(tuple(results), missing, asked.versions)


def _query_index(
    stores: Stores,
    kind: EntityType,
    own: StoredVector,
    where: Where,
    namespaces: Sequence[str],
    top_k: int,
    asked: Asked,
) -> _Index:
    if stores.vectors is None:
        return _Index(unavailable=(missing_index(stores),))
    if own.vector is None or own.model is None:
        return _Index(
            unavailable=(Unavailable(index_name(stores), f"{own.key} is not embedded yet"),)
        )
    scores: dict[str, float] = {}
    metadata = {**index_filter(kind, where, stores.model), "model": own.model}
    try:
        for space in namespaces:
            matches = stores.vectors.nearest(
                kind,
                own.vector,
                top_k=min(top_k + 1, MOST),  # the entity itself is the first
                space=space,
                where=metadata,
                with_metadata=False,
            )
            asked.note(index_name(stores), kind, space, matches)
            scores |= {match.key: match.score for match in matches if match.key != own.key}
    except SinkFailure as failure:
        return _Index(unavailable=(Unavailable(index_name(stores), failure.reason),))
    best = sorted(scores, key=lambda one: (-scores[one], one))[:top_k]
    return _Index({one: scores[one] for one in best})


def _query_graph(stores: Stores, kind: EntityType, key: str, near: list[str]) -> _Graph:
    if stores.graph is None:
        return _Graph(unavailable=(missing_graph(stores),))
    try:
        around = read_around(stores.graph, kind, [key], limit=SIBLINGS)[key]
        siblings = siblings_of(stores.graph, kind, [key], near, limit=len(near) + SIBLINGS)
    except SinkFailure as failure:
        return _Graph(unavailable=(Unavailable(GRAPH, failure.reason),))
    edges: dict[str, Link] = {}
    for link in around.links:
        known = edges.get(link.key)
        if link.entity == kind and (known is None or _weight(link) > _weight(known)):
            edges[link.key] = link
    return _Graph(edges, {one.key: one.name for one in siblings.get(key, [])})


def _weight(link: Link) -> tuple[float, bool]:
    return link.score or 0.0, link.direction == "out"


def _exact(
    own: StoredVector, others: Sequence[StoredVector], known: Mapping[str, float]
) -> dict[str, float]:
    """Return scores for entities that the index did not return."""
    vectors = {
        one.key: one.vector
        for one in others
        if one.key not in known
        and own.vector is not None
        and one.vector is not None
        and (own.model, len(own.vector)) == (one.model, len(one.vector))
    }
    if own.vector is None:
        return {}
    return dict(zip(vectors, cosines(own.vector, list(vectors.values())), strict=True))


def _chosen(
    keys: Sequence[str], scores: Mapping[str, float], graph: _Graph, top_k: int
) -> list[str]:
    def nearest_first(key: str) -> tuple[bool, float, str]:
        return key not in scores, -scores.get(key, 0.0), key

    related_first = sorted(keys, key=lambda key: (key not in graph.edges, nearest_first(key)))
    return sorted(related_first[:top_k], key=nearest_first)


def _answer(
    kind: EntityType,
    own: StoredVector,
    other: StoredEntity,
    score: float | None,
    links: Sequence[Link],
    graph: _Graph,
    index: _Index,
) -> SimilarEntity:
    in_graph = other.key in graph.edges or other.key in graph.parents
    sources = {"graph": in_graph, "vector": other.key in index.scores}
    return SimilarEntity(
        kind.value,
        other.key,
        other.name,
        score,
        other.content,
        tuple(links),
        tuple(name for name, found in sources.items() if found),
        _path(own.name, other, graph),
    )


def _path(start: str, other: StoredEntity, graph: _Graph) -> str:
    """Return the closest connection of two entities in words."""
    link = graph.edges.get(other.key)
    if link is not None:
        label = link.type if link.score is None else f"{link.type} {link.score:.2f}"
        is_out = link.direction == "out"
        return (
            f"{start} -[{label}]→ {other.name}" if is_out else f"{start} ←[{label}]- {other.name}"
        )
    parent = graph.parents.get(other.key)
    return f"{start} → {parent} ← {other.name}" if parent else f"{start} ≈ {other.name}"
