"""Leasing operations, and the relay's questions about what waits."""

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

#: Each crash or hang that an operation took part in makes its next batch ten times smaller;
#: beyond 10**6 it is alone whatever the batch size.
_SUSPICION_CAP = 6


#: The type and the key of a claimed row.
_TYPE_AND_KEY = itemgetter(1, 3)


@dataclass(frozen=True, slots=True)
class Due:
    """How much waits for a sink now (counted up to a cap), and when the next falls due."""

    sink: str
    due: int
    seconds_to_next: float | None


_CLAIM = f"""
WITH due AS MATERIALIZED (
  SELECT id, priority, available_at, timeout_count,
         CASE WHEN s.doubt = 0 THEN 1.0::float8 / %(n)s
              ELSE LEAST(1.0, power(10.0::float8, LEAST(s.doubt, {_SUSPICION_CAP})) / %(n)s)
         END AS weight
  FROM sync_operation,
       LATERAL (SELECT GREATEST(CASE WHEN lease_token IS NULL THEN 0 ELSE attempts END,
                                timeout_count) AS doubt) s
  WHERE sink = %(sink)s AND finished_at IS NULL AND available_at <= now()
    AND entity_type = ANY(%(types)s)
    AND (lease_token IS NULL OR attempts < %(max_attempts)s)
    AND NOT EXISTS (SELECT 1 FROM sink_state p WHERE p.sink = %(sink)s AND p.state = 'paused')
  ORDER BY priority, available_at LIMIT %(n)s FOR UPDATE OF sync_operation SKIP LOCKED),
batch AS (
  SELECT id, sum(weight) OVER (ORDER BY priority, available_at, id) AS total,
         row_number() OVER (ORDER BY timeout_count, priority, available_at, id) AS namespace
  FROM due)
UPDATE sync_operation o
SET status = 'in_progress', lease_token = %(token)s, leased_by = %(worker)s,
    attempts = o.attempts + 1, available_at = now() + make_interval(secs => %(lease)s),
    rerun_requested = false, outcome_unknown = o.outcome_unknown OR o.lease_token IS NOT NULL
WHERE o.id = ANY(ARRAY(
  SELECT id FROM batch WHERE CASE WHEN %(probe)s THEN namespace = 1 ELSE total <= 1.0001 END))
RETURNING o.id, o.entity_type, o.entity_id, o.entity_key, o.version, o.attempts, o.timeout_count,
          o.outcome_unknown, o.namespaces
"""

_ORDER = "ORDER BY priority, available_at LIMIT"

# Of a claim that leaves out some destinations.
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

    New operations come up to ``limit`` at a time. Those whose last worker vanished, or that took
    part in a call without a clear answer, come fewer at a time (a tenth, a hundredth … one), so
    that a poison record is found alone. A probe takes the one with the fewest such calls.
    Operations of the destinations in ``last`` come when no others are due. Of a paused sink nothing
    is taken, whatever its gate said before, and nothing of types that the catalogue
    does not have. Read the rows in a later statement than this one.
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
    op_id, kind, entity, key, version, attempts, timeout_count, outcome_unknown, namespaces = row
    return Operation(
        op_id,
        current().by_table[kind],
        entity,
        key,
        version,
        attempts,
        timeout_count,
        outcome_unknown,
        tuple(namespaces),
    )


# Locks in the order in which seeders take them, or the two could wait for each other.
_HELD = """
WITH held AS MATERIALIZED (
  SELECT id FROM sync_operation WHERE id = ANY(%(ids)s) AND lease_token = %(token)s
  ORDER BY entity_id, sink FOR NO KEY UPDATE)
"""


def extend(conn: Conn, ids: Sequence[int], token: UUID, lease: float) -> bool:
    """Lease for ``lease`` more seconds; False when any of them was taken away."""
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
    """Give back what was claimed and not settled: due at once, the attempt not counted.

    ``outcome_unknown``: calls were made, and what they wrote may still be applied.
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
    """Return how much waits for each sink; counting stops at ``cap``."""
    rows = conn.execute(_DUE, {"sinks": list(sinks), "cap": cap})
    return [Due(sink, count, seconds) for sink, count, seconds in rows]


def exhausted(conn: Conn, max_attempts: int, limit: int = 500) -> list[tuple[str, UUID, Operation]]:
    """Operations whose leases ran out too often: (sink, lease token, operation).

    None while the schema is another release's: its workers may have failed over that.
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
