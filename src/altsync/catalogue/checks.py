"""Check the classes of a catalogue: each mistake names class and field, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any

from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

from altsync.catalogue import markers
from altsync.catalogue.entity import Entity, item_type, plain_type
from altsync.catalogue.fields import fail, is_optional, marks
from altsync.catalogue.parts import SLUG_PATTERN
from altsync.entities import EdgeTable, EntityType

#: Names of tables and fields that may stand in SQL unquoted. Names of indexes and relationships
#: add to them, and PostgreSQL takes 63 characters.
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,39}")

#: Python types of content fields. Others have no single form in JSON, SQL, Cypher and metadata.
CONTENT_TYPES = (str, bool, int, float, date, datetime, list, dict)


def check_column(where: str, name: str) -> str:
    """Return the name of a table or field. Raises ``CatalogueError``."""
    if not _COLUMN.fullmatch(name):
        allowed = "small letters, digits and _, a letter first, 40 at most"
        raise fail(where, f"{name!r} is no name of a table or field: {allowed}")
    if name in RESERVED_WORDS:
        raise fail(where, f"{name!r} is a word of SQL: choose another name")
    return name


def check_classes(where: str, what: str, classes: Sequence[Any], base: type) -> None:
    """Check that all are tables of a base class, and each is listed once."""
    for one in classes:
        if not (isinstance(one, type) and issubclass(one, base)):
            raise fail(where, f"{what} has {one!r}, which is no class of {base.__name__}")
        if not hasattr(one, "__table__"):
            table = f"class {one.__name__}({base.__name__}, table=True)"
            raise fail(one.__name__, f"table=True is missing: {table}")
        if list(classes).count(one) > 1:
            raise fail(one.__name__, f"stands twice in {what}")


#: The class attributes of a declaration, and which of them each entity has.
_ATTRIBUTES = {
    "seeds": markers.Seeds,
    "node": markers.Node,
    "vectors": markers.Vectors,
    "similar": markers.Similar,
    "names": markers.Names,
}
_REQUIRED = ("seeds", "node", "vectors")


def check_attributes(cls: type[Entity]) -> None:
    where = cls.__name__
    for attribute, kind in _ATTRIBUTES.items():
        given, example = getattr(cls, attribute, None), f"{attribute} = {kind.__name__}(…)"
        if given is None and attribute in _REQUIRED:
            raise fail(where, f"{attribute} is missing: {example}")
        if given is not None and not isinstance(given, kind):
            raise fail(where, f"{attribute} is no {kind.__name__}: {example}")
    for attribute, value in vars(cls).items():
        if isinstance(value, tuple(_ATTRIBUTES.values())) and attribute not in _ATTRIBUTES:
            known = ", ".join(_ATTRIBUTES)
            raise fail(f"{where}.{attribute}", f"there is no attribute of this name: {known}")
    check_part(f"{where}.seeds", cls.seeds.part)
    if cls.node.key in cls.model_fields and not marks(cls, str(cls.node.key), markers.Key):
        raise fail(f"{where}.node", f"key={cls.node.key!r} is another field: choose another name")


def check_part(where: str, part: str) -> None:
    """Check the name of a part of the seed folder. Raises ``CatalogueError``."""
    if not re.fullmatch(SLUG_PATTERN, part):
        example = 'Seeds("products") is products.jsonl and all files of the folder products'
        raise fail(where, f"{part!r} is no name of a file without its suffix, or folder: {example}")


def check_field(cls: type[Entity], name: str) -> None:
    """Check a field's name, type, default and marks. Raises ``CatalogueError``."""
    where, info = f"{cls.__name__}.{name}", cls.model_fields[name]
    check_column(where, name)
    kind, _optional = plain_type(info.annotation)
    if not (isinstance(kind, type) and issubclass(kind, CONTENT_TYPES)):
        allowed = ", ".join(one.__name__ for one in CONTENT_TYPES)
        raise fail(where, f"the type {kind!r} is none of {allowed}")
    if issubclass(kind, list) and not issubclass(item_type(info.annotation), str):
        raise fail(where, "a list has texts: list[str] or list[Name]")
    default = info.get_default(call_default_factory=False)
    if not (info.is_required() or default is None or info.default_factory is not None):
        allowed_types = (float, int) if issubclass(kind, float) else kind
        if not isinstance(default, allowed_types):
            raise fail(where, f"the default {default!r} is not of the field's type")
    for mark in (markers.Embed, markers.Filter):
        if issubclass(kind, dict) and marks(cls, name, mark):
            raise fail(where, f"a dict cannot be marked with {mark.__name__}: it has no one value")


def check_key(cls: type[Entity], key: str, mark: markers.Key, names: Sequence[str]) -> None:
    where = f"{cls.__name__}.{key}"
    if plain_type(cls.model_fields[key].annotation)[1] or is_optional(cls, key):
        raise fail(where, "a key is required: give it no default and not None")
    if mark.is_id and mark.made_from:
        raise fail(where, "a key is the line's id or made_from fields, not both")
    if not isinstance(mark.made_from, tuple | list):
        raise fail(where, f"made_from has several fields: made_from=({mark.made_from!r},)")
    check_fields(f"{where}: made_from", mark.made_from, names)
    for name in mark.made_from:
        if name == key or plain_type(cls.model_fields[name].annotation)[0] is not str:
            raise fail(f"{where}: made_from", f"{name!r} is no other field of text")


def check_fields(where: str, wanted: Iterable[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise fail(where, f"there is no field {name!r}; fields are {', '.join(names)}")


def check_namespace(where: str, namespace: str, names: Sequence[str]) -> None:
    """Raise ``CatalogueError`` for a constant that is one typing error away from a field."""
    near = get_close_matches(namespace, names, n=1, cutoff=0.8)
    if near and near[0] not in (namespace, namespace.removesuffix("s")):
        what = f"namespace={namespace!r} is no field, but nearly {near[0]!r}"
        raise fail(where, f"{what}: write the field's name, or another constant")


#: A value of each type, for the check of ``embedding_text``.
_EXAMPLES: dict[type, Any] = {
    bool: True,
    int: 1,
    float: 1.0,
    datetime: datetime(2026, 1, 31),
    date: date(2026, 1, 31),
    list: ("x",),
    dict: {},
}


def check_text(cls: type[Entity], made: EntityType) -> None:
    """Raise ``CatalogueError`` when ``embedding_text`` reads a field that the class lacks."""

    def example(name: str) -> Any:
        kind = plain_type(cls.model_fields[name].annotation)[0]
        return next((v for known, v in _EXAMPLES.items() if issubclass(kind, known)), "x")

    fields = [name for name in made.columns if name != "attributes"]
    content = made.content(**{name: example(name) for name in fields})
    try:
        made.text_of(content)
    except AttributeError as error:
        if error.obj is content:
            where = f"{cls.__name__}.embedding_text"
            raise fail(where, f"there is no field {error.name!r}: {', '.join(fields)}") from None
    except Exception:  # noqa: BLE001, S110  # the example is not what the function expects
        pass


def check_relations(cls: type[Entity], names: Sequence[str], edges: EdgeTable | None) -> None:
    """Check that no two declarations of a class have one type of relationship."""
    taken = {(relation, None) for relation in (edges.relations if edges else ())}
    for name in names:
        for mark in marks(cls, name, markers.BelongsTo):
            if {(mark.relation, None), (mark.relation, mark.parent)} & taken:
                where = f"{cls.__name__}.{name}"
                raise fail(where, f"{mark.relation} is declared twice: rename one")
            taken.add((mark.relation, mark.parent))
