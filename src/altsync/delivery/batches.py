"""Claim a batch, read its rows, write them to one sink, settle.

No remote call happens inside an open transaction. Tests stop a process at the named points
between two steps.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
import structlog
from psycopg import errors

from altsync.circuit import breaker
from altsync.circuit.breaker import Gate, abandon_probe, open_breaker
from altsync.contract import Topology
from altsync.costs.ledger import record
from altsync.db import Conn, Database, is_connection_lost
from altsync.delivery.calls import Calls
from altsync.delivery.concurrency import AdaptiveConcurrency
from altsync.delivery.faults import update_breaker
from altsync.delivery.outcomes import Facts, breaker_delay, decide_outcome, destination_delays
from altsync.delivery.policy import Policy
from altsync.delivery.reading import current_versions, read_batch
from altsync.delivery.state import Batch, BatchState, DrainResult
from altsync.delivery.writer import Writer
from altsync.entities import Model, Row
from altsync.generations import Generations, read_generations
from altsync.log import debugging, redact
from altsync.operations import Dead, Operation, Outcome, Retry, Settlement, Superseded, Synced
from altsync.outbox.batches import record_batch
from altsync.outbox.claim import claim, release
from altsync.outbox.edges import is_gathering
from altsync.outbox.settle import Plan, settle
from altsync.outbox.shadow import has_due_work
from altsync.protocols import Sink
from altsync.revisions import own_revision
from altsync.sentences import describe

log = structlog.get_logger(__name__)

#: Tries of one settlement that meets another writer of the same rows.
SETTLE_TRIES = 3

#: The name of each outcome in logs.
OUTCOMES = {Synced: "synced", Superseded: "superseded", Retry: "retried", Dead: "dead"}


class Delivery:
    """The delivery to one sink. Threads may share it: it keeps no state of a batch."""

    def __init__(
        self,
        database: Database,
        sink: Sink,
        topology: Topology,
        policy: Policy,
        *,
        worker: str,
        at: Callable[[str], None] = lambda point: None,
        open_for: Callable[[Generations], Sink] | None = None,
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
        self._open_for = open_for
        self._writers: dict[Any, Writer] = {}
        self._writing = threading.Lock()

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
        """Claim and deliver one batch; it is empty when nothing is due or the gate is closed."""
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
            operations = [] if self._waits(conn) else self._claim(conn, gate, token)
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
        """Write, settle and record a claimed batch."""
        gate = self._with_current_model(gate)
        self._at("claimed")
        gone = self._traits.shadow and gate.model is None
        if stopping() or gone:
            with self._database.autocommit() as conn:
                release(conn, state.op_ids, state.token)
            return Batch()
        batch = self._write_and_settle(operations, state, gate)
        seconds = time.monotonic() - started
        with self._database.autocommit() as conn:
            record_batch(
                conn,
                self._traits.name,
                self._worker,
                batch.claimed,
                batch.settlement,
                calls=batch.calls,
                bill=batch.bill,
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

    def _waits(self, conn: Conn) -> bool:
        """Return whether other work goes first."""
        if self._traits.shadow:
            return has_due_work(conn, self._traits.base)
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
        """Release the leases of a batch after an unexpected error, and open the breaker.

        No lease counts as lost then. If PostgreSQL fails too, the leases run out. A lost
        connection opens no breaker: PostgreSQL is back when the release succeeds.
        """
        name = self._traits.name
        text = describe(error).text if isinstance(error, psycopg.Error) else str(error)
        reason = redact(f"{type(error).__name__}: {text}")
        try:
            with self._database.autocommit() as conn:
                release(conn, state.op_ids, state.token, outcome_unknown=state.attempted)
                record(conn, name, state.bill)
                if not is_connection_lost(error):
                    open_breaker(conn, name, state.token, reason, self._policy.breaker_cap)
        except psycopg.Error:
            log.warning("operations.kept_by_lease", sink=name, count=len(state.operations))
            return
        log.error("operations.given_back", sink=name, count=len(state.operations), reason=reason)

    def _with_current_model(self, gate: Gate) -> Gate:
        """Return the gate with the model that is wanted now.

        Read after the claim: a model that was changed before it must embed these operations.
        """
        traits = self._traits
        if not (traits.embeds or traits.needs_embedding or traits.follows):
            return gate
        with self._database.autocommit() as conn:
            found = read_generations(conn)
        if found is None:
            return gate
        own = found.of(traits.name)
        if own is None:  # dropped
            return replace(gate, model=None, generations=found)
        model = own.model
        return replace(gate, model=model.name, dimensions=model.dimensions, generations=found)

    def _writer_of(self, found: Generations | None) -> Writer:
        """Return the writer to the indexes of a generation, made at its first use."""
        own = found.of(self._traits.name) if found else None
        moving = found is not None and found.shadow is not None
        with self._writing:
            key = own, moving, found is not None and found.moved
            if key not in self._writers:
                sink, policy = self._sink, self._policy
                if self._open_for and found and own:
                    sink = self._open_for(found)
                if own and self._traits.shadow:
                    policy = replace(
                        policy, requests_per_minute=own.requests, tokens_per_minute=own.tokens
                    )
                at = self._at
                calls = Calls(self._database, sink, policy, self.concurrency, self._worker, at)
                self._writers[key] = Writer(self._database, sink, calls, at, followed=moving)
            return self._writers[key]

    def _write_and_settle(
        self, operations: Sequence[Operation], state: BatchState, gate: Gate
    ) -> Batch:
        model = Model(gate.model or "", gate.dimensions or 0)
        beside = model if self._traits.shadow else None
        rows = read_batch(self._database, self._traits, operations, beside)
        self._at("read")
        ready = [row for row in rows.values() if not row.deleted]
        if self._traits.needs_embedding:
            ready = [row for row in ready if row.is_embedded_by(model.name)]
        deleted = [row for row in rows.values() if row.deleted]
        if self._traits.embeds:
            deleted = []
        self._writer_of(gate.generations).write(ready, deleted, state, model)
        self._at("written")
        delay = breaker_delay(self._policy, state.failure, gate.consecutive_errors)
        outcomes = self._decide(operations, rows, state, gate, delay)
        settlement = self._settle(outcomes, state, model, gate.generations)
        self._at("settled")
        if debugging():
            self._log_outcomes(outcomes, rows)
        with self._database.autocommit() as conn:
            update_breaker(conn, self._traits.name, state, gate, delay, self._policy.longest_open)
        self._at("breaker_updated")
        return Batch(len(operations), settlement, state.calls, state.bill)

    def _decide(
        self,
        operations: Sequence[Operation],
        rows: Mapping[UUID, Row],
        state: BatchState,
        gate: Gate,
        delay: float,
    ) -> list[Outcome]:
        facts = Facts(
            self._traits,
            self._policy,
            gate.model or "",
            state,
            destination_delays(self._policy, state.blamed, gate.faults, delay),
            current_versions(self._database, self._traits, rows, state),
        )
        return [decide_outcome(op, rows.get(op.entity_id), facts) for op in operations]

    def _settle(
        self,
        outcomes: Sequence[Outcome],
        state: BatchState,
        model: Model,
        generations: Generations | None,
    ) -> Settlement:
        own = generations.of(self._traits.name) if generations else None
        indexes = own.prefix if own and self._traits.of_vectors else None
        plan = Plan(
            self._topology,
            self._policy.confirm_after,
            model,
            state.marks,
            indexes,
        )
        for attempt in range(1, SETTLE_TRIES + 1):
            try:
                settlement = self._settle_once(outcomes, state, plan)
                break
            except (errors.DeadlockDetected, errors.SerializationFailure):
                if attempt == SETTLE_TRIES:
                    raise
        if settlement.lost:
            log.error("operations.lease_lost", sink=self._traits.name, count=settlement.lost)
        return settlement

    def _settle_once(
        self, outcomes: Sequence[Outcome], state: BatchState, plan: Plan
    ) -> Settlement:
        with self._database.transaction() as conn:
            settlement = settle(conn, self._traits, state.token, outcomes, plan)
            self._at("settling")
        return settlement

    def _log_outcomes(self, outcomes: Sequence[Outcome], rows: Mapping[UUID, Row]) -> None:
        """Log each operation; ``change`` is the version that the seeder has logged."""
        for outcome in outcomes:
            op = outcome.op
            row = rows.get(op.entity_id)
            log.debug(
                "operation.settled",
                sink=self._traits.name,
                key=op.entity_key,
                change=row.version if row else op.version,
                outcome=OUTCOMES[type(outcome)],
                reason=None if isinstance(outcome, Synced) else outcome.reason,
            )
