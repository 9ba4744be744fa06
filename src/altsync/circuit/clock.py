"""Shorten waits that end too far ahead, as the database's clock was set back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from altsync.catalogue.current import entity_types
from altsync.db import Conn
from altsync.errors import LONGEST_WAIT
from altsync.operations import Origin

#: Longest queue for a provider's budget, in seconds: a large text at some hundred tokens a minute.
LONGEST_BUDGET = 3600.0

#: Seconds by which a correct time may be ahead: ``now()`` is the start of a transaction, and
#: another one may start later and commit earlier.
TOLERANCE = 1.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The longest waits that altsync itself writes, in seconds."""

    lease: float = 30.0
    retry: float = LONGEST_WAIT
    confirm_after: float = 40.0
    breaker: float = LONGEST_WAIT


@dataclass(frozen=True, slots=True)
class SetBack:
    """Counts of times beyond their bound: in operations, in sinks, and of deletions."""

    operations: int = 0
    sinks: int = 0
    deletions: int = 0

    def __add__(self, other: SetBack) -> SetBack:
        return SetBack(
            self.operations + other.operations,
            self.sinks + other.sinks,
            self.deletions + other.deletions,
        )

    def __bool__(self) -> bool:
        return bool(self.operations or self.sinks or self.deletions)


# A lease ends one lease from now, as its worker may be alive. A confirming write needs its whole
# wait. All other operations may be tried now.
_OPERATIONS = f"""
UPDATE sync_operation SET available_at = now() + make_interval(secs => CASE
    WHEN status = 'in_progress' THEN %(lease)s WHEN origin = '{Origin.CONFIRM}' THEN %(confirm)s
    ELSE 0.0 END)
WHERE id = ANY(ARRAY(
  SELECT id FROM sync_operation
  WHERE sink = ANY(%(sinks)s) AND finished_at IS NULL
    AND available_at > now() + make_interval(secs => %(tolerance)s + least(%(lease)s, %(retry)s))
    AND (status <> 'in_progress'
         OR available_at > now() + make_interval(secs => %(tolerance)s + %(lease)s))
    AND (status = 'in_progress'
         OR available_at > now() + make_interval(secs => %(tolerance)s + %(retry)s))
  LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED))
"""

_SINKS = """
UPDATE sink_state SET
  open_until = CASE WHEN open_until > now() + make_interval(secs => %(breaker)s + %(tolerance)s)
                    THEN now() ELSE open_until END,
  probe_until = CASE WHEN probe_until > now() + make_interval(secs => %(lease)s + %(tolerance)s)
                     THEN now() ELSE probe_until END,
  requests_until = CASE
    WHEN requests_until > now() + make_interval(secs => %(budget)s) THEN now()
    ELSE requests_until END,
  tokens_until = CASE
    WHEN tokens_until > now() + make_interval(secs => %(budget)s) THEN now()
    ELSE tokens_until END,
  since = least(since, now()),
  paused_since = least(paused_since, now()),
  last_claim_at = least(last_claim_at, now()),
  last_wake_at = least(last_wake_at, now())
WHERE open_until > now() + make_interval(secs => %(breaker)s + %(tolerance)s)
   OR probe_until > now() + make_interval(secs => %(lease)s + %(tolerance)s)
   OR greatest(requests_until, tokens_until) > now() + make_interval(secs => %(budget)s)
   OR greatest(since, paused_since, last_claim_at, last_wake_at)
      > now() + make_interval(secs => %(tolerance)s)
"""


def set_back(conn: Conn, sinks: Sequence[str], bounds: Bounds, limit: int = 5000) -> SetBack:
    """Set back the times that are further ahead than ``bounds``; return how many there were.

    On an autocommit connection: each statement is a transaction of its own. Call it again
    while it finds operations.
    """
    numbers = {
        "sinks": list(sinks),
        "lease": bounds.lease,
        "retry": max(bounds.retry, bounds.confirm_after),
        "confirm": bounds.confirm_after,
        "breaker": bounds.breaker,
        "budget": LONGEST_BUDGET,
        "tolerance": TOLERANCE,
        "limit": limit,
    }
    operations = conn.execute(_OPERATIONS, numbers).rowcount
    return SetBack(operations, conn.execute(_SINKS, numbers).rowcount)


def set_deletions_back(conn: Conn) -> int:
    """Let the grace of deleted entities begin now, where the deletion is in the future."""
    return sum(
        conn.execute(
            f"""
            UPDATE {entity_type} SET deleted_at = now() WHERE id = ANY(ARRAY(
              SELECT id FROM {entity_type}
              WHERE deleted_at > now() + make_interval(secs => %s)
              ORDER BY id FOR NO KEY UPDATE SKIP LOCKED))
            """,
            (TOLERANCE,),
        ).rowcount
        for entity_type in entity_types()
    )
