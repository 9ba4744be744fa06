"""The state of delivering one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from altsync.circuit.breaker import Fault
from altsync.contract import Failed, RecordOutcome
from altsync.delivery.evidence import Destination
from altsync.entities import EntityType, Row
from altsync.errors import SinkFailure
from altsync.log import redact
from altsync.operations import Operation


@dataclass(slots=True)
class BatchState:
    """The state of delivering one batch.

    ``known`` are the faults that destinations had before. ``blamed`` are the destinations that
    took nothing in this batch, and why. ``failure`` is that of the sink as a whole.
    """

    token: UUID
    operations: Mapping[UUID, Operation]
    lease_ends: float
    known: Mapping[str, Fault] = field(default_factory=dict)
    outcomes: dict[UUID, RecordOutcome] = field(default_factory=dict)
    destinations: dict[str, Destination] = field(default_factory=dict)
    blamed: dict[str, SinkFailure] = field(default_factory=dict)
    outcome_unknown: set[UUID] = field(default_factory=set)
    calls: int = 0
    tokens: int = 0
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
    """The records of one call, and how often it has met another writer's lock."""

    rows: Sequence[Row]
    destination: Destination
    repeats: int = 0


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
