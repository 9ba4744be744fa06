"""Make the tables of relationships, and the indexes and columns that entities need."""

from __future__ import annotations

from collections.abc import Sequence
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
from altsync.catalogue.entity import ENTITY_FIELDS, ENTITY_FILLFACTOR, Entity
from altsync.catalogue.fields import check_name, content_fields, fail, marks
from altsync.contract import EMBEDDING
from altsync.entities import EdgeTable, ParentEdge, Similarity
from altsync.models import Embedding, SinkState


def edge_table(
    cls: type[Entity], seeded: Sequence[str], part: str | None, similar: markers.Similar | None
) -> EdgeTable:
    """Return the table of the relationships between entities of a class."""
    table = str(cls.__tablename__)
    where = f"Relationships({cls.__name__})"
    if part is not None and not seeded:
        raise fail(where, f'name their types: Relationships({cls.__name__}, "CITES", seeds=…)')
    for relation in seeded:
        check_name(where, relation)
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
    """Index the columns by which the engine finds entities, unless the class does."""
    table: Table = cls.__table__  # type: ignore[attr-defined]
    table.dialect_options["postgresql"]["with"] = ENTITY_FILLFACTOR["postgresql_with"]
    indexed = {next(iter(one.columns)).name for one in table.indexes}
    wanted = [parent.column for parent in parents if parent.relation]
    if similar and similar.within:
        wanted.append(similar.within)
    for column in dict.fromkeys(wanted):
        if column not in indexed:
            Index(f"{table.name}_{column}", table.c[column])
    # The relay finds deleted rows by this index, which has no entry for living ones.
    if f"{table.name}_deleted" not in {one.name for one in table.indexes}:
        where = text("deleted_at IS NOT NULL")
        Index(f"{table.name}_deleted", table.c.deleted_at, postgresql_where=where)
    # The relay finds renamed rows by this index, which has no entry for others.
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
    _add_vector(cls)


def _add_vector(cls: type[Entity]) -> None:
    """Add the attribute ``embedding_vector``, which reads the table ``embedding``."""
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
        setattr(cls, "embedding_vector", looked_up)  # noqa: B010  (the class declares no such column)


def make_edge_table(edges: EdgeTable, entity: str) -> Table:
    """Return the SQLAlchemy table of relationships, made at the first call."""
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
        # Deferrable, so that two seed lines may swap their ends in one statement.
        UniqueConstraint(edges.source, edges.target, "relationship_type", deferrable=True),
        CheckConstraint(f"relationship_type IN ({types})", name=f"{edges.table}_type"),
        CheckConstraint(
            f"(relationship_type = '{computed}') = (seed_id IS NULL)", name="computed_or_seeded"
        ),
        CheckConstraint(f"{edges.source} <> {edges.target}", name="no_loop"),
        Index(f"{edges.table}_target", edges.target),
    )
