"""Remove finished history in the relay, page by page."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from altsync.contract import Topology
from altsync.db import Conn, Database
from altsync.outbox.batches import prune_batches
from altsync.outbox.freshness import prune_freshness
from altsync.outbox.retention import claim_pruning, prune_range
from altsync.store import reads

log = structlog.get_logger(__name__)

#: Seconds of one step, during which the relay sends no wake-ups.
STEP = 1.0

#: Seconds between two passes.
REST = 3600.0

DAY = 86_400.0


class Retention:
    """Removes operations and batches that ended more than ``days`` ago, as ``altsync prune``.

    Dead operations and vectors stay. If several relays run, one of them removes at a time.
    """

    def __init__(
        self,
        database: Database,
        topology: Topology,
        days: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._topology = topology
        self._age = timedelta(days=days)
        self._clock = clock
        self._start = 0
        self._next = clock()

    def step(self) -> None:
        """Remove pages for about ``STEP`` seconds. Do nothing until the next pass is due."""
        if self._clock() < self._next:
            return
        until = self._clock() + STEP
        operations = batches = 0
        while True:
            with self._database.transaction() as conn:
                if not claim_pruning(conn):
                    break
                before = reads.clock(conn) - self._age
                found = self._operations(conn, before)
                pruned = 0 if found is not None else prune_batches(conn, before)
                if found is None and not pruned:
                    prune_freshness(conn, before)
            operations += found or 0
            batches += pruned
            if found is None and not pruned:
                self._start, self._next = 0, self._clock() + REST
                break
            if self._clock() >= until:
                break
        if operations or batches:
            log.info("history.pruned", operations=operations, batches=batches)

    def _operations(self, conn: Conn, before: datetime) -> int | None:
        """Remove one range of operations; None when no range is left."""
        found = prune_range(conn, self._topology, self._start, before)
        if found is None:
            return None
        self._start = found.go_on
        return found.finished
