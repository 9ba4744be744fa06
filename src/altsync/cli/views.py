"""Results of queries as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType

from altsync.catalogue.current import entity_type
from altsync.cli.tables import Table, Text
from altsync.queries import Explored, Found, Link, SimilarEntity, filter_fields

#: Columns of numbers, and of names.
_NUMBERS, _NAMES = ("score",), ("key", "entity", "sources", "relationship")


def found_table(found: Sequence[Found]) -> Table:
    """Return a table of found entities, with the fields to filter by."""
    table = _table("score", "key", "name", "fields")
    for one in found:
        fields = filter_fields(entity_type(one.entity))
        shown = {name: one.content[name] for name in fields if one.content[name] not in _EMPTY}
        pairs = ", ".join(f"{name}={_value(value)}" for name, value in shown.items())
        table.add_row(score(one.score), one.key, one.name, pairs)
    return table


#: Values that a table leaves out.
_EMPTY: tuple[object, ...] = (None, "", [])


def similar_table(found: Sequence[SimilarEntity]) -> Table:
    """Return a table of similar entities, with the path to each."""
    table = _table("score", "key", "sources", "path")
    for one in found:
        table.add_row(score(one.score), one.key, " + ".join(one.sources), one.path)
    return table


def explored_view(found: Sequence[Explored]) -> RenderableType:
    """Return each found entity with its neighbourhood."""
    parts: list[RenderableType] = []
    for one in found:
        head = Text(f"{one.name}:", style="bold").append(f" {score(one.score)}", style="dim")
        around = Table("fact", "value", plain=True)
        for name, value in _surroundings(one).items():
            around.add_row(Text(name, style="dim"), Text(value))
        parts += [head, around]
    return Group(*parts)


def _surroundings(one: Explored) -> dict[str, str]:
    named: dict[str, dict[str, str]] = {}
    for link in one.relationships:
        label = link.name if link.score is None else f"{link.name} ({link.score:.2f})"
        named.setdefault(link.type, {}).setdefault(link.key, label)
    facts = {relation: ", ".join(labels.values()) for relation, labels in named.items()}
    if one.siblings:
        facts["Beside it"] = ", ".join(link.name for link in one.siblings)
    return facts or {"Relationships": "–"}


def links_table(links: Sequence[Link]) -> Table:
    """Return a table of relationships."""
    table = _table("score", "relationship", "direction", "entity", "key", "name")
    for one in links:
        table.add_row(score(one.score), one.type, one.direction, one.entity, one.key, one.name)
    return table


def score(value: float | None) -> str:
    """Return a score with three digits, or nothing."""
    return "" if value is None else f"{value:.3f}"


def _value(value: object) -> str:
    return "/".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _table(*columns: str) -> Table:
    return Table(*columns, numbers=_NUMBERS, names=_NAMES)
