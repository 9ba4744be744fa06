"""The tables. Statements on them live in ``store`` and ``outbox``; their history in migrations.

Writing goes through SQL, not through these classes: building ORM objects costs ten times a
COPY. They are the schema that migrations are checked against, and what readers may query with.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Computed,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import column_property
from sqlmodel import Field, SQLModel

#: Rows are updated several times (statuses), neighbours together. With space for each on its page
#: no index is written for it (HOT).
ENTITY_FILLFACTOR = {"postgresql_with": {"fillfactor": "50"}}


def _deleted_index(table: str) -> Index:
    """Return the index by which the relay finds what is deleted: of living rows it has no entry."""
    where = text("deleted_at IS NOT NULL")
    return Index(f"{table}_deleted", "deleted_at", postgresql_where=where)


_NOW = text("now()")
_EMPTY_OBJECT = text("'{}'::jsonb")
_NEXT_VERSION = text("nextval('entity_version')")


def _stamp(*, optional: bool = True) -> Any:
    if optional:
        return Field(default=None, sa_type=DateTime(timezone=True))
    return Field(
        sa_type=DateTime(timezone=True),
        sa_column_kwargs={"server_default": _NOW},
        nullable=False,
    )


def _text(*, optional: bool = False, default: str | None = None, **more: Any) -> Any:
    kwargs = {"server_default": text(f"'{default}'")} if default is not None else {}
    if optional:
        return Field(default=None, sa_type=Text, sa_column_kwargs=kwargs, **more)
    return Field(sa_type=Text, sa_column_kwargs=kwargs, nullable=False, **more)


def _json() -> Any:
    return Field(sa_type=JSONB, sa_column_kwargs={"server_default": _EMPTY_OBJECT}, nullable=False)


class EntityColumns(SQLModel):
    """What every mirrored table carries beside its content."""

    id: UUID = Field(primary_key=True)
    seed_id: str = _text(unique=True)
    attributes: dict[str, Any] = _json()

    version: int = Field(
        sa_type=BigInteger, sa_column_kwargs={"server_default": _NEXT_VERSION}, nullable=False
    )
    edges_version: int = Field(
        sa_type=BigInteger, sa_column_kwargs={"server_default": text("0")}, nullable=False
    )
    graph_version: int = Field(
        sa_type=BigInteger,
        sa_column_kwargs={"server_default": Computed("GREATEST(version, edges_version)", True)},
        nullable=False,
    )
    content_hash: str = _text()

    text_hash: str = _text()
    line_hash: str | None = _text(optional=True)
    if TYPE_CHECKING:
        #: Float32, little-endian; read from ``embedding`` when it is first asked for.
        embedding_vector: bytes | None = None
    embedding_model: str | None = _text(optional=True)
    embedding_text_hash: str | None = _text(optional=True)
    embedding_updated_at: datetime | None = _stamp()
    embedding_sync_status: str = _text(default="pending")

    neo4j_node_id: str | None = _text(optional=True)
    neo4j_synced_at: datetime | None = _stamp()
    neo4j_sync_status: str = _text(default="pending")

    pinecone_id: str | None = _text(optional=True)
    pinecone_namespace: str | None = _text(optional=True)
    pinecone_synced_at: datetime | None = _stamp()
    pinecone_sync_status: str = _text(default="pending")

    created_at: datetime = _stamp(optional=False)
    updated_at: datetime = _stamp(optional=False)
    deleted_at: datetime | None = _stamp()


class SportArchetype(EntityColumns, table=True):
    """A family of sports: racing, combat, team_sport, precision, large_field."""

    __tablename__: ClassVar[str] = "sport_archetype"
    __table_args__ = (_deleted_index("sport_archetype"), ENTITY_FILLFACTOR)

    archetype_name: str = _text(unique=True)
    display_name: str = _text()
    code_pattern: str = _text()
    description: str | None = _text(optional=True)
    characteristics: dict[str, Any] = _json()


class League(EntityColumns, table=True):
    """A league or competition."""

    __tablename__: ClassVar[str] = "league"
    __table_args__ = (
        Index("league_archetype", "sport_archetype"),
        _deleted_index("league"),
        ENTITY_FILLFACTOR,
    )

    league_tag: str = _text(unique=True)
    league_name: str = _text()
    sport_name: str = _text()
    sport_archetype: str = _text()
    location: str | None = _text(optional=True)
    tier: str | None = _text(optional=True)
    status: str = _text(default="active")
    description: str | None = _text(optional=True)
    neighbours_of: str | None = _text(optional=True)


class FewShotExample(EntityColumns, table=True):
    """An input with the output wanted for it; the category is its vector namespace."""

    __tablename__: ClassVar[str] = "few_shot_example"
    __table_args__ = (
        Index("few_shot_example_category", "category"),
        _deleted_index("few_shot_example"),
        ENTITY_FILLFACTOR,
    )

    example_id: str = _text(unique=True)
    category: str = _text()
    input_text: str = _text()
    output_text: str = _text()
    sport_archetype: str | None = _text(optional=True)
    tags: list[str] = Field(
        sa_type=ARRAY(Text),
        sa_column_kwargs={"server_default": text("'{}'::text[]")},
        nullable=False,
    )


class LeagueRelationship(SQLModel, table=True):
    """An edge from one league to another, part of its source's graph projection."""

    __tablename__: ClassVar[str] = "league_relationship"
    __table_args__ = (
        # Deferrable, so that two seed lines may change places in one statement.
        UniqueConstraint(
            "source_league_id", "target_league_id", "relationship_type", deferrable=True
        ),
        CheckConstraint(
            "relationship_type IN ('SIMILAR_TO', 'COMPETES_WITH', 'SAME_ARCHETYPE')",
            name="league_relationship_type",
        ),
        CheckConstraint(
            "(relationship_type = 'SIMILAR_TO') = (seed_id IS NULL)", name="computed_or_seeded"
        ),
        CheckConstraint("source_league_id <> target_league_id", name="no_loop"),
        Index("league_relationship_target", "target_league_id"),
    )

    id: UUID = Field(primary_key=True)
    seed_id: str | None = _text(optional=True, unique=True)
    source_league_id: UUID = Field(foreign_key="league.id", ondelete="CASCADE", nullable=False)
    target_league_id: UUID = Field(foreign_key="league.id", ondelete="CASCADE", nullable=False)
    relationship_type: str = _text()
    strength_score: Decimal | None = Field(default=None, sa_type=Numeric(6, 5))
    neo4j_rel_id: str | None = _text(optional=True)
    attributes: dict[str, Any] = _json()
    content_hash: str | None = _text(optional=True)
    model: str | None = _text(optional=True)
    source_version: int | None = Field(default=None, sa_type=BigInteger)
    target_version: int | None = Field(default=None, sa_type=BigInteger)
    created_at: datetime = _stamp(optional=False)
    updated_at: datetime = _stamp(optional=False)


class LeaguePart(SQLModel):
    """What belongs to a league and stays in PostgreSQL."""

    id: UUID = Field(primary_key=True)
    seed_id: str = _text(unique=True)
    league_id: UUID = Field(foreign_key="league.id", ondelete="CASCADE", index=True, nullable=False)
    title: str = _text()
    attributes: dict[str, Any] = _json()
    content_hash: str = _text()
    created_at: datetime = _stamp(optional=False)
    updated_at: datetime = _stamp(optional=False)


class Document(LeaguePart, table=True):
    """A rulebook, fact sheet, feed specification … of a league."""

    __tablename__: ClassVar[str] = "document"

    kind: str | None = _text(optional=True)
    body: str | None = _text(optional=True)


class Contract(LeaguePart, table=True):
    """An agreement about a league's data or media."""

    __tablename__: ClassVar[str] = "contract"

    counterparty: str | None = _text(optional=True)
    contract_type: str | None = _text(optional=True)
    status: str = _text(default="active")
    start_date: date | None = None
    end_date: date | None = None


class SyncOperation(SQLModel, table=True):
    """The outbox and its audit trail: this entity must reach this sink at this version."""

    __tablename__: ClassVar[str] = "sync_operation"
    __table_args__ = (
        CheckConstraint("action IN ('upsert', 'delete')", name="action_known"),
        CheckConstraint("version > 0", name="version_positive"),
        CheckConstraint("attempts >= 0", name="attempts_not_negative"),
        CheckConstraint(
            "origin IN ('seed', 'update', 'embedding', 'retry', 'reconcile', 'backfill', "
            "'similarity', 'model', 'echo')",
            name="origin_known",
        ),
        CheckConstraint(
            "status IN ('pending', 'in_progress', 'synced', 'dead', 'superseded', 'discarded')",
            name="status_known",
        ),
        CheckConstraint(
            "error_kind IN ('item', 'sink', 'unknown', 'lost')", name="error_kind_known"
        ),
        CheckConstraint(
            "(status = 'in_progress') = (lease_token IS NOT NULL)", name="lease_iff_in_progress"
        ),
        CheckConstraint(
            "(finished_at IS NULL) = (status IN ('pending', 'in_progress'))",
            name="live_iff_unfinished",
        ),
        CheckConstraint(
            "status <> 'dead' OR (last_error IS NOT NULL AND error_kind IS NOT NULL)",
            name="dead_has_reason",
        ),
        CheckConstraint(
            "CASE WHEN status = 'discarded' "
            "THEN num_nulls(discarded_at, discarded_by, discarded_why) = 0 "
            "ELSE num_nonnulls(discarded_at, discarded_by, discarded_why) = 0 END",
            name="discarded_says_why",
        ),
        Index(
            "sync_operation_live",
            "entity_id",
            "sink",
            unique=True,
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index(
            "sync_operation_due",
            "sink",
            "priority",
            "available_at",
            postgresql_where=text("finished_at IS NULL"),
        ),
        Index(
            "sync_operation_dead",
            "entity_id",
            "sink",
            postgresql_where=text("status IN ('dead', 'discarded')"),
        ),
        Index(
            "sync_operation_error_group",
            "error_group",
            "id",
            postgresql_where=text("status = 'dead'"),
        ),
        # One entity's history. Finished rows alone: an entry when an operation ends, none when
        # it is enqueued and claimed.
        Index(
            "sync_operation_history",
            "entity_id",
            "id",
            postgresql_where=text("finished_at IS NOT NULL"),
        ),
        {
            "postgresql_with": {
                "autovacuum_vacuum_scale_factor": "0",
                "autovacuum_vacuum_threshold": "10000",
                "autovacuum_analyze_scale_factor": "0",
                "autovacuum_analyze_threshold": "10000",
            }
        },
    )

    id: int | None = Field(
        default=None, sa_type=BigInteger, sa_column_args=[Identity(always=True)], primary_key=True
    )
    entity_type: str = _text()
    entity_id: UUID = Field(nullable=False)
    entity_key: str = _text()
    sink: str = _text()
    action: str = _text()
    version: int = Field(sa_type=BigInteger, nullable=False)
    origin: str = _text()
    priority: int = Field(
        sa_type=SmallInteger, sa_column_kwargs={"server_default": text("0")}, nullable=False
    )
    status: str = _text(default="pending")
    attempts: int = Field(
        sa_type=SmallInteger, sa_column_kwargs={"server_default": text("0")}, nullable=False
    )
    suspicion: int = Field(
        sa_type=SmallInteger, sa_column_kwargs={"server_default": text("0")}, nullable=False
    )
    suspected_at: datetime | None = _stamp()
    passed_by: int = Field(
        sa_type=SmallInteger, sa_column_kwargs={"server_default": text("0")}, nullable=False
    )
    available_at: datetime = _stamp(optional=False)
    lease_token: UUID | None = None
    leased_by: str | None = _text(optional=True)
    asked_again: bool = Field(sa_column_kwargs={"server_default": text("false")}, nullable=False)
    unsure: bool = Field(sa_column_kwargs={"server_default": text("false")}, nullable=False)
    places: list[str] = Field(
        sa_type=ARRAY(Text),
        sa_column_kwargs={"server_default": text("'{}'::text[]")},
        nullable=False,
    )
    last_error: str | None = _text(optional=True)
    error_kind: str | None = _text(optional=True)
    error_group: str | None = _text(optional=True)
    created_at: datetime = _stamp(optional=False)
    finished_at: datetime | None = _stamp()
    discarded_at: datetime | None = _stamp()
    discarded_by: str | None = _text(optional=True)
    discarded_why: str | None = _text(optional=True)


class SinkState(SQLModel, table=True):
    """What all processes share of a sink: breaker, pause, wake-ups, the wanted model."""

    __tablename__: ClassVar[str] = "sink_state"
    __table_args__ = (
        CheckConstraint(
            "state IN ('closed', 'open', 'probing', 'paused', 'disabled')", name="state_known"
        ),
    )

    sink: str = _text(primary_key=True)
    state: str = _text(default="closed")
    since: datetime = _stamp(optional=False)
    reason: str | None = _text(optional=True)
    open_until: datetime | None = _stamp()
    probe_token: UUID | None = None
    probe_until: datetime | None = _stamp()
    consecutive_errors: int = Field(sa_column_kwargs={"server_default": text("0")}, nullable=False)
    last_claim_at: datetime | None = _stamp()
    last_wake_at: datetime | None = _stamp()
    last_answer_at: datetime | None = _stamp()
    unanswered_wakes: int = Field(sa_column_kwargs={"server_default": text("0")}, nullable=False)
    requests_until: datetime | None = _stamp()
    tokens_until: datetime | None = _stamp()
    config: dict[str, Any] = _json()


class Embedding(SQLModel, table=True):
    """Vectors by what they embed, so that no text is paid twice."""

    __tablename__: ClassVar[str] = "embedding"

    model: str = _text(primary_key=True)
    dimensions: int = Field(primary_key=True)
    text_hash: str = _text(primary_key=True)
    vector: bytes = Field(sa_type=LargeBinary, nullable=False)
    created_at: datetime = _stamp(optional=False)


class TagRegistry(SQLModel, table=True):
    """Which seed holds which tag. A tag outlives its row, so it never changes hands."""

    __tablename__: ClassVar[str] = "tag_registry"
    __table_args__ = (UniqueConstraint("tag", "entity_type"),)

    seed_id: str = _text(primary_key=True)
    entity_type: str = _text(primary_key=True)
    tag: str = _text()


class DeliveryBatch(SQLModel, table=True):
    """One claimed batch and what it came to: throughput, remote calls and tokens over time."""

    __tablename__: ClassVar[str] = "delivery_batch"
    __table_args__ = (Index("delivery_batch_finished", "finished_at"),)

    id: int | None = Field(
        default=None, sa_type=BigInteger, sa_column_args=[Identity(always=True)], primary_key=True
    )
    sink: str = _text()
    worker: str = _text()
    claimed: int
    synced: int
    superseded: int
    retried: int
    dead: int
    lost: int
    remote_calls: int
    tokens: int
    seconds: float
    finished_at: datetime = _stamp(optional=False)


class VerifyRun(SQLModel, table=True):
    """One comparison of all stores, and what it found."""

    __tablename__: ClassVar[str] = "verify_run"

    id: int | None = Field(
        default=None, sa_type=BigInteger, sa_column_args=[Identity(always=True)], primary_key=True
    )
    seconds: float
    consistent: bool
    result: dict[str, Any] = _json()
    finished_at: datetime = _stamp(optional=False)


def _look_up_vectors(entity: type[EntityColumns]) -> None:
    """Give an entity its vector as an attribute; it is kept once, by what it embeds."""
    tables = SQLModel.metadata.tables
    kept, state = tables["embedding"].c, tables["sink_state"].c
    own = tables[str(entity.__tablename__)]
    dimensions = select(state.config["dimensions"].as_integer()).where(state.sink == "embedding")
    vector = select(kept.vector).where(
        kept.model == own.c.embedding_model,
        kept.dimensions == dimensions.scalar_subquery(),
        kept.text_hash == own.c.embedding_text_hash,
    )
    looked_up = column_property(vector.correlate(own).scalar_subquery(), deferred=True)
    setattr(entity, "embedding_vector", looked_up)  # noqa: B010  (no column, says the class)


for _entity in (SportArchetype, League, FewShotExample):
    _look_up_vectors(_entity)
