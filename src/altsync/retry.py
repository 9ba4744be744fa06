"""Dead letters: select, count, retry and discard them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from altsync.catalogue.current import current, entity_types
from altsync.circuit.pause import probe_now
from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.generations import model_of
from altsync.operations import ErrorKind
from altsync.outbox.embedding_dependency import OfEntity, fail_behind
from altsync.outbox.enqueue import (
    MERGE_INTO_LIVE,
    enqueue_parameters,
    lock_entities,
    notify,
    sanitize,
)
from altsync.outbox.patterns import GROUP, MASK, PATTERN
from altsync.outbox.upkeep import mark_pending

#: An operation to retry or to discard: its id, and its entity.
DeadOperation = OfEntity


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection of dead operations: all that match every given field.

    ``reason`` is a part of the error, or of a group's shown reason. ``pattern`` is a group's whole
    pattern, ``group`` its name. Ages are in seconds since the operation became dead. ``among``
    are the sinks to choose from.
    """

    sink: str | None = None
    entity: str | None = None
    entity_type: EntityType | None = None
    error_kind: ErrorKind | None = None
    reason: str | None = None
    pattern: str | None = None
    group: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    among: tuple[str, ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Return whether it selects all dead operations."""
        return self == EVERYTHING


EVERYTHING = Selection()

_SELECTED = f"""
status = 'dead'
AND (%(sink)s::text IS NULL OR sink = %(sink)s)
AND (%(among)s::text[] IS NULL OR sink = ANY(%(among)s))
AND (%(entity)s::text IS NULL OR entity_key = %(entity)s)
AND (%(entity_type)s::text IS NULL OR entity_type = %(entity_type)s)
AND (%(error_kind)s::text IS NULL OR error_kind = %(error_kind)s)
AND (%(older_than)s::float8 IS NULL OR finished_at <= now() - make_interval(secs => %(older_than)s))
AND (%(newer_than)s::float8 IS NULL OR finished_at > now() - make_interval(secs => %(newer_than)s))
AND (%(reason)s::text IS NULL OR strpos(last_error, %(reason)s) > 0
     OR (%(masked)s AND strpos({PATTERN}, %(reason)s) > 0))
AND (%(pattern)s::text IS NULL OR {PATTERN} = %(pattern)s)
AND (%(group)s::text IS NULL OR error_group = %(group)s
     OR (error_group IS NULL AND {GROUP} = %(group)s))
AND id > %(after)s
"""

#: The group of a dead operation, computed for one of a release before revision 0002.
_GROUP = f"COALESCE(error_group, {GROUP})"


def _parameters(which: Selection, after: int = 0) -> dict[str, Any]:
    among = None if which.among is None else list(which.among)
    values = {name: getattr(which, name) for name in Selection.__slots__}
    # Without the placeholder a part of a pattern is a part of the error: no pattern is computed.
    masked = which.reason is not None and MASK in which.reason
    return values | {"among": among, "after": after, "masked": masked}


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Dead operations of one sink with the same pattern of error.

    ``reason`` is the error if all have the same, else the pattern, with … for numbers and ids.
    ``group`` is its name: a hash of sink, kind and pattern. ``sample_reason`` is the latest error
    in full.
    """

    sink: str
    error_kind: str
    reason: str
    count: int
    sample_keys: tuple[str, ...]
    oldest: datetime
    newest: datetime
    pattern: str
    group: str
    sample_reason: str


@dataclass(frozen=True, slots=True)
class Failures:
    """The most frequent groups, and the numbers of all groups and operations."""

    groups: list[FailureGroup]
    all_groups: int
    operations: int


def failures(conn: Conn, which: Selection = EVERYTHING) -> list[FailureGroup]:
    """Return dead operations by sink, kind and reason, the most frequent first."""
    return most_frequent(conn, None, which).groups


def most_frequent(conn: Conn, most: int | None, which: Selection = EVERYTHING) -> Failures:
    """Return at most ``most`` groups of dead operations, the most frequent first.

    A pattern takes 250 µs, so it is computed for one operation of each returned group: the group's
    name was stored when the operation became dead.
    """
    rows = conn.execute(
        f"""
        WITH groups AS (
          SELECT sink, error_kind, {_GROUP} AS name, count(*) AS count,
                 min(last_error) AS least, max(last_error) AS greatest,
                 min(finished_at) AS oldest, max(finished_at) AS newest, max(id) AS latest,
                 (array_agg(entity_type || ' ' || entity_key ORDER BY id))[1:5] AS keys
          FROM sync_operation WHERE {_SELECTED} GROUP BY 1, 2, 3),
        shown AS (
          SELECT *, count(*) OVER () AS all_groups, (sum(count) OVER ())::bigint AS operations
          FROM groups ORDER BY count DESC, sink, error_kind, latest DESC LIMIT %(most)s)
        SELECT g.all_groups, g.operations, g.sink, g.error_kind,
               CASE WHEN least = greatest THEN least ELSE o.pattern END,
               g.count, g.keys, g.oldest, g.newest, o.pattern, g.name, o.last_error
        FROM shown g CROSS JOIN LATERAL (
          SELECT last_error, {PATTERN} AS pattern FROM sync_operation
          WHERE id = g.latest OFFSET 0) o
        ORDER BY g.count DESC, g.sink, g.error_kind, g.latest DESC
        """,
        {**_parameters(which), "most": most},
    ).fetchall()
    groups = [FailureGroup(r[2], r[3], r[4], r[5], tuple(r[6]), *r[7:]) for r in rows]
    return Failures(groups, rows[0][0], rows[0][1]) if rows else Failures(groups, 0, 0)


def dead_by_sink(conn: Conn, which: Selection = EVERYTHING) -> dict[str, int]:
    """Count dead operations by sink."""
    rows = conn.execute(
        f"SELECT sink, count(*) FROM sync_operation WHERE {_SELECTED} GROUP BY 1 ORDER BY 1",
        _parameters(which),
    )
    return dict(rows.fetchall())


def count_dead(conn: Conn, which: Selection = EVERYTHING) -> int:
    """Count the selected dead operations."""
    row = conn.execute(
        f"SELECT count(*) FROM sync_operation WHERE {_SELECTED}", _parameters(which)
    ).fetchone()
    assert row is not None
    return int(row[0])


def dead_ids(
    conn: Conn, which: Selection = EVERYTHING, *, limit: int = 1000, after: int = 0
) -> list[DeadOperation]:
    """Return selected dead operations with ids above ``after``, the oldest first."""
    rows = conn.execute(
        f"""
        SELECT id, entity_type, entity_id FROM sync_operation
        WHERE {_SELECTED} ORDER BY id LIMIT %(limit)s
        """,
        {**_parameters(which, after), "limit": limit},
    )
    return [(r[0], current().by_table[r[1]], r[2]) for r in rows]


def retry_dead(conn: Conn, dead: Sequence[DeadOperation], topology: Topology) -> int:
    """Enqueue dead operations anew, at the current version of their entities; return how many.

    An entity that is not embedded starts with its embedding. If its earlier write may still be
    applied, its own operation is enqueued too: it keeps the unknown outcome until the vector comes.
    """
    lock_entities(conn, ((t, i) for _, t, i in dead))
    count = 0
    for entity_type in entity_types():
        ids = [op_id for op_id, t, _ in dead if t is entity_type]
        if ids:
            count += conn.execute(
                _retry_statement(entity_type),
                {"ids": ids, **enqueue_parameters(topology)},
            ).rowcount
            mark_pending(conn, entity_type, [i for _, t, i in dead if t is entity_type])
    sinks = conn.execute(
        "SELECT DISTINCT sink FROM sync_operation WHERE id = ANY(%s)", ([i for i, _, _ in dead],)
    ).fetchall()
    for (sink,) in sinks:
        probe_now(conn, sink)
    notify(conn, topology.names)
    return count


def _retry_statement(entity_type: EntityType) -> str:
    return f"""
    WITH gone AS (
      UPDATE sync_operation SET status = 'superseded'
      WHERE status = 'dead' AND id = ANY(%(ids)s)
      RETURNING entity_id, sink, outcome_unknown, namespaces,
                COALESCE(first_version, version) AS first_version),
    candidates AS (
      SELECT l.id, l.{entity_type.key_column} AS key, l.version, l.graph_version,
             l.deleted_at IS NOT NULL AS deleted, gone.sink, gone.outcome_unknown, gone.namespaces,
             gone.first_version,
             gone.sink = ANY(%(vector)s::text[]) AND l.deleted_at IS NULL
               AND (l.embedding_text_hash IS DISTINCT FROM l.text_hash
                    OR {model_of()} IS DISTINCT FROM e.config ->> 'model') AS waits
      FROM gone JOIN {entity_type} l ON l.id = gone.entity_id
      LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'),
    sinks AS (
      SELECT id, key, version, graph_version, deleted, sink, outcome_unknown, namespaces,
             first_version
      FROM candidates
      WHERE NOT waits OR outcome_unknown OR namespaces <> '{{}}'
      UNION ALL
      SELECT id, key, version, graph_version, deleted, '{EMBEDDING}', false, '{{}}',
             first_version
      FROM candidates WHERE waits),
    -- One per sink and entity, with the unknown outcomes and namespaces of all.
    wanted AS (
      SELECT id, key, version, graph_version, deleted, sink,
             bool_or(outcome_unknown) AS outcome_unknown, min(first_version) AS first_version,
             array_remove(array_agg(DISTINCT namespace), NULL) AS namespaces
      FROM sinks LEFT JOIN LATERAL unnest(namespaces) namespace ON true
      GROUP BY id, key, version, graph_version, deleted, sink)
    INSERT INTO sync_operation AS o
      (entity_type, entity_id, entity_key, sink, action, version, origin,
       outcome_unknown, namespaces, first_version)
    SELECT '{entity_type}', id, key, sink, CASE WHEN deleted THEN 'delete' ELSE 'upsert' END,
           CASE WHEN sink = ANY(%(graph)s::text[]) THEN graph_version ELSE version END,
           'retry', outcome_unknown, namespaces, first_version
    FROM wanted WHERE %(direct)s::text[] IS NOT NULL ORDER BY id, sink
    {MERGE_INTO_LIVE}
    """


def discard_dead(
    conn: Conn, dead: Sequence[DeadOperation], topology: Topology, *, by: str, why: str
) -> int:
    """Discard dead operations; return how many were still dead.

    They stay in the history, with the operator and the reason. The status of the entity stays
    ``failed`` until a later change is confirmed, as the sink still lacks the write.
    """
    lock_entities(conn, ((t, i) for _, t, i in dead))
    count = conn.execute(
        """
        UPDATE sync_operation SET status = 'discarded', discarded_at = now(),
          discarded_by = %(by)s, discarded_why = %(why)s
        WHERE status = 'dead' AND id = ANY(%(ids)s)
        """,
        {"ids": [op_id for op_id, _, _ in dead], "by": sanitize(by), "why": sanitize(why)},
    ).rowcount
    fail_behind(conn, dead, topology)
    return count
