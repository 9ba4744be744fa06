"""Models of seed lines, made from the declarations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, datetime
from inspect import signature
from operator import attrgetter
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    create_model,
    field_validator,
)
from sqlmodel import SQLModel
from sqlmodel.main import FieldInfoMetadata

from altsync.catalogue.entity import Attachment, Entity, plain_type
from altsync.catalogue.parts import ID_LENGTH, KEY_PATTERN, AttachmentTable, Item
from altsync.entities import Attached, Content, EdgeTable, EntityType, Relationship
from altsync.wording import unknown

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")

Id = Annotated[str, StringConstraints(min_length=1, max_length=ID_LENGTH)]
Key = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]


class SeedLine(BaseModel):
    """The base of all lines. Undeclared fields are kept as they are."""

    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    id: Id

    def item(self) -> Item:
        """Return the line as plain data."""
        raise NotImplementedError


def _iso_date(value: object) -> object:
    if value is None or isinstance(value, date):
        return value
    try:
        # fromisoformat alone also takes 20260131, 2026-W05-6 and, with a time, 2026-01-31T00.
        if not isinstance(value, str) or not _DATE.fullmatch(value):
            raise ValueError
        return date.fromisoformat(value)
    except ValueError:
        raise ValueError("give a date as 2026-01-31") from None


def _iso_time(value: object) -> object:
    if value is None or isinstance(value, datetime):
        return value
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("give a time with its zone, as 2026-01-31T12:00:00Z")
    return moment


def _annotation(cls: type[SQLModel], name: str) -> Any:
    """Return the type of a field in a line, with its constraints and the parser of dates."""
    info = cls.model_fields[name]
    kind, _optional = plain_type(info.annotation)
    extra: list[Any] = [m for m in info.metadata if not isinstance(m, FieldInfoMetadata)]
    if isinstance(kind, type) and issubclass(kind, datetime):
        extra.append(BeforeValidator(_iso_time))
    elif isinstance(kind, type) and issubclass(kind, date):
        extra.append(BeforeValidator(_iso_date))
    return Annotated[(info.annotation, *extra)] if extra else info.annotation


def _default(cls: type[SQLModel], name: str) -> Any:
    info = cls.model_fields[name]
    if info.is_required():
        return ...
    kind, _optional = plain_type(info.annotation)
    if kind in (list, dict):
        return Field(default_factory=kind)
    return info.default


def _validators(cls: type[SQLModel], names: set[str]) -> dict[str, Any]:
    """Return a declaration's own validators for fields of its line."""
    found: dict[str, Any] = {}
    for name, decorator in cls.__pydantic_decorators__.field_validators.items():
        fields = [one for one in decorator.info.fields if one in names]
        if fields:
            function = getattr(decorator.func, "__func__", decorator.func)
            takes_class = next(iter(signature(function).parameters), "") == "cls"
            method: Any = classmethod(function) if takes_class else staticmethod(function)
            found[name] = field_validator(*fields, mode=decorator.info.mode)(method)
    return found


def entity_line(cls: type[Entity], entity_type: EntityType) -> type[SeedLine]:
    """Return the model of an entity's line. It takes 7 µs a line, the table's own class 80."""
    names = [name for name in entity_type.columns if name != "attributes"]
    fields: dict[str, Any] = {n: (_annotation(cls, n), _default(cls, n)) for n in names}
    key = entity_type.key_column
    if entity_type.key_is_id:
        del fields[key]
        fields["id"] = (Key, ...)
    else:
        kind = Key | None if entity_type.key_made_from else Key
        fields[key] = (kind, None if entity_type.key_made_from else ...)
    line = create_model(
        f"{cls.__name__}Line",
        __base__=SeedLine,
        __validators__=_validators(cls, set(fields)),
        **fields,
    )
    line.item = _entity_item(entity_type)  # type: ignore[method-assign,assignment]
    return line


def _entity_item(entity_type: EntityType) -> Callable[[Any], Content]:
    """Return the method ``item`` of an entity's line. A type without lists has a short path."""
    names = [name for name in entity_type.columns if name != "attributes"]
    key = names.index(entity_type.key_column)
    source = [
        "id" if name == entity_type.key_column and entity_type.key_is_id else name for name in names
    ]
    # attrgetter of a single name returns the value, not a tuple.
    values_of: Callable[[Any], tuple[Any, ...]] = (
        attrgetter(*source) if len(source) > 1 else lambda line: (getattr(line, source[0]),)
    )
    lists = [names.index(name) for name in entity_type.list_columns]
    make: Any = entity_type.content
    keyword_only = not entity_type.is_positional
    plain = not lists and not keyword_only

    def item(line: Any) -> Content:
        values = values_of(line)
        if plain and values[key] is not None:
            return make(*values, line.model_extra or {})  # type: ignore[no-any-return]
        own = list(values)
        for place in lists:
            own[place] = tuple(own[place])
        own[key] = own[key] or ""
        rest = line.model_extra or {}
        if plain or not keyword_only:
            return make(*own, rest)  # type: ignore[no-any-return]
        return make(**dict(zip(names, own, strict=True)), attributes=rest)  # type: ignore[no-any-return]

    return item


def attachment_line(cls: type[Attachment], table: AttachmentTable) -> type[SeedLine]:
    """Return the model of an attachment's line."""
    fields: dict[str, Any] = {
        table.owner_field: (Id, ...),
        "title": (Annotated[str, StringConstraints(min_length=1, max_length=500)], ...),
    }
    fields |= {n: (_annotation(cls, n), _default(cls, n)) for n in table.columns}
    line = create_model(
        f"{cls.__name__}Line",
        __base__=SeedLine,
        __validators__=_validators(cls, set(fields)),
        **fields,
    )
    names = list(table.columns)

    def item(one: Any) -> Attached:
        values = {name: getattr(one, name) for name in names}
        owner = getattr(one, table.owner_field)
        return Attached(table.owner_field, owner, one.title, values, one.model_extra or {})

    line.item = item  # type: ignore[method-assign,assignment]
    return line


class RelationshipLine(SeedLine):
    """A line of relationships; its ends are seed ids of entities."""

    edges: ClassVar[EdgeTable]
    entity: ClassVar[str]

    type: str
    source: Id
    target: Id
    strength: Annotated[float, Field(ge=0, le=1)] | None = None

    @field_validator("type")
    @classmethod
    def _seeded_type(cls, value: str) -> str:
        if value == cls.edges.computed:
            raise ValueError(f"{value} is computed from vectors and cannot be seeded")
        if value not in cls.edges.seeded:
            raise ValueError(unknown("relationship", value, cls.edges.seeded))
        return value

    @field_validator("target")
    @classmethod
    def _two_entities(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("source"):
            article = "an" if cls.entity[:1] in "aeiou" else "a"
            raise ValueError(f"{article} {cls.entity} has no relationship with itself")
        return value

    def item(self) -> Relationship:
        """Return the relationship."""
        return Relationship(
            self.source, self.target, self.type, self.strength, self.model_extra or {}
        )


def relationship_line(entity_type: EntityType) -> type[SeedLine]:
    """Return the model of the lines of a type's relationships."""
    namespace: Mapping[str, Any] = {
        "edges": entity_type.edge_table,
        "entity": entity_type.one,
        "__module__": __name__,
        "__annotations__": {"edges": "ClassVar[EdgeTable]", "entity": "ClassVar[str]"},
    }
    return type("RelationshipLine", (RelationshipLine,), dict(namespace))
