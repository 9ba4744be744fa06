"""Settle a batch: end each of its operations, then enqueue what follows, in one transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from uuid import UUID

from altsync.contract import EMBEDDING, SinkTraits, Topology
from altsync.db import Conn
from altsync.declarations import edge_id_column
from altsync.entities import Model
from altsync.operations import Dead, Origin, Outcome, Retry, Settlement, Superseded, Synced
from altsync.outbox.embedding_dependency import fail_behind, hand_over
from altsync.outbox.ends import Ended, end_all
from altsync.outbox.enqueue import lock_entities
from altsync.outbox.marks import Marks
from altsync.outbox.settled_entities import (
    enqueue_searches,
    give_vectors,
    invalidate_searches,
    keep_edge_ids_of,
    write_statuses,
)
from altsync.outbox.shadow import SHADOW_EMBEDDING, embedded_in_shadow, follow_in_shadow

T = TypeVar("T", bound=Outcome)

#: The model of settlements that store no vector.
NO_MODEL = Model("", 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """How to enqueue what follows a settled operation; times are in seconds.

    ``model`` is that of the vectors which the embedding sink has stored. ``marks`` are the
    positions of the batch's writes. ``indexes`` is the prefix of the generation that was written,
    None where none was.
    """

    topology: Topology
    confirm_after: float
    model: Model = NO_MODEL
    marks: Marks = field(default_factory=dict)
    indexes: str | None = None


def settle(
    conn: Conn, sink: SinkTraits, token: UUID, outcomes: Sequence[Outcome], plan: Plan
) -> Settlement:
    """End the operations of a batch, inside the caller's transaction.

    The token is the fence: an operation whose lease was taken away changes nothing, and is
    counted as lost.
    """
    lock_entities(conn, ((o.op.entity_type, o.op.entity_id) for o in outcomes))
    ended = end_all(conn, sink, token, outcomes)
    inherited = _close_earlier(conn, sink, _only(Synced, ended))
    unknown = inherited | {e.outcome.op.id for e in ended if _is_unknown(e)}
    stale = {e.outcome.op.id for e in ended if _is_exchanged(sink, e, plan)}
    reruns = stale | {e.outcome.op.id for e in ended if _needs_rerun(e)}
    kept = [e for e in ended if e.outcome.op.id not in stale]
    with conn.pipeline():
        _follow_up(conn, sink, ended, reruns, unknown, plan)
        _correct_versions(conn, ended)
        _update_entities(conn, sink, kept, reruns, plan)
        _update_searches(conn, sink, ended, plan)
        _fail_behind(conn, sink, kept, plan)
        _update_shadow(conn, sink, kept, plan)
    counts = Counter(type(e.outcome) for e in ended)
    return Settlement(
        synced=counts[Synced],
        superseded=counts[Superseded],
        dead=counts[Dead],
        retried=counts[Retry],
        lost=len(outcomes) - len(ended),
        ages=tuple(
            age for e in ended if isinstance(e.outcome, Synced) and (age := e.age) is not None
        ),
    )


def _only(kind: type[T], ended: Sequence[Ended]) -> list[T]:
    return [e.outcome for e in ended if isinstance(e.outcome, kind)]


def _needs_rerun(ended: Ended) -> bool:
    """Return whether the entity changed after this worker read it."""
    outcome = ended.outcome
    newer = isinstance(outcome, Synced) and ended.wanted_version > outcome.version
    return ended.rerun_requested or newer


def _is_exchanged(sink: SinkTraits, ended: Ended, plan: Plan) -> bool:
    """Return whether the models were exchanged after this worker read which one it writes.

    The other indexes may lack the write, so the operation is enqueued again. Rows that were read
    after the exchange seemed to wait for the embedding by the former model.
    """
    outcome = ended.outcome
    waits = isinstance(outcome, Superseded) and outcome.waits
    if plan.indexes is None or not (isinstance(outcome, Synced) or waits):
        return False
    present = ended.shadow if sink.shadow else ended.serving
    return present is not None and present != plan.indexes


def _is_unknown(ended: Ended) -> bool:
    """Return whether an earlier write of the operation may still be applied."""
    in_batch = isinstance(ended.outcome, Synced) and ended.outcome.outcome_unknown
    return ended.outcome_unknown or in_batch


# A success closes the dead letters of its entity, and the embedding's where it needed a vector.
# It also takes over the unknown outcomes that discarded and superseded operations have
# left: a confirming write follows, in all of their namespaces.
_CLOSE_EARLIER = """
WITH earlier AS MATERIALIZED (
  SELECT o.id, o.sink, o.outcome_unknown, o.namespaces, r.id AS success
  FROM unnest(%(ids)s::bigint[], %(entities)s::uuid[], %(versions)s::bigint[])
    AS r(id, entity, version)
  JOIN sync_operation o ON o.entity_id = r.entity AND o.version <= r.version
  WHERE (o.status = 'dead' OR (o.status = 'discarded' AND o.outcome_unknown)
         OR (o.status = 'superseded' AND o.outcome_unknown))
    AND o.sink = ANY(%(sinks)s) AND o.entity_id = ANY(%(entities)s)
  FOR NO KEY UPDATE OF o),
closed AS (
  UPDATE sync_operation o SET outcome_unknown = false,
    status = CASE WHEN o.status = 'dead' THEN 'superseded' ELSE o.status END
  FROM earlier e WHERE o.id = e.id)
UPDATE sync_operation o SET namespaces = o.namespaces || ARRAY(
  SELECT DISTINCT unnest(e.namespaces) FROM earlier e
  WHERE e.success = o.id AND e.outcome_unknown AND e.sink = o.sink)
WHERE o.id = ANY(%(ids)s)
  AND o.id IN (SELECT success FROM earlier WHERE outcome_unknown AND sink = %(sink)s)
RETURNING o.id
"""


def _close_earlier(conn: Conn, sink: SinkTraits, synced: Sequence[Synced]) -> set[int]:
    """Close earlier failures; return the operations that take over an unknown outcome."""
    if not synced:
        return set()
    embedding = SHADOW_EMBEDDING if sink.shadow else EMBEDDING
    closed = conn.execute(
        _CLOSE_EARLIER,
        {
            "ids": [one.op.id for one in synced],
            "entities": [one.op.entity_id for one in synced],
            "versions": [one.version for one in synced],
            "sinks": [sink.name, embedding] if sink.needs_embedding else [sink.name],
            "sink": sink.name,
        },
    )
    return {row[0] for row in closed}


# Runs before _SET_VERSION replaces the wanted version, which the new row copies.
_FOLLOW_UP = """
INSERT INTO sync_operation
  (entity_type, entity_id, entity_key, sink, action, version, origin, priority,
   available_at, outcome_unknown, namespaces, first_version, changed_at)
SELECT o.entity_type, o.entity_id, o.entity_key, o.sink, o.action, o.version, r.origin,
       o.priority, now() + make_interval(secs => r.delay), r.outcome_unknown, o.namespaces,
       COALESCE(r.first_version, o.first_version),
       CASE WHEN r.origin <> 'confirm' THEN o.changed_at END
FROM unnest(%(ids)s::bigint[], %(origins)s::text[], %(delays)s::float8[],
            %(outcome_unknown)s::bool[], %(first_versions)s::bigint[])
  AS r(id, origin, delay, outcome_unknown, first_version)
JOIN sync_operation o ON o.id = r.id
WHERE o.id = ANY(%(ids)s)
"""


def _follow_up(
    conn: Conn,
    sink: SinkTraits,
    ended: Sequence[Ended],
    reruns: set[int],
    unknown: set[int],
    plan: Plan,
) -> None:
    """Enqueue the reruns at once, and the confirming writes of an unguarded sink for later.

    A sink that has written a version needs no second wait for it: they begin at the next one. A
    vector may not be given to its entity, so a rerun of the embedding begins where the operation
    did.
    """
    rows: list[tuple[int, str, float, bool, int | None]] = []
    for one in ended:
        op_id, outcome = one.outcome.op.id, one.outcome
        first = None
        if isinstance(outcome, Synced) and not sink.embeds:
            first = outcome.version + 1
        if op_id in reruns:
            rows.append((op_id, one.origin, 0.0, op_id in unknown, first))
        elif isinstance(outcome, Synced) and op_id in unknown and not sink.guarded:
            rows.append((op_id, Origin.CONFIRM, plan.confirm_after, False, first))
    if rows:
        ids, origins, delays, unknowns, firsts = map(list, zip(*rows, strict=True))
        conn.execute(
            _FOLLOW_UP,
            {
                "ids": ids,
                "origins": origins,
                "delays": delays,
                "outcome_unknown": unknowns,
                "first_versions": firsts,
            },
        )


_SET_VERSION = """
UPDATE sync_operation o SET version = r.version
FROM unnest(%(ids)s::bigint[], %(versions)s::bigint[]) AS r(id, version)
WHERE o.id = ANY(%(ids)s) AND o.id = r.id
"""


def _correct_versions(conn: Conn, ended: Sequence[Ended]) -> None:
    """Record the version that was written, which may be higher than the wanted one."""
    written = {
        one.outcome.op.id: one.outcome.version
        for one in ended
        if isinstance(one.outcome, Synced) and one.outcome.version != one.wanted_version
    }
    if written:
        conn.execute(_SET_VERSION, {"ids": list(written), "versions": list(written.values())})


def _update_entities(
    conn: Conn, sink: SinkTraits, ended: Sequence[Ended], reruns: set[int], plan: Plan
) -> None:
    """Write the outcomes of operations to their entities; no status where a rerun follows."""
    synced, dead = _only(Synced, ended), _only(Dead, ended)
    if sink.shadow:
        if sink.embeds:
            embedded_in_shadow(conn, synced, plan.topology)
        return
    if sink.embeds:
        write_statuses(conn, sink, [], dead, reruns, plan.marks)
        give_vectors(conn, synced, plan.topology, plan.model)
    else:
        write_statuses(conn, sink, synced, dead, reruns, plan.marks)
    if column := edge_id_column(sink.name):
        keep_edge_ids_of(conn, column, synced)


def _update_searches(conn: Conn, sink: SinkTraits, ended: Sequence[Ended], plan: Plan) -> None:
    """Enqueue the searches that follow this sink, and invalidate those that did not run."""
    if sink.follows:
        invalidate_searches(conn, [*_only(Superseded, ended), *_only(Dead, ended)])
    enqueue_searches(conn, _only(Synced, ended), sink, plan.topology)


def _update_shadow(conn: Conn, sink: SinkTraits, ended: Sequence[Ended], plan: Plan) -> None:
    """Enqueue the entities whose vectors were written, or given up on, for the shadow."""
    if sink.of_vectors and not sink.embeds and not sink.shadow:
        followed = [e for e in ended if e.shadow is not None]
        follow_in_shadow(conn, sink, [*_only(Synced, followed), *_only(Dead, followed)])


def _fail_behind(conn: Conn, sink: SinkTraits, ended: Sequence[Ended], plan: Plan) -> None:
    """Mark the sinks that wait for an embedding failed, where it was given up on."""
    if sink.shadow:
        return
    behind: list[Outcome] = [one for one in _only(Superseded, ended) if one.waits]
    hand_over(conn, [one.op.id for one in behind])
    if sink.embeds:
        behind += _only(Dead, ended)
    fail_behind(conn, [(o.op.id, o.op.entity_type, o.op.entity_id) for o in behind], plan.topology)
