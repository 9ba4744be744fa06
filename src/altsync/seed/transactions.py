"""Transactions of seeders that may meet at the same rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
from psycopg import errors

from altsync.catalogue.parts import Part
from altsync.db import Conn

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Tries of one batch that met another seeder (deadlock, or one tag wanted by two).
TRIES = 5


def retry_on_conflict(conn: Conn, part: Part, work: Callable[[], T]) -> T:
    """One transaction, done again when it meets another writer of the same rows.

    Raises psycopg's error when it still does after ``TRIES``.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with conn.transaction():
                return work()
        except (errors.DeadlockDetected, errors.UniqueViolation, errors.SerializationFailure):
            # Another seeder was at the same rows; what it did is seen at the next try.
            if attempt == TRIES:
                raise
            log.info("batch.retried", part=part.value, attempt=attempt)
    raise AssertionError("unreachable")
