"""Prepare the rows of entities without PostgreSQL. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple, cast

import orjson

from altsync.arrays import array_of_texts
from altsync.catalogue.parts import ID_LENGTH, Part
from altsync.entities import Content, EntityType, entity_hex
from altsync.projection import content_hash, text_hash
from altsync.seed.checking import KnownKeys, check, may_be_too_long
from altsync.seed.keys import KeyRequest, request_key
from altsync.seed.lines import Line, Raw, Rejected
from altsync.store.rows import HALF_HASH

#: Values of a row in the text form of their columns' types.
Values = tuple[str | None, ...]


class PreparedRow(NamedTuple):
    """A row of the staging table. ``key`` is the preferred one until another is assigned."""

    request: KeyRequest
    key: str
    content: Content
    content_hash: str
    fingerprint: str
    values: Values

    @property
    def text_hash(self) -> str:
        """Return the hash of the text to embed."""
        return self.values[-2] or ""

    def with_key(self, key: str) -> PreparedRow:
        """Return the row under the assigned key."""
        if key == self.key:
            return self
        return _prepare(self.request, key, self.content, self.fingerprint)


class PreparedBatch(NamedTuple):
    """Lines of one transaction.

    ``rows`` are those of entities that may be new or changed, by seed id. ``seen`` has a row of
    the table ``seen`` for each id. ``repeated``: an id is in two good lines.
    """

    good: Sequence[Line]
    rejected: Sequence[Rejected]
    rows: Mapping[str, PreparedRow]
    seen: Sequence[Values]
    repeated: bool


def prepare_batch(
    part: Part,
    raws: Sequence[Raw],
    unchanged: Set[int],
    known: KnownKeys,
    model: str | None = None,
    *,
    cut_long: bool = False,
) -> PreparedBatch:
    """Check the lines of a batch and prepare its rows.

    Lines at the positions ``unchanged``, from 1, are skipped, unless they may be too long for the
    ``model``, which may have changed.
    """
    good: list[Line] = []
    rejected: list[Rejected] = []
    rows: dict[str, PreparedRow] = {}
    for position, raw in enumerate(raws, start=1):
        skipped = position in unchanged and not may_be_too_long(raw, model)
        line = raw.as_unchanged() if skipped else check(raw, known, model, cut_long=cut_long)
        if isinstance(line, Rejected):
            rejected.append(line)
            continue
        good.append(line)
        if line.item and part.entity_type and line.seed_id not in rows:
            rows[line.seed_id] = prepare_row(line, raw.fingerprint)
    first = {line.seed_id: line for line in reversed(good)}
    seen = [_seen(part, line) for line in first.values()]
    # Ids of rejected lines are recorded, too, so that --prune does not delete their entities. An
    # id longer than ID_LENGTH has no entity, and may not fit into an index.
    readable = {
        r.seed_id: r
        for r in rejected
        if r.seed_id and len(r.seed_id) <= ID_LENGTH and r.seed_id not in first
    }
    seen += [_seen_rejected(part, line) for line in readable.values()]
    return PreparedBatch(good, rejected, rows, seen, len(first) != len(good))


def _seen(part: Part, line: Line) -> Values:
    """Return the row of the table ``seen`` for a good line."""
    key, parents = None, "{}"
    kind = part.entity_type
    if kind and line.item is not None:
        key = getattr(line.item, kind.key_column) or None
        if kind.parents:
            parents = array_of_texts([getattr(line.item, p.column) or "" for p in kind.parents])
    return part, line.seed_id, line.file, str(line.number), "f", key, parents


def _seen_rejected(part: Part, line: Rejected) -> Values:
    return part, line.seed_id, line.file, str(line.number), "t", None, "{}"


def prepare_row(line: Line, fingerprint: str) -> PreparedRow:
    """Return the row of an entity's line under the key that it requests."""
    content = cast(Content, line.item)
    request = _request(line.seed_id, content)
    return _prepare(request, request.preferred, content, fingerprint)


def _prepare(request: KeyRequest, key: str, content: Content, fingerprint: str) -> PreparedRow:
    kind = content.entity_type
    if getattr(content, kind.key_column) != key:
        content = _with_key(kind, content, key)
    hashed = content_hash(content)
    values = row_of(request.seed_id, content, hashed, fingerprint)
    return PreparedRow(request, key, content, hashed, fingerprint, values)


def _with_key(kind: EntityType, content: Content, key: str) -> Content:
    """Return a content with another key. ``dataclasses.replace`` inspects every field, slowly."""
    values = list(_values_of(kind)(content))
    values[_key_position(kind)] = key
    if kind.is_positional:
        return kind.content(*values)
    return kind.content(**dict(zip(kind.columns, values, strict=True)))


@lru_cache
def _key_position(kind: EntityType) -> int:
    return list(kind.columns).index(kind.key_column)


def row_of(seed_id: str, content: Content, hashed: str, fingerprint: str) -> Values:
    """Return an entity's row of the staging table."""
    kind = content.entity_type
    return (
        entity_hex(kind, seed_id),
        seed_id,
        *map(_as_text, _values_of(kind)(content)),
        hashed,
        text_hash(content),
        fingerprint + hashed[:HALF_HASH],
    )


@lru_cache
def _values_of(entity_type: EntityType) -> Callable[[Any], tuple[Any, ...]]:
    """Return a function that reads the values of a content's columns, in the order of COPY."""
    return attrgetter(*entity_type.columns)


def _request(seed_id: str, content: Content) -> KeyRequest:
    kind = content.entity_type
    given = getattr(content, kind.key_column) or None
    name, *places = (getattr(content, one) for one in kind.key_made_from or (kind.key_column,))
    return request_key(seed_id, given, name, places[0] if places else None)


def _as_text(value: Any) -> str | None:
    """Return a value in the text form of its column's type."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict):
        return orjson.dumps(value).decode() if value else "{}"
    if isinstance(value, tuple):
        return array_of_texts(value)
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, date):
        return value.isoformat()
    return orjson.dumps(value).decode() if value else "{}"
