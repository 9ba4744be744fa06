"""Retry transactions that conflict with another writer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
from psycopg import errors

from altsync.catalogue.parts import Part
from altsync.db import Conn

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Tries of one batch that conflicts with another writer (a deadlock, or the same new key).
TRIES = 5


def retry_on_conflict(conn: Conn, part: Part, work: Callable[[], T]) -> T:
    """Call ``work`` in a transaction, and again after a conflict with another writer.

    Raises psycopg's error after ``TRIES`` conflicts.
    """
    for attempt in range(1, TRIES + 1):
        try:
            with conn.transaction():
                return work()
        except (errors.DeadlockDetected, errors.UniqueViolation, errors.SerializationFailure):
            # The next try reads the rows that the other writer has committed.
            if attempt == TRIES:
                raise
            log.info("batch.retried", part=part.value, attempt=attempt)
    raise AssertionError("unreachable")
