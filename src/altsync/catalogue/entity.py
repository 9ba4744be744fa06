"""Base classes of declared tables, with the columns of altsync."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from inspect import get_annotations
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Union, get_args, get_origin
from uuid import UUID

from pydantic import StringConstraints, create_model
from sqlalchemy import (
    BigInteger,
    Boolean,
    Computed,
    Date,
    DateTime,
    Float,
    Index,
    Numeric,
    text,
)
from sqlalchemy import Text as SqlText
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel
from sqlmodel._compat import SQLModelConfig
from sqlmodel.main import FieldInfo, FieldInfoMetadata

from altsync.catalogue.markers import Names, Node, Seeds, Similar, Vectors
from altsync.catalogue.parts import KEY_PATTERN, SLUG_PATTERN
from altsync.declarations import OF_OTHER_PACKAGES, SINKS

#: Statuses of a row are updated several times. With free space on its page, these updates write
#: no index (HOT).
ENTITY_FILLFACTOR = {"postgresql_with": {"fillfactor": "50"}}

#: A key, as a seed line gives it.
Tag = Annotated[str, StringConstraints(pattern=KEY_PATTERN)]

#: A name of a namespace of the index, or of a file: small letters, digits, _ and -.
Slug = Annotated[str, StringConstraints(pattern=SLUG_PATTERN)]

#: A text of any length. Texts over the limit of the embedder are refused when they are seeded.
Text = Annotated[str, StringConstraints(min_length=1)]

#: A name, which tables show: 500 characters at most.
Name = Annotated[str, StringConstraints(min_length=1, max_length=500)]

_NOW = text("now()")
_EMPTY_OBJECT = text("'{}'::jsonb")
_NEXT_VERSION = text("nextval('entity_version')")


def stamp(*, optional: bool = True) -> Any:
    """Return a column with a time of the database's clock."""
    if optional:
        return Field(default=None, sa_type=DateTime(timezone=True))
    return Field(
        default=None,
        sa_type=DateTime(timezone=True),
        sa_column_kwargs={"server_default": _NOW},
        nullable=False,
    )


def plain_text(*, optional: bool = False, default: str | None = None, **more: Any) -> Any:
    """Return a column of text."""
    kwargs = {"server_default": text(f"'{default}'")} if default is not None else {}
    if optional or default is not None:
        nullable = optional
        return Field(
            default=None, sa_type=SqlText, sa_column_kwargs=kwargs, nullable=nullable, **more
        )
    return Field(sa_type=SqlText, sa_column_kwargs=kwargs, nullable=False, **more)


def json_object() -> Any:
    """Return a column with a JSON object, empty by default."""
    return Field(
        default_factory=dict,
        sa_type=JSONB,
        sa_column_kwargs={"server_default": _EMPTY_OBJECT},
        nullable=False,
    )


#: Python types that a declared field may have, and the columns of each.
_COLUMN_TYPES: dict[Any, tuple[Any, str]] = {
    str: (SqlText, "text"),
    int: (BigInteger, "bigint"),
    float: (Float, "double precision"),
    bool: (Boolean, "boolean"),
    date: (Date, "date"),
    datetime: (DateTime(timezone=True), "timestamptz"),
    Decimal: (Numeric, "numeric"),
    UUID: (None, "uuid"),
    dict: (JSONB, "jsonb"),
    list: (ARRAY(SqlText), "text[]"),
}


def plain_type(annotation: Any) -> tuple[Any, bool]:
    """Return the Python type of a field's annotation, and whether it may be None.

    Any list is ``list``, any dict ``dict``. Raises ``TypeError`` for a union of types.
    """
    optional = False
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, UnionType):
            members = [one for one in get_args(annotation) if one is not NoneType]
            optional = optional or len(members) < len(get_args(annotation))
            if len(members) != 1:
                raise TypeError("a field has one type, or one and None")
            annotation = members[0]
        elif origin is not None:
            return origin, optional
        else:
            return annotation, optional


def item_type(annotation: Any) -> type:
    """Return the type of a list's items; ``str`` for a list without one."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return item_type(members[0])
    if origin is list:
        return plain_type(members[0])[0]  # type: ignore[no-any-return]
    found = (item_type(one) for one in members if one is not NoneType)
    return next(found, str)


def column_type(annotation: Any) -> tuple[Any, str]:
    """Return SQLAlchemy's type of a field's column and PostgreSQL's name of it.

    Raises ``TypeError`` for a type without a column.
    """
    kind, _optional = plain_type(annotation)
    # First the subclasses: bool of int, datetime of date.
    for known in (bool, datetime, *_COLUMN_TYPES):
        if isinstance(kind, type) and issubclass(kind, known):
            return _COLUMN_TYPES[known]
    names = ", ".join(one.__name__ for one in _COLUMN_TYPES)
    raise TypeError(f"the type {kind!r} has no column: use one of {names}")


#: Further names that a field cannot have: SQLModel's own, and attributes that altsync adds.
_RESERVED = {"metadata", "registry", "embedding_vector", "neighbours_input_hash", "embedding_text"}


class _Table(SQLModel):
    """Gives declared fields their columns: text for every ``str``, jsonb, text[]."""

    model_config = SQLModelConfig(ignored_types=(Names, Seeds, Node, Vectors, Similar))

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        """Set the column of each field without one, before SQLModel makes the table."""
        super().__pydantic_init_subclass__(**more)
        inherited = {name for base in cls.__bases__ for name in getattr(base, "model_fields", ())}
        taken = (inherited | _RESERVED) & set(get_annotations(cls))
        for name in sorted(taken):
            raise TypeError(f"{cls.__name__}.{name}: altsync has a field {name}: rename this one")
        for name, field in cls.model_fields.items():
            declared = any(isinstance(m, FieldInfoMetadata) for m in field.metadata)
            if name in inherited or declared or isinstance(field, FieldInfo):
                continue
            try:
                type_, _name = column_type(field.annotation)
            except TypeError as error:
                raise TypeError(f"{cls.__name__}.{name}: {error}") from None
            _kind, optional = plain_type(field.annotation)
            field.metadata.append(
                FieldInfoMetadata(
                    sa_type=type_,
                    nullable=optional,
                    sa_column_kwargs=_server_default(field.get_default(call_default_factory=False)),
                )
            )


def _server_default(value: Any) -> dict[str, Any]:
    """Return the default of a column, so that adding it to a table rewrites no row."""
    match value:
        case bool():
            return {"server_default": text("true" if value else "false")}
        case int() | float():
            return {"server_default": text(str(value))}
        case str():
            quoted = value.replace("'", "''")
            return {"server_default": text(f"'{quoted}'")}
        case list():
            return {"server_default": text("'{}'::text[]")}
        case dict():
            return {"server_default": text("'{}'::jsonb")}
        case _:
            return {}


def _sink_columns() -> dict[str, Any]:
    """Return the columns that sinks of other packages declare, as fields of a model."""
    fields: dict[str, Any] = {}
    for columns in (SINKS[name].columns for name in OF_OTHER_PACKAGES):
        if columns is None:
            continue
        fields[columns.status] = (str, plain_text(default="pending"))
        if columns.synced_at:
            fields[columns.synced_at] = (datetime | None, stamp())
        for name in filter(None, (columns.remote_id, columns.namespace)):
            fields[name] = (str | None, plain_text(optional=True))
    return fields


if TYPE_CHECKING:

    class _SinkColumns(_Table):
        pass
else:
    _SinkColumns = create_model("_SinkColumns", __base__=_Table, **_sink_columns())


class Entity(_SinkColumns):
    """A mirrored table. Subclasses declare its content; these columns are altsync's.

    Sinks of other packages add the columns that they declare.
    """

    seeds: ClassVar[Seeds]
    node: ClassVar[Node]
    vectors: ClassVar[Vectors]
    similar: ClassVar[Similar | None] = None
    names: ClassVar[Names | None] = None

    id: UUID = Field(default=None, primary_key=True)
    seed_id: str = plain_text(unique=True)
    attributes: dict[str, Any] = json_object()
    #: Former keys that a sink may still hold.
    former_keys: list[str] = Field(
        default_factory=list,
        sa_type=ARRAY(SqlText),
        sa_column_kwargs={"server_default": text("'{}'::text[]")},
        nullable=False,
    )

    version: int = Field(
        default=None,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": _NEXT_VERSION},
        nullable=False,
    )
    edges_version: int = Field(
        default=None,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": text("0")},
        nullable=False,
    )
    graph_version: int = Field(
        default=None,
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": Computed("GREATEST(version, edges_version)", True)},
        nullable=False,
    )
    content_hash: str = plain_text()

    text_hash: str = plain_text()
    line_hash: str | None = plain_text(optional=True)
    if TYPE_CHECKING:
        #: Float32, little-endian; read from ``embedding`` at the first access.
        embedding_vector: bytes | None = None
    embedding_model: str | None = plain_text(optional=True)
    embedding_text_hash: str | None = plain_text(optional=True)
    embedding_updated_at: datetime | None = stamp()
    embedding_sync_status: str = plain_text(default="pending")

    neo4j_node_id: str | None = plain_text(optional=True)
    neo4j_synced_at: datetime | None = stamp()
    neo4j_sync_status: str = plain_text(default="pending")

    pinecone_id: str | None = plain_text(optional=True)
    pinecone_namespace: str | None = plain_text(optional=True)
    pinecone_synced_at: datetime | None = stamp()
    pinecone_sync_status: str = plain_text(default="pending")

    pgvector_synced_at: datetime | None = stamp()
    pgvector_sync_status: str = plain_text(default="pending")

    created_at: datetime = stamp(optional=False)
    updated_at: datetime = stamp(optional=False)
    deleted_at: datetime | None = stamp()

    __table_args__: ClassVar[Any] = (ENTITY_FILLFACTOR,)


class Attachment(_Table):
    """A table of rows that belong to an entity and stay in PostgreSQL."""

    seeds: ClassVar[Seeds]

    id: UUID = Field(default=None, primary_key=True)
    seed_id: str = plain_text(unique=True)
    title: str = plain_text()
    attributes: dict[str, Any] = json_object()
    content_hash: str = plain_text()
    created_at: datetime = stamp(optional=False)
    updated_at: datetime = stamp(optional=False)


#: Fields of an entity that are not content.
ENTITY_FIELDS = frozenset(Entity.model_fields)

#: Fields that every attachment has.
ATTACHMENT_FIELDS = frozenset(Attachment.model_fields)

__all__ = ["Attachment", "Entity", "Index", "Name", "Slug", "Tag", "Text"]
