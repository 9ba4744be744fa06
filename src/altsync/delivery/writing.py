"""Writing one sink: call by call, halved at a refusal, never longer than the lease."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

import psycopg
import structlog

from altsync import outbox
from altsync.db import Database
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


class Writer:
    """Writes batches to one sink. Threads may share it: a batch's state is in ``Writing``."""

    def __init__(
        self, database: Database, sink: Sink, policy: Policy, at: Callable[[str], None]
    ) -> None:
        self._database = database
        self._sink = sink
        self._traits = sink.traits
        self._policy = policy
        self._at = at
        self._is_set_up = False

    def write(
        self, ready: Sequence[Row], gone: Sequence[Row], writing: Writing, model: Model
    ) -> None:
        """Write rows and remove those that are gone; what came of it is in ``writing``."""
        try:
            if ready or gone:
                self._set_up()
            placed = self._settle_places(ready, writing)
            for part in self._parts(placed, model):
                self._call(part, writing, lambda rows: self._sink.upsert(rows, model))
            for part in _by_type(gone):
                self._call(part, writing, self._sink.delete)
        except SinkFailure as failure:  # setting up and splitting may fail as a whole, too
            writing.failure = failure
        except psycopg.Error:
            raise  # PostgreSQL is away: nothing could be kept, and the lease ends by itself
        except Exception as error:
            log.exception("sink.failed", sink=self._traits.name)
            reason = f"{type(error).__name__}: {error}"
            writing.failure = SinkFailure(ErrorKind.UNKNOWN, reason, suspect=True)

    def _settle_places(self, ready: Sequence[Row], writing: Writing) -> Sequence[Row]:
        """Leave former places, and remember the wanted ones before anything is written there.

        In this order the entity always names a place that the sink may hold it in, whatever is
        interrupted. Returns the rows that may be written.
        """
        strays = [row for row in ready if _is_stray(row)] if self._traits.needs_embedding else []
        if not strays:
            return ready
        moved = [row for row in strays if row.written_namespace or row.doubtful_namespaces]
        for part in _by_type(moved):
            self._call(part, writing, self._sink.delete)
        left = {row.id for row in moved if isinstance(writing.outcomes.get(row.id), Written)}
        stuck = {row.id for row in moved} - left
        for row_id in left:
            del writing.outcomes[row_id]  # only half of the way
        free = [row for row in strays if row.id not in stuck]
        places = {(row.entity_type, row.id): namespace(row) for row in free}
        former = {row.id: row.written_namespace for row in free if row.written_namespace}
        with self._database.transaction() as conn:
            held = outbox.note_places(conn, self._traits, writing.token, places, former)
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

    def _parts(self, ready: Sequence[Row], model: Model) -> Iterator[Sequence[Row]]:
        for members in _by_type(ready):
            yield from self._sink.split(members, model)

    def _call(
        self,
        rows: Sequence[Row],
        writing: Writing,
        send: Callable[[Sequence[Row]], Answer],
    ) -> None:
        """One call; halved and halved again when a record of it is refused."""
        pending = [rows]
        repeats = 0
        while pending:
            part = pending.pop()
            if writing.failures_in_a_row >= FAILURES_IN_A_ROW or not self._hold_lease(writing):
                return
            try:
                self._send(part, writing, send)
            except SinkFailure as failure:
                if failure.unsure:
                    writing.unsure.update(row.id for row in part)
                if failure.kind is ErrorKind.SINK:
                    self._note_failure(part, writing, failure)
                elif failure.again and repeats < REPEATS:
                    repeats += 1
                    time.sleep(random.uniform(0, REPEAT_PAUSE))  # noqa: S311
                    pending.append(part)
                elif len(part) > 1:
                    middle = len(part) // 2
                    pending += [part[middle:], part[:middle]]
                else:
                    writing.answered = True
                    writing.outcomes[part[0].id] = _failed(part[0], failure)

    def _send(
        self,
        part: Sequence[Row],
        writing: Writing,
        send: Callable[[Sequence[Row]], Answer],
    ) -> None:
        writing.attempted = True
        try:
            answer = send(part)
        except SinkFailure:
            writing.calls += 1
            raise
        except Exception as error:
            # A defect of ours or of a driver. It is kept in the rows, and does not stop others.
            log.exception("sink.failed", sink=self._traits.name, records=len(part))
            writing.calls += 1
            reason = f"{type(error).__name__}: {error}"
            raise SinkFailure(ErrorKind.UNKNOWN, reason, unsure=True) from error
        writing.calls += answer.calls
        writing.tokens += answer.tokens
        writing.answered = writing.answered or answer.calls > 0
        if writing.failures_in_a_row:
            writing.failures_in_a_row, writing.failure = 0, None  # the sink is up after all
        silent = "the sink said nothing of this record"
        writing.outcomes.update((r.id, Failed(r.id, ErrorKind.UNKNOWN, silent)) for r in part)
        writing.outcomes.update((outcome.id, outcome) for outcome in answer.outcomes)
        self._at("called")

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
