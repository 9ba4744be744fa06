"""Make entity types and attachment tables from declared classes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any

from sqlalchemy import (
    ForeignKey,
    Index,
    Table,
)

from altsync.catalogue import markers
from altsync.catalogue.checks import (
    check_attributes,
    check_column,
    check_field,
    check_fields,
    check_key,
    check_namespace,
    check_relations,
    check_text,
)
from altsync.catalogue.entity import (
    ATTACHMENT_FIELDS,
    ENTITY_FIELDS,
    Attachment,
    Entity,
    column_type,
    plain_type,
)
from altsync.catalogue.fields import check_name, content_fields, fail, is_optional, marks
from altsync.catalogue.parts import AttachmentTable
from altsync.entities import Content, EdgeTable, EntityType, ParentEdge, Similarity

#: Names of indexes. Pinecone takes 45 characters, and a prefix of 24 and a hyphen may stand before.
_INDEX = re.compile(r"[a-z0-9](-?[a-z0-9]){0,19}")
INDEX_LENGTH = 20

#: Similar entities that one entity may have at most: each is an edge of its node.
MOST_SIMILAR = 1000


def entity_type(cls: type[Entity], edges: EdgeTable | None) -> EntityType:
    """Return the entity type that a class declares. Raises ``CatalogueError``."""
    where = cls.__name__
    table = check_column(where, str(cls.__tablename__))
    check_attributes(cls)
    names = content_fields(cls, ENTITY_FIELDS)
    columns: dict[str, str] = {}
    for name in names:
        check_field(cls, name)
        columns[name] = column_type(cls.model_fields[name].annotation)[1]
    columns["attributes"] = "jsonb"
    key = _key(cls, names)
    key_mark = marks(cls, key, markers.Key)[0]
    check_key(cls, key, key_mark, names)
    filters = tuple(name for name in names if marks(cls, name, markers.Filter))
    local = {name for name in names if marks(cls, name, markers.Local)}
    json_columns = tuple(name for name, kind in columns.items() if kind == "jsonb")
    namespace = cls.vectors.namespace
    is_field = namespace in names
    if is_field and columns[namespace] != "text":
        raise fail(f"{where}.vectors", f"the namespace {namespace} is no text")
    check_namespace(f"{where}.vectors", namespace, names)
    similar = _similar(cls, names)
    check_relations(cls, names, edges)
    file_name = cls.seeds.file_name
    if file_name is not None:
        check_fields(f"{where}.seeds: file_name", (file_name,), names)
    index = cls.vectors.index
    if not _INDEX.fullmatch(index) or len(index) > INDEX_LENGTH:
        allowed = f"lower-case letters, digits and single hyphens, {INDEX_LENGTH} at most"
        raise fail(f"{where}.vectors", f"{index!r} is no name of an index: {allowed}")
    embedded = tuple(name for name in names if marks(cls, name, markers.Embed))
    if not embedded and not callable(getattr(cls, "embedding_text", None)):
        raise fail(where, "no text to embed: mark fields with Embed")
    content = _content(cls, names)
    made = EntityType(
        table,
        part=cls.seeds.part,
        one=_names(cls).one,
        many=_names(cls).many,
        key_column=key,
        key_made_from=tuple(key_mark.made_from),
        key_is_id=key_mark.is_id,
        name_column=_name_column(cls, names, key, key_mark.made_from),
        columns=columns,
        optional=frozenset(name for name in names if is_optional(cls, name)),
        nullable=frozenset(n for n in names if plain_type(cls.model_fields[n].annotation)[1]),
        content=content,
        is_positional=not any(one.kw_only for one in fields(content)),  # type: ignore[arg-type]
        json_columns=json_columns,
        list_columns=tuple(name for name, kind in columns.items() if kind == "text[]"),
        filters=filters,
        file_name_column=file_name,
        label=check_name(f"{where}.node", cls.node.label),
        key_property=check_name(f"{where}.node", cls.node.key or key),
        properties=tuple(
            name for name in names if name not in (key, *json_columns) and name not in local
        ),
        parents=tuple(_parents(cls, names)),
        index_name=cls.vectors.index,
        namespace="" if is_field else namespace,
        namespace_column=namespace if is_field else None,
        embedded=embedded,
        text_of=_text_of(cls, embedded),
        text_rule=_text_rule(cls, embedded),
        similar=similar,
        edges=edges,
    )
    made.content.entity_type = made
    check_text(cls, made)
    return made


def _key(cls: type[Entity], names: Sequence[str]) -> str:
    keys = [name for name in names if marks(cls, name, markers.Key)]
    if len(keys) != 1:
        found = ", ".join(keys) or "none"
        raise fail(cls.__name__, f"one field is to be marked with Key, and not {found}")
    kind, _optional = plain_type(cls.model_fields[keys[0]].annotation)
    if not (isinstance(kind, type) and issubclass(kind, str)):
        raise fail(f"{cls.__name__}.{keys[0]}", "a key is a text")
    return keys[0]


def _name_column(
    cls: type[Entity], names: Sequence[str], key: str, made_from: Sequence[str]
) -> str:
    """Return the column that names an entity: declared, or its first embedded text."""
    by = _names(cls).by
    if by is not None:
        check_fields(f"{cls.__name__}.names: by", (by,), names)
        return by
    if made_from:
        return made_from[0]
    for name in names:
        kind, _optional = plain_type(cls.model_fields[name].annotation)
        text = isinstance(kind, type) and issubclass(kind, str)
        if text and name != key and marks(cls, name, markers.Embed):
            return name
    return key


def _names(cls: type[Entity]) -> markers.Names:
    return cls.names or markers.Names(str(cls.__tablename__).replace("_", " "), cls.seeds.part)


def _similar(cls: type[Entity], names: Sequence[str]) -> Similarity | None:
    declared = cls.similar
    if declared is None:
        return None
    where = f"{cls.__name__}.similar"
    if declared.within is not None:
        check_fields(f"{where}: within", (declared.within,), names)
        if is_optional(cls, declared.within):
            raise fail(where, f"within={declared.within!r} must be a required field")
    if not -1 <= declared.leave <= declared.enter <= 1:
        numbers = f"leave={declared.leave:g} and enter={declared.enter:g}"
        raise fail(where, f"{numbers} must be cosines from -1 to 1, leave not above enter")
    if not 1 <= declared.top <= MOST_SIMILAR:
        raise fail(where, f"top={declared.top} must be between 1 and {MOST_SIMILAR:,}")
    return Similarity(
        check_name(where, declared.relation),
        declared.within,
        declared.enter,
        declared.leave,
        declared.top,
    )


def _parents(cls: type[Entity], names: Sequence[str]) -> Iterable[ParentEdge]:
    for name in names:
        for mark in (*marks(cls, name, markers.BelongsTo), *marks(cls, name, markers.References)):
            where = f"{cls.__name__}.{name}"
            relation = getattr(mark, "relation", None)
            if relation is not None:
                check_name(where, relation)
            known = frozenset(mark.known)
            if isinstance(mark.parent, str):
                label = check_name(where, mark.parent)
                yield ParentEdge(name, None, relation, label, mark.key, known)
                continue
            if not (isinstance(mark.parent, type) and issubclass(mark.parent, Entity)):
                raise fail(where, "its parent is neither a class of an entity nor a label")
            if mark.parent is cls:
                raise fail(where, "an entity cannot belong to its own type: use Relationships")
            parent = mark.parent
            if plain_type(cls.model_fields[name].annotation)[0] is not str:
                raise fail(where, "the key of a parent is a text: Tag or str")
            key = parent.node.key or _key(parent, content_fields(parent, ENTITY_FIELDS))
            yield ParentEdge(
                name,
                str(parent.__tablename__),
                relation,
                parent.node.label,
                key,
                known,
                _names(parent).one,
            )


def _content(cls: type[Entity], names: Sequence[str]) -> type[Content]:
    """Make the frozen dataclass of a class's content."""
    declared: list[Any] = []
    for name in names:
        info = cls.model_fields[name]
        if info.is_required():
            declared.append((name, Any))
        elif info.default_factory is not None or isinstance(info.default, list | dict):
            kind, _optional = plain_type(info.annotation)
            declared.append((name, Any, field(default_factory=tuple if kind is list else dict)))
        else:
            declared.append((name, Any, info.default))
    declared.append(("attributes", Any, field(default_factory=dict)))
    seen_default = False
    for place, one in enumerate(declared):
        if len(one) == 3:
            seen_default = True
        elif seen_default:  # dataclasses want a required field first, or by keyword
            declared[place] = (one[0], one[1], field(default=MISSING, kw_only=True))
    return make_dataclass(
        cls.__name__,
        declared,
        bases=(Content,),
        frozen=True,
        slots=True,
        namespace={"__module__": cls.__module__},
    )


def _text_of(cls: type[Entity], embedded: Sequence[str]) -> Callable[[Any], str]:
    own = getattr(cls, "embedding_text", None)
    if own is not None:
        return own  # type: ignore[no-any-return]  # called with a content, which has the same fields

    def joined(content: Any) -> str:
        return "\n".join(_as_text(v) for n in embedded if (v := getattr(content, n)) not in EMPTY)

    return joined


def _text_rule(cls: type[Entity], embedded: Sequence[str]) -> str:
    """Return what a change of the embedded text's declaration changes: fields, or the source."""
    own = getattr(cls, "embedding_text", None)
    if own is None:
        return ",".join(embedded)
    try:
        return inspect.getsource(own)
    except (OSError, TypeError):  # no source file, as in a REPL
        return repr(own.__code__.co_code) + repr(own.__code__.co_consts)


#: Values that the embedded text leaves out.
EMPTY: tuple[Any, ...] = (None, "", ())


def _as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def attachment(cls: type[Attachment], entities: Mapping[type, EntityType]) -> AttachmentTable:
    """Return the table of a class of attachments. Raises ``CatalogueError``."""
    where = cls.__name__
    names = content_fields(cls, ATTACHMENT_FIELDS)
    owners = [name for name in names if marks(cls, name, markers.AttachedTo)]
    if len(owners) != 1 or not owners[0].endswith("_id"):
        raise fail(where, "one field <entity>_id is to be marked with AttachedTo(Entity)")
    owner = marks(cls, owners[0], markers.AttachedTo)[0].owner
    if owner not in entities:
        raise fail(f"{where}.{owners[0]}", "its owner is no entity of this catalogue")
    table: Table = cls.__table__  # type: ignore[attr-defined]
    column = table.c[owners[0]]
    if not column.foreign_keys:
        column.append_foreign_key(ForeignKey(f"{entities[owner]}.id", ondelete="CASCADE"))
    if not any(column.name in {c.name for c in one.columns} for one in table.indexes):
        Index(f"ix_{table.name}_{column.name}", column)
    if not isinstance(getattr(cls, "seeds", None), markers.Seeds):
        raise fail(where, "seeds is missing: seeds = Seeds(…)")
    declared = [name for name in names if name != owners[0]]
    return AttachmentTable(
        str(cls.__tablename__),
        part=cls.seeds.part,
        owner=entities[owner],
        owner_column=owners[0],
        owner_field=owners[0].removesuffix("_id"),
        columns={n: column_type(cls.model_fields[n].annotation)[1] for n in declared},
        optional=frozenset(n for n in declared if is_optional(cls, n)),
    )
