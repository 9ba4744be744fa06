"""altsync's own tables. The catalogue has the tables of entities.

The classes are for queries, and migrations are compared with them. altsync writes by SQL: ORM
objects cost ten times a COPY.
"""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Date,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlmodel import Field, SQLModel

_NOW = text("now()")
_EMPTY_OBJECT = text("'{}'::jsonb")


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


def _count(kind: Any = SmallInteger) -> Any:
    return Field(sa_type=kind, sa_column_kwargs={"server_default": text("0")}, nullable=False)


def _flag(**more: Any) -> Any:
    return Field(sa_column_kwargs={"server_default": text("false")}, nullable=False, **more)


def _identity() -> Any:
    column = [Identity(always=True)]
    return Field(default=None, sa_type=BigInteger, sa_column_args=column, primary_key=True)


def _json() -> Any:
    return Field(sa_type=JSONB, sa_column_kwargs={"server_default": _EMPTY_OBJECT}, nullable=False)


class SyncOperation(SQLModel, table=True):
    """The outbox with its history: this entity must reach this sink at this version."""

    __tablename__: ClassVar[str] = "sync_operation"
    __table_args__ = (
        CheckConstraint("action IN ('upsert', 'delete')", name="action_known"),
        CheckConstraint("version > 0", name="version_positive"),
        CheckConstraint("attempts >= 0", name="attempts_not_negative"),
        CheckConstraint(
            "origin IN ('seed', 'update', 'embedding', 'retry', 'reconcile', 'backfill', "
            "'similarity', 'model', 'confirm')",
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
            postgresql_where=text(
                "status IN ('dead', 'discarded') OR (status = 'superseded' AND outcome_unknown)"
            ),
        ),
        Index(
            "sync_operation_error_group",
            "error_group",
            "id",
            postgresql_where=text("status = 'dead'"),
        ),
        # One entity's history. Finished rows only: claims do not write it.
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
                # An update of the same page logs only the bytes that differ.
                "fillfactor": "70",
            }
        },
    )

    id: int | None = _identity()
    entity_type: str = _text()
    entity_id: UUID = Field(nullable=False)
    entity_key: str = _text()
    sink: str = _text()
    action: str = _text()
    version: int = Field(sa_type=BigInteger, nullable=False)
    first_version: int | None = Field(default=None, sa_type=BigInteger)
    origin: str = _text()
    priority: int = _count()
    status: str = _text(default="pending")
    attempts: int = _count()
    timeout_count: int = _count()
    last_timeout_at: datetime | None = _stamp()
    available_at: datetime = _stamp(optional=False)
    lease_token: UUID | None = None
    leased_by: str | None = _text(optional=True)
    rerun_requested: bool = _flag()
    outcome_unknown: bool = _flag()
    namespaces: list[str] = Field(
        sa_type=ARRAY(Text),
        sa_column_kwargs={"server_default": text("'{}'::text[]")},
        nullable=False,
    )
    last_error: str | None = _text(optional=True)
    error_kind: str | None = _text(optional=True)
    error_group: str | None = _text(optional=True)
    changed_at: datetime | None = _stamp()
    created_at: datetime = _stamp(optional=False)
    finished_at: datetime | None = _stamp()
    discarded_at: datetime | None = _stamp()
    discarded_by: str | None = _text(optional=True)
    discarded_why: str | None = _text(optional=True)


class SinkState(SQLModel, table=True):
    """The state of a sink that all processes share: breaker, pause, wake-ups, model."""

    __tablename__: ClassVar[str] = "sink_state"
    __table_args__ = (
        CheckConstraint("state IN ('closed', 'open', 'probing', 'disabled')", name="state_known"),
    )

    sink: str = _text(primary_key=True)
    state: str = _text(default="closed")
    since: datetime = _stamp(optional=False)
    reason: str | None = _text(optional=True)
    paused_since: datetime | None = _stamp()
    pause_reason: str | None = _text(optional=True)
    open_until: datetime | None = _stamp()
    probe_token: UUID | None = None
    probe_until: datetime | None = _stamp()
    consecutive_errors: int = _count(Integer)
    last_claim_at: datetime | None = _stamp()
    last_wake_at: datetime | None = _stamp()
    unanswered_wakes: int = _count(Integer)
    requests_until: datetime | None = _stamp()
    tokens_until: datetime | None = _stamp()
    config: dict[str, Any] = _json()


class Embedding(SQLModel, table=True):
    """Vectors by model and text, so that no text is charged twice."""

    __tablename__: ClassVar[str] = "embedding"

    model: str = _text(primary_key=True)
    dimensions: int = Field(primary_key=True)
    text_hash: str = _text(primary_key=True)
    vector: bytes = Field(sa_type=LargeBinary, nullable=False)
    created_at: datetime = _stamp(optional=False)


class TagRegistry(SQLModel, table=True):
    """The present and former tags of each seed. They stay when the entity is deleted."""

    __tablename__: ClassVar[str] = "tag_registry"
    __table_args__ = (
        Index(
            "tag_registry_current",
            "seed_id",
            "entity_type",
            unique=True,
            postgresql_where=text("NOT former"),
        ),
    )

    tag: str = _text(primary_key=True)
    entity_type: str = _text(primary_key=True)
    seed_id: str = _text()
    former: bool = _flag(default=False)


class DeliveryBatch(SQLModel, table=True):
    """One claimed batch: its operations by outcome, remote calls, cost and seconds."""

    __tablename__: ClassVar[str] = "delivery_batch"
    __table_args__ = (Index("delivery_batch_finished", "finished_at"),)

    id: int | None = _identity()
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
    read_units: int = _count(BigInteger)
    write_units: int = _count(BigInteger)
    dollars: Decimal = _count(Numeric)


class Spend(SQLModel, table=True):
    """The cost of one day (UTC) by sink and origin: units of the providers, and dollars."""

    __tablename__: ClassVar[str] = "spend"

    day: date = Field(sa_type=Date, primary_key=True)
    sink: str = _text(primary_key=True)
    origin: str = _text(primary_key=True)
    tokens: int = _count(BigInteger)
    read_units: int = _count(BigInteger)
    write_units: int = _count(BigInteger)
    dollars: Decimal = _count(Numeric)


class SpendDay(SQLModel, table=True):
    """The dollars of one day (UTC) over all sinks, and those reserved by calls."""

    __tablename__: ClassVar[str] = "spend_day"

    day: date = Field(sa_type=Date, primary_key=True)
    dollars: Decimal = _count(Numeric)
    reserved: Decimal = _count(Numeric)


class Freshness(SQLModel, table=True):
    """Changes that a sink confirmed in one minute, by their age: see ``altsync.freshness``."""

    __tablename__: ClassVar[str] = "freshness"

    sink: str = _text(primary_key=True)
    minute: datetime = Field(sa_type=DateTime(timezone=True), primary_key=True)
    bucket: int = Field(sa_type=SmallInteger, primary_key=True)
    count: int


class VisibilityMark(SQLModel, table=True):
    """The position of the last write to a namespace, from which queries can see the write."""

    __tablename__: ClassVar[str] = "visibility_mark"

    sink: str = _text(primary_key=True)
    entity_type: str = _text(primary_key=True)
    namespace: str = _text(primary_key=True)
    mark: int = Field(sa_type=BigInteger, nullable=False)
    written_at: datetime = _stamp(optional=False)


class Erasure(SQLModel, table=True):
    """An erased entity, by salted hashes of its seed id and keys: see ``altsync.erased``."""

    __tablename__: ClassVar[str] = "erasure"
    __table_args__ = (Index("erasure_seed", "entity_type", "seed_hash", unique=True),)

    id: int | None = _identity()
    entity_type: str = _text()
    seed_hash: str = _text()
    key_hashes: list[str] = Field(sa_type=ARRAY(Text), nullable=False)
    reason: str | None = _text(optional=True)
    requested_by: str = _text()
    requested_at: datetime = _stamp(optional=False)
    #: The entity to erase, until the erasure is complete.
    target: dict[str, Any] | None = Field(default=None, sa_type=JSONB, nullable=True)
    purged_at: datetime | None = _stamp()
    completed_at: datetime | None = _stamp()
    receipt_hash: str | None = _text(optional=True)
    lifted_at: datetime | None = _stamp()


class VerifyRun(SQLModel, table=True):
    """One comparison of all stores with its result."""

    __tablename__: ClassVar[str] = "verify_run"

    id: int | None = _identity()
    seconds: float
    consistent: bool
    result: dict[str, Any] = _json()
    finished_at: datetime = _stamp(optional=False)
