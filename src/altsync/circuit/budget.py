"""The budget of a provider over all workers: requests and tokens a minute."""

from __future__ import annotations

from altsync.circuit.clock import LONGEST_BUDGET
from altsync.db import Conn


def _plausible(column: str) -> str:
    """Return SQL for a budget's end, NULL when it is too far ahead: the clock was set back."""
    latest = "clock_timestamp() + make_interval(secs => %(longest)s)"
    return f"CASE WHEN {column} <= {latest} THEN {column} END"


_REQUESTS, _TOKENS = _plausible("requests_until"), _plausible("tokens_until")


def reserve(
    conn: Conn,
    sink: str,
    *,
    requests: float,
    tokens: float,
    max_wait: float,
    longest: float = LONGEST_BUDGET,
) -> tuple[bool, float]:
    """Reserve a call: return whether it was granted, and the seconds until its turn.

    ``requests`` and ``tokens`` are the call's price, in seconds of each budget. A budget is spent
    up to a time that only moves forward: the generic cell rate algorithm of ITU-T I.371 without a
    burst. Nothing is granted when the turn is more than ``max_wait`` seconds away. A budget spent
    for more than ``longest`` seconds counts as unspent: the clock was set back. Concurrent calls
    are safe, as one statement locks the row.
    """
    numbers = {
        "requests": requests,
        "tokens": tokens,
        "max_wait": max_wait,
        "longest": longest,
        "sink": sink,
    }
    row = conn.execute(
        f"""
        UPDATE sink_state
        SET requests_until = greatest({_REQUESTS}, clock_timestamp())
                             + make_interval(secs => %(requests)s),
            tokens_until = greatest({_TOKENS}, clock_timestamp())
                           + make_interval(secs => %(tokens)s)
        WHERE sink = %(sink)s
          AND coalesce(greatest({_REQUESTS}, {_TOKENS}), '-infinity')
              <= clock_timestamp() + make_interval(secs => %(max_wait)s)
        RETURNING extract(epoch FROM greatest(
            requests_until - make_interval(secs => %(requests)s),
            tokens_until - make_interval(secs => %(tokens)s)) - clock_timestamp())::float8
        """,
        numbers,
    ).fetchone()
    if row:
        return True, max(0.0, row[0])
    row = conn.execute(
        f"SELECT extract(epoch FROM greatest({_REQUESTS}, {_TOKENS}) - clock_timestamp())::float8 "
        "FROM sink_state WHERE sink = %(sink)s",
        numbers,
    ).fetchone()
    return False, max(0.0, row[0] or 0.0) if row else 0.0


def correct(conn: Conn, sink: str, *, requests: float, tokens: float) -> None:
    """Spend more of the budgets, or give some back, in seconds of each."""
    conn.execute(
        """
        UPDATE sink_state
        SET requests_until = requests_until + make_interval(secs => %s),
            tokens_until = tokens_until + make_interval(secs => %s)
        WHERE sink = %s
        """,
        (requests, tokens, sink),
    )
