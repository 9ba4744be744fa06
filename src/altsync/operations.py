"""Operations of the outbox, and how each of them may end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from altsync.entities import EntityType


class Action(StrEnum):
    """What an operation was enqueued for. A hint for people: the current row decides."""

    UPSERT = "upsert"
    DELETE = "delete"


class ErrorKind(StrEnum):
    """Whose fault an error is, and so what it costs.

    ``ITEM``: the record's; spends an attempt. ``SINK``: the sink is down, throttled or refuses
    the key; opens the breaker and gives the attempt back. ``UNKNOWN``: not told; spends an
    attempt. ``LOST``: the worker vanished with its lease.
    """

    ITEM = "item"
    SINK = "sink"
    UNKNOWN = "unknown"
    LOST = "lost"


#: What the column ``status`` of an operation may say.
OPERATION_STATUSES = ("pending", "in_progress", "synced", "dead", "superseded", "discarded")


class Origin(StrEnum):
    """Who asked for an operation."""

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
    """Whether workers may claim for a sink."""

    CLOSED = "closed"
    OPEN = "open"
    PROBING = "probing"
    PAUSED = "paused"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Operation:
    """A claimed row of the outbox: this entity must reach the sink at ``version`` or later.

    ``timeout_count`` counts its calls that timed out or met a 5xx. ``namespaces`` are those
    that its writes may have reached.
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
    """Outcome: nothing to write any more, or not yet; another operation will carry it.

    ``waits``: not yet. An outcome unknown to the sink stays so until then.
    """

    op: Operation
    reason: str
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Dead:
    """Outcome: given up on; kept, shown, retryable. ``version`` is the row's that failed.

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
    """What settling came to, in operations. ``lost`` leases had been taken away meanwhile."""

    synced: int = 0
    superseded: int = 0
    dead: int = 0
    retried: int = 0
    lost: int = 0
