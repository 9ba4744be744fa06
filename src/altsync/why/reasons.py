"""The reasons of an explanation: a sentence for each difference."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from altsync.catalogue.current import part_of
from altsync.circuit.sinks import SinkHealth
from altsync.contract import Topology
from altsync.declarations import shown_sinks, title_of
from altsync.operations import BreakerState, Origin
from altsync.why.explanation import EDITED, Check, DeliveryState, Embedding, SeedLine
from altsync.why.history import EntityState, OperationRow
from altsync.wording import plural, sentences

#: Time for which an operation may be due without a claim. The relay polls every second.
SILENCE = timedelta(seconds=10)


def reasons_of(
    topology: Topology,
    entity: EntityState,
    embedding: Embedding,
    line: SeedLine | None,
    checks: Sequence[Check],
    delivery: DeliveryState,
) -> tuple[str, ...]:
    """Return a sentence for each difference, or one sentence on the agreement."""
    edited = any(check.store == "postgresql" for check in checks)
    found = [_edited_reason(entity) if edited else _seed_reason(entity, line)]
    explained: set[str] = set()
    for sink in topology.names:
        reason = _sink_reason(topology, entity, embedding, sink, delivery, edited=edited)
        if reason:
            explained.add(sink)
            found.append(reason)
    by_store = {check.store: check for check in checks}
    for sink in shown_sinks(topology.names):
        check = by_store[sink]
        if check.agrees is False and edited and sink not in explained:
            found.append(f"{title_of(sink)} does not hold the edit ({check.detail}).")
        elif check.agrees is False and sink not in explained:
            found.append(
                f"{title_of(sink)} differs though it has confirmed ({check.detail}): it was "
                f"changed there. altsync backfill --sink {sink} --force writes everything again."
            )
        elif check.agrees is None and sink not in explained:
            found.append(sentences(f"{title_of(sink)} was not compared: {check.detail}"))
    reasons = tuple(one for one in found if one)
    if reasons:
        return reasons
    if entity.deleted_at is not None:
        return (f"Deleted everywhere at version {entity.version}.",)
    return (f"Every store agrees at version {entity.version}.",)


def _edited_reason(entity: EntityState) -> str:
    part = part_of(entity.type)
    return (
        f"PostgreSQL's row was {EDITED}. altsync seed --{part} restores the seed's values; "
        "altsync verify --repair keeps the edit and writes it to every store."
    )


def _seed_reason(entity: EntityState, line: SeedLine | None) -> str | None:
    if line is None or line.same:
        return None
    if line.refused:
        return sentences(
            f"Its seed line is refused, so PostgreSQL keeps what it had: {line.refused}"
        )
    part = part_of(entity.type)
    return f"Its seed line has changed and is not loaded: altsync seed --{part} loads it."


def _sink_reason(
    topology: Topology,
    entity: EntityState,
    embedding: Embedding,
    sink: str,
    delivery: DeliveryState,
    *,
    edited: bool,
) -> str | None:
    title = title_of(sink)
    live, dead = delivery.live.get(sink), delivery.dead.get(sink)
    if live is not None:
        return sentences(f"{title} {_live_reason(live, delivery)}")
    if dead is not None:
        return sentences(
            f"{title} was given up on after {_attempts(dead)}: {dead.last_error}",
            f"Remove the cause, then altsync retry --entity {entity.key}",
        )
    mark = entity.sinks.get(sink)
    discarded = delivery.discarded.get(sink)
    if discarded is not None and mark is not None and mark.status == "failed":
        return sentences(
            f"{title} was given up on for good by {discarded.discarded_by} "
            f"({discarded.discarded_why}) after: {discarded.last_error}",
            "It is tried again when the entity changes",
        )
    if embedding.up_to_date or edited or entity.deleted_at is not None:
        return None
    if mark is not None and mark.status == "failed" and _waits_for_vector(topology, sink):
        return f"{title} lacks the entity, as its embedding was given up on."
    if topology.traits(sink).embeds:
        return (
            f"{title} is not as wanted ({embedding.gap}), and no operation is live: "
            "altsync reembed finds such rows."
        )
    return f"{title} waits for the embedding." if _waits_for_vector(topology, sink) else None


def _waits_for_vector(topology: Topology, sink: str) -> bool:
    traits = topology.traits(sink)
    return traits.needs_embedding and traits.follows is None


def _live_reason(op: OperationRow, delivery: DeliveryState) -> str:
    """Return the state of a live operation, as a sentence without its subject."""
    sink, now = op.sink, delivery.now
    health, disabled = delivery.health.get(sink), delivery.disabled.get(sink)
    if op.status == "in_progress":
        if op.available_at <= now:
            return f"was being worked on by {op.leased_by}, which has vanished; another takes over"
        return f"is being worked on by {op.leased_by}"
    paused = health is not None and health.state is BreakerState.PAUSED
    if disabled is not None and not paused:
        return f"waits: it is switched off ({disabled})"
    if health is None:
        return "waits: it was never set up; run altsync migrate"
    match health.state:
        case BreakerState.OPEN | BreakerState.PROBING:
            return f"waits: its breaker is open since {_time(health.since)}: {health.reason}"
        case BreakerState.PAUSED:
            return (
                f"waits: it is paused since {_time(health.since)} ({health.reason}); "
                f"altsync resume --sink {sink} lets it go on"
            )
        case BreakerState.DISABLED:
            return f"waits: the relay has it switched off ({health.reason})"
        case BreakerState.CLOSED:
            return _due_reason(op, health, now, held=sink in delivery.graph)


#: Origins of operations that were enqueued with the change itself.
_CHANGES = (Origin.SEED, Origin.UPDATE)


def _due_reason(op: OperationRow, health: SinkHealth, now: datetime, *, held: bool) -> str:
    if op.available_at > now and op.origin == Origin.CONFIRM:
        when = _time(op.available_at)
        return f"is written once more at {when}, as the outcome of an earlier write is unknown"
    if op.available_at > now and op.last_error is None and held and op.origin in _CHANGES:
        return f"waits for its relationships, until {_time(op.available_at)} at most"
    if op.available_at > now and op.last_error is None:
        return f"is due at {_time(op.available_at)}"
    if op.available_at > now:
        return f"is tried again at {_time(op.available_at)}, after {_attempts(op)}: {op.last_error}"
    claimed = health.last_claim_at
    if op.available_at < now - SILENCE and (claimed is None or claimed < op.available_at):
        when = f"since {_time(claimed)}" if claimed else "yet"
        return f"is due, and no worker has claimed it {when}: see whether relay and worker run"
    return "is due, and will be worked on in its turn"


def _attempts(op: OperationRow) -> str:
    return plural(op.attempts, "attempt")


def _time(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
