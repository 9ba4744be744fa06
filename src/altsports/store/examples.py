"""SQL of queries about few-shot examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from altsports.catalogue import FEW_SHOT_EXAMPLE
from altsync.db import Conn
from altsync.entities import Model
from altsync.queries.sql import matching
from altsync.store.vectors import stored_vectors


@dataclass(frozen=True, slots=True)
class FullExample:
    """An example as PostgreSQL has it."""

    example_id: str
    category: str
    input_text: str
    output_text: str
    sport_archetype: str | None
    tags: tuple[str, ...]
    attributes: Mapping[str, Any]


def example_categories(conn: Conn) -> list[str]:
    """Return the categories with living examples, in the order of names."""
    rows = conn.execute(
        "SELECT DISTINCT category FROM few_shot_example WHERE deleted_at IS NULL ORDER BY 1"
    )
    return [r[0] for r in rows]


def full_examples(
    conn: Conn, ids: Sequence[str], category: str, *, limit: int
) -> list[FullExample]:
    """Return living examples of a category, in the order of ``ids``, the first ``limit``."""
    rows = conn.execute(
        """
        SELECT e.example_id, e.category, e.input_text, e.output_text, e.sport_archetype, e.tags,
               e.attributes
        FROM unnest(%s::text[]) WITH ORDINALITY AS wanted (id, place)
        JOIN few_shot_example e ON e.example_id = wanted.id
        WHERE e.category = %s AND e.deleted_at IS NULL ORDER BY place LIMIT %s
        """,
        (list(ids), category, limit),
    )
    return [FullExample(a, b, c, d, e, tuple(tags), rest) for a, b, c, d, e, tags, rest in rows]


def example_vectors(
    conn: Conn, category: str, model: Model, *, without: Sequence[str]
) -> Iterator[list[tuple[str, bytes]]]:
    """Yield pages of (id, vector) of a category's examples embedded by ``model``.

    Keys of ``without`` are left out. The caller's transaction stays open meanwhile.
    """
    condition, parameters = matching(FEW_SHOT_EXAMPLE, {"category": category})
    yield from stored_vectors(conn, FEW_SHOT_EXAMPLE, condition, parameters, model, without=without)
