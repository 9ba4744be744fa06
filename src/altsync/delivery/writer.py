"""Write one batch to a sink, in the order that keeps every interruption harmless.

Former namespaces first, then the rows, then deletions, and former keys last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import psycopg
import structlog

from altsync.catalogue.current import entity_types
from altsync.contract import AlreadyNewer, RecordOutcome, Written
from altsync.db import Database
from altsync.declarations import namespace_column
from altsync.delivery.calls import Calls
from altsync.delivery.control import is_misplaced
from altsync.delivery.state import BatchState
from altsync.entities import EntityType, Model, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.outbox.namespaces import record_former_namespaces, record_namespaces
from altsync.projection import namespace
from altsync.protocols import Sink

log = structlog.get_logger(__name__)


class Writer:
    """Writes batches to one sink. Threads may share it: a batch's state is in ``BatchState``."""

    def __init__(
        self,
        database: Database,
        sink: Sink,
        calls: Calls,
        at: Callable[[str], None],
        *,
        followed: bool = False,
    ) -> None:
        self._database = database
        self._sink = sink
        self._traits = sink.traits
        self._calls = calls
        self._at = at
        self._is_set_up = False
        #: Whether a shadow leaves the namespaces that these writes leave.
        self._followed = followed

    def write(
        self, ready: Sequence[Row], deleted: Sequence[Row], state: BatchState, model: Model
    ) -> None:
        """Write rows and remove deleted ones; the answers are in ``state``."""
        if ready or deleted:
            ready, deleted = self._set_up(ready, deleted, state)
        try:
            self._record_former_namespaces([*ready, *deleted], state)
            placed = self._leave_namespaces(ready, state, model)
            self._at("namespaces_recorded")
            self._upsert(placed, state, model)
            self._remove(deleted, state, model)
            self._leave_former_keys([*placed, *deleted], state, model)
        except SinkFailure as failure:  # a budget that is used up
            state.failure = failure
        _share_blame(state)

    def _upsert(self, rows: Sequence[Row], state: BatchState, model: Model) -> None:
        self._calls.call_all(_by_type(rows), state, model)

    def _remove(self, rows: Sequence[Row], state: BatchState, model: Model) -> None:
        """Remove rows, children before parents: a node is deleted after those that refer to it."""
        self._calls.call_all(_by_type(rows)[::-1], state, model, removing=True)

    def _record_former_namespaces(self, rows: Sequence[Row], state: BatchState) -> None:
        """Record the namespaces of rows that are about to leave them."""
        former = {
            (row.entity_type, row.id): row.written_namespace
            for row in rows
            if row.written_namespace and row.entity_type.moves
            if row.deleted or is_misplaced(row)
        }
        if former:
            with self._database.transaction() as conn:
                record_former_namespaces(
                    conn, self._traits, state.token, former, always=self._followed
                )

    def _leave_namespaces(
        self, ready: Sequence[Row], state: BatchState, model: Model
    ) -> Sequence[Row]:
        """Leave former namespaces, and record the wanted ones before anything is written there.

        In this order the entity always names a namespace that the sink may hold it in. Returns
        the rows that may be written.
        """
        if namespace_column(self._traits.base) is None:
            return ready
        if self._traits.shadow:
            return self._follow(ready, state, model)
        misplaced = [row for row in ready if is_misplaced(row)]
        if not misplaced:
            return ready
        moved = [row for row in misplaced if row.written_namespace or row.stale_namespaces]
        self._remove(moved, state, model)
        # Before the rows are replaced: they still name the namespaces that they leave.
        self._leave_former_keys(moved, state, model)
        left = {row.id for row in moved if isinstance(state.outcomes.get(row.id), Written)}
        for row_id in left:
            del state.outcomes[row_id]  # the removal is only half of the move
        stuck = {row.id for row in moved} - left
        free = [row for row in misplaced if row.id not in stuck]
        wanted = {(row.entity_type, row.id): namespace(row) for row in free}
        with self._database.transaction() as conn:
            held = record_namespaces(conn, self._traits, state.token, wanted)
        stuck |= {row.id for row in free} - held
        return [
            replace(row, written_namespace=namespace(row), stale_namespaces=())
            if row.id in left
            else row
            for row in ready
            if row.id not in stuck
        ]

    def _follow(self, ready: Sequence[Row], state: BatchState, model: Model) -> Sequence[Row]:
        """Leave the namespaces that the shadow's sink has left; return the rows to write."""
        moved = [row for row in ready if set(row.stale_namespaces) - {namespace(row)}]
        self._remove(moved, state, model)
        self._leave_former_keys(moved, state, model)
        left = {row.id for row in moved if isinstance(state.outcomes.get(row.id), Written)}
        for row_id in left:
            del state.outcomes[row_id]
        stuck = {row.id for row in moved} - left
        return [replace(row, stale_namespaces=()) for row in ready if row.id not in stuck]

    def _leave_former_keys(self, rows: Sequence[Row], state: BatchState, model: Model) -> None:
        """Remove renamed records under their former keys, after they are written under the new one.

        Last, so that relationships of the same batch lead to the new key already. An operation is
        done when both calls have passed.
        """
        if self._traits.embeds or self._traits.follows:
            return  # these hold records by the hash of a text, or by id
        named = [row for row in rows if row.former_keys]
        for index in range(max((len(row.former_keys) for row in named), default=0)):
            leaving = [
                replace(row, key=row.former_keys[index], deleted=True)
                for row in named
                if index < len(row.former_keys) and _is_done(state.outcomes.get(row.id))
            ]
            written = {row.id: state.outcomes.pop(row.id) for row in leaving}
            self._at("leaving")
            self._remove(leaving, state, model)
            for row_id, outcome in written.items():
                if _is_done(state.outcomes.get(row_id)):
                    state.outcomes[row_id] = outcome

    def _set_up(
        self, ready: Sequence[Row], deleted: Sequence[Row], state: BatchState
    ) -> tuple[Sequence[Row], Sequence[Row]]:
        """Set the sink up, once in a process; return the rows whose destinations are ready.

        A sink that was switched on later has no indexes yet. A failure here is never a record's.
        """
        if self._is_set_up:
            return ready, deleted
        try:
            self._sink.setup()
        except SinkFailure as failure:
            blamed = SinkFailure(
                ErrorKind.SINK, failure.reason, retry_after=failure.retry_after, only=failure.only
            )
        except psycopg.Error:
            raise
        except Exception as error:
            log.exception("sink.failed", sink=self._traits.name)
            blamed = SinkFailure(ErrorKind.SINK, f"{type(error).__name__}: {error}")
        else:
            self._is_set_up = True
            return ready, deleted
        if not blamed.only:
            state.failure = blamed
            return (), ()
        for row in (*ready, *deleted):
            if row.entity_type in blamed.only:
                one = state.destination(row.entity_type, deleted=row.deleted)
                one.failed, one.failure = True, blamed
        return (
            [row for row in ready if row.entity_type not in blamed.only],
            [row for row in deleted if row.entity_type not in blamed.only],
        )


def _share_blame(state: BatchState) -> None:
    """Blame the destinations that accepted nothing, or the sink if all accepted nothing."""
    last = state.failure
    if last is not None and last.retry_after is not None:
        return  # a throttled sink refuses all destinations
    failing = [one for one in state.destinations.values() if one.failure is not None]
    for one in failing:
        if one.refused or not one.passed:
            state.blamed[one.name] = one.blame()
    others = any(one.passed for one in state.destinations.values())
    if others and any(one.failure is last for one in failing if not one.passed):
        state.failure = None
    elif not others and last is None and state.blamed:
        state.failure = next(iter(state.blamed.values()))


def _by_type(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[EntityType, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.entity_type].append(row)
    return [groups[entity_type] for entity_type in entity_types() if entity_type in groups]


def _is_done(outcome: RecordOutcome | None) -> bool:
    return isinstance(outcome, Written | AlreadyNewer)
