"""Project rows to the values that sinks store. Pure: no clock, no connection, no settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from types import NoneType
from typing import Any, cast

import orjson

from altsync.entities import Attached, Content, EntityType, Relationship, Row

#: Part of every content hash. Raise it when a projection below changes, so that the next seed
#: sends everything again, with no seed edited.
PROJECTION_VERSION = 1

#: Bytes of a hash. At 128 bits a collision of two texts is practically impossible.
HASH_BYTES = 16

#: From here on a float is printed with an exponent, and a whole number of PostgreSQL is not.
LARGE = 1e16

#: The last digit that the table keeps of a relationship's strength.
STRENGTH_STEP = Decimal("0.00001")

Scalar = str | int | float | bool | list[str] | None


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node, and the nodes that it belongs to.

    ``properties`` has every known property. None removes it from the node. ``parents`` are keys in
    the order of ``EntityType.graph_parents``.
    """

    label: str
    key_property: str
    properties: Mapping[str, Scalar]
    parents: tuple[str | None, ...] = ()

    @property
    def parent(self) -> str | None:
        """Return the key of the first parent."""
        return self.parents[0] if self.parents else None


def digest(data: bytes) -> str:
    """Return the 128-bit BLAKE2b hash of bytes, in hex."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).hexdigest()


def content_hash(content: Content) -> str:
    """Return the hash of a content in canonical form."""
    body = {"projection": PROJECTION_VERSION, "content": content}
    return digest(orjson.dumps(body, option=orjson.OPT_SORT_KEYS))


def is_edited(row: Row) -> bool:
    """Return whether SQL has edited a row: its content does not fit its hashes."""
    return text_hash(row.content) != row.text_hash or not _fits(row.content, row.content_hash)


def _fits(content: Content, hashed: str) -> bool:
    """Return whether a content that was read back has this hash.

    PostgreSQL keeps 1e16 as 10000000000000000 and -0.0 as 0.0, so both ways are tried.
    """
    if content_hash(content) == hashed:
        return True
    written = {name: _as_written(value) for name, value in _numbers_of(content).items()}
    return bool(written) and any(
        content_hash(_with(content, {name: forms[way] for name, forms in written.items()}))
        == hashed
        for way in range(3)
    )


def part_hash(part: Attached | Relationship) -> str:
    """Return the hash of an attachment or a relationship, with the strength as it is stored."""
    if isinstance(part, Relationship):
        part = replace(part, strength=_stored_strength(part.strength))
        return digest(orjson.dumps(part, option=orjson.OPT_SORT_KEYS))
    # The top names keep this order. Sorting would change the stored hashes.
    body = {
        part.field: part.owner,
        "title": part.title,
        "fields": part.fields,
        "attributes": part.attributes,
    }
    members = (
        orjson.dumps(name) + b":" + orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        for name, value in body.items()
    )
    return digest(b"{" + b",".join(members) + b"}")


def part_fits(part: Attached | Relationship, hashed: str) -> bool:
    """Return whether a part that was read back has this hash, as ``_fits`` does."""
    forms = [part.attributes, *_as_written(part.attributes)]
    return any(part_hash(replace(part, attributes=form)) == hashed for form in forms)


def _stored_strength(strength: float | None) -> float | None:
    if strength is None:
        return None
    rounded = Decimal(repr(strength)).quantize(STRENGTH_STEP, ROUND_HALF_UP)
    return float(rounded)


def same_content(one: Content, other: Content) -> bool:
    """Return whether two contents are equal, with numbers compared by value."""
    return one == other and content_hash(_with_ints(one)) == content_hash(_with_ints(other))


def _with_ints(content: Content) -> Content:
    forms = {
        name: _mapped(value, lambda number: int(number) if number == int(number) else number)
        for name, value in _numbers_of(content).items()
    }
    return _with(content, forms)


def _with(content: Content, values: Mapping[str, Any]) -> Content:
    """Return a content with other values of some fields."""
    changed: Content = replace(cast("Any", content), **values)
    return changed


def _numbers_of(content: Content) -> dict[str, Any]:
    """Return the non-empty fields of a content that may hold numbers."""
    names = content.entity_type.json_columns
    return {name: value for name in names if (value := getattr(content, name))}


def _as_written(value: Any) -> list[Any]:
    """Return the forms in which a seed may have written a value read from PostgreSQL."""

    def large(number: float) -> float:
        return float(number) if abs(number) >= LARGE else number

    def zero(number: float) -> float:
        return -0.0 if isinstance(number, float) and number == 0 else number

    return [
        _mapped(value, large),
        _mapped(value, zero),
        _mapped(value, lambda number: zero(large(number))),
    ]


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a JSON value with ``change`` applied to its numbers."""
    match value:
        case Mapping():
            return {name: _mapped(item, change) for name, item in value.items()}
        case list() | tuple():
            return [_mapped(item, change) for item in value]
        case bool():
            return value
        case int() | float():
            return change(value)
        case _:
            return value


def text_hash(content: Content) -> str:
    """Return the hash of the text to embed."""
    return digest(embedding_text(content).encode())


def embedding_text(content: Content) -> str:
    """Return the text to embed of an entity, by its declaration."""
    return content.entity_type.text_of(content)


def embedded_fields(content: Content) -> dict[str, str]:
    """Return the fields of the embedded text, by name."""
    found: dict[str, str] = {}
    for name in content.entity_type.embedded:
        value = getattr(content, name)
        if isinstance(value, tuple):
            found[name] = ", ".join(value)
        elif value:
            found[name] = str(value)
    return found


def graph_node(row: Row) -> GraphNode:
    """Return the node of an entity."""
    kind, content = row.entity_type, row.content
    properties = {name: as_scalar(getattr(content, name)) for name in kind.properties}
    properties["content_hash"] = row.content_hash
    parents = tuple(getattr(content, parent.column) for parent in kind.graph_parents)
    return GraphNode(kind.label, kind.key_property, properties, parents)


#: Types of values that graph and index take as they are. A union would be built at each call.
_SCALARS = (str, int, float, NoneType)


def as_scalar(value: Any) -> Scalar:
    """Return a field's value for graph and index: a tuple as a list, a date as text."""
    if isinstance(value, _SCALARS):
        return value
    return list(value) if isinstance(value, tuple) else str(value.isoformat())


def namespace(row: Row) -> str:
    """Return the namespace of an entity in the vector index; "" is the default one."""
    column = row.entity_type.namespace_column
    return row.entity_type.namespace if column is None else getattr(row.content, column)


def vector_metadata(row: Row, model: str) -> dict[str, Any]:
    """Return the metadata of a vector. Nulls are left out: Pinecone does not store them."""
    fields = {
        name: value
        for name in row.entity_type.filters
        if (value := as_scalar(getattr(row.content, name))) is not None
    }
    return fields | {"version": row.version, "model": model, "content_hash": row.content_hash}


def content_of(entity_type: EntityType, values: Sequence[Any]) -> Content:
    """Return the content of a row's content columns, in the order of the content's fields."""
    if entity_type.list_columns or not entity_type.is_positional:
        named = dict(zip(entity_type.columns, values, strict=True))
        named |= {name: tuple(named[name]) for name in entity_type.list_columns}
        return entity_type.content(**named)
    return entity_type.content(*values)
