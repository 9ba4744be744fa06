"""Entities' lines, worked out as far as that goes without PostgreSQL. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from operator import attrgetter
from typing import Any, NamedTuple, cast

import orjson

from altsync import store
from altsync.db import array_of_texts, copy_line
from altsync.projection import content_hash, text_hash
from altsync.records import (
    Content,
    EntityType,
    FewShotExample,
    League,
    SportArchetype,
    entity_hex,
)
from altsync.seed import tags
from altsync.seed.lines import ID_LENGTH, Part
from altsync.seed.reader import Line, Raw, Rejected, check, may_be_too_long

#: The values of a league's fields but the first, its tag.
_BESIDE_TAG = attrgetter(*(field.name for field in fields(League)[1:]))

#: The type of a content's entity, and the values of its columns, in the order of COPY.
_COLUMNS = {
    content: (kind, attrgetter(*store.CONTENT_COLUMNS[kind]))
    for content, kind in (
        (SportArchetype, EntityType.SPORT_ARCHETYPE),
        (League, EntityType.LEAGUE),
        (FewShotExample, EntityType.FEW_SHOT_EXAMPLE),
    )
}


class Draft(NamedTuple):
    """What a line comes to under ``tag``, which is the one that it most likely gets.

    ``copied``: its row of the staging table, as COPY reads it.
    """

    wish: tags.Wish
    tag: str
    content: Content
    content_hash: str
    fingerprint: str
    copied: bytes

    def under(self, tag: str) -> Draft:
        """Return what the same line comes to under the tag that it did get."""
        return self if tag == self.tag else _draft(self.wish, tag, self.content, self.fingerprint)


class Batch(NamedTuple):
    """Lines of one transaction.

    ``drafts``: by seed id, of entities that may be new or changed. ``seen``: a row for each id,
    as COPY reads it; ``repeated``: whether an id stands in two good lines.
    """

    good: Sequence[Line]
    refused: Sequence[Rejected]
    drafts: Mapping[str, Draft]
    seen: Sequence[bytes]
    repeated: bool


def work_out(
    part: Part,
    raws: Sequence[Raw],
    same: Set[int],
    archetypes: frozenset[str],
    model: str | None = None,
    *,
    cut_long: bool = False,
) -> Batch:
    """A batch of these lines. Those in ``same``, by their places from 1, are not read again.

    Lines that may be too long for the ``model`` are: it may have changed since.
    """
    good: list[Line] = []
    refused: list[Rejected] = []
    drafts: dict[str, Draft] = {}
    for place, raw in enumerate(raws, start=1):
        known = place in same and not may_be_too_long(raw, model)
        line = raw.again() if known else check(raw, archetypes, model, cut_long=cut_long)
        if isinstance(line, Rejected):
            refused.append(line)
            continue
        good.append(line)
        if line.item and part.entity_type and line.seed_id not in drafts:
            drafts[line.seed_id] = draft(line, raw.fingerprint)
    first = {line.seed_id: line for line in reversed(good)}
    seen = [_seen(part, line) for line in first.values()]
    # Ids of refused lines are noted, too, so that none of them is pruned. No entity has a longer
    # one, and no index takes one of any length.
    readable = {
        r.seed_id: r
        for r in refused
        if r.seed_id and len(r.seed_id) <= ID_LENGTH and r.seed_id not in first
    }
    seen += [_seen_refused(part, line) for line in readable.values()]
    return Batch(good, refused, drafts, seen, len(first) != len(good))


def _seen(part: Part, line: Line) -> bytes:
    """The row of ``session.mark_seen`` for a good line."""
    archetype = None
    if isinstance(line.item, League):
        archetype = line.item.sport_archetype
    elif isinstance(line.item, SportArchetype):
        archetype = line.item.archetype_name
    return copy_line((part, line.seed_id, line.file, str(line.number), "f", archetype))


def _seen_refused(part: Part, line: Rejected) -> bytes:
    return copy_line((part, line.seed_id, line.file, str(line.number), "t", None))


def draft(line: Line, fingerprint: str) -> Draft:
    """Return what a line of an entity comes to."""
    content = cast(Content, line.item)
    wish = _wish(line.seed_id, content)
    return _draft(wish, wish.best, content, fingerprint)


def _draft(wish: tags.Wish, tag: str, content: Content, fingerprint: str) -> Draft:
    if isinstance(content, League) and content.league_tag != tag:
        # Not dataclasses.replace, which looks at every field of every line anew.
        content = League(tag, *_BESIDE_TAG(content))
    hashed = content_hash(content)
    return Draft(
        wish, tag, content, hashed, fingerprint, _copied(wish.seed_id, content, hashed, fingerprint)
    )


def _copied(seed_id: str, content: Content, hashed: str, fingerprint: str) -> bytes:
    entity_type, columns = _COLUMNS[type(content)]
    return copy_line(
        (
            entity_hex(entity_type, seed_id),
            seed_id,
            *map(_column, columns(content)),
            hashed,
            text_hash(content),
            fingerprint + hashed[: store.HALF_HASH],
        )
    )


def _wish(seed_id: str, content: Content) -> tags.Wish:
    match content:
        case League():
            given = content.league_tag or None
            return tags.wish_for(seed_id, given, content.league_name, content.location)
        case SportArchetype():
            return tags.wish_for(seed_id, content.archetype_name, content.archetype_name, None)
        case FewShotExample():
            return tags.wish_for(seed_id, content.example_id, content.example_id, None)


def _column(value: str | tuple[str, ...] | Mapping[str, Any] | None) -> str | None:
    """A value as PostgreSQL reads it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, tuple):
        return array_of_texts(value)
    return orjson.dumps(value).decode() if value else "{}"
