"""Entities' lines, worked out as far as that goes without PostgreSQL. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from datetime import date
from functools import lru_cache
from operator import attrgetter
from typing import Any, NamedTuple, cast

import orjson

from altsync.arrays import array_of_texts
from altsync.catalogue.parts import ID_LENGTH, Part
from altsync.copying import copy_line
from altsync.entities import Content, EntityType, entity_hex
from altsync.projection import content_hash, text_hash
from altsync.seed.checking import KnownKeys, check, may_be_too_long
from altsync.seed.keys import KeyRequest, request_key
from altsync.seed.lines import Line, Raw, Rejected
from altsync.store.rows import HALF_HASH


@lru_cache
def _values_of(entity_type: EntityType) -> Callable[[Any], tuple[Any, ...]]:
    """Return what reads the values of a content's columns, in the order of COPY."""
    names = tuple(entity_type.columns)
    return attrgetter(*names)


#: Values of a row as PostgreSQL reads them.
Row = tuple[str | None, ...]


class PreparedRow(NamedTuple):
    """What a line comes to under ``tag``, which is the one that it most likely gets.

    ``copied``: its row of the staging table, as COPY reads it.
    """

    request: KeyRequest
    tag: str
    content: Content
    content_hash: str
    fingerprint: str
    copied: bytes

    def with_key(self, tag: str) -> PreparedRow:
        """Return what the same line comes to under the tag that it did get."""
        return (
            self if tag == self.tag else _prepare(self.request, tag, self.content, self.fingerprint)
        )


class PreparedBatch(NamedTuple):
    """Lines of one transaction.

    ``rows``: by seed id, of entities that may be new or changed. ``seen``: a row for each id,
    as COPY reads it; ``repeated``: whether an id stands in two good lines.
    """

    good: Sequence[Line]
    rejected: Sequence[Rejected]
    rows: Mapping[str, PreparedRow]
    seen: Sequence[bytes]
    repeated: bool


def prepare_batch(
    part: Part,
    raws: Sequence[Raw],
    same: Set[int],
    known: KnownKeys,
    model: str | None = None,
    *,
    cut_long: bool = False,
) -> PreparedBatch:
    """A batch of these lines. Those in ``same``, by their places from 1, are not read again.

    Lines that may be too long for the ``model`` are: it may have changed since.
    """
    good: list[Line] = []
    rejected: list[Rejected] = []
    rows: dict[str, PreparedRow] = {}
    for place, raw in enumerate(raws, start=1):
        unchanged = place in same and not may_be_too_long(raw, model)
        line = raw.as_unchanged() if unchanged else check(raw, known, model, cut_long=cut_long)
        if isinstance(line, Rejected):
            rejected.append(line)
            continue
        good.append(line)
        if line.item and part.entity_type and line.seed_id not in rows:
            rows[line.seed_id] = prepare_row(line, raw.fingerprint)
    first = {line.seed_id: line for line in reversed(good)}
    seen = [_seen(part, line) for line in first.values()]
    # Ids of rejected lines are noted, too, so that none of them is pruned. No entity has a longer
    # one, and no index takes one of any length.
    readable = {
        r.seed_id: r
        for r in rejected
        if r.seed_id and len(r.seed_id) <= ID_LENGTH and r.seed_id not in first
    }
    seen += [_seen_rejected(part, line) for line in readable.values()]
    return PreparedBatch(good, rejected, rows, seen, len(first) != len(good))


def _seen(part: Part, line: Line) -> bytes:
    """The row of ``seen.mark_seen`` for a good line."""
    key, parents = None, "{}"
    kind = part.entity_type
    if kind and line.item is not None:
        key = getattr(line.item, kind.key_column) or None
        if kind.parents:
            parents = array_of_texts([getattr(line.item, p.column) or "" for p in kind.parents])
    return copy_line((part, line.seed_id, line.file, str(line.number), "f", key, parents))


def _seen_rejected(part: Part, line: Rejected) -> bytes:
    return copy_line((part, line.seed_id, line.file, str(line.number), "t", None, "{}"))


def prepare_row(line: Line, fingerprint: str) -> PreparedRow:
    """Return what a line of an entity comes to."""
    content = cast(Content, line.item)
    request = _request(line.seed_id, content)
    return _prepare(request, request.preferred, content, fingerprint)


def _prepare(request: KeyRequest, tag: str, content: Content, fingerprint: str) -> PreparedRow:
    kind = content.entity_type
    if getattr(content, kind.key_column) != tag:
        content = _with_key(kind, content, tag)
    hashed = content_hash(content)
    return PreparedRow(
        request,
        tag,
        content,
        hashed,
        fingerprint,
        copy_line(row_of(request.seed_id, content, hashed, fingerprint)),
    )


def _with_key(kind: EntityType, content: Content, tag: str) -> Content:
    """A content with another key; not by dataclasses.replace, which looks at every field anew."""
    values = list(_values_of(kind)(content))
    values[_place_of_key(kind)] = tag
    if kind.is_positional:
        return kind.content(*values)
    return kind.content(**dict(zip(kind.columns, values, strict=True)))


@lru_cache
def _place_of_key(kind: EntityType) -> int:
    return list(kind.columns).index(kind.key_column)


def row_of(seed_id: str, content: Content, hashed: str, fingerprint: str) -> Row:
    """Return an entity's row of the staging table, each value as PostgreSQL reads it."""
    kind = content.entity_type
    return (
        entity_hex(kind, seed_id),
        seed_id,
        *map(_column, _values_of(kind)(content)),
        hashed,
        text_hash(content),
        fingerprint + hashed[:HALF_HASH],
    )


def _request(seed_id: str, content: Content) -> KeyRequest:
    kind = content.entity_type
    given = getattr(content, kind.key_column) or None
    name, *places = (getattr(content, one) for one in kind.key_made_from or (kind.key_column,))
    return request_key(seed_id, given, name, places[0] if places else None)


def _column(value: Any) -> str | None:
    """A value as PostgreSQL reads it."""
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
