"""Whose fault a failed call is: a record's, or that of the destination that it was sent to.

A record is charged only when another record of its destination has passed since it failed alone.
While nothing passes, the destination is at fault, and no attempt is spent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from altsync.circuit.breaker import Fault
from altsync.entities import EntityType, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind

#: Records that are refused alone, one after another, before a batch stops trying others. Two may
#: be neighbours with the same mistake; the third comes from the far end of the batch.
ALONE = 3

#: Failed calls of a record that timed out or met a 5xx before it is judged at all: by then it was
#: alone in its call, and a sink that fails one call in five has most likely answered in between.
TIMEOUTS = 3


def destination_of(entity_type: EntityType, *, deleted: bool) -> str:
    """Return the name of what a row is sent to: its type, written or removed."""
    return f"{entity_type}:delete" if deleted else str(entity_type)


@dataclass(slots=True)
class Destination:
    """One type of record in one batch, written or removed, and how its calls ended.

    ``fault`` is set when the destination refused everything in an earlier batch. ``refused`` are
    records that failed alone while nothing has passed since. ``charged`` are those that failed
    alone before another one passed. ``unjudged``: no other record could be tried as evidence.
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
        """Its name in the shared state of the sink."""
        return destination_of(self.entity_type, deleted=self.deleted)

    @property
    def unproven(self) -> bool:
        """Whether calls go out one at a time: something failed, and nothing has passed yet."""
        return not self.passed and (self.failed or self.fault is not None)

    @property
    def needs_control(self) -> bool:
        """Return whether to ask for evidence now, before more records are tried."""
        known = self.fault is not None and not self.passed
        return len(self.refused) >= (1 if known else ALONE)

    def refuse(self, row: Row, failure: SinkFailure) -> None:
        """Note that a record failed alone."""
        self.failed = True
        self.refused[row.id] = failure
        self.keys.append(row.key)
        self.failure = failure

    def pass_on(self) -> None:
        """Note that a record passed: those that failed alone before it are charged."""
        self.passed = True
        self.failure = None
        self.charged.update(self.refused)
        self.refused.clear()

    def charge_few(self) -> None:
        """Charge the last refusals of a batch in which others of the destination passed before.

        For clear refusals alone: a sink that stopped answering may have done so just now.
        """
        clear = all(one.kind is not ErrorKind.SINK for one in self.refused.values())
        if self.passed and clear and len(self.refused) < ALONE:
            self.pass_on()

    def blame(self) -> SinkFailure:
        """Return the failure as the destination's own, in the sink's words.

        Where a record may be at fault as well, it says which, and what to do.
        """
        assert self.failure is not None
        reason = self.failure.reason
        if self.unjudged and self.keys:
            who = f"{'removing ' if self.deleted else ''}{self.entity_type} {self.keys[0]}"
            more = f" and {len(self.keys) - 1} more" if len(self.keys) > 1 else ""
            reason = (
                f"{reason} (refused: {who}{more}. No other {self.entity_type} has passed since, so "
                "nothing shows whether the record or the sink is at fault, and no attempt is "
                "spent. If it is the record, correct its seed line and seed again)"
            )
        return SinkFailure(ErrorKind.SINK, reason)
