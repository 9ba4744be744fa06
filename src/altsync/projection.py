"""From a row to what a sink stores. Pure: no clock, no connection, no settings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, assert_never

import orjson

from altsync.records import (
    Content,
    EntityType,
    FewShotExample,
    League,
    LeaguePart,
    Relationship,
    Row,
    SportArchetype,
)

#: Part of every content hash. Raise it when a projection below changes, so that the next seed
#: sends everything again, with no seed edited.
PROJECTION_VERSION = 1

#: Bytes of a hash: 128 bits, far beyond any chance of two texts meeting.
HASH_BYTES = 16

#: From here on a float is printed with an exponent, and a whole number of PostgreSQL is not.
LARGE = 1e16

#: The last digit that the table keeps of a relationship's strength.
STRENGTH_STEP = Decimal("0.00001")

Scalar = str | int | float | bool | list[str] | None


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node, and the one node it belongs to.

    ``properties`` names every known property, with None for what is gone, so that nothing
    lingers. ``parent`` is the key of the archetype or category that the node hangs on.
    """

    label: str
    key_property: str
    properties: Mapping[str, Scalar]
    parent: str | None


def digest(data: bytes) -> str:
    """A 128-bit BLAKE2b hash, in hex."""
    return hashlib.blake2b(data, digest_size=HASH_BYTES).hexdigest()


def content_hash(content: Content) -> str:
    """The hash of everything a seed says, in canonical form."""
    body = {"projection": PROJECTION_VERSION, "content": content}
    return digest(orjson.dumps(body, option=orjson.OPT_SORT_KEYS))


def is_edited(row: Row) -> bool:
    """Return whether a row's content is not what its hashes are of: SQL has edited it."""
    return text_hash(row.content) != row.text_hash or not _fits(row.content, row.content_hash)


def _fits(content: Content, hashed: str) -> bool:
    """Return whether a content that was read back has this hash.

    PostgreSQL keeps 1e16 as 10000000000000000 and -0.0 as 0.0, so both ways are tried.
    """
    if content_hash(content) == hashed:
        return True
    written = {name: _as_written(value) for name, value in _numbers_of(content).items()}
    return bool(written) and any(
        content_hash(replace(content, **{name: forms[way] for name, forms in written.items()}))
        == hashed
        for way in range(3)
    )


def part_hash(part: LeaguePart | Relationship) -> str:
    """Return the hash of what a seed says of a document, a contract or a relationship.

    A strength counts as the table keeps it.
    """
    if isinstance(part, Relationship):
        part = replace(part, strength=_kept_strength(part.strength))
    return digest(orjson.dumps(part, option=orjson.OPT_SORT_KEYS))


def part_fits(part: LeaguePart | Relationship, hashed: str) -> bool:
    """Return whether a part that was read back has this hash, as ``_fits`` does."""
    forms = [part.attributes, *_as_written(part.attributes)]
    return any(part_hash(replace(part, attributes=form)) == hashed for form in forms)


def _kept_strength(strength: float | None) -> float | None:
    if strength is None:
        return None
    kept = Decimal(repr(strength)).quantize(STRENGTH_STEP, ROUND_HALF_UP)
    return float(kept)


def same_content(one: Content, other: Content) -> bool:
    """Return whether two contents say the same, whatever way their numbers are written."""
    return one == other and content_hash(_plain(one)) == content_hash(_plain(other))


def _plain(content: Content) -> Content:
    forms = {
        name: _mapped(value, lambda number: int(number) if number == int(number) else number)
        for name, value in _numbers_of(content).items()
    }
    return replace(content, **forms)


def _numbers_of(content: Content) -> dict[str, Any]:
    """The fields of a content that may hold numbers, but for those that are empty."""
    names = ("attributes", "characteristics")
    return {name: value for name in names if (value := getattr(content, name, None))}


def _as_written(value: Any) -> list[Any]:
    """The ways in which a seed may have written what PostgreSQL gives back."""

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
    """A JSON value with ``change`` made of its numbers."""
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
    """The hash of the text that should be embedded."""
    return digest(embedding_text(content).encode())


def embedding_text(content: Content) -> str:
    """Return what is embedded of an entity: what it is and what it is like, in plain words.

    Tier and status are left out: they change often, filter well, and mean little to a model.
    """
    match content:
        case League():
            where = f" in {content.location}" if content.location else ""
            kind = content.sport_archetype.replace("_", " ")
            head = f"{content.league_name}: {content.sport_name} ({kind}){where}."
            return f"{head} {content.description}" if content.description else head
        case SportArchetype():
            head = f"{content.display_name} ({content.archetype_name.replace('_', ' ')})."
            return f"{head} {content.description}" if content.description else head
        case FewShotExample():
            tags = f"\nTags: {', '.join(content.tags)}" if content.tags else ""
            return f"{content.input_text}\n{content.output_text}{tags}"
        case _:
            assert_never(content)


def embedded_fields(content: Content) -> dict[str, str]:
    """The fields that the embedded text is made of, by name."""
    names: tuple[str, ...]
    match content:
        case League():
            names = ("league_name", "sport_name", "sport_archetype", "location", "description")
        case SportArchetype():
            names = ("display_name", "archetype_name", "description")
        case FewShotExample():
            texts = {"input_text": content.input_text, "output_text": content.output_text}
            return texts | {"tags": ", ".join(content.tags)}
        case _:
            assert_never(content)
    return {name: text for name in names if (text := getattr(content, name))}


def graph_node(row: Row) -> GraphNode:
    """The node of an entity."""
    content = row.content
    match content:
        case League():
            return GraphNode(
                "League",
                "league_tag",
                {
                    "league_name": content.league_name,
                    "sport_name": content.sport_name,
                    "sport_archetype": content.sport_archetype,
                    "location": content.location,
                    "tier": content.tier,
                    "status": content.status,
                    "description": content.description,
                    "content_hash": row.content_hash,
                },
                content.sport_archetype,
            )
        case SportArchetype():
            return GraphNode(
                "SportArchetype",
                "name",
                {
                    "display_name": content.display_name,
                    "code_pattern": content.code_pattern,
                    "description": content.description,
                    "content_hash": row.content_hash,
                },
                None,
            )
        case FewShotExample():
            return GraphNode(
                "FewShotExample",
                "example_id",
                {
                    "category": content.category,
                    "input_text": content.input_text,
                    "output_text": content.output_text,
                    "sport_archetype": content.sport_archetype,
                    "tags": list(content.tags),
                    "content_hash": row.content_hash,
                },
                content.category,
            )
        case _:
            assert_never(content)


#: The vector index of each type, before its prefix.
INDEXES = {
    EntityType.SPORT_ARCHETYPE: "altsports-archetypes",
    EntityType.LEAGUE: "altsports-leagues",
    EntityType.FEW_SHOT_EXAMPLE: "altsports-examples",
}

#: Types whose namespace may change, so that a vector may have to leave one.
MOVING = frozenset({EntityType.FEW_SHOT_EXAMPLE})


def namespace(row: Row) -> str:
    """The vector index's namespace that an entity belongs to; "" is the index's own default."""
    match row.content:
        case League():
            return "default"
        case SportArchetype():
            return ""
        case FewShotExample():
            return row.content.category
        case _:
            assert_never(row.content)


def vector_metadata(row: Row, model: str) -> dict[str, Any]:
    """Return what a vector carries beside its numbers. Nulls are left out: the index keeps none."""
    content = row.content
    known: dict[str, Scalar]
    match content:
        case League():
            known = {
                "league_name": content.league_name,
                "sport_name": content.sport_name,
                "sport_archetype": content.sport_archetype,
                "location": content.location,
                "tier": content.tier,
                "status": content.status,
            }
        case SportArchetype():
            known = {
                "archetype_name": content.archetype_name,
                "display_name": content.display_name,
                "code_pattern": content.code_pattern,
            }
        case FewShotExample():
            known = {
                "category": content.category,
                "sport_archetype": content.sport_archetype,
                "tags": list(content.tags),
            }
        case _:
            assert_never(content)
    marks = {"version": row.version, "model": model, "content_hash": row.content_hash}
    return {name: value for name, value in {**known, **marks}.items() if value is not None}


def content_of(entity_type: EntityType, values: Sequence[Any]) -> Content:
    """The content of a database row: its content columns, in the order of the content's fields."""
    match entity_type:
        case EntityType.LEAGUE:
            return League(*values)
        case EntityType.SPORT_ARCHETYPE:
            return SportArchetype(*values)
        case EntityType.FEW_SHOT_EXAMPLE:
            key, category, given, wanted, archetype, tags, attributes = values
            return FewShotExample(key, category, given, wanted, archetype, tuple(tags), attributes)
        case _:
            assert_never(entity_type)
