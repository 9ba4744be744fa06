"""Lease operations, and count the due ones for the relay."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any
from uuid import UUID

from altsync.catalogue.current import current, entity_type, entity_types
from altsync.db import Conn
from altsync.operations import Operation
from altsync.revisions import own_revision

#: The type and the key of a claimed row.
_TYPE_AND_KEY = itemgetter(1, 3)


@dataclass(frozen=True, slots=True)
class Due:
    """The due operations of a sink, counted up to a cap, and when the next one is due."""

    sink: str
    due: int
    seconds_to_next: float | None


#: Lost leases and timeouts of an operation. Each makes its next batch ten times smaller; six make
#: it alone in a batch of any size. Alone after the first would be simpler, but a killed worker's
#: batch of 500 healthy records would then cost 500 calls instead of 10.
_FAILURES = "GREATEST(CASE WHEN lease_token IS NULL THEN 0 ELSE attempts END, timeout_count)"

_CLAIM = f"""
WITH due AS MATERIALIZED (
  SELECT id, priority, available_at, timeout_count,
         LEAST(1.0, power(10.0::float8, LEAST({_FAILURES}, 6)) / %(n)s) AS weight
  FROM sync_operation
  WHERE sink = %(sink)s AND finished_at IS NULL AND available_at <= now()
    AND entity_type = ANY(%(types)s)
    AND (lease_token IS NULL OR attempts < %(max_attempts)s)
    AND NOT EXISTS (
      SELECT 1 FROM sink_state p WHERE p.sink = %(sink)s AND p.paused_since IS NOT NULL)
  ORDER BY priority, available_at LIMIT %(n)s FOR UPDATE OF sync_operation SKIP LOCKED),
batch AS (
  SELECT id, sum(weight) OVER (ORDER BY priority, available_at, id) AS total,
         row_number() OVER (ORDER BY timeout_count, priority, available_at, id) AS rank
  FROM due)
UPDATE sync_operation o
SET status = 'in_progress', lease_token = %(token)s, leased_by = %(worker)s,
    attempts = o.attempts + 1, available_at = now() + make_interval(secs => %(lease)s),
    rerun_requested = false, outcome_unknown = o.outcome_unknown OR o.lease_token IS NOT NULL
WHERE o.id = ANY(ARRAY(
  SELECT id FROM batch WHERE CASE WHEN %(probe)s THEN rank = 1 ELSE total <= 1.0001 END))
RETURNING o.id, o.entity_type, o.entity_id, o.entity_key, o.version, o.attempts, o.timeout_count,
          o.outcome_unknown, o.namespaces, o.first_version, o.changed_at, o.origin
"""

_ORDER = "ORDER BY priority, available_at LIMIT"

# A claim that leaves out some destinations.
_CLAIM_OTHERS = _CLAIM.replace(
    _ORDER,
    "AND entity_type || CASE action WHEN 'delete' THEN ':delete' ELSE '' END <> ALL(%(but)s)\n  "
    + _ORDER,
)


def claim(
    conn: Conn,
    sink: str,
    *,
    token: UUID,
    worker: str,
    limit: int,
    lease: float,
    max_attempts: int,
    probe: bool = False,
    last: Collection[str] = (),
) -> list[Operation]:
    """Lease due operations for ``lease`` seconds; on an autocommit connection.

    A batch has up to ``limit`` operations. After a lost lease or a timeout an operation comes in
    batches of a tenth, a hundredth … one, so that a poison record is found alone. A probe takes
    the operation with the fewest timeouts. Operations of the destinations in ``last`` come when
    no others are due. Nothing is claimed for a paused sink, or of types outside the catalogue.

    Read the rows in a later statement: an earlier snapshot could lack the claimed version.
    """
    numbers = {
        "sink": sink,
        "n": limit,
        "token": token,
        "worker": worker,
        "lease": lease,
        "max_attempts": max_attempts,
        "probe": probe,
        "types": [kind.value for kind in entity_types()],
    }
    found = conn.execute(_CLAIM_OTHERS, numbers | {"but": list(last)}).fetchall() if last else []
    rows = sorted(found or conn.execute(_CLAIM, numbers).fetchall(), key=_TYPE_AND_KEY)
    return [_operation(row) for row in rows]


def _operation(row: Sequence[Any]) -> Operation:
    op_id, kind, entity, key, version, attempts, timeouts, unknown, namespaces, *changes = row
    return Operation(
        op_id,
        current().by_table[kind],
        entity,
        key,
        version,
        attempts,
        timeouts,
        unknown,
        tuple(namespaces),
        *changes,
    )


# Locks in the order of seeders: another order could deadlock with them.
_HELD = """
WITH held AS MATERIALIZED (
  SELECT id FROM sync_operation WHERE id = ANY(%(ids)s) AND lease_token = %(token)s
  ORDER BY entity_id, sink FOR NO KEY UPDATE)
"""


def extend(conn: Conn, ids: Sequence[int], token: UUID, lease: float) -> bool:
    """Extend leases to ``lease`` seconds from now; False when another worker took one."""
    cursor = conn.execute(
        f"""
        {_HELD}
        UPDATE sync_operation o SET available_at = now() + make_interval(secs => %(lease)s)
        FROM held WHERE o.id = held.id
        """,
        {"ids": list(ids), "token": token, "lease": lease},
    )
    return cursor.rowcount == len(ids)


def release(conn: Conn, ids: Sequence[int], token: UUID, *, outcome_unknown: bool = False) -> None:
    """Release leases: the operations are due now, and the attempt is not counted.

    ``outcome_unknown``: calls were made, and their writes may still be applied.
    """
    conn.execute(
        f"""
        {_HELD}
        UPDATE sync_operation o SET status = 'pending', lease_token = NULL,
          attempts = attempts - 1, available_at = now(), rerun_requested = false,
          outcome_unknown = o.outcome_unknown OR %(outcome_unknown)s
        FROM held WHERE o.id = held.id
        """,
        {"ids": list(ids), "token": token, "outcome_unknown": outcome_unknown},
    )


_DUE = """
SELECT k.sink, n.due, EXTRACT(epoch FROM x.next - clock_timestamp())::float8
FROM unnest(%(sinks)s::text[]) k(sink),
 LATERAL (SELECT count(*) AS due FROM (
   SELECT 1 FROM sync_operation
   WHERE sink = k.sink AND finished_at IS NULL AND available_at <= now() LIMIT %(cap)s) z) n,
 LATERAL (SELECT min(available_at) AS next FROM sync_operation
   WHERE sink = k.sink AND finished_at IS NULL AND available_at > now()) x
"""


def due(conn: Conn, sinks: Sequence[str], cap: int) -> list[Due]:
    """Count the due operations of each sink up to ``cap``, and the seconds to the next one."""
    rows = conn.execute(_DUE, {"sinks": list(sinks), "cap": cap})
    return [Due(sink, count, seconds) for sink, count, seconds in rows]


def exhausted(conn: Conn, max_attempts: int, limit: int = 500) -> list[tuple[str, UUID, Operation]]:
    """Return operations whose leases ran out too often: (sink, lease token, operation).

    Empty while the schema is of another release: its workers may have failed because of that.
    """
    rows = conn.execute(
        """
        SELECT sink, lease_token, id, entity_type, entity_id, entity_key, version, attempts,
               timeout_count, outcome_unknown
        FROM sync_operation
        WHERE finished_at IS NULL AND status = 'in_progress' AND available_at <= now()
          AND attempts >= %s AND EXISTS (
            SELECT 1 FROM alembic_version WHERE version_num = %s)
        LIMIT %s
        """,
        (max_attempts, own_revision(), limit),
    )
    return [(r[0], r[1], Operation(r[2], entity_type(r[3]), *r[4:])) for r in rows]
