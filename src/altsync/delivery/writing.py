"""Writing one sink: a few calls at once, halved at a refusal, never longer than the lease."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from uuid import UUID

import psycopg
import structlog

from altsync import outbox
from altsync.db import Database
from altsync.delivery.budget import Budget, fitting, size_of
from altsync.delivery.pace import Pace
from altsync.delivery.policy import Policy
from altsync.errors import SinkFailure
from altsync.log import redact
from altsync.projection import MOVING, namespace
from altsync.records import Answer, EntityType, ErrorKind, Failed, Model, Outcome, Row, Written
from altsync.sinks.base import Sink

log = structlog.get_logger(__name__)

#: Failed calls in a row after which the rest of a batch is not tried.
FAILURES_IN_A_ROW = 2

#: Calls that met another writer's lock and are repeated as they are, before they are halved.
REPEATS = 3

#: Seconds between those repeats at most; the other writer is done in far less.
REPEAT_PAUSE = 0.1


@dataclass(slots=True)
class Writing:
    """The state of writing one batch."""

    token: UUID
    op_ids: list[int]
    lease_ends: float
    outcomes: dict[UUID, Outcome] = field(default_factory=dict)
    unsure: set[UUID] = field(default_factory=set)
    calls: int = 0
    tokens: int = 0
    failures_in_a_row: int = 0
    failure: SinkFailure | None = None
    answered: bool = False
    attempted: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """Records of one call, and how often it has met another writer's lock."""

    rows: Sequence[Row]
    repeats: int = 0


class Writer:
    """Writes batches to one sink. Threads may share it: a batch's state is in ``Writing``."""

    def __init__(
        self,
        database: Database,
        sink: Sink,
        policy: Policy,
        pace: Pace,
        at: Callable[[str], None],
    ) -> None:
        self._database = database
        self._sink = sink
        self._traits = sink.traits
        self._policy = policy
        self._pace = pace
        self._at = at
        self._is_set_up = False
        self._lanes = ThreadPoolExecutor(
            self._traits.in_flight, thread_name_prefix=f"{self._traits.name}-call"
        )
        self._budget = Budget(database, self._traits.name, policy)

    def write(
        self, ready: Sequence[Row], gone: Sequence[Row], writing: Writing, model: Model
    ) -> None:
        """Write rows and remove those that are gone; what came of it is in ``writing``."""
        try:
            if ready or gone:
                self._set_up()
            self._note_former_places([*ready, *gone], writing)
            placed = self._settle_places(ready, writing, model)
            self._at("placed")
            parts = self._parts(_by_type(placed), model)
            self._call_all(parts, writing, lambda rows: self._sink.upsert(rows, model))
            # Leagues before archetypes: what leads to a node goes before it.
            parts = self._parts(_by_type(gone)[::-1], model)
            self._call_all(parts, writing, self._sink.delete)
        except SinkFailure as failure:  # setting up and splitting may fail as a whole, too
            writing.failure = failure
        except psycopg.Error:
            raise  # PostgreSQL is away: nothing could be kept, and the lease ends by itself
        except Exception as error:
            log.exception("sink.failed", sink=self._traits.name)
            reason = f"{type(error).__name__}: {error}"
            writing.failure = SinkFailure(ErrorKind.UNKNOWN, reason, suspect=True)

    def _parts(self, groups: Sequence[Sequence[Row]], model: Model) -> list[Sequence[Row]]:
        """Cut rows, grouped by type, into what one call of the sink may hold."""
        return [part for rows in groups for part in self._sink.split(rows, model)]

    def _note_former_places(self, rows: Sequence[Row], writing: Writing) -> None:
        """Have operations know where their entities were, before those leave it."""
        former = {
            (row.entity_type, row.id): row.written_namespace
            for row in rows
            if row.written_namespace and row.entity_type in MOVING
            if row.deleted or _is_stray(row)
        }
        if former and self._traits.needs_embedding:
            with self._database.transaction() as conn:
                outbox.note_former_places(conn, self._traits, writing.token, former)

    def _settle_places(self, ready: Sequence[Row], writing: Writing, model: Model) -> Sequence[Row]:
        """Leave former places, and remember the wanted ones before anything is written there.

        In this order the entity always names a place that the sink may hold it in, whatever is
        interrupted. Returns the rows that may be written.
        """
        strays = [row for row in ready if _is_stray(row)] if self._traits.needs_embedding else []
        if not strays:
            return ready
        moved = [row for row in strays if row.written_namespace or row.doubtful_namespaces]
        self._call_all(self._parts(_by_type(moved), model), writing, self._sink.delete)
        left = {row.id for row in moved if isinstance(writing.outcomes.get(row.id), Written)}
        stuck = {row.id for row in moved} - left
        for row_id in left:
            del writing.outcomes[row_id]  # only half of the way
        free = [row for row in strays if row.id not in stuck]
        places = {(row.entity_type, row.id): namespace(row) for row in free}
        with self._database.transaction() as conn:
            held = outbox.note_places(conn, self._traits, writing.token, places)
        stuck |= {row.id for row in free} - held
        return [
            replace(row, written_namespace=namespace(row), doubtful_namespaces=())
            if row.id in left
            else row
            for row in ready
            if row.id not in stuck
        ]

    def _set_up(self) -> None:
        """Once a process: a sink that was switched on later has no indexes yet."""
        if not self._is_set_up:
            self._sink.setup()
            self._is_set_up = True

    def _call_all(
        self,
        parts: Sequence[Sequence[Row]],
        writing: Writing,
        send: Callable[[Sequence[Row]], Answer],
    ) -> None:
        """One call for each part, some at once; halved and halved again when one is refused."""
        pending = [Call(part) for part in reversed(parts)]
        while pending and writing.failures_in_a_row < FAILURES_IN_A_ROW:
            wave = self._next_wave(pending)
            reserved = self._budget.reserve([call.rows for call in wave])
            if reserved:
                time.sleep(reserved.wait)
            if not self._hold_lease(writing):
                return
            if self._traits.follows:
                self._begin_searches(wave, writing)
            answers = self._send_all(wave, writing, send)
            if reserved:
                self._budget.correct(reserved, answers)
            for call, answer in zip(wave, answers, strict=True):
                writing.calls += 1 if isinstance(answer, SinkFailure) else answer.calls
                if isinstance(answer, SinkFailure):
                    pending += self._failed(call, writing, answer)
                else:
                    self._note_answer(call.rows, writing, answer)
                    self._at("called")

    def _next_wave(self, pending: list[Call]) -> list[Call]:
        """Take the calls that go out together: each and all of them within the sink's limits."""
        wave: list[Call] = []
        room = self._budget.most
        calls = min(self._pace.in_flight, self._budget.most_calls)
        while pending and len(wave) < calls and (room > 0 or not wave):
            call = pending.pop()
            rows = call.rows
            count = fitting(self._traits.name, rows, min(self._pace.size, room))
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
                self._pace.throttled(size)
        elif answer.calls:
            self._pace.passed(size)

    def _begin_searches(self, wave: Sequence[Call], writing: Writing) -> None:
        rows = [row for call in wave for row in call.rows]
        with self._database.transaction() as conn:
            outbox.begin_searches(conn, self._traits, writing.token, rows)

    def _send_all(
        self, wave: Sequence[Call], writing: Writing, send: Callable[[Sequence[Row]], Answer]
    ) -> list[Answer | SinkFailure]:
        """What came of calls that go out together, in their order."""
        writing.attempted = True
        started = time.monotonic()
        if len(wave) == 1:
            answers = [self._send(wave[0].rows, send)]
        else:
            answers = list(self._lanes.map(lambda call: self._send(call.rows, send), wave))
        seconds = time.monotonic() - started
        for call, answer in zip(wave, answers, strict=True):
            self._learn_size(call.rows, answer)
        if any(isinstance(a, SinkFailure) and a.kind is ErrorKind.SINK for a in answers):
            self._pace.refused(seconds)
        else:
            self._pace.answered(seconds)
        return answers

    def _send(
        self, rows: Sequence[Row], send: Callable[[Sequence[Row]], Answer]
    ) -> Answer | SinkFailure:
        try:
            return send(rows)
        except SinkFailure as failure:
            return failure
        except Exception as error:
            # A defect of ours or of a driver. It is kept in the rows, and does not stop others.
            log.exception("sink.failed", sink=self._traits.name, records=len(rows))
            reason = f"{type(error).__name__}: {error}"
            return SinkFailure(ErrorKind.UNKNOWN, reason, unsure=True)

    def _failed(self, call: Call, writing: Writing, failure: SinkFailure) -> list[Call]:
        """Note a call that failed; the calls to make instead of it."""
        rows = call.rows
        if failure.unsure:
            writing.unsure.update(row.id for row in rows)
        if failure.kind is ErrorKind.SINK:
            self._note_failure(rows, writing, failure)
            return []
        if failure.again and call.repeats < REPEATS:
            time.sleep(random.uniform(0, REPEAT_PAUSE))  # noqa: S311
            return [replace(call, repeats=call.repeats + 1)]
        if len(rows) > 1:
            middle = len(rows) // 2
            return [Call(rows[middle:]), Call(rows[:middle])]
        writing.answered = True
        writing.outcomes[rows[0].id] = _failed(rows[0], failure)
        return []

    def _note_answer(self, rows: Sequence[Row], writing: Writing, answer: Answer) -> None:
        writing.tokens += answer.tokens
        writing.answered = writing.answered or answer.calls > 0 or self._traits.local
        if writing.failure is None or writing.failure.retry_after is None:
            writing.failures_in_a_row, writing.failure = 0, None  # the sink is up after all
        said: dict[UUID, Outcome] = {outcome.id: outcome for outcome in answer.outcomes}
        if len(said) < len(rows):
            silent = "the sink said nothing of this record"
            unsaid = [row.id for row in rows if row.id not in said]
            said |= {row_id: Failed(row_id, ErrorKind.UNKNOWN, silent) for row_id in unsaid}
        writing.outcomes.update(said)

    def _note_failure(self, part: Sequence[Row], writing: Writing, failure: SinkFailure) -> None:
        log.warning(
            "sink.refused", sink=self._traits.name, records=len(part), reason=failure.reason
        )
        writing.failure = failure
        writing.failures_in_a_row += 1
        if failure.retry_after is not None:
            writing.failures_in_a_row = FAILURES_IN_A_ROW  # asked to wait: do not go on asking
        writing.outcomes.update((row.id, _failed(row, failure)) for row in part)

    def _hold_lease(self, writing: Writing) -> bool:
        """Make sure of the lease for one more call; False when it was taken away."""
        if not writing.attempted and writing.lease_ends - time.monotonic() > self._policy.timeout:
            return True
        asked = time.monotonic()
        with self._database.autocommit() as conn:
            held = outbox.extend(conn, writing.op_ids, writing.token, self._policy.lease)
        writing.lease_ends = asked + self._policy.lease
        if not held:
            log.error("lease.lost", sink=self._traits.name, operations=len(writing.op_ids))
        return held


def _by_type(rows: Sequence[Row]) -> list[list[Row]]:
    groups: dict[EntityType, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.entity_type].append(row)
    return [groups[entity_type] for entity_type in EntityType if entity_type in groups]


def _is_stray(row: Row) -> bool:
    """Whether a row of a type that moves is, or may turn up, elsewhere than where it belongs."""
    places = {row.written_namespace, *row.doubtful_namespaces}
    return row.entity_type in MOVING and places != {namespace(row)}


def _failed(row: Row, failure: SinkFailure) -> Failed:
    return Failed(
        row.id,
        failure.kind,
        redact(failure.reason),
        failure.unsure,
        failure.suspect,
        failure.retry_after,
    )
