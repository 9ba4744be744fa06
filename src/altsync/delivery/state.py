"""The state of one batch while it is delivered, its lease, and its result."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from uuid import UUID

import structlog

from altsync.circuit.breaker import Fault
from altsync.contract import Failed, RecordOutcome
from altsync.costs.ledger import Bill
from altsync.db import Database
from altsync.delivery.evidence import ALONE, Destination
from altsync.delivery.policy import Policy
from altsync.entities import EntityType, Row
from altsync.errors import SinkFailure
from altsync.log import redact
from altsync.operations import Operation, Settlement
from altsync.outbox.claim import extend

log = structlog.get_logger(__name__)

#: Refusals of neighbours after which a record from the far end of the batch is tried.
FAR_AFTER = ALONE - 1


@dataclass(slots=True)
class BatchState:
    """The state of delivering one batch.

    ``known`` are the faults that destinations had before. ``blamed`` are the destinations that
    accepted nothing in this batch, and why. ``failure`` is that of the sink as a whole. ``marks``
    are the positions of its last writes, by type and namespace.
    """

    token: UUID
    operations: Mapping[UUID, Operation]
    lease_ends: float
    known: Mapping[str, Fault] = field(default_factory=dict)
    outcomes: dict[UUID, RecordOutcome] = field(default_factory=dict)
    destinations: dict[str, Destination] = field(default_factory=dict)
    blamed: dict[str, SinkFailure] = field(default_factory=dict)
    outcome_unknown: set[UUID] = field(default_factory=set)
    marks: dict[tuple[EntityType, str], int] = field(default_factory=dict)
    calls: int = 0
    bill: Bill = field(default_factory=Bill)
    failures_in_a_row: int = 0
    failure: SinkFailure | None = None
    answered: bool = False
    attempted: bool = False

    @property
    def op_ids(self) -> list[int]:
        """Ids of the operations of the batch."""
        return [op.id for op in self.operations.values()]

    def destination(self, entity_type: EntityType, *, deleted: bool) -> Destination:
        """Return the destination of rows of one type, written or removed."""
        new = Destination(entity_type, deleted)
        new.fault = self.known.get(new.name)
        return self.destinations.setdefault(new.name, new)

    def is_refused(self, row_id: UUID) -> bool:
        """Return whether this record failed alone, and none has passed since."""
        return any(row_id in one.refused for one in self.destinations.values())

    def is_charged(self, row_id: UUID) -> bool:
        """Return whether another record passed after this one failed alone."""
        return any(row_id in one.charged for one in self.destinations.values())


@dataclass(frozen=True, slots=True)
class Request:
    """The records of one call, and how often it has met another writer's lock.

    ``day`` is that of the call's reserved cost; None without a cap.
    """

    rows: Sequence[Row]
    destination: Destination
    repeats: int = 0
    day: date | None = None


def far_end_next(pending: list[Request]) -> list[Request]:
    """Put a record from the far end next, where two neighbours were refused alone.

    Calls are taken from the end.
    """
    if not pending:
        return pending
    destination = pending[-1].destination
    if len(destination.refused) != FAR_AFTER or destination.passed:
        return pending
    index = next(i for i, call in enumerate(pending) if call.destination is destination)
    rows = pending[index].rows
    rest = [replace(pending[index], rows=rows[:-1])] if len(rows) > 1 else []
    return [*pending[:index], *rest, *pending[index + 1 :], Request(rows[-1:], destination)]


def as_failed(row: Row, failure: SinkFailure) -> Failed:
    """Return the outcome of a record whose call failed."""
    return Failed(
        row.id,
        failure.kind,
        redact(failure.reason),
        failure.outcome_unknown,
        failure.timed_out,
        failure.retry_after,
    )


def hold_lease(database: Database, sink: str, policy: Policy, state: BatchState) -> bool:
    """Make sure that the lease lasts for one more call; False when it was taken away.

    The first call needs no statement while enough of the lease is left.
    """
    if not state.attempted and state.lease_ends - time.monotonic() > policy.timeout:
        return True
    extended = time.monotonic()
    with database.autocommit() as conn:
        held = extend(conn, state.op_ids, state.token, policy.lease)
    state.lease_ends = extended + policy.lease
    if not held:
        log.error("lease.lost", sink=sink, operations=len(state.op_ids))
    return held


@dataclass(slots=True)
class Batch:
    """One claimed batch and its settlement."""

    claimed: int = 0
    settlement: Settlement = field(default_factory=Settlement)
    calls: int = 0
    bill: Bill = field(default_factory=Bill)


@dataclass(slots=True)
class DrainResult:
    """The operations of one drain by their outcome.

    ``has_more``: its time ran out before the outbox was empty.
    """

    batches: int = 0
    claimed: int = 0
    synced: int = 0
    superseded: int = 0
    retried: int = 0
    dead: int = 0
    lost: int = 0
    remote_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    has_more: bool = False

    def add(self, batch: Batch) -> None:
        """Count one more batch."""
        self.batches += 1
        self.claimed += batch.claimed
        self.remote_calls += batch.calls
        self.tokens += batch.bill.usage.tokens
        counts = asdict(batch.settlement)
        del counts["ages"]
        for name, count in counts.items():
            setattr(self, name, getattr(self, name) + count)
