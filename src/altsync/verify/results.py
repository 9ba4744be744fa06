"""Stored results of comparisons, and the right to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from altsync.db import Conn

#: Number of stored results.
RUNS_KEPT = 100


def save_verification(
    conn: Conn, *, seconds: float, consistent: bool, result: Mapping[str, Any]
) -> None:
    """Store the result of a comparison, and delete all but the last hundred."""
    from psycopg.types.json import Jsonb

    conn.execute(
        "INSERT INTO verify_run (seconds, consistent, result) VALUES (%s, %s, %s)",
        (seconds, consistent, Jsonb(dict(result))),
    )
    conn.execute(
        "DELETE FROM verify_run WHERE id <= (SELECT max(id) FROM verify_run) - %s", (RUNS_KEPT,)
    )


@dataclass(frozen=True, slots=True)
class Verification:
    """A stored result. ``age`` and ``seconds`` (its duration) are in seconds.

    ``result`` is the document of ``altsync verify --json``.
    """

    age: float
    seconds: float
    consistent: bool
    result: Mapping[str, Any]


def claim_verification(conn: Conn) -> bool:
    """Take the right to compare all stores for this session; False if another session has it.

    A pooler does not keep the lock of a session.
    """
    row = conn.execute(
        "SELECT pg_try_advisory_lock(hashtext('altsync.verify'), hashtext(current_schema()))"
    ).fetchone()
    return bool(row and row[0])


def last_verification(conn: Conn) -> Verification | None:
    """Return the last result of any process."""
    row = conn.execute(
        """
        SELECT EXTRACT(epoch FROM now() - finished_at)::float8, seconds, consistent, result
        FROM verify_run ORDER BY id DESC LIMIT 1
        """
    ).fetchone()
    return Verification(*row) if row else None
