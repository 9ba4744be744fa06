"""Search by meaning in the vector index; filter and complete the result in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from altsync.entities import EntityType
from altsync.queries.kinds import Kind, Where, entity_named, index_filter, read_filter, spaces
from altsync.queries.nearest import Page, Search
from altsync.queries.sql import Link, StoredEntity, links_of, matching, stored_entities
from altsync.queries.stores import (
    Matchable,
    Stores,
    check_count,
    index_name,
    question_vector,
    require_vectors,
)
from altsync.queries.versions import Answers, Asked, ask
from altsync.store.vectors import stored_vectors

#: Relationships of one answer at most: a parent may have thousands of children.
RELATIONSHIPS = 20


@dataclass(frozen=True, slots=True)
class Found:
    """An entity in a result. ``score`` is the cosine: 1.0 is the same direction.

    ``entity`` is its type's table, ``content`` its declared fields as PostgreSQL has them.
    """

    entity: str
    key: str
    name: str
    score: float | None
    content: Mapping[str, Any]
    relationships: tuple[Link, ...]


def search(
    stores: Stores, kind: Kind, text: str, where: Where | None = None, *, top_k: int = 10
) -> Answers[Found]:
    """Return the entities of a type that are nearest in meaning to a text, the best first.

    ``where`` maps fields that are marked with ``Filter`` to values. ``top_k`` entities are
    returned whenever that many embedded ones match. Raises ``UnknownName``, and
    ``MissingStore`` or ``SinkFailure`` when the text cannot be embedded or searched for.
    """
    check_count("top_k", top_k)
    stores = stores.now()
    require_vectors(stores)
    kind = entity_named(kind)
    with stores.database.autocommit() as conn:
        wanted = read_filter(conn, kind, where or {})
        namespaces = spaces(conn, kind, wanted)
    vector = question_vector(stores, text)
    asked = ask(stores, index_name(stores))
    answers = [
        one
        for space in namespaces
        for one in _nearest(stores, kind, vector, space, wanted, top_k, asked)
    ]
    best = sorted(answers, key=lambda one: (-one[1], one[0].key))[:top_k]
    return Answers(found(stores, kind, best), asked.versions)


def _nearest(
    stores: Stores,
    kind: EntityType,
    vector: bytes,
    space: str,
    where: Where,
    top_k: int,
    asked: Asked,
) -> list[tuple[StoredEntity, float]]:
    index = require_vectors(stores)
    within = dict(where)
    if kind.namespace_column is not None:
        within[kind.namespace_column] = space

    def read(keys: Sequence[str], limit: int) -> list[StoredEntity]:
        with stores.database.autocommit() as conn:
            return stored_entities(conn, kind, keys, within, limit=limit)

    @contextmanager
    def rest(seen: Sequence[str]) -> Iterator[Iterable[Page]]:
        condition, parameters = matching(kind, within)
        with stores.database.transaction() as conn:
            yield stored_vectors(conn, kind, condition, parameters, stores.model, without=seen)

    def query(count: int) -> Sequence[Matchable]:
        matches = index.nearest(
            kind,
            vector,
            top_k=count,
            space=space,
            where=index_filter(kind, where, stores.model),
            with_metadata=False,
        )
        asked.note(index_name(stores), kind, space, matches)
        return matches

    nearest = Search(
        vector,
        query=query,
        read=read,
        key=lambda entity: entity.key,
        rest=rest,
    )
    return nearest.best(top_k)


def found(
    stores: Stores, kind: EntityType, scored: Sequence[tuple[StoredEntity, float]]
) -> list[Found]:
    """Return entities as results, with their relationships in PostgreSQL."""
    with stores.database.autocommit() as conn:
        links = links_of(conn, kind, [one.key for one, _ in scored], each=RELATIONSHIPS)
    return [
        Found(kind.value, one.key, one.name, score, one.content, tuple(links.get(one.key, ())))
        for one, score in scored
    ]
