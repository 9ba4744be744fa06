"""Enqueue operations: merge into the live row, lock in one order, notify the relay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn
from altsync.declarations import columns_of
from altsync.entities import EntityType
from altsync.operations import Action, Origin

#: The channel of every NOTIFY; the payload is the sink.
CHANNEL = "altsync"

#: Priority of background work: after all edits.
LOW_PRIORITY = 9

#: Seconds for which the first write of a new entity to the graph waits for its relationships, to
#: write it once instead of twice. Longer than ``LONGEST_GATHERING`` of searches. While the embedder
#: is down, nodes appear after this time.
HOLD = 60.0

#: Appended to every INSERT INTO sync_operation AS o (…) SELECT … ORDER BY entity_id, sink.
#: A pending row is due when the new one would be, and a newer version resets its attempts. A leased
#: row keeps its lease and gets ``rerun_requested``. The unknown outcomes and the namespaces of both
#: are merged. A confirming write that has not run leaves its outcome unknown.
#: The worker of a leased row has read ``changed_at``: it becomes that of the rerun.
MERGE_INTO_LIVE = f"""
ON CONFLICT (entity_id, sink) WHERE finished_at IS NULL DO UPDATE SET
  version      = GREATEST(o.version, excluded.version),
  first_version = LEAST(COALESCE(o.first_version, o.version),
                        COALESCE(excluded.first_version, excluded.version)),
  changed_at   = CASE WHEN o.status = 'in_progress' AND NOT o.rerun_requested
                      THEN excluded.changed_at ELSE LEAST(o.changed_at, excluded.changed_at) END,
  action       = CASE WHEN excluded.version >= o.version THEN excluded.action ELSE o.action END,
  entity_key   = excluded.entity_key,
  origin       = excluded.origin,
  priority     = LEAST(o.priority, excluded.priority),
  rerun_requested  = (o.status = 'in_progress'),
  outcome_unknown = o.outcome_unknown OR excluded.outcome_unknown
                    OR (o.status = 'pending' AND o.origin = '{Origin.CONFIRM}'),
  namespaces       = CASE WHEN excluded.namespaces <@ o.namespaces THEN o.namespaces
                      ELSE ARRAY(SELECT DISTINCT unnest(o.namespaces || excluded.namespaces)) END,
  attempts     = CASE WHEN o.status = 'pending' AND excluded.version > o.version
                      THEN 0 ELSE o.attempts END,
  timeout_count     = CASE WHEN o.status = 'pending' AND excluded.version > o.version
                      THEN 0 ELSE o.timeout_count END,
  last_timeout_at  = CASE WHEN o.status = 'pending' AND excluded.version > o.version
                      THEN NULL ELSE o.last_timeout_at END,
  available_at = CASE WHEN o.status = 'pending'
                      THEN LEAST(o.available_at, excluded.available_at) ELSE o.available_at END
"""

#: Characters of an error that a row keeps.
ERROR_LENGTH = 2000


def status_column(sink: str) -> str | None:
    """Return the entity's status column of a sink; None for a sink without one."""
    columns = columns_of(sink)
    return columns.status if columns else None


def sanitize(text: str) -> str:
    """Return an error's text as PostgreSQL can store it: one line, cut, without NUL."""
    plain = " ".join(text.replace("\x00", "\\0").split())[:ERROR_LENGTH]
    return plain.encode("utf-8", "backslashreplace").decode()


def lock_entities(conn: Conn, ids: Iterable[tuple[EntityType, UUID]]) -> None:
    """Lock entities in the order of all writers of operations, before those are written."""
    by_type: dict[EntityType, list[UUID]] = defaultdict(list)
    for entity_type, entity_id in ids:
        by_type[entity_type].append(entity_id)
    for entity_type in entity_types():
        if entity_type in by_type:
            conn.execute(
                f"SELECT 1 FROM {entity_type} WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE",
                (by_type[entity_type],),
            )


def notify(conn: Conn, sinks: Iterable[str]) -> None:
    """Notify the relay when the transaction commits, once per sink."""
    for sink in sinks:
        conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, sink))


def changed_at(origin: Origin) -> str:
    """Return SQL for the time of a change; NULL for work that no user's change caused.

    It is a moment before the commit. ``now()`` is the beginning of a transaction that may be long.
    """
    return "clock_timestamp()" if origin in (Origin.SEED, Origin.UPDATE) else "NULL::timestamptz"


def select_operations(
    entity_type: EntityType,
    source: str,
    *,
    origin: Origin,
    action: Action = Action.UPSERT,
    priority: int = 0,
    unsearched: str | None = None,
    held: str | None = None,
    left_out: str | None = None,
) -> str:
    """Return an INSERT of operations for the rows of ``source``, a name in the same statement.

    ``source`` has the columns id, key, version, graph_version and embedded. Parameters are
    lists of sinks: ``direct``, ``vector``, ``graph`` (those at the graph's version), ``derived``.
    A row that is not embedded gets its embedding operation first. ``unsearched`` and ``held`` are
    conditions in SQL. An embedded row that is unsearched also gets operations for ``derived``. The
    graph's operations of a held row are due ``HOLD`` seconds from now. ``left_out`` is an array in
    SQL of the sinks that need no write.
    """
    due = (
        f"now() + CASE WHEN k.sink = ANY(%(graph)s::text[]) AND {held} "
        f"THEN interval '{HOLD} s' ELSE interval '0' END"
        if held
        else "now()"
    )
    derived = (
        f" || CASE WHEN c.embedded AND {unsearched} THEN %(derived)s::text[] ELSE '{{}}' END"
        if unsearched
        else ""
    )
    waiting = (
        "%(vector)s::text[]"
        if action is Action.DELETE
        else f"CASE WHEN c.embedded THEN %(vector)s::text[] ELSE ARRAY['{EMBEDDING}'] END"
    )
    return f"""
    INSERT INTO sync_operation AS o
      (entity_type, entity_id, entity_key, sink, action, version, origin, priority, available_at,
       changed_at)
    SELECT '{entity_type}', c.id, c.key, k.sink, '{action}',
           CASE WHEN k.sink = ANY(%(graph)s::text[]) THEN c.graph_version ELSE c.version END,
           '{origin}', {priority}, {due}, {changed_at(origin)}
    FROM {source} c
    CROSS JOIN LATERAL unnest(%(direct)s::text[] || {waiting}{derived}) k(sink)
    {f"WHERE k.sink <> ALL({left_out})" if left_out else ""}
    ORDER BY c.id, k.sink
    {MERGE_INTO_LIVE}
    """


def enqueue_parameters(topology: Topology) -> dict[str, list[str]]:
    """Return the parameters of ``select_operations``."""
    return {
        "direct": topology.direct,
        "vector": topology.vector,
        "graph": topology.graph,
        "derived": topology.followers(EMBEDDING),
        "leaders": [EMBEDDING, *topology.relating_locally],
    }
