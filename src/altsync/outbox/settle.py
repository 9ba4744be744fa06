"""Writing down what became of a claimed batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, Columns, SinkTraits, Topology
from altsync.db import Conn
from altsync.declarations import columns_of, namespace_column
from altsync.entities import EntityType, SyncStatus
from altsync.operations import (
    Dead,
    Operation,
    Origin,
    Outcome,
    Retry,
    Settlement,
    Superseded,
    Synced,
)
from altsync.outbox.edges import (
    enqueue_neighbour_search,
    input_hash_of_vector,
    invalidate_neighbours,
    keep_edge_ids,
)
from altsync.outbox.embedding_dependency import (
    embedding_in_progress,
    fail_behind,
    keep_outcome_unknown,
)
from altsync.outbox.enqueue import (
    MERGE_INTO_LIVE,
    lock_entities,
    notify,
    sanitize,
    status_column,
)
from altsync.outbox.patterns import GROUP_OF

#: Plain texts: an array of an enum's members is sent one by one.
_SYNCED, _FAILED = SyncStatus.SYNCED.value, SyncStatus.FAILED.value

# The `= ANY(ids)` beside each join keeps it off a sequential scan of the table.
_FLIP_ROWS = """
FROM unnest(%(ids)s::uuid[], %(versions)s::bigint[], %(statuses)s::text[],
            %(remote_ids)s::text[], %(namespaces)s::text[], %(flips)s::bool[])
  AS r(id, version, status, remote_id, namespace, flips)
WHERE l.id = ANY(%(ids)s) AND l.id = r.id
"""


_COMPLETE = """
UPDATE sync_operation SET status = 'synced', lease_token = NULL, finished_at = now(),
  last_error = NULL, error_kind = NULL
WHERE id = ANY(%(ids)s) AND lease_token = %(token)s
RETURNING id, version, rerun_requested, outcome_unknown, origin
"""

_FINISH = f"""
UPDATE sync_operation o SET status = r.status, lease_token = NULL, finished_at = now(),
  last_error = r.error, error_kind = r.kind,
  outcome_unknown = o.outcome_unknown OR r.outcome_unknown,
  error_group = CASE WHEN r.status = 'dead' THEN {GROUP_OF.format(error="r.error", kind="r.kind")}
                     ELSE NULL END
FROM unnest(%(ids)s::bigint[], %(statuses)s::text[], %(errors)s::text[], %(kinds)s::text[],
            %(outcome_unknown)s::bool[])
  AS r(id, status, error, kind, outcome_unknown)
WHERE o.id = ANY(%(ids)s) AND o.id = r.id AND o.lease_token = %(token)s
RETURNING o.id, o.version, o.rerun_requested, o.outcome_unknown, o.origin
"""

_RETRY = """
UPDATE sync_operation o SET status = 'pending', lease_token = NULL, rerun_requested = false,
  last_error = r.error, error_kind = r.kind,
  available_at = CASE WHEN o.rerun_requested AND NOT r.give_back THEN now()
                      ELSE now() + make_interval(secs => r.delay) END,
  attempts = CASE WHEN r.give_back THEN o.attempts - 1
                  WHEN o.rerun_requested THEN 0 ELSE o.attempts END,
  timeout_count = LEAST(o.timeout_count + r.timed_out::int, 1000),
  last_timeout_at = CASE WHEN r.alone THEN now() ELSE o.last_timeout_at END,
  outcome_unknown = o.outcome_unknown OR r.outcome_unknown
FROM unnest(%(ids)s::bigint[], %(delays)s::float8[], %(errors)s::text[], %(kinds)s::text[],
            %(give_back)s::bool[], %(outcome_unknown)s::bool[], %(timed_out)s::bool[],
            %(alone)s::bool[])
  AS r(id, delay, error, kind, give_back, outcome_unknown, timed_out, alone)
WHERE o.id = ANY(%(ids)s) AND o.id = r.id AND o.lease_token = %(token)s
RETURNING o.id
"""

# Runs before _SET_VERSION: the new row wants what the finished one still wants.
_FOLLOW_UP = """
INSERT INTO sync_operation
  (entity_type, entity_id, entity_key, sink, action, version, origin, priority,
   available_at, outcome_unknown, namespaces)
SELECT o.entity_type, o.entity_id, o.entity_key, o.sink, o.action, o.version, r.origin,
       o.priority, now() + make_interval(secs => r.delay), r.outcome_unknown, o.namespaces
FROM unnest(%(ids)s::bigint[], %(origins)s::text[], %(delays)s::float8[],
            %(outcome_unknown)s::bool[])
  AS r(id, origin, delay, outcome_unknown)
JOIN sync_operation o ON o.id = r.id
WHERE o.id = ANY(%(ids)s)
"""

_SET_VERSION = """
UPDATE sync_operation o SET version = r.version
FROM unnest(%(ids)s::bigint[], %(versions)s::bigint[]) AS r(id, version)
WHERE o.id = ANY(%(ids)s) AND o.id = r.id
"""

# One entity and sink, one failure: the latest. It takes over the unknown outcomes of the others.
_MERGE_DEAD = """
WITH earlier AS (
  SELECT o.id, o.outcome_unknown, o.namespaces, r.id AS latest
  FROM unnest(%(ids)s::bigint[], %(entities)s::uuid[]) AS r(id, entity)
  JOIN sync_operation o ON o.entity_id = r.entity AND o.id < r.id
  WHERE o.status = 'dead' AND o.sink = %(sink)s AND o.entity_id = ANY(%(entities)s)
  ORDER BY o.entity_id, o.sink FOR NO KEY UPDATE OF o),
ended AS (
  UPDATE sync_operation o SET status = 'superseded', outcome_unknown = false
  FROM earlier e WHERE o.id = e.id)
UPDATE sync_operation o SET
  outcome_unknown = o.outcome_unknown OR e.outcome_unknown,
  namespaces = o.namespaces || e.namespaces
FROM (SELECT latest, bool_or(outcome_unknown) AS outcome_unknown,
             COALESCE(array_agg(namespace) FILTER (WHERE namespace IS NOT NULL), '{}') AS namespaces
      FROM earlier LEFT JOIN LATERAL unnest(namespaces) namespace ON true GROUP BY latest) e
WHERE o.id = e.latest
"""

# What was discarded stays so; an unknown outcome is resolved by the echo that follows.
_CLOSE_DEAD = """
UPDATE sync_operation o SET
  status = CASE WHEN o.status = 'dead' THEN 'superseded' ELSE o.status END,
  outcome_unknown = o.outcome_unknown AND o.status = 'dead'
FROM unnest(%(ids)s::uuid[], %(versions)s::bigint[]) AS r(id, version)
WHERE (o.status = 'dead' OR (o.status = 'discarded' AND o.outcome_unknown))
  AND o.sink = ANY(%(sinks)s) AND o.entity_id = ANY(%(ids)s)
  AND o.entity_id = r.id AND o.version <= r.version
RETURNING o.entity_id, o.sink, o.outcome_unknown OR o.status = 'discarded', o.namespaces
"""


def settle(
    conn: Conn,
    sink: SinkTraits,
    token: UUID,
    verdicts: Sequence[Outcome],
    *,
    confirm_after_seconds: float,
    topology: Topology,
    model: str | None = None,
    dimensions: int | None = None,
    debounce: float = 0.0,
) -> Settlement:
    """Write down what became of a batch, inside the caller's transaction.

    The token is the fence: operations whose lease was taken away change nothing and are counted
    as lost. A status of an entity changes only where its row still has the version that was
    written. A rerun that was requested meanwhile gets a new operation at once. A write of unknown
    outcome to an unguarded sink gets a confirming write after ``confirm_after_seconds``; where the
    entity waits for its embedding, that write waits for it, too. When the embedding sink settles,
    entities point to their vectors, and the sinks that need them get their operations. Sinks that
    follow this one get theirs ``debounce`` seconds later.
    """
    synced = {v.op.id: v for v in verdicts if isinstance(v, Synced)}
    finished = {v.op.id: v for v in verdicts if isinstance(v, Superseded | Dead)}
    retried = [v for v in verdicts if isinstance(v, Retry)]
    lock_entities(conn, ((v.op.entity_type, v.op.entity_id) for v in verdicts))
    with conn.pipeline():
        completes = _complete(conn, token, synced)
        finishes = _finish(conn, token, finished)
        retries = _retry(conn, token, retried)
        done = completes.fetchall() if completes else []
        ended = finishes.fetchall() if finishes else []
        again = len(retries.fetchall()) if retries else 0
    rerun_requested = {r[0] for r in done if r[2] or r[1] > synced[r[0]].version}
    rerun_requested |= {r[0] for r in ended if r[2]}
    settled = [synced[r[0]] for r in done]
    buried = [v for r in ended if isinstance(v := finished[r[0]], Dead)]
    if buried:
        conn.execute(
            _MERGE_DEAD,
            {
                "ids": [v.op.id for v in buried],
                "entities": [v.op.entity_id for v in buried],
                "sink": sink.name,
            },
        )
    doubted = _close_dead(conn, sink, settled) | {v.op.id for v in settled if v.outcome_unknown}
    waiting = {r[0]: v for r in ended if isinstance(v := finished[r[0]], Superseded) and v.waits}
    strays = {i: v for i, v in waiting.items() if v.op.namespaces and i not in rerun_requested}
    coming = embedding_in_progress(conn, [v.op.entity_id for v in strays.values()])
    put_off = {i for i, v in strays.items() if v.op.entity_id in coming}
    doubted |= put_off
    echoed = put_off | {r[0] for r in ended if r[3]}
    with conn.pipeline():
        _follow_up(
            conn, sink, [*done, *ended], rerun_requested, doubted, finished, confirm_after_seconds
        )
        keep_outcome_unknown(conn, [i for i in strays if i not in echoed])
        changed = [(r[0], synced[r[0]].version) for r in done if r[1] != synced[r[0]].version]
        _set_versions(conn, changed)
        if sink.name == EMBEDDING:
            _flip(conn, sink, [], buried, rerun_requested)
            _give_vectors(conn, settled, topology, model or "", dimensions or 0)
        else:
            _flip(conn, sink, settled, buried, rerun_requested)
        if sink.edges:
            _keep_edge_ids(conn, settled)
        if sink.follows:  # given up, or put off until there is a vector: no search has ended
            for kind, ids in _by_type(finished[r[0]].op for r in ended).items():
                invalidate_neighbours(conn, kind, ids)
        behind = [(i, v.op.entity_type, v.op.entity_id) for i, v in waiting.items()]
        if sink.name == EMBEDDING:
            behind += [(v.op.id, v.op.entity_type, v.op.entity_id) for v in buried]
        fail_behind(conn, behind, topology)
        for kind, ids in _by_type(v.op for v in settled).items():
            if kind.similar:
                enqueue_neighbour_search(
                    conn, kind, topology.followers(sink.name), ids, delay=debounce
                )
    return Settlement(
        synced=len(done),
        superseded=len(ended) - len(buried),
        dead=len(buried),
        retried=again,
        lost=len(verdicts) - len(done) - len(ended) - again,
    )


def _by_type(operations: Iterable[Operation]) -> dict[EntityType, list[UUID]]:
    """The entities of operations, by type in the order of locks."""
    found: dict[EntityType, list[UUID]] = {kind: [] for kind in entity_types()}
    for op in operations:
        found[op.entity_type].append(op.entity_id)
    return {kind: ids for kind, ids in found.items() if ids}


def _keep_edge_ids(conn: Conn, settled: Sequence[Synced]) -> None:
    for kind in entity_types():
        if kind.edges:
            ids = {e: i for v in settled if v.op.entity_type == kind for e, i in v.edge_ids.items()}
            keep_edge_ids(conn, kind, ids)


def _complete(conn: Conn, token: UUID, synced: dict[int, Synced]) -> Any:
    return conn.execute(_COMPLETE, {"ids": list(synced), "token": token}) if synced else None


def _finish(conn: Conn, token: UUID, finished: dict[int, Superseded | Dead]) -> Any:
    if not finished:
        return None
    dead = {op_id: v for op_id, v in finished.items() if isinstance(v, Dead)}
    return conn.execute(
        _FINISH,
        {
            "ids": list(finished),
            "statuses": ["dead" if op_id in dead else "superseded" for op_id in finished],
            "errors": [sanitize(v.reason) for v in finished.values()],
            "kinds": [dead[op_id].kind if op_id in dead else None for op_id in finished],
            "outcome_unknown": [
                op_id in dead and dead[op_id].outcome_unknown for op_id in finished
            ],
            "token": token,
        },
    )


def _retry(conn: Conn, token: UUID, retried: Sequence[Retry]) -> Any:
    if not retried:
        return None
    return conn.execute(
        _RETRY,
        {
            "ids": [v.op.id for v in retried],
            "delays": [v.delay for v in retried],
            "errors": [sanitize(v.reason) for v in retried],
            "kinds": [v.kind for v in retried],
            "give_back": [v.give_back for v in retried],
            "outcome_unknown": [v.outcome_unknown for v in retried],
            "timed_out": [v.timed_out for v in retried],
            "alone": [v.alone for v in retried],
            "token": token,
        },
    )


def _close_dead(conn: Conn, sink: SinkTraits, settled: Sequence[Synced]) -> set[int]:
    """A success closes what was given up on before; so does a vector what embedding lacked.

    Returns the operations of entities whose given-up write may still be applied.
    """
    if not settled:
        return set()
    sinks = [sink.name, EMBEDDING] if sink.needs_embedding else [sink.name]
    ids, versions = [v.op.entity_id for v in settled], [v.version for v in settled]
    closed = conn.execute(_CLOSE_DEAD, {"sinks": sinks, "ids": ids, "versions": versions})
    doubted: dict[UUID, list[str]] = {}
    for entity, of_sink, outcome_unknown, namespaces in closed:
        if of_sink == sink.name and outcome_unknown:
            doubted.setdefault(entity, []).extend(namespaces)
    ops = {v.op.id: doubted[v.op.entity_id] for v in settled if v.op.entity_id in doubted}
    for op_id, namespaces in ops.items():
        if namespaces:  # the echo leaves them, too
            conn.execute(
                "UPDATE sync_operation SET namespaces = namespaces || %s::text[] WHERE id = %s",
                (namespaces, op_id),
            )
    return set(ops)


def _follow_up(
    conn: Conn,
    sink: SinkTraits,
    rows: Sequence[Any],
    rerun_requested: set[int],
    doubted: set[int],
    finished: dict[int, Superseded | Dead],
    confirm_after_seconds: float,
) -> None:
    """Enqueue what must be delivered once more."""
    plans: list[tuple[int, str, float, bool]] = []
    for op_id, _version, _asked, outcome_unknown, origin in rows:
        end = finished.get(op_id)
        doubtful = outcome_unknown or op_id in doubted
        if op_id in rerun_requested:
            plans.append((op_id, origin, 0.0, doubtful))
        elif doubtful and not sink.guarded and not isinstance(end, Dead):
            plans.append((op_id, Origin.CONFIRM, confirm_after_seconds, False))
    if plans:
        ids, origins, delays, unsures = map(list, zip(*plans, strict=True))
        conn.execute(
            _FOLLOW_UP,
            {"ids": ids, "origins": origins, "delays": delays, "outcome_unknown": unsures},
        )


def _set_versions(conn: Conn, versions: Sequence[tuple[int, int]]) -> None:
    """History says what was written, which may be more than was asked for."""
    if versions:
        ids, numbers = map(list, zip(*versions, strict=True))
        conn.execute(_SET_VERSION, {"ids": ids, "versions": numbers})


def _flip(
    conn: Conn,
    sink: SinkTraits,
    synced: Sequence[Synced],
    dead: Sequence[Dead],
    rerun_requested: set[int],
) -> None:
    """Write statuses, ids and namespaces to the entities; no status where a follow-up is live."""
    columns = columns_of(sink.name)
    if columns is None:
        return
    version = "graph_version" if sink.edges else "version"
    # A deleted entity needs no embedding: it is synced, whatever ends.
    living = "AND l.deleted_at IS NULL" if sink.name == EMBEDDING else ""
    changes = ", ".join(_changes(columns, version, living))
    for entity_type in entity_types():
        done = [v for v in synced if v.op.entity_type == entity_type]
        failed = [v for v in dead if v.op.entity_type == entity_type]
        verdicts: list[Synced | Dead] = [*done, *failed]
        if verdicts:
            without = [None] * len(failed)
            statuses = [_SYNCED] * len(done) + [_FAILED] * len(failed)
            conn.execute(
                f"UPDATE {entity_type} l SET {changes} {_FLIP_ROWS}",
                {
                    "ids": [v.op.entity_id for v in verdicts],
                    "versions": [v.version for v in verdicts],
                    "statuses": statuses,
                    "remote_ids": [v.remote_id for v in done] + without,
                    "namespaces": [v.namespace for v in done] + without,
                    "flips": [v.op.id not in rerun_requested for v in verdicts],
                },
            )


def _changes(columns: Columns, version: str, living: str) -> Iterator[str]:
    """Assignments of what a settled operation writes to its entity.

    A status only where the row still is at the version that was written; ids and namespaces always:
    they say where the sink holds the entity, whatever has happened to the row since.
    """
    status = columns.status
    yield (
        f"{status} = CASE WHEN r.flips AND l.{version} = r.version {living} "
        f"THEN r.status ELSE l.{status} END"
    )
    kept = {
        columns.remote_id: "r.remote_id",
        columns.namespace: "r.namespace",
        columns.synced_at: "now()",
    }
    for column, value in kept.items():
        if column is not None:
            yield f"{column} = CASE WHEN r.status = 'synced' THEN {value} ELSE l.{column} END"


# Looked up row by row, as :data:`altsync.store.vectors.VECTOR` is.
_KEPT = """
(SELECT true FROM embedding e WHERE e.model = %(model)s AND e.dimensions = %(dimensions)s
   AND e.text_hash = l.text_hash)
"""


def _give_vectors(
    conn: Conn, settled: Sequence[Synced], topology: Topology, model: str, dimensions: int
) -> None:
    """Point the entities to their vectors, and enqueue the sinks that waited for them.

    An entity whose text changed meanwhile takes nothing: its own newer operation is under way.
    A change outside the text does not throw the vector away: the text's hash decides.
    """
    waiting = "".join(
        f"{column} = 'pending', " for sink in topology.vector if (column := status_column(sink))
    )
    for entity_type in entity_types():
        ids = [v.op.entity_id for v in settled if v.op.entity_type == entity_type]
        if not ids:
            continue
        similar = entity_type.similar
        basis = f"neighbours_input_hash = {input_hash_of_vector(entity_type)}, " if similar else ""
        conn.execute(
            f"""
            WITH stored AS (
              UPDATE {entity_type} l SET {waiting}{basis}
                embedding_text_hash = l.text_hash, embedding_model = %(model)s,
                embedding_sync_status = 'synced', embedding_updated_at = now()
              WHERE l.id = ANY(%(ids)s) AND l.deleted_at IS NULL AND {_KEPT}
              RETURNING l.id, l.{entity_type.key_column} AS key, l.version)
            INSERT INTO sync_operation AS o
              (entity_type, entity_id, entity_key, sink, action, version, origin)
            SELECT '{entity_type}', s.id, s.key, k.sink, 'upsert', s.version, 'embedding'
            FROM stored s CROSS JOIN unnest(%(sinks)s::text[]) k(sink)
            ORDER BY s.id, k.sink
            {MERGE_INTO_LIVE}
            """,
            {
                "ids": ids,
                "model": model,
                "dimensions": dimensions,
                "sinks": topology.vector,
            },
        )
    if settled:
        notify(conn, topology.vector)


def record_batch(
    conn: Conn,
    sink: str,
    worker: str,
    claimed: int,
    settlement: Settlement,
    *,
    calls: int,
    tokens: int,
    seconds: float,
) -> None:
    """Keep what a batch came to, for throughput, remote calls and cost over time."""
    conn.execute(
        """
        INSERT INTO delivery_batch (sink, worker, claimed, synced, superseded, retried, dead, lost,
                                    remote_calls, tokens, seconds)
        VALUES (%(sink)s, %(worker)s, %(claimed)s, %(synced)s, %(superseded)s, %(retried)s,
                %(dead)s, %(lost)s, %(calls)s, %(tokens)s, %(seconds)s)
        """,
        {
            "sink": sink,
            "worker": worker,
            "claimed": claimed,
            **asdict(settlement),
            "calls": calls,
            "tokens": tokens,
            "seconds": seconds,
        },
    )


def record_former_namespaces(
    conn: Conn, sink: SinkTraits, token: UUID, former: Mapping[tuple[EntityType, UUID], str]
) -> None:
    """Remember where entities were that leave it, if a write there may still be under way.

    Before they leave: settling takes the namespace from the entity, and the echo must look there.
    """
    lock_entities(conn, former)
    conn.execute(
        """
        UPDATE sync_operation o SET namespaces = array_append(o.namespaces, r.namespace)
        FROM unnest(%(ids)s::uuid[], %(namespaces)s::text[]) AS r(id, namespace)
        WHERE o.entity_id = ANY(%(ids)s) AND o.entity_id = r.id AND o.sink = %(sink)s
          AND o.finished_at IS NULL AND o.lease_token = %(token)s
          AND o.outcome_unknown AND r.namespace <> ALL (o.namespaces)
        """,
        {
            "ids": [entity for _, entity in former],
            "namespaces": list(former.values()),
            "sink": sink.name,
            "token": token,
        },
    )


def record_namespaces(
    conn: Conn, sink: SinkTraits, token: UUID, namespaces: Mapping[tuple[EntityType, UUID], str]
) -> set[UUID]:
    """Remember where entities are about to be written, for sinks that keep them in namespaces.

    Before the call: whatever becomes of it, a later delivery knows what to leave. The entity
    keeps the last namespace, the operation all of them, as a late write may land in any. Returns
    the entities whose lease is still held: only those may be written.
    """
    lock_entities(conn, namespaces)
    noted = conn.execute(
        """
        UPDATE sync_operation o SET namespaces =
          CASE WHEN r.namespace = ANY (o.namespaces) THEN o.namespaces
               ELSE array_append(o.namespaces, r.namespace) END
        FROM unnest(%(ids)s::uuid[], %(namespaces)s::text[]) AS r(id, namespace)
        WHERE o.entity_id = ANY(%(ids)s) AND o.entity_id = r.id AND o.sink = %(sink)s
          AND o.finished_at IS NULL AND o.lease_token = %(token)s
        RETURNING o.entity_id
        """,
        {
            "ids": [entity for _, entity in namespaces],
            "namespaces": list(namespaces.values()),
            "sink": sink.name,
            "token": token,
        },
    )
    held = {row[0] for row in noted}
    column = namespace_column(sink.name)
    if column is not None:
        for entity_type in entity_types():
            chosen = {
                i: p for (kind, i), p in namespaces.items() if kind == entity_type and i in held
            }
            if chosen:
                conn.execute(
                    f"""
                    UPDATE {entity_type} l SET {column} = r.namespace
                    FROM unnest(%(ids)s::uuid[], %(namespaces)s::text[]) AS r(id, namespace)
                    WHERE l.id = ANY(%(ids)s) AND l.id = r.id
                    """,
                    {"ids": list(chosen), "namespaces": list(chosen.values())},
                )
    return held
