"""End operations: complete, supersede, move to the dead letters, or retry.

Each changes only the operations whose lease the token still holds, in one statement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Cursor

from altsync.contract import SinkTraits
from altsync.db import Conn
from altsync.generations import SERVING_INDEXES, SHADOW_INDEXES
from altsync.operations import Dead, Outcome, Retry, Superseded, Synced
from altsync.outbox.enqueue import sanitize
from altsync.outbox.patterns import GROUP_OF


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome of an operation, and its row as it was read under the entity's lock.

    ``serving`` and ``shadow`` are the prefixes of the two generations, read with it.
    """

    outcome: Outcome
    wanted_version: int
    rerun_requested: bool
    outcome_unknown: bool
    origin: str
    at: datetime
    serving: str = ""
    shadow: str | None = None

    @property
    def age(self) -> float | None:
        """Seconds from a user's change to now; None for background work."""
        changed_at = self.outcome.op.changed_at
        return None if changed_at is None else (self.at - changed_at).total_seconds()


_RETURNING = f"""
RETURNING o.id, o.version, o.rerun_requested, o.outcome_unknown, o.origin, clock_timestamp(),
  {SERVING_INDEXES}, {SHADOW_INDEXES}
"""

_COMPLETE = f"""
UPDATE sync_operation o SET status = 'synced', lease_token = NULL, finished_at = now(),
  last_error = NULL, error_kind = NULL
WHERE o.id = ANY(%(ids)s) AND o.lease_token = %(token)s
{_RETURNING}
"""


def complete(
    conn: Conn, _sink: SinkTraits, token: UUID, synced: Sequence[Synced]
) -> Cursor[tuple[Any, ...]]:
    """End operations whose entities are written."""
    return conn.execute(_COMPLETE, {"ids": [one.op.id for one in synced], "token": token})


# An operation that waits for the embedding may still have namespaces to leave. outcome_unknown
# keeps them for settle._CLOSE_EARLIER of the next success. A rerun's operation has copied them.
_SUPERSEDE = f"""
UPDATE sync_operation o SET status = 'superseded', lease_token = NULL, finished_at = now(),
  last_error = r.error, error_kind = NULL,
  outcome_unknown = o.outcome_unknown
    OR (r.waits AND o.namespaces <> '{{}}' AND NOT o.rerun_requested)
FROM unnest(%(ids)s::bigint[], %(errors)s::text[], %(waits)s::bool[]) AS r(id, error, waits)
WHERE o.id = ANY(%(ids)s) AND o.id = r.id AND o.lease_token = %(token)s
{_RETURNING}
"""


def supersede(
    conn: Conn, _sink: SinkTraits, token: UUID, superseded: Sequence[Superseded]
) -> Cursor[tuple[Any, ...]]:
    """End operations that have nothing to write, or nothing yet."""
    return conn.execute(
        _SUPERSEDE,
        {
            "ids": [one.op.id for one in superseded],
            "errors": [sanitize(one.reason) for one in superseded],
            "waits": [one.waits for one in superseded],
            "token": token,
        },
    )


# One entity and sink has one dead letter: the latest. It takes over the unknown outcomes and the
# namespaces of the earlier ones. Rows are locked before they are merged, so that nothing is merged
# if another worker has taken the lease.
_DEAD_LETTER = f"""
WITH held AS MATERIALIZED (
  SELECT o.id, o.entity_id FROM sync_operation o
  WHERE o.id = ANY(%(ids)s) AND o.lease_token = %(token)s
  ORDER BY o.entity_id FOR NO KEY UPDATE),
earlier AS MATERIALIZED (
  SELECT o.id, o.outcome_unknown, o.namespaces, held.id AS latest,
         COALESCE(o.first_version, o.version) AS first_version
  FROM held JOIN sync_operation o ON o.entity_id = held.entity_id AND o.id < held.id
  WHERE o.status = 'dead' AND o.sink = %(sink)s AND o.entity_id = ANY(%(entities)s)
  ORDER BY o.entity_id FOR NO KEY UPDATE OF o),
merged AS (
  UPDATE sync_operation o SET status = 'superseded', outcome_unknown = false
  FROM earlier e WHERE o.id = e.id)
UPDATE sync_operation o SET status = 'dead', lease_token = NULL, finished_at = now(),
  last_error = r.error, error_kind = r.kind,
  error_group = {GROUP_OF.format(error="r.error", kind="r.kind")},
  first_version = LEAST(o.first_version,
    (SELECT min(e.first_version) FROM earlier e WHERE e.latest = o.id)),
  outcome_unknown = o.outcome_unknown OR r.outcome_unknown
    OR EXISTS (SELECT 1 FROM earlier e WHERE e.latest = o.id AND e.outcome_unknown),
  namespaces = o.namespaces || ARRAY(
    SELECT DISTINCT unnest(e.namespaces) FROM earlier e WHERE e.latest = o.id)
FROM held JOIN unnest(%(ids)s::bigint[], %(errors)s::text[], %(kinds)s::text[],
                      %(outcome_unknown)s::bool[]) AS r(id, error, kind, outcome_unknown)
  ON r.id = held.id
WHERE o.id = ANY(%(ids)s) AND o.id = held.id
{_RETURNING}
"""


def dead_letter(
    conn: Conn, sink: SinkTraits, token: UUID, dead: Sequence[Dead]
) -> Cursor[tuple[Any, ...]]:
    """Move operations to the dead letters, and merge the earlier ones of their entities."""
    return conn.execute(
        _DEAD_LETTER,
        {
            "ids": [one.op.id for one in dead],
            "entities": [one.op.entity_id for one in dead],
            "errors": [sanitize(one.reason) for one in dead],
            "kinds": [one.kind for one in dead],
            "outcome_unknown": [one.outcome_unknown for one in dead],
            "sink": sink.name,
            "token": token,
        },
    )


# A rerun request means that an outdated version failed: the current one gets all attempts.
_RETRY = f"""
UPDATE sync_operation o SET status = 'pending', lease_token = NULL, rerun_requested = false,
  last_error = r.error, error_kind = r.kind,
  available_at = CASE WHEN o.rerun_requested AND NOT r.give_back THEN now()
                      ELSE now() + make_interval(secs => r.delay) END,
  attempts = CASE WHEN r.give_back THEN o.attempts - 1
                  WHEN o.rerun_requested THEN 0 ELSE o.attempts END,
  timeout_count = LEAST(o.timeout_count + r.timed_out::int, 1000),
  last_timeout_at = CASE WHEN r.alone THEN now() ELSE o.last_timeout_at END,
  changed_at = LEAST(o.changed_at, r.changed_at),
  outcome_unknown = o.outcome_unknown OR r.outcome_unknown
FROM unnest(%(ids)s::bigint[], %(delays)s::float8[], %(errors)s::text[], %(kinds)s::text[],
            %(give_back)s::bool[], %(outcome_unknown)s::bool[], %(timed_out)s::bool[],
            %(alone)s::bool[], %(changed_at)s::timestamptz[])
  AS r(id, delay, error, kind, give_back, outcome_unknown, timed_out, alone, changed_at)
WHERE o.id = ANY(%(ids)s) AND o.id = r.id AND o.lease_token = %(token)s
{_RETURNING}
"""


def retry(
    conn: Conn, _sink: SinkTraits, token: UUID, retried: Sequence[Retry]
) -> Cursor[tuple[Any, ...]]:
    """Make operations due again after their delay."""
    return conn.execute(
        _RETRY,
        {
            "ids": [one.op.id for one in retried],
            "delays": [one.delay for one in retried],
            "errors": [sanitize(one.reason) for one in retried],
            "kinds": [one.kind for one in retried],
            "give_back": [one.give_back for one in retried],
            "outcome_unknown": [one.outcome_unknown for one in retried],
            "timed_out": [one.timed_out for one in retried],
            "alone": [one.alone for one in retried],
            "changed_at": [one.op.changed_at for one in retried],
            "token": token,
        },
    )


_ENDS: dict[type[Outcome], Callable[..., Cursor[tuple[Any, ...]]]] = {
    Synced: complete,
    Superseded: supersede,
    Dead: dead_letter,
    Retry: retry,
}


def end_all(conn: Conn, sink: SinkTraits, token: UUID, outcomes: Sequence[Outcome]) -> list[Ended]:
    """End the operations whose lease is still held, with one statement for each kind of end."""
    by_id = {outcome.op.id: outcome for outcome in outcomes}
    ended: list[Ended] = []
    with conn.pipeline():
        cursors = [
            end(conn, sink, token, group)
            for kind, end in _ENDS.items()
            if (group := [outcome for outcome in outcomes if isinstance(outcome, kind)])
        ]
        for cursor in cursors:
            ended += [Ended(by_id[row[0]], *row[1:]) for row in cursor.fetchall()]
    return ended
