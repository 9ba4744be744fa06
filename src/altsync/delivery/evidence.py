"""Decide whether a record or its destination is the cause of a failed call.

A record is charged only when another record of its destination has passed since it failed alone.
While nothing passes, the destination is the cause, and no attempt is spent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from altsync.circuit.breaker import Fault
from altsync.entities import EntityType, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind

#: Records refused alone, one after another, before a batch stops trying others. Two may be
#: neighbours with the same mistake; the third comes from the far end of the batch.
ALONE = 3

#: Timeouts and 5xx of a record before it may be charged. By then it is alone in its call, and a
#: sink that fails one call in five has most likely answered in between.
TIMEOUTS = 3


def destination_of(entity_type: EntityType, *, deleted: bool) -> str:
    """Return the name of a row's destination: its type, and whether it is removed."""
    return f"{entity_type}:delete" if deleted else str(entity_type)


@dataclass(slots=True)
class Destination:
    """One type of record in one batch, written or removed, and the outcome of its calls.

    ``fault`` is set when the destination refused everything in an earlier batch. ``refused`` are
    records that failed alone, with none passed since. ``charged`` are records that failed alone
    before another one passed. ``unjudged``: no other record could be tried as evidence.
    """

    entity_type: EntityType
    deleted: bool
    fault: Fault | None = None
    failed: bool = False
    passed: bool = False
    stopped: bool = False
    failure: SinkFailure | None = None
    refused: dict[UUID, SinkFailure] = field(default_factory=dict)
    charged: set[UUID] = field(default_factory=set)
    unjudged: bool = False
    keys: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Return its name in the shared state of the sink."""
        return destination_of(self.entity_type, deleted=self.deleted)

    @property
    def unproven(self) -> bool:
        """Return whether calls go out one at a time: one has failed, and none has passed."""
        return not self.passed and (self.failed or self.fault is not None)

    @property
    def needs_control(self) -> bool:
        """Return whether a control write comes next, before more records are tried."""
        had_fault = self.fault is not None and not self.passed
        return len(self.refused) >= (1 if had_fault else ALONE)

    def refuse(self, row: Row, failure: SinkFailure) -> None:
        """Record that a row failed alone."""
        self.failed = True
        self.refused[row.id] = failure
        self.keys.append(row.key)
        self.failure = failure

    def pass_on(self) -> None:
        """Record that a row passed, and charge those that failed alone before it."""
        self.passed = True
        self.failure = None
        self.charged.update(self.refused)
        self.refused.clear()

    def charge_few(self) -> None:
        """Charge the last refusals of a batch in which other records passed before.

        Timeouts are not charged here: the sink may have stopped answering after the last success.
        """
        clear = all(one.kind is not ErrorKind.SINK for one in self.refused.values())
        if self.passed and clear and len(self.refused) < ALONE:
            self.pass_on()

    def blame(self) -> SinkFailure:
        """Return the failure of the destination, which names the record that may be the cause."""
        assert self.failure is not None
        reason = self.failure.reason
        if self.unjudged and self.keys:
            record = f"{'removing ' if self.deleted else ''}{self.entity_type} {self.keys[0]}"
            more = f" and {len(self.keys) - 1} more" if len(self.keys) > 1 else ""
            reason = (
                f"{reason} (refused: {record}{more}. No other {self.entity_type} has passed since, "
                "so nothing shows whether the record or the sink is at fault, and no attempt is "
                "spent. If it is the record, correct its seed line and seed again)"
            )
        return SinkFailure(ErrorKind.SINK, reason)
