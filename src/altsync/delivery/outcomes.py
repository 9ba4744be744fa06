"""What becomes of each operation, by what the sink said of its row."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import assert_never

import structlog

from altsync.catalogue.current import entity_types
from altsync.circuit.breaker import Gate
from altsync.contract import EMBEDDING, AlreadyNewer, Failed, SinkTraits, Written
from altsync.db import Database
from altsync.delivery.evidence import destination_of
from altsync.delivery.policy import Policy, full_jitter
from altsync.delivery.writer import BatchState
from altsync.entities import Row
from altsync.errors import SinkFailure, plausible_wait
from altsync.log import redact
from altsync.operations import Dead, ErrorKind, Operation, Outcome, Retry, Superseded, Synced
from altsync.store.rows import read_rows

log = structlog.get_logger(__name__)


class Judge:
    """Decides over operations of one sink."""

    def __init__(self, database: Database, traits: SinkTraits, policy: Policy) -> None:
        self._database = database
        self._traits = traits
        self._policy = policy

    def verdict(
        self,
        op: Operation,
        row: Row | None,
        state: BatchState,
        gate: Gate,
        delays: Mapping[str, float],
    ) -> Outcome:
        """Return what becomes of an operation, given its row and what was written of the batch.

        ``delays`` are in seconds, by destination; see ``delays``.
        """
        if row is None:
            return Superseded(op, "the row is gone")
        outcome = state.outcomes.get(row.id)
        match outcome:
            case Failed(final=True):  # altsync's own finding: no evidence, no further attempt
                return Dead(op, self._version(row), outcome.kind, outcome.reason)
            case Written():
                outcome_unknown = row.id in state.outcome_unknown
                return Synced(
                    op,
                    outcome.version,
                    outcome.remote_id,
                    outcome.namespace,
                    outcome_unknown,
                    outcome.edge_ids,
                )
            case AlreadyNewer():
                return self._already_newer(op, row, outcome)
            case Failed():
                return self._failed_verdict(op, row, outcome, state, delays)
            case None if row.deleted and self._traits.name == EMBEDDING:
                return Superseded(op, "the row is deleted")
            case None if not row.deleted and self._waits(row, gate):
                return Superseded(op, "waits for its embedding", waits=True)
            case None:
                return self._not_written(op, row, state, delays)
            case _:
                assert_never(outcome)

    def _not_written(
        self, op: Operation, row: Row, state: BatchState, delays: Mapping[str, float]
    ) -> Outcome:
        """No call was made for it: its destination or the sink failed before."""
        name = destination_of(row.entity_type, deleted=row.deleted)
        failure = state.blamed.get(name) or state.failure
        reason = redact(failure.reason) if failure else "the lease was lost"
        return Retry(op, ErrorKind.SINK, reason, delays.get(name, 0.0), give_back=True)

    def _waits(self, row: Row, gate: Gate) -> bool:
        return self._traits.needs_embedding and not row.is_embedded_by(gate.model or "")

    def _already_newer(self, op: Operation, row: Row, outcome: AlreadyNewer) -> Outcome:
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
            rows = read_rows(conn, row.entity_type, [row.id])
        return self._version(rows[0]) if rows else None

    def _version(self, row: Row) -> int:
        return row.graph_version if self._traits.edges else row.version

    def _failed_verdict(
        self,
        op: Operation,
        row: Row,
        failed: Failed,
        state: BatchState,
        delays: Mapping[str, float],
    ) -> Outcome:
        if state.is_charged(row.id):
            kind = ErrorKind.ITEM if failed.kind is ErrorKind.SINK else failed.kind
            return self._spent(
                op,
                row,
                kind,
                failed.reason,
                outcome_unknown=failed.outcome_unknown,
                timed_out=failed.timed_out,
            )
        name = destination_of(row.entity_type, deleted=row.deleted)
        return Retry(
            op,
            ErrorKind.SINK,
            failed.reason,
            plausible_wait(failed.retry_after)
            or delays.get(name)
            or full_jitter(self._policy.backoff, self._policy.backoff_cap, op.attempts),
            give_back=True,
            outcome_unknown=failed.outcome_unknown,
            timed_out=failed.timed_out,
            alone=state.is_refused(row.id),
        )

    def _spent(
        self,
        op: Operation,
        row: Row,
        kind: ErrorKind,
        reason: str,
        *,
        outcome_unknown: bool = False,
        timed_out: bool = False,
    ) -> Outcome:
        """An attempt was spent: another one later, or the end."""
        if op.attempts >= self._policy.max_attempts:
            return Dead(op, self._version(row), kind, reason, outcome_unknown)
        delay = full_jitter(self._policy.backoff, self._policy.backoff_cap, op.attempts)
        return Retry(
            op,
            kind,
            reason,
            delay,
            outcome_unknown=outcome_unknown,
            timed_out=timed_out,
            alone=True,
        )

    def breaker_delay(self, failure: SinkFailure | None, gate: Gate) -> float:
        """Seconds that the breaker stays open after this failure; 0 when it stays closed."""
        if failure is None:
            return 0.0
        if failure.retry_after is not None:
            return failure.retry_after
        return self._wait(self._policy.breaker_cap, gate.consecutive_errors)

    def delays(self, state: BatchState, gate: Gate, breaker_delay: float) -> dict[str, float]:
        """Seconds until the operations of each destination are tried again, for those that wait.

        All operations of a destination get the same, so that they come back together, and cost
        one call when it still refuses them.
        """
        if breaker_delay:
            return dict.fromkeys(_destinations(), breaker_delay)
        known = gate.faults
        return {
            name: self._wait(self._policy.backoff_cap, known[name].times if name in known else 0)
            for name in state.blamed
        }

    def _wait(self, cap: float, times: int) -> float:
        bound = min(cap, self._policy.backoff * 2.0 ** min(times, 30))
        return random.uniform(bound / 2, bound)  # noqa: S311  (spreads load, guards nothing)


def _destinations() -> list[str]:
    """Names of all destinations that a sink may have."""
    return [
        destination_of(entity_type, deleted=deleted)
        for entity_type in entity_types()
        for deleted in (False, True)
    ]
