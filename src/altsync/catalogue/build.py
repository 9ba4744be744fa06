"""From declared classes to what the engine runs on; each gap or contradiction is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields, make_dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Numeric,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import column_property
from sqlmodel import SQLModel

from altsync.catalogue import markers
from altsync.catalogue.entity import (
    ATTACHMENT_FIELDS,
    ENTITY_FIELDS,
    ENTITY_FILLFACTOR,
    Attachment,
    Entity,
    column_type,
    plain_type,
)
from altsync.catalogue.parts import AttachmentTable
from altsync.contract import EMBEDDING
from altsync.entities import Content, EdgeTable, EntityType, ParentEdge, Similarity
from altsync.errors import ConfigurationError
from altsync.models import Embedding, SinkState

#: Names of labels, relationships, tables and fields that may stand in Cypher and SQL unquoted.
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")

#: Python types of content fields. Others have no single form in JSON, SQL, Cypher and metadata.
CONTENT_TYPES = (str, bool, int, float, date, datetime, list, dict)


#: Names of indexes. Pinecone takes 45 characters, and a prefix of 24 and a hyphen may stand before.
_INDEX = re.compile(r"[a-z0-9](-?[a-z0-9]){0,19}")
INDEX_LENGTH = 20

#: Similar entities that one may keep: each is an edge of its node.
MOST_SIMILAR = 1000


class CatalogueError(ConfigurationError):
    """A declaration is missing, or contradicts another one. Names class and field."""


def fail(where: Any, what: str) -> CatalogueError:
    """Return the error of a declaration; ``where`` is a class, or a class and a field."""
    return CatalogueError(f"catalogue: {where}: {what}")


def check_name(where: str, name: str) -> str:
    """Return a name that may stand in statements. Raises ``CatalogueError``."""
    if not _IDENTIFIER.fullmatch(name):
        raise fail(where, f"{name!r} is no name: letters, digits and _, a letter first, 63 at most")
    return name


def marks(cls: type[SQLModel], name: str, kind: type) -> list[Any]:
    """Return the marks of one kind of a field; a bare class counts as one without arguments."""
    found = [m for m in cls.model_fields[name].metadata if m is kind or isinstance(m, kind)]
    return [kind() if one is kind else one for one in found]


def content_fields(cls: type[SQLModel], own: frozenset[str]) -> list[str]:
    """Return the names of the declared fields, in their order."""
    return [name for name in cls.model_fields if name not in own]


def entity_type(cls: type[Entity], edges: EdgeTable | None) -> EntityType:
    """Return what a class declares. Raises ``CatalogueError``."""
    where = cls.__name__
    table = check_name(where, str(cls.__tablename__))
    for attribute, kind in (
        ("seeds", markers.Seeds),
        ("node", markers.Node),
        ("vectors", markers.Vectors),
    ):
        if not isinstance(getattr(cls, attribute, None), kind):
            raise fail(where, f"{attribute} is missing: {attribute} = {kind.__name__}(…)")
    names = content_fields(cls, ENTITY_FIELDS)
    columns: dict[str, str] = {}
    for name in names:
        check_name(f"{where}.{name}", name)
        kind, _optional = plain_type(cls.model_fields[name].annotation)
        if not (isinstance(kind, type) and issubclass(kind, CONTENT_TYPES)):
            allowed = ", ".join(one.__name__ for one in CONTENT_TYPES)
            raise fail(f"{where}.{name}", f"the type {kind!r} is none of {allowed}")
        columns[name] = column_type(cls.model_fields[name].annotation)[1]
    columns["attributes"] = "jsonb"
    key = _key(cls, names)
    key_mark = marks(cls, key, markers.Key)[0]
    _check_fields(f"{where}.{key}: made_from", key_mark.made_from, names)
    filters = tuple(name for name in names if marks(cls, name, markers.Filter))
    local = {name for name in names if marks(cls, name, markers.Local)}
    json_columns = tuple(name for name, kind in columns.items() if kind == "jsonb")
    namespace = cls.vectors.namespace
    moving = namespace in names
    if moving and columns[namespace] != "text":
        raise fail(f"{where}.vectors", f"the namespace {namespace} is no text")
    similar = _similar(cls, names)
    file_name = cls.seeds.file_name
    if file_name is not None:
        _check_fields(f"{where}.seeds: file_name", (file_name,), names)
    index = cls.vectors.index
    if not _INDEX.fullmatch(index) or len(index) > INDEX_LENGTH:
        allowed = f"lower-case letters, digits and single hyphens, {INDEX_LENGTH} at most"
        raise fail(f"{where}.vectors", f"{index!r} is no name of an index: {allowed}")
    embedded = tuple(name for name in names if marks(cls, name, markers.Embed))
    if not embedded and not hasattr(cls, "embedding_text"):
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
        optional=frozenset(name for name in names if _is_optional(cls, name)),
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
        namespace="" if moving else namespace,
        namespace_column=namespace if moving else None,
        embedded=embedded,
        text_of=_text_of(cls, embedded),
        similar=similar,
        edges=edges,
    )
    made.content.entity_type = made
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


def _check_fields(where: str, wanted: Iterable[str], names: Sequence[str]) -> None:
    for name in wanted:
        if name not in names:
            raise fail(where, f"there is no field {name!r}; fields are {', '.join(names)}")


def _name_column(
    cls: type[Entity], names: Sequence[str], key: str, made_from: Sequence[str]
) -> str:
    """The column that people know an entity by: declared, or the first text that is embedded."""
    by = _names(cls).by
    if by is not None:
        _check_fields(f"{cls.__name__}.names: by", (by,), names)
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


def _is_optional(cls: type[SQLModel], name: str) -> bool:
    return not cls.model_fields[name].is_required()


def _similar(cls: type[Entity], names: Sequence[str]) -> Similarity | None:
    declared = cls.similar
    if declared is None:
        return None
    where = f"{cls.__name__}.similar"
    if declared.within is not None:
        _check_fields(f"{where}: within", (declared.within,), names)
        if _is_optional(cls, declared.within):
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
        elif seen_default:  # a required field after optional ones: seeds give it by name
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
        return own  # type: ignore[no-any-return]  # called with a content, which has the fields

    def joined(content: Any) -> str:
        return "\n".join(_as_text(v) for n in embedded if (v := getattr(content, n)) not in EMPTY)

    return joined


#: Values that a text leaves out.
EMPTY: tuple[Any, ...] = (None, "", ())


def _as_text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


# --- tables ---------------------------------------------------------------------------------------


def edge_table(
    cls: type[Entity], seeded: Sequence[str], part: str | None, similar: markers.Similar | None
) -> EdgeTable:
    """Return the table of the relationships between entities of a class."""
    table = str(cls.__tablename__)
    for relation in seeded:
        check_name(f"Relationships({cls.__name__})", relation)
    computed = similar.relation if similar else None
    if computed in seeded:
        raise fail(cls.__name__, f"{computed} is computed: it cannot be seeded as well")
    return EdgeTable(
        f"{table}_relationship",
        f"source_{table}_id",
        f"target_{table}_id",
        tuple(seeded),
        computed,
        part,
    )


def add_indexes(
    cls: type[Entity], parents: Sequence[ParentEdge], similar: Similarity | None
) -> None:
    """Index the columns that the engine looks entities up by, where no index is declared."""
    table: Table = cls.__table__  # type: ignore[attr-defined]
    table.dialect_options["postgresql"]["with"] = ENTITY_FILLFACTOR["postgresql_with"]
    indexed = {next(iter(one.columns)).name for one in table.indexes}
    wanted = [parent.column for parent in parents if parent.relation]
    if similar and similar.within:
        wanted.append(similar.within)
    for column in dict.fromkeys(wanted):
        if column not in indexed:
            Index(f"{table.name}_{column}", table.c[column])
    # By which the relay finds what is deleted: of living rows it has no entry.
    if f"{table.name}_deleted" not in {one.name for one in table.indexes}:
        where = text("deleted_at IS NOT NULL")
        Index(f"{table.name}_deleted", table.c.deleted_at, postgresql_where=where)
    # By which the relay finds what was renamed: of others it has no entry.
    if f"{table.name}_renamed" not in {one.name for one in table.indexes}:
        where = text("former_keys <> '{}'")
        Index(f"{table.name}_renamed", table.c.id, postgresql_where=where)
    key = next(n for n in content_fields(cls, ENTITY_FIELDS) if marks(cls, n, markers.Key))
    if not any(
        isinstance(one, UniqueConstraint) and [c.name for c in one.columns] == [key]
        for one in table.constraints
    ):
        table.append_constraint(UniqueConstraint(table.c[key]))
    if similar and "neighbours_input_hash" not in table.c:
        table.append_column(Column("neighbours_input_hash", Text))
    _look_up_vectors(cls)


def _look_up_vectors(cls: type[Entity]) -> None:
    """Give an entity its vector as an attribute; it is kept once, by what it embeds."""
    tables = SQLModel.metadata.tables
    kept, state = tables[str(Embedding.__tablename__)].c, tables[str(SinkState.__tablename__)].c
    own = tables[str(cls.__tablename__)]
    dimensions = select(state.config["dimensions"].as_integer()).where(state.sink == EMBEDDING)
    vector = select(kept.vector).where(
        kept.model == own.c.embedding_model,
        kept.dimensions == dimensions.scalar_subquery(),
        kept.text_hash == own.c.embedding_text_hash,
    )
    looked_up = column_property(vector.correlate(own).scalar_subquery(), deferred=True)
    if "embedding_vector" not in cls.__mapper__.attrs:  # type: ignore[attr-defined]
        setattr(cls, "embedding_vector", looked_up)  # noqa: B010  (no column, says the class)


def make_edge_table(edges: EdgeTable, entity: str) -> Table:
    """Make the SQLAlchemy table of relationships; an existing one is returned."""
    if edges.table in SQLModel.metadata.tables:
        return SQLModel.metadata.tables[edges.table]
    types = ", ".join(f"'{one}'" for one in edges.relations)
    computed = edges.computed or ""
    now: dict[str, Any] = {"server_default": text("now()"), "nullable": False}
    return Table(
        edges.table,
        SQLModel.metadata,
        Column("id", Uuid, primary_key=True),
        Column("seed_id", Text, unique=True),
        *(
            Column(name, Uuid, ForeignKey(f"{entity}.id", ondelete="CASCADE"), nullable=False)
            for name in (edges.source, edges.target)
        ),
        Column("relationship_type", Text, nullable=False),
        Column("strength_score", Numeric(6, 5)),
        Column("neo4j_rel_id", Text),
        Column("attributes", JSONB, server_default=text("'{}'::jsonb"), nullable=False),
        Column("content_hash", Text),
        Column("model", Text),
        Column("source_version", BigInteger),
        Column("target_version", BigInteger),
        Column("created_at", DateTime(timezone=True), **now),
        Column("updated_at", DateTime(timezone=True), **now),
        # Deferrable, so that two seed lines may change places in one statement.
        UniqueConstraint(edges.source, edges.target, "relationship_type", deferrable=True),
        CheckConstraint(f"relationship_type IN ({types})", name=f"{edges.table}_type"),
        CheckConstraint(
            f"(relationship_type = '{computed}') = (seed_id IS NULL)", name="computed_or_seeded"
        ),
        CheckConstraint(f"{edges.source} <> {edges.target}", name="no_loop"),
        Index(f"{edges.table}_target", edges.target),
    )


# --- attachments ----------------------------------------------------------------------------------


def attachment(cls: type[Attachment], entities: Mapping[type, EntityType]) -> AttachmentTable:
    """Return what a class of attachments declares. Raises ``CatalogueError``."""
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
        optional=frozenset(n for n in declared if _is_optional(cls, n)),
    )
