"""Operations of the outbox, and their possible outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from altsync.entities import EntityType


class Action(StrEnum):
    """The change that an operation was enqueued for. A hint only: the current row decides."""

    UPSERT = "upsert"
    DELETE = "delete"


class ErrorKind(StrEnum):
    """The cause of an error, which decides whether it spends an attempt.

    ``ITEM``: the record; spends an attempt. ``SINK``: the sink is down, throttled or refuses the
    API key; opens the breaker and gives the attempt back. ``UNKNOWN``: not known; spends an
    attempt. ``LOST``: the worker vanished with its lease.
    """

    ITEM = "item"
    SINK = "sink"
    UNKNOWN = "unknown"
    LOST = "lost"


#: The values of an operation's column ``status``.
OPERATION_STATUSES = ("pending", "in_progress", "synced", "dead", "superseded", "discarded")


class Origin(StrEnum):
    """The cause of an operation."""

    SEED = "seed"
    UPDATE = "update"
    EMBEDDING = "embedding"
    RETRY = "retry"
    RECONCILE = "reconcile"
    BACKFILL = "backfill"
    SIMILARITY = "similarity"
    MODEL = "model"
    CONFIRM = "confirm"


class BreakerState(StrEnum):
    """The state of a sink's breaker, as shown: workers claim while it is closed."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"
    PAUSED = "paused"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Operation:
    """A claimed row of the outbox: this entity must reach the sink at ``version`` or later.

    ``timeout_count`` counts its calls that timed out or got a 5xx. ``namespaces`` are those that
    its writes may have reached. ``first_version`` is the lowest version that it delivers, None for
    ``version``. ``changed_at`` is the time of the first change, None for background work.
    ``origin`` is why it was enqueued, for the record of costs.
    """

    id: int
    entity_type: EntityType
    entity_id: UUID
    entity_key: str
    version: int
    attempts: int
    timeout_count: int
    outcome_unknown: bool
    namespaces: tuple[str, ...] = ()
    first_version: int | None = None
    changed_at: datetime | None = None
    origin: str = Origin.SEED


@dataclass(frozen=True, slots=True)
class Synced:
    """Outcome: written, at ``version``, under the sink's own ids.

    ``outcome_unknown``: an earlier call for it in this batch may still be applied.
    """

    op: Operation
    version: int
    remote_id: str | None = None
    namespace: str | None = None
    outcome_unknown: bool = False
    edge_ids: Mapping[UUID, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Superseded:
    """Outcome: nothing is left to write, or with ``waits``, the embedding is missing."""

    op: Operation
    reason: str
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Dead:
    """Outcome: moved to the dead letters. ``version`` is that of the row that failed.

    ``outcome_unknown``: its last call may still be applied.
    """

    op: Operation
    version: int
    kind: ErrorKind
    reason: str
    outcome_unknown: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """Outcome: due again after ``delay`` seconds. ``give_back``: the attempt is not spent.

    ``alone``: the record failed in a call of its own.
    """

    op: Operation
    kind: ErrorKind
    reason: str
    delay: float
    give_back: bool = False
    outcome_unknown: bool = False
    timed_out: bool = False
    alone: bool = False


Outcome = Synced | Superseded | Dead | Retry


@dataclass(frozen=True, slots=True)
class Settlement:
    """The operations of a settled batch by outcome. Another worker has the lease of ``lost``.

    ``ages`` are the seconds from each user's change to its confirmation by the sink.
    """

    synced: int = 0
    superseded: int = 0
    dead: int = 0
    retried: int = 0
    lost: int = 0
    ages: tuple[float, ...] = field(default=(), compare=False)
