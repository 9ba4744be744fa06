"""Comparing all stores again and again, beside the relay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import structlog

from altsync import store
from altsync.db import Database
from altsync.errors import AltsyncError
from altsync.reconcile.report import Report

log = structlog.get_logger(__name__)

#: Seconds that a thread gets to end: as long as one call to a sink may take, and some more.
PATIENCE = 15.0

#: Seconds until the next try when PostgreSQL is away.
RETRY = 10.0


class Schedule:
    """A thread that compares every ``every`` seconds, counted over all processes.

    ``compare`` gets a way to wait that ends when the schedule is stopped. The relay's wake-ups
    go on meanwhile.
    """

    def __init__(
        self,
        database: Database,
        every: float,
        compare: Callable[[Callable[[float], Any]], Report],
    ) -> None:
        self._database = database
        self._every = every
        self._compare = compare
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)

    def start(self) -> None:
        """Begin; the first comparison comes when one is due."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the comparison under way or ``PATIENCE``."""
        self._stop.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            wait = self.step()

    def step(self) -> float:
        """Compare if it is time to; returns the seconds until the next look."""
        try:
            with self._database.autocommit() as conn:
                last = store.last_verification(conn)
            if last is not None and last.age < self._every:
                return self._every - last.age
            report = self._compare(self._stop.wait)
        except (AltsyncError, psycopg.Error, psycopg_pool.PoolTimeout) as error:
            log.warning("stores.not_compared", error=str(error).strip())
            return min(self._every, RETRY)
        say = log.info if report.consistent else log.warning
        say(
            "stores.compared",
            consistent=report.consistent,
            entities=report.entities,
            drift={t.sink: t.drifted for t in report.tallies if t.drifted},
            problems=report.problems,
            seconds=round(report.seconds, 3),
        )
        return self._every
