"""Delivery: claim a batch, read its rows, write one sink, settle.

No remote call happens inside an open transaction. Named points between every two steps let
tests stop a process exactly there.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import assert_never
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg import errors

from altsync import outbox, store
from altsync.db import Conn, Database
from altsync.errors import SinkFailure
from altsync.log import debugging, redact
from altsync.projection import MOVING, namespace
from altsync.records import (
    EMBEDDING,
    AlreadyNewer,
    Answer,
    Dead,
    EntityType,
    ErrorKind,
    Failed,
    Model,
    Operation,
    Outcome,
    Retry,
    Row,
    Settlement,
    Superseded,
    Synced,
    Topology,
    Verdict,
    Written,
)
from altsync.sinks.base import Sink

log = structlog.get_logger(__name__)

#: Suspect calls of an operation before it is told from an outage: by then it was alone in its
#: call while others passed.
SUSPICIONS = 3

#: Times that others must have passed between its suspect calls. Once may be an outage that
#: flickers.
TIMES_PASSED = 2

#: Failed calls in a row after which the rest of a batch is not tried.
FAILURES_IN_A_ROW = 2

#: Calls that met another writer's lock and are repeated as they are, before they are halved.
REPEATS = 3

#: Seconds between those repeats at most; the other writer is done in far less.
REPEAT_PAUSE = 0.1

#: Tries of one settlement that met another writer of the same rows.
SETTLE_TRIES = 3


#: What logs call a verdict.
OUTCOMES = {Synced: "synced", Superseded: "superseded", Retry: "retried", Dead: "dead"}


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers of delivery; times are in seconds. See ``Settings`` for their meaning."""

    batch_size: int = 500
    lease: float = 30.0
    timeout: float = 10.0
    max_attempts: int = 5
    max_lost_leases: int = 10
    backoff: float = 1.0
    backoff_cap: float = 300.0
    breaker_cap: float = 30.0
    echo: float = 40.0
    debounce: float = 2.0


@dataclass(slots=True)
class Batch:
    """What one claim came to."""

    claimed: int = 0
    settlement: Settlement = field(default_factory=Settlement)
    calls: int = 0
    tokens: int = 0


@dataclass(slots=True)
class Drained:
    """What one drain came to, in operations. ``more``: its time ran out with more to do."""

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
    more: bool = False

    def add(self, batch: Batch) -> None:
        """Count one more batch."""
        self.batches += 1
        self.claimed += batch.claimed
        self.remote_calls += batch.calls
        self.tokens += batch.tokens
        for name, count in asdict(batch.settlement).items():
            setattr(self, name, getattr(self, name) + count)


@dataclass(slots=True)
class _Writing:
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


def full_jitter(base: float, cap: float, attempts: int) -> float:
    """Seconds until the next try: uniform between 0 and an exponential bound.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.uniform(0, min(cap, base * 2.0 ** min(attempts, 30)))  # noqa: S311


class Delivery:
    """Delivers operations of one sink. Threads may share it: it keeps no state of a batch."""

    def __init__(
        self,
        database: Database,
        sink: Sink,
        topology: Topology,
        policy: Policy,
        *,
        worker: str,
        at: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._database = database
        self._sink = sink
        self._traits = sink.traits
        self._topology = topology
        self._policy = policy
        self._worker = worker
        self._at = at
        self._is_set_up = False

    def drain(self, seconds: float, stopping: Callable[[], bool] = lambda: False) -> Drained:
        """Deliver batch after batch, until nothing is due or the time is over."""
        started = time.monotonic()
        drained = Drained()
        while not stopping():
            batch = self.deliver_batch(stopping)
            if batch.claimed == 0:
                break
            drained.add(batch)
            if time.monotonic() - started >= seconds:
                drained.more = True
                break
        drained.seconds = time.monotonic() - started
        return drained

    def deliver_batch(self, stopping: Callable[[], bool] = lambda: False) -> Batch:
        """Claim one batch and see it through. A batch of 0 means nothing to do, or not now."""
        token = uuid4()
        started = time.monotonic()
        with self._database.autocommit() as conn:
            gate = outbox.gate(conn, self._traits.name, token, self._policy.lease)
            if not gate.admitted:
                return Batch()
            operations = outbox.claim(
                conn,
                self._traits.name,
                token=token,
                worker=self._worker,
                limit=self._policy.batch_size,
                lease=self._policy.lease,
                max_attempts=self._policy.max_lost_leases,
                probe=gate.probing,
            )
            if not operations:
                if gate.probing:
                    outbox.abandon_probe(conn, self._traits.name, token)
                return Batch()
            gate = self._with_current_model(conn, gate)
        self._at("claimed")
        if stopping():
            with self._database.autocommit() as conn:
                outbox.release(conn, [op.id for op in operations], token)
            return Batch()
        writing = _Writing(token, [op.id for op in operations], started + self._policy.lease)
        batch = self._see_through(operations, writing, gate)
        seconds = time.monotonic() - started
        with self._database.autocommit() as conn:
            outbox.record_batch(
                conn,
                self._traits.name,
                self._worker,
                batch.claimed,
                batch.settlement,
                calls=batch.calls,
                tokens=batch.tokens,
                seconds=seconds,
            )
        log.info(
            "batch.settled",
            sink=self._traits.name,
            claimed=batch.claimed,
            synced=batch.settlement.synced,
            superseded=batch.settlement.superseded,
            retried=batch.settlement.retried,
            dead=batch.settlement.dead,
            calls=batch.calls,
            seconds=round(seconds, 3),
        )
        return batch

    def _with_current_model(self, conn: Conn, gate: outbox.Gate) -> outbox.Gate:
        """The gate with the model that is wanted now.

        Asked after the claim, as rows are: operations of a new model would be done by the
        former one otherwise, and nobody would ask again.
        """
        if self._traits.name != EMBEDDING and not self._needs_vector:
            return gate
        model, dimensions = outbox.wanted_model(conn) or (gate.model, gate.dimensions)
        return replace(gate, model=model, dimensions=dimensions)

    # --- one batch ----------------------------------------------------------------------------

    def _see_through(
        self, operations: Sequence[Operation], writing: _Writing, gate: outbox.Gate
    ) -> Batch:
        model = Model(gate.model or "", gate.dimensions or 0)
        rows = self._read(operations)
        self._at("read")
        ready = [
            row
            for row in rows.values()
            if not row.deleted and (not self._needs_vector or row.is_embedded_by(model.name))
        ]
        gone = [row for row in rows.values() if row.deleted]
        if self._traits.name == EMBEDDING:
            gone = []
        self._write(ready, gone, writing, model)
        self._at("written")
        delay = self._breaker_delay(writing.failure, gate)
        verdicts = [
            self._verdict(op, rows.get(op.entity_id), writing, gate, delay) for op in operations
        ]
        settlement = self._settle(verdicts, writing, model)
        self._at("settled")
        if debugging():
            self._log_verdicts(verdicts, rows)
        self._tell_breaker(writing, gate, delay)
        return Batch(len(operations), settlement, writing.calls, writing.tokens)

    @property
    def _needs_vector(self) -> bool:
        return self._traits.needs_embedding

    def _read(self, operations: Sequence[Operation]) -> dict[UUID, Row]:
        """The current rows: read after the claim, or a newer version could be missed."""
        ids: dict[EntityType, list[UUID]] = defaultdict(list)
        for op in operations:
            ids[op.entity_type].append(op.entity_id)
        rows: dict[UUID, Row] = {}
        with self._database.autocommit() as conn:
            for entity_type, members in ids.items():
                found = store.read_rows(
                    conn,
                    entity_type,
                    members,
                    with_vectors=self._needs_vector,
                    with_edges=self._traits.edges,
                )
                rows.update((row.id, row) for row in found)
        for op in operations:
            if op.places and op.entity_id in rows:
                row = rows[op.entity_id]
                rows[row.id] = replace(row, doubtful_namespaces=op.places)
        return rows

    # --- writing ------------------------------------------------------------------------------

    def _write(
        self, ready: Sequence[Row], gone: Sequence[Row], writing: _Writing, model: Model
    ) -> None:
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

    def _settle_places(self, ready: Sequence[Row], writing: _Writing) -> Sequence[Row]:
        """Leave former places, and remember the wanted ones before anything is written there.

        In this order the entity always names a place that the sink may hold it in, whatever is
        interrupted. Returns the rows that may be written.
        """
        strays = [row for row in ready if _is_stray(row)] if self._needs_vector else []
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

    def _parts(self, ready: Sequence[Row], model: Model) -> Iterator[Sequence[Row]]:
        for members in _by_type(ready):
            yield from self._sink.split(members, model)

    def _call(
        self,
        rows: Sequence[Row],
        writing: _Writing,
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
        writing: _Writing,
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

    def _note_failure(self, part: Sequence[Row], writing: _Writing, failure: SinkFailure) -> None:
        log.warning(
            "sink.refused", sink=self._traits.name, records=len(part), reason=failure.reason
        )
        writing.failure = failure
        writing.failures_in_a_row += 1
        if failure.retry_after is not None:
            writing.failures_in_a_row = FAILURES_IN_A_ROW  # asked to wait: do not go on asking
        writing.outcomes.update((row.id, _failed(row, failure)) for row in part)

    def _hold_lease(self, writing: _Writing) -> bool:
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

    # --- verdicts -----------------------------------------------------------------------------

    def _verdict(
        self,
        op: Operation,
        row: Row | None,
        writing: _Writing,
        gate: outbox.Gate,
        breaker_delay: float,
    ) -> Verdict:
        if row is None:
            return Superseded(op, "the row is gone")
        outcome = writing.outcomes.get(row.id)
        match outcome:
            case Written():
                unsure = row.id in writing.unsure
                return Synced(
                    op,
                    outcome.version,
                    outcome.remote_id,
                    outcome.namespace,
                    unsure,
                    outcome.edge_ids,
                )
            case AlreadyNewer():
                return self._already_newer(op, row, outcome)
            case Failed():
                return self._failed_verdict(op, row, outcome, writing, breaker_delay)
            case None if row.deleted and self._traits.name == EMBEDDING:
                return Superseded(op, "the row is deleted")
            case None if not row.deleted and self._needs_vector and self._waits(row, gate):
                return Superseded(op, "waits for its embedding")
            case None:
                return self._not_written(op, row, writing, breaker_delay)
            case _:
                assert_never(outcome)

    def _not_written(
        self, op: Operation, row: Row, writing: _Writing, breaker_delay: float
    ) -> Verdict:
        """No call was made for it: the sink failed before, or the whole batch met a defect."""
        failure = writing.failure
        if failure is None or failure.kind is ErrorKind.SINK:
            reason = redact(failure.reason) if failure else "the lease was lost"
            return Retry(op, ErrorKind.SINK, reason, breaker_delay, give_back=True)
        reason = redact(failure.reason)
        alone = len(writing.op_ids) == 1
        if alone and op.attempts >= self._policy.max_attempts:
            return Dead(op, self._version(row), failure.kind, reason)
        delay = full_jitter(self._policy.backoff, self._policy.backoff_cap, op.attempts)
        # Suspect: the next batch is smaller, until the one that the sink fails over is alone.
        return Retry(op, failure.kind, reason, delay, give_back=not alone, suspect=True)

    def _waits(self, row: Row, gate: outbox.Gate) -> bool:
        return not row.is_embedded_by(gate.model or "")

    def _already_newer(self, op: Operation, row: Row, outcome: AlreadyNewer) -> Verdict:
        """Newer than the row that was read: fine when the row has moved on, else an anomaly."""
        current = self._current_version(row)
        if current is not None and outcome.found is not None and outcome.found <= current:
            if current > self._version(row):
                return Retry(op, ErrorKind.UNKNOWN, "changed meanwhile", 0.0, give_back=True)
            reason = f"{self._traits.name} refuses version {outcome.found} as older than itself"
            return self._spent(op, row, ErrorKind.UNKNOWN, reason)
        reason = (
            f"{self._traits.name} holds version {outcome.found}, ahead of PostgreSQL's {current}: "
            "was the database restored from a backup?"
        )
        log.error("sink.ahead", sink=self._traits.name, key=row.key, found=outcome.found)
        return Dead(op, self._version(row), ErrorKind.ITEM, reason)

    def _current_version(self, row: Row) -> int | None:
        with self._database.autocommit() as conn:
            rows = store.read_rows(conn, row.entity_type, [row.id])
        return self._version(rows[0]) if rows else None

    def _version(self, row: Row) -> int:
        return row.graph_version if self._traits.edges else row.version

    def _failed_verdict(
        self,
        op: Operation,
        row: Row,
        failed: Failed,
        writing: _Writing,
        breaker_delay: float,
    ) -> Verdict:
        alone = len(writing.outcomes) == 1
        suspect_alone = (
            failed.suspect
            and alone
            and op.suspicion >= SUSPICIONS - 1
            and op.passed_by >= TIMES_PASSED
        )
        if failed.kind is ErrorKind.SINK and not suspect_alone:
            return Retry(
                op,
                failed.kind,
                failed.reason,
                failed.retry_after
                or breaker_delay
                or full_jitter(self._policy.backoff, self._policy.backoff_cap, op.attempts),
                give_back=True,
                unsure=failed.unsure,
                suspect=failed.suspect,
            )
        if suspect_alone:
            writing.failure = None  # others pass: the record's fault, not the sink's
            writing.answered = True
        kind = ErrorKind.ITEM if suspect_alone else failed.kind
        return self._spent(
            op, row, kind, failed.reason, unsure=failed.unsure, suspect=failed.suspect
        )

    def _spent(
        self,
        op: Operation,
        row: Row,
        kind: ErrorKind,
        reason: str,
        *,
        unsure: bool = False,
        suspect: bool = False,
    ) -> Verdict:
        """An attempt was spent: another one later, or the end."""
        if op.attempts >= self._policy.max_attempts:
            return Dead(op, self._version(row), kind, reason, unsure)
        delay = full_jitter(self._policy.backoff, self._policy.backoff_cap, op.attempts)
        return Retry(op, kind, reason, delay, unsure=unsure, suspect=suspect)

    # --- settling -----------------------------------------------------------------------------

    def _settle(self, verdicts: Sequence[Verdict], writing: _Writing, model: Model) -> Settlement:
        for attempt in range(1, SETTLE_TRIES + 1):
            try:
                settlement = self._settle_once(verdicts, writing, model)
                break
            except (errors.DeadlockDetected, errors.SerializationFailure):
                if attempt == SETTLE_TRIES:
                    raise
        if settlement.lost:
            log.error("operations.lease_lost", sink=self._traits.name, count=settlement.lost)
        return settlement

    def _settle_once(
        self, verdicts: Sequence[Verdict], writing: _Writing, model: Model
    ) -> Settlement:
        with self._database.transaction() as conn:
            settlement = outbox.settle(
                conn,
                self._traits,
                writing.token,
                verdicts,
                echo_seconds=self._policy.echo,
                topology=self._topology,
                model=model.name,
                dimensions=model.dimensions,
                debounce=self._policy.debounce,
            )
            self._at("settling")
        return settlement

    def _log_verdicts(self, verdicts: Sequence[Verdict], rows: Mapping[UUID, Row]) -> None:
        """One line per operation; ``change`` is the version by which the seeder names it."""
        for verdict in verdicts:
            op = verdict.op
            row = rows.get(op.entity_id)
            log.debug(
                "operation.settled",
                sink=self._traits.name,
                key=op.entity_key,
                change=row.version if row else op.version,
                outcome=OUTCOMES[type(verdict)],
                reason=None if isinstance(verdict, Synced) else verdict.reason,
            )

    def _breaker_delay(self, failure: SinkFailure | None, gate: outbox.Gate) -> float:
        if failure is None or failure.kind is not ErrorKind.SINK:
            return 0.0
        if failure.retry_after is not None:
            return failure.retry_after
        bound = min(self._policy.breaker_cap, self._policy.backoff * 2.0**gate.consecutive_errors)
        return random.uniform(bound / 2, bound)  # noqa: S311  (spreads load, guards nothing)

    def _tell_breaker(self, writing: _Writing, gate: outbox.Gate, delay: float) -> None:
        name = self._traits.name
        with self._database.autocommit() as conn:
            if writing.failure is not None and writing.failure.kind is ErrorKind.SINK:
                reason = redact(writing.failure.reason)
                outbox.open_breaker(conn, name, writing.token, reason, delay)
                log.warning("breaker.opened", sink=name, seconds=round(delay, 2))
            elif gate.probing and writing.answered:
                outbox.close_breaker(conn, name, writing.token)
                log.info("breaker.closed", sink=name)
            elif gate.probing:
                outbox.abandon_probe(conn, name, writing.token)


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
