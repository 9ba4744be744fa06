"""Call one sink: a few calls at once, halved at a refusal, never longer than the lease."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import UUID

import psycopg
import structlog

from altsync.contract import AlreadyNewer, Answer, Failed, RecordOutcome, Written
from altsync.db import Database
from altsync.delivery.budget import Budget, fitting, size_of
from altsync.delivery.concurrency import AdaptiveConcurrency
from altsync.delivery.control import Controls, as_failure, attempt
from altsync.delivery.evidence import TIMEOUTS, Destination
from altsync.delivery.policy import Policy
from altsync.delivery.spending import Spending
from altsync.delivery.state import BatchState, Request, as_failed, far_end_next, hold_lease
from altsync.entities import Model, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.protocols import Sink

log = structlog.get_logger(__name__)

#: Failed calls in a row after which the rest of a batch is not tried.
FAILURES_IN_A_ROW = 2

#: Repeats of a call that met another writer's lock, before it is halved.
REPEATS = 3

#: Seconds between those repeats at most; the other writer is done in far less.
REPEAT_PAUSE = 0.1


class Calls:
    """The calls to one sink. Threads may share it: a batch's state is in ``BatchState``."""

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
        self._executor = ThreadPoolExecutor(
            self._traits.in_flight, thread_name_prefix=f"{self._traits.name}-call"
        )
        self._budget = Budget(database, self._traits.name, policy)
        self._spending = Spending(database, sink, policy)
        self._controls = Controls(database, sink, policy, self._budget, self._spending, worker)

    def call_all(
        self,
        groups: Sequence[Sequence[Row]],
        state: BatchState,
        model: Model,
        *,
        removing: bool = False,
    ) -> None:
        """Send rows by type, some calls at once; halve a call when it is refused.

        ``removing`` deletes them. At the end, rows that were refused alone are charged if another
        record passes.
        """
        pending, destinations = self._requests(groups, state, model, removing)
        while pending and state.failures_in_a_row < FAILURES_IN_A_ROW:
            wave = self._next_wave(pending)
            wave, refused = self._spending.admit(wave, state, model, removing=removing)
            pending += reversed(refused)
            self._at("cost_reserved")
            answers = self._call_wave(wave, state, model, removing)
            if answers is None:
                return
            pending += self._note(wave, answers, state)
            for destination in {call.destination.name: call.destination for call in wave}.values():
                if destination.needs_control and not self._controls.passes(
                    destination, state, model
                ):
                    destination.stopped = True
            pending = far_end_next([call for call in pending if not call.destination.stopped])
        for destination in destinations:
            destination.charge_few()
            if destination.refused and not destination.stopped:
                self._controls.passes(destination, state, model)

    def _requests(
        self, groups: Sequence[Sequence[Row]], state: BatchState, model: Model, removing: bool
    ) -> tuple[list[Request], list[Destination]]:
        """Cut rows into calls; the first call is the last of the list."""
        pending: list[Request] = []
        destinations: list[Destination] = []
        for rows in reversed(groups):
            destination = state.destination(rows[0].entity_type, deleted=removing)
            destinations.append(destination)
            parts = self._cut(rows, destination, state, model)
            pending += [Request(part, destination) for part in reversed(parts)]
        return pending, destinations

    def _call_wave(
        self, wave: Sequence[Request], state: BatchState, model: Model, removing: bool
    ) -> list[Answer | SinkFailure] | None:
        """Make the calls of a wave when their turn has come; None when the lease is lost."""

        def send(rows: Sequence[Row]) -> Answer:
            return self._sink.delete(rows) if removing else self._sink.upsert(rows, model)

        reserved = self._budget.reserve([call.rows for call in wave])
        if reserved:
            time.sleep(reserved.wait)
        if not hold_lease(self._database, self._traits.name, self._policy, state):
            return None
        answers = self._send_all(wave, state, send)
        self._spending.note_all(wave, answers, state, model, removing=removing)
        if reserved:
            self._budget.correct(reserved, answers)
        return answers

    def _cut(
        self, rows: Sequence[Row], destination: Destination, state: BatchState, model: Model
    ) -> list[Sequence[Row]]:
        """Cut rows of one type into calls; begin with one row if none passed in the last batch."""
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
                cut = (self._cut(half, destination, state, model) for half in halves)
                return [part for parts in cut for part in parts]
            destination.refuse(rows[0], failure)
            state.outcomes[rows[0].id] = as_failed(rows[0], failure)
            return []
        if destination.fault is None or not parts:
            return parts
        # At random: the first one may be a poison record.
        part = _random_index(len(parts))
        row = parts[part][_random_index(len(parts[part]))]
        parts[part] = [other for other in parts[part] if other is not row]
        return [[row], *(part for part in parts if part)]

    def _next_wave(self, pending: list[Request]) -> list[Request]:
        """Take the calls that go out together: each and all of them within the sink's limits.

        A call to an unproven destination goes out alone.
        """
        wave: list[Request] = []
        left = self._budget.most
        calls = min(self._concurrency.in_flight, self._budget.most_calls)
        while pending and len(wave) < calls and (left > 0 or not wave):
            if wave and (pending[-1].destination.unproven or wave[-1].destination.unproven):
                break
            call = pending.pop()
            rows = call.rows
            count = fitting(self._traits, rows, min(self._concurrency.size, left))
            size = size_of(self._traits, rows[:count])
            if wave and size > left:
                pending.append(call)
                break
            if count < len(rows):
                pending.append(replace(call, rows=rows[count:]))
            wave.append(replace(call, rows=rows[:count]))
            left -= size
        return wave

    def _note(
        self,
        wave: Sequence[Request],
        answers: Sequence[Answer | SinkFailure],
        state: BatchState,
    ) -> list[Request]:
        """Record the answers of calls; return the calls to make instead of refused ones."""
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

    def _send_all(
        self, wave: Sequence[Request], state: BatchState, send: Callable[[Sequence[Row]], Answer]
    ) -> list[Answer | SinkFailure]:
        """Make calls together; return their answers in the same order."""
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
            size = size_of(self._traits, call.rows)
            if isinstance(answer, SinkFailure):
                if answer.throttled:
                    self._concurrency.throttled(size)
            elif answer.calls:
                self._concurrency.passed(size)
        if any(isinstance(a, SinkFailure) and a.kind is ErrorKind.SINK for a in answers):
            self._concurrency.refused(seconds)
        else:
            self._concurrency.answered(seconds)
        return answers

    def _failed(self, call: Request, state: BatchState, failure: SinkFailure) -> list[Request]:
        """Record a failed call; return the calls to make instead of it."""
        rows, destination = call.rows, call.destination
        if failure.outcome_unknown:
            state.outcome_unknown.update(row.id for row in rows)
        if failure.kind is ErrorKind.SINK:
            self._note_failure(call, state, failure)
            return []
        if failure.lock_conflict and call.repeats < REPEATS:
            time.sleep(random.uniform(0, REPEAT_PAUSE))  # noqa: S311
            return [replace(call, repeats=call.repeats + 1)]
        destination.failed = True
        if len(rows) > 1:
            middle = len(rows) // 2
            return [Request(rows[middle:], destination), Request(rows[:middle], destination)]
        destination.refuse(rows[0], failure)
        state.outcomes[rows[0].id] = as_failed(rows[0], failure)
        return []

    def _note_answer(self, call: Request, state: BatchState, answer: Answer) -> None:
        for space, mark in answer.marks.items():
            place = call.rows[0].entity_type, space
            state.marks[place] = max(mark, state.marks.get(place, mark))
        if state.failure is None or state.failure.retry_after is None:
            state.failures_in_a_row, state.failure = 0, None  # the sink is up after all
        rows = {row.id: row for row in call.rows}
        outcomes: dict[UUID, RecordOutcome] = {one.id: one for one in answer.outcomes}
        missing = "the sink said nothing of this record"
        outcomes |= {
            i: Failed(i, ErrorKind.UNKNOWN, missing) for i in rows.keys() - outcomes.keys()
        }
        state.outcomes.update(outcomes)
        for outcome in outcomes.values():
            # A final failure is altsync's own finding, and no evidence about the destination.
            if (
                isinstance(outcome, Failed)
                and outcome.kind is not ErrorKind.SINK
                and not outcome.final
            ):
                failure = SinkFailure(
                    outcome.kind, outcome.reason, outcome_unknown=outcome.outcome_unknown
                )
                call.destination.refuse(rows[outcome.id], failure)
        # An answer that needed no call is no evidence that a remote sink is up.
        called = answer.calls > 0 or self._traits.local
        if called and any(isinstance(o, Written | AlreadyNewer) for o in outcomes.values()):
            state.answered = True
            call.destination.pass_on()

    def _note_failure(self, call: Request, state: BatchState, failure: SinkFailure) -> None:
        rows, destination = call.rows, call.destination
        log.warning(
            "sink.refused", sink=self._traits.name, records=len(rows), reason=failure.reason
        )
        state.failure = failure
        state.failures_in_a_row += 1
        if failure.retry_after is not None:
            state.failures_in_a_row = FAILURES_IN_A_ROW  # the sink asks to wait
        state.outcomes.update((row.id, as_failed(row, failure)) for row in rows)
        destination.failed, destination.failure = True, failure
        if destination.fault is not None and not destination.passed:
            destination.stopped = True
        if len(rows) == 1 and failure.timed_out and failure.retry_after is None:
            op = state.operations.get(rows[0].id)
            if op is not None and op.timeout_count >= TIMEOUTS - 1:
                destination.refuse(rows[0], failure)


def _random_index(count: int) -> int:
    """Return a random index of a list of ``count``."""
    return min(count - 1, int(random.uniform(0, count)))  # noqa: S311
