"""The breaker of a sink, shared by all processes: admit, probe, open, close, wake."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import UUID

import orjson

from altsync.circuit.clock import TOLERANCE
from altsync.db import Conn
from altsync.errors import LONGEST_WAIT
from altsync.generations import Generations
from altsync.outbox.enqueue import sanitize
from altsync.revisions import own_revision

#: Key of ``sink_state.config`` under which the faults of single destinations are kept.
_FAULTS = "faults"


@dataclass(frozen=True, slots=True)
class Fault:
    """The reason why one destination of a sink accepts no record.

    ``times`` counts the batches in a row that met it. ``few``: too few records were tried alone
    to conclude that every record is refused.
    """

    reason: str
    times: int = 0
    few: bool = False


@dataclass(frozen=True, slots=True)
class Gate:
    """The permission of a worker to claim for a sink, and the shared state that it needs.

    ``faults`` are those of destinations that accepted nothing when they were last tried.
    ``other_revision`` is the schema's, if it is of another release: nothing is claimed then.
    ``generations`` are read after the claim, for sinks that need vectors.
    """

    admitted: bool
    probing: bool = False
    consecutive_errors: int = 0
    model: str | None = None
    dimensions: int | None = None
    faults: Mapping[str, Fault] = field(default_factory=dict)
    other_revision: str | None = None
    generations: Generations | None = None


def _over(column: str, longest: str) -> str:
    """Return SQL that is true when a wait is over, or ends too late: the clock was set back."""
    latest = f"now() + make_interval(secs => %({longest})s + {TOLERANCE})"
    return f"COALESCE({column} <= now() OR {column} > {latest}, true)"


def _is_past(column: str, ago: str) -> str:
    """Return SQL that is true when a time is long ago, or ahead: the clock was set back."""
    return (
        f"({column} < now() - make_interval(secs => {ago})"
        f" OR {column} > now() + make_interval(secs => {TOLERANCE}))"
    )


_GATE = f"""
SELECT s.state, s.consecutive_errors,
       {_over("s.open_until", "longest")} AS open_is_over,
       {_over("s.probe_until", "lease")} AS probe_is_over,
       s.unanswered_wakes > 0 OR COALESCE({_is_past("s.last_claim_at", "1")}, true),
       s.paused_since IS NOT NULL,
       e.config ->> 'model', (e.config ->> 'dimensions')::int, s.config -> 'faults',
       (SELECT version_num FROM alembic_version)
FROM sink_state s LEFT JOIN sink_state e ON e.sink = 'embedding'
WHERE s.sink = %(sink)s
"""


#: Whether the next worker may probe. The parameters are ``lease`` and ``longest``.
_PROBE_IS_DUE = f"""
((state = 'open' AND {_over("open_until", "longest")})
 OR (state = 'probing' AND {_over("probe_until", "lease")}))
"""


def gate(conn: Conn, sink: str, token: UUID, lease: float, longest: float = LONGEST_WAIT) -> Gate:
    """Return whether ``sink`` may be claimed for, and record for the relay that a worker answers.

    When an open breaker's time is over, the first worker becomes its probe for ``lease`` seconds.
    An end further ahead than ``longest`` counts as over: no breaker opens for longer, so the clock
    was set back.
    """
    row = conn.execute(_GATE, {"sink": sink, "lease": lease, "longest": longest}).fetchone()
    if row is None:
        return Gate(admitted=False)
    state, errors, open_is_over, probe_is_over, must_record, paused, *rest = row
    model, dimensions, faults, revision = rest
    if revision != own_revision():
        return Gate(admitted=False, other_revision=revision)
    known = {name: Fault(**fault) for name, fault in (faults or {}).items()}
    if must_record:
        conn.execute(
            "UPDATE sink_state SET last_claim_at = now(), unanswered_wakes = 0 WHERE sink = %s",
            (sink,),
        )
    if paused:
        return Gate(admitted=False)
    if state == "closed":
        return Gate(True, False, errors, model, dimensions, known)
    may_probe = (state == "open" and open_is_over) or (state == "probing" and probe_is_over)
    if not (may_probe and _become_probe(conn, sink, token, lease, longest)):
        return Gate(admitted=False)
    return Gate(True, True, errors, model, dimensions, known)


def _become_probe(conn: Conn, sink: str, token: UUID, lease: float, longest: float) -> bool:
    cursor = conn.execute(
        f"""
        UPDATE sink_state SET state = 'probing', probe_token = %(token)s,
          probe_until = now() + make_interval(secs => %(lease)s)
        WHERE sink = %(sink)s AND paused_since IS NULL AND {_PROBE_IS_DUE}
        """,
        {"sink": sink, "token": token, "lease": lease, "longest": longest},
    )
    return cursor.rowcount == 1


def abandon_probe(conn: Conn, sink: str, token: UUID) -> None:
    """Open the breaker again without a probe, as nothing was due; the next worker probes."""
    conn.execute(
        """
        UPDATE sink_state SET state = 'open', probe_token = NULL, probe_until = NULL
        WHERE sink = %s AND state = 'probing' AND probe_token = %s
        """,
        (sink, token),
    )


def close_breaker(conn: Conn, sink: str, token: UUID) -> bool:
    """Close the breaker after the probe's answer: every worker may claim again."""
    cursor = conn.execute(
        """
        UPDATE sink_state SET state = 'closed', since = now(), reason = NULL, open_until = NULL,
          consecutive_errors = 0, probe_token = NULL, probe_until = NULL
        WHERE sink = %s AND state = 'probing' AND probe_token = %s
        """,
        (sink, token),
    )
    return cursor.rowcount == 1


def open_breaker(
    conn: Conn,
    sink: str,
    token: UUID,
    reason: str,
    delay: float,
    longest: float = LONGEST_WAIT,
) -> None:
    """Stop claims for ``delay`` seconds, at most ``longest``; then one worker probes.

    Errors of calls that were in flight together count as one.
    """
    conn.execute(
        f"""
        UPDATE sink_state SET state = 'open',
          since = CASE WHEN state = 'closed' THEN now() ELSE since END,
          consecutive_errors = consecutive_errors
            + CASE WHEN state = 'closed' OR probe_token = %(token)s THEN 1 ELSE 0 END,
          open_until = GREATEST(now() + make_interval(secs => %(delay)s),
                                CASE WHEN NOT {_over("open_until", "longest")} THEN open_until END),
          reason = %(reason)s, probe_token = NULL, probe_until = NULL
        WHERE sink = %(sink)s
          AND (state IN ('closed', 'open') OR (state = 'probing' AND probe_token = %(token)s))
        """,
        {
            "sink": sink,
            "token": token,
            "reason": sanitize(reason),
            "delay": min(delay, longest),
            "longest": longest,
        },
    )


def note_faults(conn: Conn, sink: str, found: Mapping[str, Fault], passed: Collection[str]) -> None:
    """Record the faults of destinations, and remove those of the ``passed`` ones."""
    faults: dict[str, Any] = {
        name: asdict(fault) | {"reason": sanitize(fault.reason)} for name, fault in found.items()
    }
    conn.execute(
        f"""
        UPDATE sink_state SET config = config || jsonb_build_object('{_FAULTS}',
          (COALESCE(config -> '{_FAULTS}', '{{}}') - %(passed)s::text[]) || %(faults)s::jsonb)
        WHERE sink = %(sink)s
        """,
        {"sink": sink, "passed": list(passed), "faults": orjson.dumps(faults).decode()},
    )


def may_wake(
    conn: Conn,
    sink: str,
    wanted: int,
    resend_after: float,
    *,
    lease: float = LONGEST_WAIT,
    longest: float = LONGEST_WAIT,
) -> bool:
    """Return whether a relay may send one more wake-up, and count it for all relays.

    At most ``wanted`` go unanswered, then one more every ``resend_after`` seconds, as a broker may
    have lost all messages. None is sent for a sink that is open, paused or disabled. ``lease`` and
    ``longest`` are those of ``gate``.
    """
    cursor = conn.execute(
        f"""
        UPDATE sink_state SET last_wake_at = now(),
          unanswered_wakes = LEAST(unanswered_wakes + 1, 1000000)
        WHERE sink = %(sink)s AND paused_since IS NULL
          AND (state = 'closed' OR {_PROBE_IS_DUE})
          AND (unanswered_wakes < %(wanted)s
               OR {_is_past("last_wake_at", "%(resend_after)s")})
        """,
        {
            "sink": sink,
            "wanted": wanted,
            "resend_after": resend_after,
            "lease": lease,
            "longest": longest,
        },
    )
    return cursor.rowcount == 1
