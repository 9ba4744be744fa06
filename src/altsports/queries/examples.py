"""Few-shot examples by meaning, within a category or over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

from altsports.catalogue import FEW_SHOT_EXAMPLE
from altsports.store import examples as store
from altsports.store.examples import FullExample
from altsync.queries.nearest import Page, Search
from altsync.queries.stores import (
    Stores,
    check_count,
    question_vector,
    require_vectors,
    unknown_of,
)


@dataclass(frozen=True, slots=True)
class FoundExample(FullExample):
    """An example with its cosine to the query text."""

    score: float


def examples(
    stores: Stores, text: str, *, category: str | None = None, top_k: int = 5
) -> list[FoundExample]:
    """Return the examples nearest in meaning to a text, the best first.

    Each category is a namespace of the index. Without a category, all are queried and the results
    merged. Raises ``UnknownName`` for a category without examples, and like ``search``.
    """
    check_count("top_k", top_k)
    stores = stores.now()
    require_vectors(stores)
    with stores.database.autocommit() as conn:
        categories = store.example_categories(conn)
    if category is not None and category not in categories:
        raise unknown_of("category", category, categories)
    vector = question_vector(stores, text)
    found = [
        example
        for name in ([category] if category else categories)
        for example in _of_category(stores, vector, name, top_k)
    ]
    return sorted(found, key=lambda one: (-one.score, one.example_id))[:top_k]


def _of_category(stores: Stores, vector: bytes, category: str, top_k: int) -> list[FoundExample]:
    index = require_vectors(stores)

    def read(ids: Sequence[str], limit: int) -> list[FullExample]:
        with stores.database.autocommit() as conn:
            return store.full_examples(conn, ids, category, limit=limit)

    @contextmanager
    def rest(seen: Sequence[str]) -> Iterator[Iterable[Page]]:
        with stores.database.transaction() as conn:
            yield store.example_vectors(conn, category, stores.model, without=seen)

    found = Search(
        vector,
        query=lambda count: index.nearest(
            FEW_SHOT_EXAMPLE,
            vector,
            top_k=count,
            space=category,
            where={"model": stores.model.name},
            with_metadata=False,
        ),
        read=read,
        key=lambda example: example.example_id,
        rest=rest,
    )
    return [_with_score(example, score) for example, score in found.best(top_k)]


def _with_score(example: FullExample, score: float) -> FoundExample:
    known: dict[str, Any] = {f.name: getattr(example, f.name) for f in fields(FullExample)}
    return FoundExample(**known, score=score)
