"""Marks of a declaration: the roles of a field or class in graph, index and seeds.

A field is marked in ``typing.Annotated``, a class by an attribute. Marks hold what is declared and
do nothing; :mod:`altsync.catalogue.build` reads them.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Key:
    """The field with the entity's key in every sink: unique, and never reused by another entity.

    ``made_from`` names the fields that a missing key is made from: the name, then a field that
    differs between entities of the same name. ``is_id``: the seed line's ``id`` is the key.
    """

    made_from: tuple[str, ...] = ()
    is_id: bool = False


@dataclass(frozen=True, slots=True)
class Embed:
    """A field that is part of the embedded text, in the order of the fields."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A field that vectors carry, so that searches can filter by it."""


@dataclass(frozen=True, slots=True)
class Local:
    """A field that stays in PostgreSQL: no property of the node."""


@dataclass(frozen=True, slots=True)
class BelongsTo:
    """A field that holds the key of a parent, to which the graph draws ``relation``.

    ``parent`` is an entity's class, or the label of nodes that only this relationship makes.
    A seed line may name a parent that is loaded, or one of ``known``.
    """

    parent: Any
    relation: str
    known: Collection[str] = ()
    key: str = "name"


@dataclass(frozen=True, slots=True)
class References:
    """A field that holds the key of an entity which must be loaded, without a relationship."""

    parent: Any
    known: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class AttachedTo:
    """The column with the id of the entity that a row belongs to, named ``<field>_id``.

    A seed line gives the entity's seed id in ``<field>``.
    """

    owner: Any


@dataclass(frozen=True, slots=True)
class Seeds:
    """The part of a seed folder with the lines: ``<part>.jsonl``, or files of a folder ``<part>``.

    ``file_name`` is the field that a line without it gets from the name of its file.
    """

    part: str
    file_name: str | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one entity and several in messages, and the field with the name (``by``)."""

    one: str
    many: str
    by: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """The label of the entity's node. ``key`` is its key property, by default the key's column."""

    label: str
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Vectors:
    """The index of the entity's vectors.

    ``namespace`` is the name of a field, whose value is the namespace, or else a constant; "" is
    the index's own default.
    """

    index: str
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Similar:
    """Relationships to the entities whose vectors are nearest, computed and kept in step.

    ``within`` is a field: only entities with the same value are compared. An entity becomes
    similar to another above the cosine ``enter``, and is similar no longer below ``leave``; a score
    between the two changes nothing. It keeps ``top`` at most, the nearest.
    """

    relation: str = "SIMILAR_TO"
    within: str | None = None
    enter: float = 0.80
    leave: float = 0.77
    top: int = 10


@dataclass(frozen=True, slots=True, init=False)
class Relationships:
    """Seeded relationships of some types from entities of one class to others of it."""

    entity: Any
    types: tuple[str, ...]
    seeds: Seeds

    def __init__(self, entity: Any, *types: str, seeds: Seeds) -> None:
        """Declare the types of relationships between entities of a class, and their seeds."""
        object.__setattr__(self, "entity", entity)
        object.__setattr__(self, "types", types)
        object.__setattr__(self, "seeds", seeds)
