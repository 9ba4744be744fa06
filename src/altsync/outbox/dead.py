"""Dead letters: which there are, trying them again, and giving up on them for good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from altsync.db import Conn
from altsync.outbox.enqueue import (
    KEY_COLUMN,
    ON_LIVE,
    enqueue_parameters,
    lock_entities,
    notify,
    storable,
)
from altsync.outbox.upkeep import mark_pending
from altsync.outbox.waiting import OfEntity, fail_behind
from altsync.records import EMBEDDING, EntityType, ErrorKind, Topology

#: An operation to retry or to discard: its id, and its entity.
DeadOperation = OfEntity

#: What an error looks like without what differs from record to record: the entity's own key in
#: quotes, UUIDs, long hexadecimal ids, and numbers. A status code says what went wrong and stays:
#: `` [400]`` as Pinecone's door writes it, ``answered 429`` as the embedder's does.
_PATTERN = r"""
regexp_replace(regexp_replace(
  replace(replace(last_error, '''' || entity_key || '''', '''…'''),
          '"' || entity_key || '"', '"…"'),
  '[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|\m(?=[a-f]*[0-9])[0-9a-f]{16,}\M', '…', 'g'),
  '(?<![0-9.])(?!(?<= \[)[1-5][0-9][0-9]\])(?!(?<=answered )[1-5][0-9][0-9]\M)[0-9]+(\.[0-9]+)?',
  '…', 'g')
"""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead operations are meant; what is given narrows the rest.

    ``reason`` is a part of the error, or of the reason that a group is shown with; ``pattern``
    is exactly a group's. Ages are in seconds since the operation was given up on. ``among``
    are sinks, of which it must be one.
    """

    sink: str | None = None
    entity: str | None = None
    entity_type: EntityType | None = None
    error_kind: ErrorKind | None = None
    reason: str | None = None
    pattern: str | None = None
    older_than: float | None = None
    newer_than: float | None = None
    among: tuple[str, ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it narrows nothing: all dead operations are meant."""
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
     OR strpos({_PATTERN}, %(reason)s) > 0)
AND (%(pattern)s::text IS NULL OR {_PATTERN} = %(pattern)s)
"""


def _parameters(which: Selection) -> dict[str, Any]:
    among = None if which.among is None else list(which.among)
    return {name: getattr(which, name) for name in Selection.__slots__} | {"among": among}


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Dead operations of one sink that failed alike.

    ``reason`` is the error where all have the same, else the ``pattern`` that they share, with …
    for numbers and ids. ``sample_reason`` is the latest one's, in full.
    """

    sink: str
    error_kind: str
    reason: str
    count: int
    sample_keys: tuple[str, ...]
    oldest: datetime
    newest: datetime
    pattern: str
    sample_reason: str


def failures(conn: Conn, which: Selection = EVERYTHING) -> list[FailureGroup]:
    """Dead operations by sink, kind and reason, the most frequent first."""
    rows = conn.execute(
        f"""
        SELECT sink, error_kind,
               CASE WHEN min(last_error) = max(last_error) THEN min(last_error) ELSE pattern END,
               count(*),
               (array_agg(entity_type || ' ' || entity_key ORDER BY id))[1:5],
               min(finished_at), max(finished_at), pattern,
               (array_agg(last_error ORDER BY id DESC))[1]
        FROM (SELECT *, {_PATTERN} AS pattern FROM sync_operation WHERE {_SELECTED}) o
        GROUP BY sink, error_kind, pattern ORDER BY 4 DESC, 1, 2, o.pattern
        """,
        _parameters(which),
    )
    return [FailureGroup(r[0], r[1], r[2], r[3], tuple(r[4]), *r[5:]) for r in rows]


def count_dead(conn: Conn, which: Selection = EVERYTHING) -> int:
    """How many dead operations are meant."""
    row = conn.execute(
        f"SELECT count(*) FROM sync_operation WHERE {_SELECTED}", _parameters(which)
    ).fetchone()
    assert row is not None
    return int(row[0])


def dead_ids(
    conn: Conn, which: Selection = EVERYTHING, *, limit: int = 1000
) -> list[DeadOperation]:
    """Dead operations to retry or to discard, the oldest first."""
    rows = conn.execute(
        f"""
        SELECT id, entity_type, entity_id FROM sync_operation
        WHERE {_SELECTED} ORDER BY id LIMIT %(limit)s
        """,
        {**_parameters(which), "limit": limit},
    )
    return [(r[0], EntityType(r[1]), r[2]) for r in rows]


def retry_dead(conn: Conn, dead: Sequence[DeadOperation], topology: Topology) -> int:
    """Enqueue dead operations anew, at the current version of their entities.

    One whose entity is not embedded by now starts with its embedding; where a write of it may
    still land, it is enqueued itself as well, so that this is known when the vector comes.
    Returns how many were enqueued.
    """
    lock_entities(conn, ((t, i) for _, t, i in dead))
    count = 0
    for entity_type in EntityType:
        ids = [op_id for op_id, t, _ in dead if t is entity_type]
        if ids:
            count += conn.execute(
                _retry_statement(entity_type),
                {"ids": ids, **enqueue_parameters(topology)},
            ).rowcount
            mark_pending(conn, entity_type, [i for _, t, i in dead if t is entity_type])
    notify(conn, topology.names)
    return count


def _retry_statement(entity_type: EntityType) -> str:
    return f"""
    WITH gone AS (
      UPDATE sync_operation SET status = 'superseded'
      WHERE status = 'dead' AND id = ANY(%(ids)s) RETURNING entity_id, sink, unsure, places),
    candidates AS (
      SELECT l.id, l.{KEY_COLUMN[entity_type]} AS key, l.version, l.graph_version,
             l.deleted_at IS NOT NULL AS deleted, gone.sink, gone.unsure, gone.places,
             gone.sink = ANY(%(vector)s::text[]) AND l.deleted_at IS NULL
               AND (l.embedding_text_hash IS DISTINCT FROM l.text_hash
                    OR l.embedding_model IS DISTINCT FROM e.config ->> 'model') AS waits
      FROM gone JOIN {entity_type} l ON l.id = gone.entity_id
      LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'),
    sinks AS (
      SELECT id, key, version, graph_version, deleted, sink, unsure, places FROM candidates
      WHERE NOT waits OR unsure OR places <> '{{}}'
      UNION ALL
      SELECT id, key, version, graph_version, deleted, '{EMBEDDING}', false, '{{}}'
      FROM candidates WHERE waits),
    -- One per sink and entity. What an old write may still do, and where, is not forgotten.
    wanted AS (
      SELECT id, key, version, graph_version, deleted, sink, bool_or(unsure) AS unsure,
             array_remove(array_agg(DISTINCT place), NULL) AS places
      FROM sinks LEFT JOIN LATERAL unnest(places) place ON true
      GROUP BY id, key, version, graph_version, deleted, sink)
    INSERT INTO sync_operation AS o
      (entity_type, entity_id, entity_key, sink, action, version, origin, unsure, places)
    SELECT '{entity_type}', id, key, sink, CASE WHEN deleted THEN 'delete' ELSE 'upsert' END,
           CASE WHEN sink = ANY(%(graph)s::text[]) THEN graph_version ELSE version END,
           'retry', unsure, places
    FROM wanted WHERE %(direct)s::text[] IS NOT NULL ORDER BY id, sink
    {ON_LIVE}
    """


def discard_dead(
    conn: Conn, dead: Sequence[DeadOperation], topology: Topology, *, by: str, why: str
) -> int:
    """Give up on dead operations for good; returns how many were still dead.

    They stay in the audit, with who and why. What the sink lacks it still lacks, so the status
    of the entity stays ``failed``, until a later change is confirmed.
    """
    lock_entities(conn, ((t, i) for _, t, i in dead))
    count = conn.execute(
        """
        UPDATE sync_operation SET status = 'discarded', discarded_at = now(),
          discarded_by = %(by)s, discarded_why = %(why)s
        WHERE status = 'dead' AND id = ANY(%(ids)s)
        """,
        {"ids": [op_id for op_id, _, _ in dead], "by": storable(by), "why": storable(why)},
    ).rowcount
    fail_behind(conn, dead, topology)
    return count
