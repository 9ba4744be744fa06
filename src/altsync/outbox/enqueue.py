"""Asking for work: the one ON CONFLICT, the lock order, and the wake-up call."""

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

#: Priority of background work: after every edit that a person made.
LOW_PRIORITY = 9

#: Seconds for which the first write of a new entity to the graph waits for its relationships, so
#: that it is written once and not twice. Longer than their search gathers embeddings
#: (``LONGEST_GATHERING``), and short enough for who looks at the graph while nothing is embedded.
HOLD = 60.0

#: Appended to every INSERT INTO sync_operation AS o (…) SELECT … ORDER BY entity_id, sink.
#: A pending row is due as soon as the new one would be (at once, by default), and with a newer
#: version it starts afresh; a leased row keeps its lease and learns that it was asked again.
#: What either of them knows of writes that may still land, the row knows from then on.
MERGE_INTO_LIVE = f"""
ON CONFLICT (entity_id, sink) WHERE finished_at IS NULL DO UPDATE SET
  version      = GREATEST(o.version, excluded.version),
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
    """The entity column that says how the sink stands, for the sinks that have one."""
    columns = columns_of(sink)
    return columns.status if columns else None


def sanitize(text: str) -> str:
    """An error's text as a row can keep it: one line, of some length, nothing unstorable."""
    plain = " ".join(text.replace("\x00", "\\0").split())[:ERROR_LENGTH]
    return plain.encode("utf-8", "backslashreplace").decode()


def lock_entities(conn: Conn, ids: Iterable[tuple[EntityType, UUID]]) -> None:
    """Take the row locks that every writer takes before writing operations, in the one order."""
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
    """Wake the relay when the transaction commits: once per sink, however many rows."""
    for sink in sinks:
        conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, sink))


def select_operations(
    entity_type: EntityType,
    source: str,
    *,
    origin: Origin,
    action: Action = Action.UPSERT,
    priority: int = 0,
    unsearched: str | None = None,
    held: str | None = None,
) -> str:
    """An INSERT of operations for the rows of ``source`` (a name in the same statement).

    ``source`` has the columns id, key, version, graph_version and embedded. Takes the
    parameters ``direct`` and ``vector`` (names of sinks) and ``graph`` (those that follow the
    graph's version). What is not embedded yet gets its embedding operation first.
    ``unsearched`` is a condition in SQL: rows that are embedded, and that it holds for, also get
    an operation for each sink of the parameter ``derived``. ``held`` is a condition, too: the
    graph's operations of these rows are due ``HOLD`` seconds from now.
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
      (entity_type, entity_id, entity_key, sink, action, version, origin, priority, available_at)
    SELECT '{entity_type}', c.id, c.key, k.sink, '{action}',
           CASE WHEN k.sink = ANY(%(graph)s::text[]) THEN c.graph_version ELSE c.version END,
           '{origin}', {priority}, {due}
    FROM {source} c
    CROSS JOIN LATERAL unnest(%(direct)s::text[] || {waiting}{derived}) k(sink)
    ORDER BY c.id, k.sink
    {MERGE_INTO_LIVE}
    """


def enqueue_parameters(topology: Topology) -> dict[str, list[str]]:
    """The parameters of ``select_operations``."""
    return {
        "direct": topology.direct,
        "vector": topology.vector,
        "graph": topology.graph,
        "derived": topology.followers(EMBEDDING),
        "leaders": [EMBEDDING, *topology.relating_locally],
    }
