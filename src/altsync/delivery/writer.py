"""BatchState one sink: a few calls at once, halved at a refusal, never longer than the lease.

A batch stops trying a destination that refuses everything: see :mod:`altsync.delivery.evidence`.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from uuid import UUID

import psycopg
import structlog

from altsync.catalogue.current import entity_types
from altsync.circuit.breaker import Fault
from altsync.circuit.control import passed_since
from altsync.contract import EMBEDDING, AlreadyNewer, Answer, Failed, RecordOutcome, Written
from altsync.db import Database
from altsync.declarations import namespace_column
from altsync.delivery.budget import Budget, fitting, size_of
from altsync.delivery.concurrency import AdaptiveConcurrency
from altsync.delivery.control import Controls, as_failure, attempt, is_misplaced
from altsync.delivery.evidence import ALONE, TIMEOUTS, Destination
from altsync.delivery.policy import Policy
from altsync.entities import EntityType, Model, Row
from altsync.errors import SinkFailure
from altsync.log import redact
from altsync.operations import ErrorKind, Operation
from altsync.outbox.claim import extend
from altsync.outbox.edges import begin_searches
from altsync.outbox.settle import record_former_namespaces, record_namespaces
from altsync.projection import namespace
from altsync.protocols import Sink

log = structlog.get_logger(__name__)

#: Failed calls in a row after which the rest of a batch is not tried.
FAILURES_IN_A_ROW = 2

#: Refusals of neighbours after which a record from the far end of the batch is tried.
FAR_AFTER = ALONE - 1

#: Calls that met another writer's lock and are repeated as they are, before they are halved.
REPEATS = 3

#: Seconds between those repeats at most; the other writer is done in far less.
REPEAT_PAUSE = 0.1


@dataclass(slots=True)
class BatchState:
    """The state of writing one batch.

    ``known`` are faults that destinations had before. ``blamed`` are destinations of this batch
    that took nothing, and why. ``failure`` is that of the sink as a whole.
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
    """Records of one call, and how often it has met another writer's lock."""

    rows: Sequence[Row]
    destination: Destination
    repeats: int = 0


class Writer:
    """Writes batches to one sink. Threads may share it: a batch's state is in ``BatchState``."""

    def __init__(
        self,
        database: Database,
        sink: Sink,
        policy: Policy,
        concurrency: AdaptiveConcurrency,
        worker: str,
        at: Callable[[str], None],
    ) -> None:
        self._database = database
        self._sink = sink
        self._traits = sink.traits
        self._policy = policy
        self._concurrency = concurrency
        self._at = at
        self._is_set_up = False
        self._executor = ThreadPoolExecutor(
            self._traits.in_flight, thread_name_prefix=f"{self._traits.name}-call"
        )
        self._budget = Budget(database, self._traits.name, policy)
        self._controls = Controls(database, sink, policy, self._budget, worker)

    def write(
        self, ready: Sequence[Row], gone: Sequence[Row], state: BatchState, model: Model
    ) -> None:
        """Write rows and remove those that are gone; what came of it is in ``writing``."""
        if ready or gone:
            ready, gone = self._set_up(ready, gone, state)
        try:
            self._note_former_places([*ready, *gone], state)
            placed = self._settle_places(ready, state, model)
            self._at("namespaces_recorded")
            self._call_all(_by_type(placed), state, model)
            # Children before parents: what leads to a node goes before it.
            self._call_all(_by_type(gone)[::-1], state, model, removing=True)
            self._leave_former_keys([*placed, *gone], state, model)
        except SinkFailure as failure:  # a budget that is used up
            state.failure = failure
        self._share_blame(state)

    def _note_former_places(self, rows: Sequence[Row], state: BatchState) -> None:
        """Have operations know where their entities were, before those leave it."""
        former = {
            (row.entity_type, row.id): row.written_namespace
            for row in rows
            if row.written_namespace and row.entity_type.moves
            if row.deleted or is_misplaced(row)
        }
        if former:
            with self._database.transaction() as conn:
                record_former_namespaces(conn, self._traits, state.token, former)

    def _settle_places(
        self, ready: Sequence[Row], state: BatchState, model: Model
    ) -> Sequence[Row]:
        """Leave former places, and remember the wanted ones before anything is written there.

        In this order the entity always names a place that the sink may hold it in, whatever is
        interrupted. Returns the rows that may be written.
        """
        placed = namespace_column(self._traits.name) is not None
        strays = [row for row in ready if placed and is_misplaced(row)]
        if not strays:
            return ready
        moved = [row for row in strays if row.written_namespace or row.stale_namespaces]
        self._call_all(_by_type(moved), state, model, removing=True)
        # While the rows still say which places these are.
        self._leave_former_keys(moved, state, model)
        left = {row.id for row in moved if isinstance(state.outcomes.get(row.id), Written)}
        stuck = {row.id for row in moved} - left
        for row_id in left:
            del state.outcomes[row_id]  # only half of the way
        free = [row for row in strays if row.id not in stuck]
        places = {(row.entity_type, row.id): namespace(row) for row in free}
        with self._database.transaction() as conn:
            held = record_namespaces(conn, self._traits, state.token, places)
        stuck |= {row.id for row in free} - held
        return [
            replace(row, written_namespace=namespace(row), stale_namespaces=())
            if row.id in left
            else row
            for row in ready
            if row.id not in stuck
        ]

    def _leave_former_keys(self, rows: Sequence[Row], state: BatchState, model: Model) -> None:
        """Remove what was renamed from where it was, after it was written where it is now.

        Last, so that what leads to it in the same batch leads to its new place already. An
        operation is done when both are.
        """
        if self._traits.name == EMBEDDING or self._traits.follows:
            return  # kept by what they embed, or by id
        named = [row for row in rows if row.former_keys]
        for place in range(max((len(row.former_keys) for row in named), default=0)):
            leaving = [
                replace(row, key=row.former_keys[place], deleted=True)
                for row in named
                if place < len(row.former_keys) and _is_done(state.outcomes.get(row.id))
            ]
            written = {row.id: state.outcomes.pop(row.id) for row in leaving}
            self._at("leaving")
            self._call_all(_by_type(leaving)[::-1], state, model, removing=True)
            for row_id, outcome in written.items():
                if _is_done(state.outcomes.get(row_id)):
                    state.outcomes[row_id] = outcome

    def _set_up(
        self, ready: Sequence[Row], gone: Sequence[Row], state: BatchState
    ) -> tuple[Sequence[Row], Sequence[Row]]:
        """Set the sink up, once a process; return the rows whose destinations are there.

        A sink that was switched on later has no indexes yet. What cannot be set up is never a
        record's fault.
        """
        if self._is_set_up:
            return ready, gone
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
            return ready, gone
        if not blamed.only:
            state.failure = blamed
            return (), ()
        for row in (*ready, *gone):
            if row.entity_type in blamed.only:
                one = state.destination(row.entity_type, deleted=row.deleted)
                one.failed, one.failure = True, blamed
        return (
            [row for row in ready if row.entity_type not in blamed.only],
            [row for row in gone if row.entity_type not in blamed.only],
        )

    def _call_all(
        self,
        groups: Sequence[Sequence[Row]],
        state: BatchState,
        model: Model,
        *,
        removing: bool = False,
    ) -> None:
        """Send rows by type, some calls at once; halve a call when it is refused.

        ``removing`` deletes them. Rows that were refused alone are judged at the end.
        """

        def send(rows: Sequence[Row]) -> Answer:
            return self._sink.delete(rows) if removing else self._sink.upsert(rows, model)

        pending: list[Request] = []
        destinations = []
        for rows in reversed(groups):
            one = state.destination(rows[0].entity_type, deleted=removing)
            destinations.append(one)
            parts = self._cut(rows, one, state, model)
            pending += [Request(part, one) for part in reversed(parts)]
        while pending and state.failures_in_a_row < FAILURES_IN_A_ROW:
            wave = self._next_wave(pending)
            reserved = self._budget.reserve([call.rows for call in wave])
            if reserved:
                time.sleep(reserved.wait)
            if not self._hold_lease(state):
                return
            if self._traits.follows:
                self._begin_searches(wave, state)
            answers = self._send_all(wave, state, send)
            if reserved:
                self._budget.correct(reserved, answers)
            pending += self._note(wave, answers, state)
            for one in {call.destination.name: call.destination for call in wave}.values():
                if one.needs_control and not self._control(one, state, model):
                    one.stopped = True
            pending = _in_order([call for call in pending if not call.destination.stopped])
        for one in destinations:
            one.charge_few()
            if one.refused and not one.stopped:
                self._control(one, state, model)

    def _cut(
        self, rows: Sequence[Row], one: Destination, state: BatchState, model: Model
    ) -> list[Sequence[Row]]:
        """Cut rows of one type into calls; one row first where none passed the last time."""
        try:
            parts = [part for part in self._sink.split(rows, model) if part]
        except psycopg.Error:
            raise
        except Exception as error:
            failure = as_failure(self._traits.name, error, len(rows))
            if failure.kind is ErrorKind.SINK:
                raise failure from error
            if len(rows) > 1:
                middle = len(rows) // 2
                halves = (rows[:middle], rows[middle:])
                cut = (self._cut(half, one, state, model) for half in halves)
                return [part for parts in cut for part in parts]
            one.refuse(rows[0], failure)
            state.outcomes[rows[0].id] = _failed(rows[0], failure)
            return []
        if one.fault is None or not parts:
            return parts
        # Any of them: the first one may be a poison record.
        part = _any_place(len(parts))
        row = parts[part][_any_place(len(parts[part]))]
        parts[part] = [other for other in parts[part] if other is not row]
        return [[row], *(part for part in parts if part)]

    def _next_wave(self, pending: list[Request]) -> list[Request]:
        """Take the calls that go out together: each and all of them within the sink's limits.

        One alone while its destination is unproven.
        """
        wave: list[Request] = []
        room = self._budget.most
        calls = min(self._concurrency.in_flight, self._budget.most_calls)
        while pending and len(wave) < calls and (room > 0 or not wave):
            if wave and (pending[-1].destination.unproven or wave[-1].destination.unproven):
                break
            call = pending.pop()
            rows = call.rows
            count = fitting(self._traits.name, rows, min(self._concurrency.size, room))
            size = size_of(self._traits.name, rows[:count])
            if wave and size > room:
                pending.append(call)
                break
            if count < len(rows):
                pending.append(replace(call, rows=rows[count:]))
            wave.append(replace(call, rows=rows[:count]))
            room -= size
        return wave

    def _learn_size(self, rows: Sequence[Row], answer: Answer | SinkFailure) -> None:
        """Have the next calls be smaller after a refusal that a smaller one may escape."""
        size = size_of(self._traits.name, rows)
        if isinstance(answer, SinkFailure):
            if answer.throttled:
                self._concurrency.throttled(size)
        elif answer.calls:
            self._concurrency.passed(size)

    def _note(
        self,
        wave: Sequence[Request],
        answers: Sequence[Answer | SinkFailure],
        state: BatchState,
    ) -> list[Request]:
        """Keep what calls came to; return those to make instead of refused ones."""
        more: list[Request] = []
        for call, answer in zip(wave, answers, strict=True):
            if isinstance(answer, SinkFailure):
                state.calls += 1
                more += self._failed(call, state, answer)
            else:
                state.calls += answer.calls
                self._note_answer(call, state, answer)
                self._at("called")
        return more

    def _begin_searches(self, wave: Sequence[Request], state: BatchState) -> None:
        rows = [row for call in wave for row in call.rows]
        with self._database.transaction() as conn:
            begin_searches(conn, self._traits, state.token, rows)

    def _send_all(
        self, wave: Sequence[Request], state: BatchState, send: Callable[[Sequence[Row]], Answer]
    ) -> list[Answer | SinkFailure]:
        """Return what came of calls that go out together, in their order."""
        state.attempted = True
        started = time.monotonic()
        if len(wave) == 1:
            answers = [attempt(self._traits.name, wave[0].rows, send)]
        else:
            answers = list(
                self._executor.map(lambda call: attempt(self._traits.name, call.rows, send), wave)
            )
        seconds = time.monotonic() - started
        for call, answer in zip(wave, answers, strict=True):
            self._learn_size(call.rows, answer)
        if any(isinstance(a, SinkFailure) and a.kind is ErrorKind.SINK for a in answers):
            self._concurrency.refused(seconds)
        else:
            self._concurrency.answered(seconds)
        return answers

    def _failed(self, call: Request, state: BatchState, failure: SinkFailure) -> list[Request]:
        """Note a call that failed; return the calls to make instead of it."""
        rows, one = call.rows, call.destination
        if failure.outcome_unknown:
            state.outcome_unknown.update(row.id for row in rows)
        if failure.kind is ErrorKind.SINK:
            self._note_failure(call, state, failure)
            return []
        if failure.lock_conflict and call.repeats < REPEATS:
            time.sleep(random.uniform(0, REPEAT_PAUSE))  # noqa: S311
            return [replace(call, repeats=call.repeats + 1)]
        one.failed = True
        if len(rows) > 1:
            middle = len(rows) // 2
            return [Request(rows[middle:], one), Request(rows[:middle], one)]
        one.refuse(rows[0], failure)
        state.outcomes[rows[0].id] = _failed(rows[0], failure)
        return []

    def _note_answer(self, call: Request, state: BatchState, answer: Answer) -> None:
        state.tokens += answer.tokens
        if state.failure is None or state.failure.retry_after is None:
            state.failures_in_a_row, state.failure = 0, None  # the sink is up after all
        rows = {row.id: row for row in call.rows}
        said: dict[UUID, RecordOutcome] = {outcome.id: outcome for outcome in answer.outcomes}
        silent = "the sink said nothing of this record"
        said |= {i: Failed(i, ErrorKind.UNKNOWN, silent) for i in rows.keys() - said.keys()}
        state.outcomes.update(said)
        for outcome in said.values():
            # What is final is altsync's own finding, and says nothing of the destination.
            if (
                isinstance(outcome, Failed)
                and outcome.kind is not ErrorKind.SINK
                and not outcome.final
            ):
                failure = SinkFailure(
                    outcome.kind, outcome.reason, outcome_unknown=outcome.outcome_unknown
                )
                call.destination.refuse(rows[outcome.id], failure)
        # What needed no call says nothing of a sink that is called.
        asked = answer.calls > 0 or self._traits.local
        if asked and any(isinstance(o, Written | AlreadyNewer) for o in said.values()):
            state.answered = True
            call.destination.pass_on()

    def _note_failure(self, call: Request, state: BatchState, failure: SinkFailure) -> None:
        rows, one = call.rows, call.destination
        log.warning(
            "sink.refused", sink=self._traits.name, records=len(rows), reason=failure.reason
        )
        state.failure = failure
        state.failures_in_a_row += 1
        if failure.retry_after is not None:
            state.failures_in_a_row = FAILURES_IN_A_ROW  # asked to wait: do not go on asking
        state.outcomes.update((row.id, _failed(row, failure)) for row in rows)
        one.failed, one.failure = True, failure
        if one.fault is not None and not one.passed:
            one.stopped = True
        if len(rows) == 1 and failure.timed_out and failure.retry_after is None:
            op = state.operations.get(rows[0].id)
            if op is not None and op.timeout_count >= TIMEOUTS - 1:
                one.refuse(rows[0], failure)

    def _control(self, one: Destination, state: BatchState, model: Model) -> bool:
        """Return whether another record passes now, after some were refused alone.

        Charges those when it does.
        """
        if not self._hold_lease(state):
            return False
        answer = self._controls.ask(one, state.token, model)
        if answer is None:
            return self._note_passed_since(one, state)
        state.calls += 1
        if isinstance(answer, SinkFailure):
            log.info(
                "control.failed",
                sink=self._traits.name,
                destination=one.name,
                reason=answer.reason,
            )
            if answer.retry_after is not None:
                state.failure = answer
            return False
        state.tokens += answer.tokens
        self._note_evidence(one, state)
        return True

    def _note_passed_since(self, one: Destination, state: BatchState) -> bool:
        """Return whether another record has passed since these failed alone the last time.

        It is the evidence where a sink holds nothing that could be written once more.
        """
        ids = [state.operations[i].id for i in one.refused]
        # Kept vectors need no call: they are no evidence of the embedder.
        if self._traits.name != EMBEDDING:
            with self._database.autocommit() as conn:
                if passed_since(conn, ids):
                    self._note_evidence(one, state)
                    return True
        one.unjudged = True
        return False

    def _note_evidence(self, one: Destination, state: BatchState) -> None:
        """Charge the records that were refused alone: another one passes."""
        state.answered = True
        if any(failure is state.failure for failure in one.refused.values()):
            state.failure, state.failures_in_a_row = None, 0  # the record's, not the sink's
        one.pass_on()

    def _share_blame(self, state: BatchState) -> None:
        """Say which destinations took nothing, and whether that is the sink as a whole."""
        last = state.failure
        if last is not None and last.retry_after is not None:
            return  # throttled: the sink answers for all destinations
        failing = [one for one in state.destinations.values() if one.failure is not None]
        for one in failing:
            if one.refused or not one.passed:
                state.blamed[one.name] = one.blame()
        others = any(one.passed for one in state.destinations.values())
        if others and any(one.failure is last for one in failing if not one.passed):
            state.failure = None
        elif not others and last is None and state.blamed:
            state.failure = next(iter(state.blamed.values()))

    def _hold_lease(self, state: BatchState) -> bool:
        """Make sure of the lease for one more call; False when it was taken away."""
        if not state.attempted and state.lease_ends - time.monotonic() > self._policy.timeout:
            return True
        asked = time.monotonic()
        with self._database.autocommit() as conn:
            held = extend(conn, state.op_ids, state.token, self._policy.lease)
        state.lease_ends = asked + self._policy.lease
        if not held:
            log.error("lease.lost", sink=self._traits.name, operations=len(state.op_ids))
        return held


def _any_place(count: int) -> int:
    """Return a random place in a list of so many."""
    return min(count - 1, int(random.uniform(0, count)))  # noqa: S311


def _in_order(pending: list[Request]) -> list[Request]:
    """Put a record from the far end next, where two neighbours were refused alone.

    Calls are taken from the end.
    """
    if not pending:
        return pending
    one = pending[-1].destination
    if len(one.refused) != FAR_AFTER or one.passed:
        return pending
    place = next(i for i, call in enumerate(pending) if call.destination is one)
    rows = pending[place].rows
    rest = [replace(pending[place], rows=rows[:-1])] if len(rows) > 1 else []
    return [*pending[:place], *rest, *pending[place + 1 :], Request(rows[-1:], one)]


def _by_type(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[EntityType, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.entity_type].append(row)
    return [groups[entity_type] for entity_type in entity_types() if entity_type in groups]


def _is_done(outcome: RecordOutcome | None) -> bool:
    return isinstance(outcome, Written | AlreadyNewer)


def _failed(row: Row, failure: SinkFailure) -> Failed:
    return Failed(
        row.id,
        failure.kind,
        redact(failure.reason),
        failure.outcome_unknown,
        failure.timed_out,
        failure.retry_after,
    )
