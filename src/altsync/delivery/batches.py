"""Claim a batch, read its rows, write one sink, settle.

No remote call happens inside an open transaction. Named points between every two steps let
tests stop a process exactly there.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg import errors

from altsync.circuit import breaker
from altsync.circuit.breaker import (
    Fault,
    Gate,
    abandon_probe,
    close_breaker,
    note_faults,
    open_breaker,
    wanted_model,
)
from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn, Database, is_connection_lost
from altsync.delivery.concurrency import AdaptiveConcurrency
from altsync.delivery.evidence import ALONE
from altsync.delivery.outcomes import Judge
from altsync.delivery.policy import Policy
from altsync.delivery.writer import BatchState, Writer
from altsync.entities import EntityType, Model, Row
from altsync.log import debugging, redact
from altsync.operations import Dead, Operation, Outcome, Retry, Settlement, Superseded, Synced
from altsync.outbox.claim import claim, release
from altsync.outbox.edges import is_gathering
from altsync.outbox.settle import record_batch, settle
from altsync.protocols import Sink
from altsync.revisions import own_revision
from altsync.sentences import describe
from altsync.store.rows import read_rows

log = structlog.get_logger(__name__)

#: Tries of one settlement that met another writer of the same rows.
SETTLE_TRIES = 3

#: What logs call a verdict.
OUTCOMES = {Synced: "synced", Superseded: "superseded", Retry: "retried", Dead: "dead"}


@dataclass(slots=True)
class Batch:
    """What one claim came to."""

    claimed: int = 0
    settlement: Settlement = field(default_factory=Settlement)
    calls: int = 0
    tokens: int = 0


@dataclass(slots=True)
class DrainResult:
    """What one drain came to, in operations. ``has_more``: its time ran out with more to do."""

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
        self.tokens += batch.tokens
        for name, count in asdict(batch.settlement).items():
            setattr(self, name, getattr(self, name) + count)


class Delivery:
    """Delivers operations of one sink. Threads may share it: it keeps no state of a batch.

    ``pace`` is how much it asks of the sink at once.
    """

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
        self.concurrency = AdaptiveConcurrency(
            in_flight=sink.traits.in_flight, batch=policy.batch_size, timeout=policy.timeout
        )
        self._writer = Writer(database, sink, policy, self.concurrency, worker, at)
        self._judge = Judge(database, sink.traits, policy)

    def drain(self, seconds: float, stopping: Callable[[], bool] = lambda: False) -> DrainResult:
        """Deliver batch after batch, until nothing is due or the time is over."""
        started = time.monotonic()
        result = DrainResult()
        while not stopping():
            batch = self.deliver_batch(stopping)
            if batch.claimed == 0:
                break
            result.add(batch)
            if time.monotonic() - started >= seconds:
                result.has_more = True
                break
        result.seconds = time.monotonic() - started
        return result

    def deliver_batch(self, stopping: Callable[[], bool] = lambda: False) -> Batch:
        """Claim one batch and see it through. A batch of 0 means nothing to do, or not now."""
        token = uuid4()
        started = time.monotonic()
        with self._database.autocommit() as conn:
            gate = breaker.gate(
                conn, self._traits.name, token, self._policy.lease, self._policy.longest_open
            )
            if not gate.admitted:
                if gate.other_revision:
                    log.error(
                        "schema.other_revision", found=gate.other_revision, known=own_revision()
                    )
                return Batch()
            self._at("admitted")
            operations = [] if self._is_gathering(conn) else self._claim(conn, gate, token)
            if not operations:
                if gate.probing:
                    abandon_probe(conn, self._traits.name, token)
                return Batch()
        state = BatchState(
            token,
            {op.entity_id: op for op in operations},
            started + self._policy.lease,
            gate.faults,
        )
        try:
            return self._process(operations, state, gate, started, stopping)
        except Exception as error:
            self._give_back(state, error)
            raise

    def _process(
        self,
        operations: Sequence[Operation],
        state: BatchState,
        gate: Gate,
        started: float,
        stopping: Callable[[], bool],
    ) -> Batch:
        """Write and settle what was claimed, and record it."""
        gate = self._with_current_model(gate)
        self._at("claimed")
        if stopping():
            with self._database.autocommit() as conn:
                release(conn, state.op_ids, state.token)
            return Batch()
        batch = self._see_through(operations, state, gate)
        seconds = time.monotonic() - started
        with self._database.autocommit() as conn:
            record_batch(
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

    def _is_gathering(self, conn: Conn) -> bool:
        leader = self._traits.follows if self._traits.local else None
        return leader is not None and is_gathering(conn, self._traits.name, leader)

    def _claim(self, conn: Conn, gate: Gate, token: UUID) -> list[Operation]:
        return claim(
            conn,
            self._traits.name,
            token=token,
            worker=self._worker,
            limit=self.concurrency.batch,
            lease=self._policy.lease,
            max_attempts=self._policy.max_lost_leases,
            probe=gate.probing,
            last=gate.faults,
        )

    def _give_back(self, state: BatchState, error: Exception) -> None:
        """Release what was claimed and not settled, after an error of ours, and say why.

        This worker lives, so no operation is to count it as vanished. What PostgreSQL does not
        take any more comes back when the lease ends. A lost connection opens no breaker: once
        the claim can be released, PostgreSQL is back.
        """
        name = self._traits.name
        said = describe(error).text if isinstance(error, psycopg.Error) else str(error)
        reason = redact(f"{type(error).__name__}: {said}")
        try:
            with self._database.autocommit() as conn:
                release(conn, state.op_ids, state.token, outcome_unknown=state.attempted)
                if not is_connection_lost(error):
                    open_breaker(conn, name, state.token, reason, self._policy.breaker_cap)
        except psycopg.Error:
            log.warning("operations.kept_by_lease", sink=name, count=len(state.operations))
            return
        log.error("operations.given_back", sink=name, count=len(state.operations), reason=reason)

    def _with_current_model(self, gate: Gate) -> Gate:
        """The gate with the model that is wanted now.

        Asked after the claim, as rows are: operations of a new model would be done by the
        former one otherwise, and no worker would ask again.
        """
        if self._traits.name != EMBEDDING and not self._needs_vector and not self._traits.follows:
            return gate
        with self._database.autocommit() as conn:
            model, dimensions = wanted_model(conn) or (gate.model, gate.dimensions)
        return replace(gate, model=model, dimensions=dimensions)

    def _see_through(self, operations: Sequence[Operation], state: BatchState, gate: Gate) -> Batch:
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
        self._writer.write(ready, gone, state, model)
        self._at("written")
        delay = self._judge.breaker_delay(state.failure, gate)
        delays = self._judge.delays(state, gate, delay)
        verdict = self._judge.verdict
        verdicts = [verdict(op, rows.get(op.entity_id), state, gate, delays) for op in operations]
        settlement = self._settle(verdicts, state, model)
        self._at("settled")
        if debugging():
            self._log_verdicts(verdicts, rows)
        self._update_breaker(state, gate, delay)
        self._at("breaker_updated")
        return Batch(len(operations), settlement, state.calls, state.tokens)

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
                found = read_rows(
                    conn,
                    entity_type,
                    members,
                    with_vectors=self._needs_vector,
                    with_edges=self._traits.edges,
                    sink=self._traits.name,
                )
                rows.update((row.id, row) for row in found)
        for op in operations:
            if op.namespaces and op.entity_id in rows:
                row = rows[op.entity_id]
                rows[row.id] = replace(row, stale_namespaces=op.namespaces)
        return rows

    def _settle(self, verdicts: Sequence[Outcome], state: BatchState, model: Model) -> Settlement:
        for attempt in range(1, SETTLE_TRIES + 1):
            try:
                settlement = self._settle_once(verdicts, state, model)
                break
            except (errors.DeadlockDetected, errors.SerializationFailure):
                if attempt == SETTLE_TRIES:
                    raise
        if settlement.lost:
            log.error("operations.lease_lost", sink=self._traits.name, count=settlement.lost)
        return settlement

    def _settle_once(
        self, verdicts: Sequence[Outcome], state: BatchState, model: Model
    ) -> Settlement:
        with self._database.transaction() as conn:
            settlement = settle(
                conn,
                self._traits,
                state.token,
                verdicts,
                confirm_after_seconds=self._policy.confirm_after,
                topology=self._topology,
                model=model.name,
                dimensions=model.dimensions,
                debounce=self._policy.debounce,
            )
            self._at("settling")
        return settlement

    def _log_verdicts(self, verdicts: Sequence[Outcome], rows: Mapping[UUID, Row]) -> None:
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

    def _update_breaker(self, state: BatchState, gate: Gate, delay: float) -> None:
        name = self._traits.name
        passed = [one.name for one in state.destinations.values() if one.passed]
        over = gate.faults.keys() & passed - state.blamed.keys()
        with self._database.autocommit() as conn:
            if state.blamed or over:
                note_faults(conn, name, self._faults(state, gate), list(over))
            if state.failure is not None:
                reason = redact(state.failure.reason)
                open_breaker(conn, name, state.token, reason, delay, self._policy.longest_open)
                log.warning("breaker.opened", sink=name, seconds=round(delay, 2))
            elif gate.probing and state.answered:
                close_breaker(conn, name, state.token)
                log.info("breaker.closed", sink=name)
            elif gate.probing:
                abandon_probe(conn, name, state.token)

    def _faults(self, state: BatchState, gate: Gate) -> dict[str, Fault]:
        """The faults of destinations that took nothing in this batch."""
        found: dict[str, Fault] = {}
        for name, failure in state.blamed.items():
            before = gate.faults.get(name)
            few = len(state.destinations[name].refused) < ALONE and (before is None or before.few)
            times = before.times + 1 if before else 1
            found[name] = Fault(redact(failure.reason), times, few)
            log.warning(
                "destination.refuses", sink=self._traits.name, destination=name, times=times
            )
        return found
