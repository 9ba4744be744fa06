"""Resolve the names of entity types and filters. An unknown name raises with the known ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.db import Conn
from altsync.entities import EntityType, Model
from altsync.errors import AltsyncError
from altsync.projection import Scalar, as_scalar
from altsync.queries.sql import field_values, has_value, namespaces_of
from altsync.queries.stores import UnknownName
from altsync.wording import listing, unknown

#: An entity type, or its name: that of its table, of one entity, or of several.
Kind = EntityType | str

#: A filter: values by the fields that must have them.
Where = Mapping[str, Any]


def entity_named(kind: Kind) -> EntityType:
    """Return an entity type by the name of its table, of one entity, or of several.

    Raises ``UnknownName``.
    """
    if isinstance(kind, EntityType):
        return kind
    wanted = kind.strip().casefold()
    for one in entity_types():
        if wanted in {one.value.casefold(), one.one.casefold(), one.many.casefold()}:
            return one
    raise UnknownName(unknown("entity", kind, [one.value for one in entity_types()]))


def only_entity(ability: Literal["similar", "edges"] | None = None) -> EntityType:
    """Return the only entity type, or the only one that declares something.

    Raises ``AltsyncError`` when there is none, or more than one.
    """
    found = [one for one in entity_types() if ability is None or getattr(one, ability)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise AltsyncError("no entity has relationships: declare Similar or Relationships")
    raise AltsyncError(f"name the entity with --entity: {listing(one.value for one in found)}")


def _as_int(text: str) -> int:
    return int(text)


def _as_bool(text: str) -> bool:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    return words[text.casefold()]


def _as_time(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(text)
    return found


#: By the type of a column: the parser of its texts, and their form in words.
_READERS: Mapping[str, tuple[Callable[[str], Any], str]] = {
    "bigint": (_as_int, "a whole number"),
    "double precision": (float, "a number"),
    "numeric": (Decimal, "a number"),
    "boolean": (_as_bool, "true or false"),
    "date": (date.fromisoformat, "a date as 2026-01-31"),
    "timestamptz": (_as_time, "a time as 2026-01-31T12:00:00Z"),
    "uuid": (UUID, "a UUID"),
}


def filter_fields(kind: EntityType) -> list[str]:
    """Return the fields that searches can filter by: those marked with ``Filter``."""
    return [name for name in kind.filters if name not in kind.json_columns]


def read_filter(conn: Conn, kind: EntityType, where: Where) -> dict[str, Any]:
    """Return the values of a filter as their columns hold them.

    Raises ``UnknownName`` for a field that is none of ``filter_fields``, and for a value that no
    living entity has; ``AltsyncError`` for one that its column cannot hold.
    """
    found = {}
    for field, value in where.items():
        if field not in filter_fields(kind):
            raise UnknownName(unknown(f"filter of {kind.one}", field, filter_fields(kind)))
        read = _read(field, kind.columns[field], value)
        if not has_value(conn, kind, field, read):
            known = [str(as_scalar(one)) for one in field_values(conn, kind, field)]
            raise UnknownName(unknown(f"{kind.one} with the {field}", str(value), known))
        found[field] = read
    return found


def _read(field: str, column: str, value: Any) -> Any:
    if column not in _READERS:
        return str(value)
    reader, form = _READERS[column]
    if not isinstance(value, str):
        value = str(value)
    try:
        return reader(value)
    except (ValueError, KeyError, InvalidOperation):
        raise AltsyncError(f"{field}: invalid value {value!r}: use {form}") from None


def index_filter(kind: EntityType, where: Where, model: Model) -> dict[str, Scalar]:
    """Return the part of a filter that the vector index can check: values in its metadata.

    PostgreSQL checks the whole filter, and alone the values with several written forms.
    """
    exact = {
        field: as_scalar(value)
        for field, value in where.items()
        if kind.columns[field] in ("text", "text[]", "boolean", "bigint", "date")
    }
    return {**exact, "model": model.name}


def spaces(conn: Conn, kind: EntityType, where: Where) -> Sequence[str]:
    """Return the namespaces of the index that may hold entities that match."""
    if kind.namespace_column is not None and kind.namespace_column in where:
        return [where[kind.namespace_column]]
    return namespaces_of(conn, kind)
