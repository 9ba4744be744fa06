"""Decide the outcome of each operation of a batch. No function here changes or reads a store."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import assert_never
from uuid import UUID

import structlog

from altsync.catalogue.current import entity_types
from altsync.circuit.breaker import Fault
from altsync.contract import AlreadyNewer, Failed, SinkTraits, Written
from altsync.delivery.evidence import destination_of
from altsync.delivery.policy import Policy, full_jitter, half_jitter
from altsync.delivery.state import BatchState
from altsync.entities import Row
from altsync.errors import SinkFailure, plausible_wait
from altsync.log import redact
from altsync.operations import Dead, ErrorKind, Operation, Outcome, Retry, Superseded, Synced

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts that decide the outcomes of one batch, beside its rows.

    ``delays`` are in seconds, by destination. ``current`` are the versions that rows have now,
    where the sink holds a newer one than was written.
    """

    traits: SinkTraits
    policy: Policy
    model: str
    state: BatchState
    delays: Mapping[str, float]
    current: Mapping[UUID, int]


def decide_outcome(op: Operation, row: Row | None, facts: Facts) -> Outcome:
    """Return the outcome of an operation, by its row and by what the sink answered."""
    if row is None:
        return Superseded(op, "the row is gone")
    answer = facts.state.outcomes.get(row.id)
    match answer:
        case None:
            return _not_written(op, row, facts)
        case Written():
            unknown = row.id in facts.state.outcome_unknown
            return Synced(
                op, answer.version, answer.remote_id, answer.namespace, unknown, answer.edge_ids
            )
        case AlreadyNewer():
            return _already_newer(op, row, answer, facts)
        case Failed(final=True):  # altsync's own finding: another try would find the same
            return Dead(op, facts.traits.version_of(row), answer.kind, answer.reason)
        case Failed():
            return _failed(op, row, answer, facts)
        case _:
            assert_never(answer)


def _not_written(op: Operation, row: Row, facts: Facts) -> Outcome:
    """Decide for a record without a call: it needs none, waits, or others failed before it."""
    if row.deleted and facts.traits.embeds:
        return Superseded(op, "the row is deleted")
    if not row.deleted and facts.traits.needs_embedding and not row.is_embedded_by(facts.model):
        return Superseded(op, "waits for its embedding", waits=True)
    name = destination_of(row.entity_type, deleted=row.deleted)
    failure = facts.state.blamed.get(name) or facts.state.failure
    reason = redact(failure.reason) if failure else "the lease was lost"
    return Retry(op, ErrorKind.SINK, reason, facts.delays.get(name, 0.0), give_back=True)


def _already_newer(op: Operation, row: Row, answer: AlreadyNewer, facts: Facts) -> Outcome:
    """Decide where the sink holds a newer version: harmless if the row has changed since."""
    version, current = facts.traits.version_of(row), facts.current.get(row.id)
    if current is None or answer.found is None or answer.found > current:
        log.error("sink.ahead", sink=facts.traits.name, key=row.key, found=answer.found)
        reason = (
            f"{facts.traits.name} holds version {answer.found}, ahead of PostgreSQL's {current}: "
            "was the database restored from a backup?"
        )
        return Dead(op, version, ErrorKind.ITEM, reason)
    if current > version:
        return Retry(op, ErrorKind.UNKNOWN, "changed meanwhile", 0.0, give_back=True)
    reason = f"{facts.traits.name} refuses version {answer.found} as older than itself"
    return _attempt_spent(op, row, Failed(row.id, ErrorKind.UNKNOWN, reason), facts)


def _failed(op: Operation, row: Row, failed: Failed, facts: Facts) -> Outcome:
    """Decide for a failed call: it spends an attempt only where the record is charged."""
    if facts.state.is_charged(row.id):
        return _attempt_spent(op, row, failed, facts)
    policy = facts.policy
    name = destination_of(row.entity_type, deleted=row.deleted)
    return Retry(
        op,
        ErrorKind.SINK,
        failed.reason,
        plausible_wait(failed.retry_after)
        or facts.delays.get(name)
        or full_jitter(policy.backoff, policy.backoff_cap, op.attempts),
        give_back=True,
        outcome_unknown=failed.outcome_unknown,
        timed_out=failed.timed_out,
        alone=facts.state.is_refused(row.id),
    )


def _attempt_spent(op: Operation, row: Row, failed: Failed, facts: Facts) -> Outcome:
    """Decide where an attempt was spent: a retry, or the dead letters after the last one."""
    policy = facts.policy
    kind = ErrorKind.ITEM if failed.kind is ErrorKind.SINK else failed.kind
    if op.attempts >= policy.max_attempts:
        version = facts.traits.version_of(row)
        return Dead(op, version, kind, failed.reason, failed.outcome_unknown)
    return Retry(
        op,
        kind,
        failed.reason,
        full_jitter(policy.backoff, policy.backoff_cap, op.attempts),
        outcome_unknown=failed.outcome_unknown,
        timed_out=failed.timed_out,
        alone=True,
    )


def breaker_delay(policy: Policy, failure: SinkFailure | None, openings: int) -> float:
    """Return the seconds that the breaker stays open after a failure; 0 leaves it closed."""
    if failure is None:
        return 0.0
    if failure.retry_after is not None:
        return failure.retry_after
    return half_jitter(policy.backoff, policy.breaker_cap, openings)


def destination_delays(
    policy: Policy, blamed: Collection[str], faults: Mapping[str, Fault], breaker: float
) -> dict[str, float]:
    """Return the seconds until each destination is tried again, for those that wait.

    All operations of a destination get the same delay: they come back together, and cost one call
    when it still refuses them.
    """
    if breaker:
        both = (False, True)
        return {destination_of(kind, deleted=d): breaker for kind in entity_types() for d in both}
    return {
        name: half_jitter(
            policy.backoff, policy.backoff_cap, faults[name].times if name in faults else 0
        )
        for name in blamed
    }
