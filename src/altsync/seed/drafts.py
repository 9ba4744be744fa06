"""Entities' lines, worked out as far as that goes without PostgreSQL. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from operator import attrgetter
from typing import Any, NamedTuple, cast

import orjson

from altsync import store
from altsync.projection import content_hash, text_hash
from altsync.records import (
    Content,
    EntityType,
    FewShotExample,
    League,
    SportArchetype,
    entity_id,
)
from altsync.seed import tags
from altsync.seed.reader import Line, Raw, Rejected, check

#: The values of a league's fields but the first, its tag.
_BESIDE_TAG = attrgetter(*(field.name for field in fields(League)[1:]))

#: The values of a content's columns, in the order of COPY.
_COLUMNS = {kind: attrgetter(*names) for kind, names in store.CONTENT_COLUMNS.items()}


class Draft(NamedTuple):
    """What a line comes to under ``tag``, which is the one that it most likely gets."""

    wish: tags.Wish
    tag: str
    content: Content
    content_hash: str
    fingerprint: str

    def under(self, tag: str) -> Draft:
        """What the same line comes to under the tag that it did get."""
        return self if tag == self.tag else _draft(self.wish, tag, self.content, self.fingerprint)

    def row(self, entity_type: EntityType) -> tuple[Any, ...]:
        """The values that are copied to PostgreSQL."""
        return (
            entity_id(entity_type, self.wish.seed_id),
            self.wish.seed_id,
            *map(_column, _COLUMNS[entity_type](self.content)),
            self.content_hash,
            text_hash(self.content),
            self.fingerprint + self.content_hash[: store.HALF_HASH],
        )


class Batch(NamedTuple):
    """Lines of one transaction. ``drafts``: by seed id, of entities that may be new or changed."""

    good: Sequence[Line]
    refused: Sequence[Rejected]
    drafts: Mapping[str, Draft]


def work_out(raws: Sequence[Raw], same: Set[int], archetypes: frozenset[str]) -> Batch:
    """A batch of these lines. Those in ``same``, by their places from 1, are not read again."""
    good: list[Line] = []
    refused: list[Rejected] = []
    drafts: dict[str, Draft] = {}
    for place, raw in enumerate(raws, start=1):
        line = raw.again() if place in same else check(raw, archetypes)
        if isinstance(line, Rejected):
            refused.append(line)
            continue
        good.append(line)
        if line.item and raw.file.part.entity_type and line.seed_id not in drafts:
            drafts[line.seed_id] = draft(line, raw.fingerprint)
    return Batch(good, refused, drafts)


def draft(line: Line, fingerprint: str) -> Draft:
    """What a line of an entity comes to."""
    content = cast(Content, line.item)
    wish = _wish(line.seed_id, content)
    return _draft(wish, tags.best(wish), content, fingerprint)


def _draft(wish: tags.Wish, tag: str, content: Content, fingerprint: str) -> Draft:
    if isinstance(content, League) and content.league_tag != tag:
        # Not dataclasses.replace, which looks at every field of every line anew.
        content = League(tag, *_BESIDE_TAG(content))
    return Draft(wish, tag, content, content_hash(content), fingerprint)


def _wish(seed_id: str, content: Content) -> tags.Wish:
    match content:
        case League():
            given = content.league_tag or None
            return tags.Wish(seed_id, given, content.league_name, content.location)
        case SportArchetype():
            return tags.Wish(seed_id, content.archetype_name, content.archetype_name, None)
        case FewShotExample():
            return tags.Wish(seed_id, content.example_id, content.example_id, None)


def _column(value: Any) -> Any:
    if value.__class__ is str or value is None:
        return value
    if isinstance(value, dict):
        return orjson.dumps(value).decode()
    return list(value) if isinstance(value, tuple) else value
