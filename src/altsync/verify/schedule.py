"""Comparing all stores again and again, beside the relay."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import structlog

from altsync.db import Conn, Database
from altsync.errors import AltsyncError
from altsync.sentences import describe
from altsync.verify.report import Report
from altsync.verify.sql import claim_verification, last_verification

log = structlog.get_logger(__name__)

#: Seconds that a thread gets to end: as long as one call to a sink may take, and some more.
STOP_TIMEOUT = 15.0

#: Seconds until the next try when PostgreSQL is away, or another relay is comparing.
RETRY = 10.0

#: Seconds until the next try after an unexpected error: it may come at the end of
#: a comparison, and each one costs what the vector index charges for reading.
RETRY_UNKNOWN = 600.0


class Schedule:
    """A thread that compares every ``every`` seconds, counted over all processes.

    ``connect`` opens a session of its own, which holds the right to compare: no two schedules
    do so at once. ``compare`` gets a way to wait that ends when the schedule is stopped. The
    relay's wake-ups go on meanwhile.
    """

    def __init__(
        self,
        database: Database,
        connect: Callable[[], Conn],
        every: float,
        compare: Callable[[Callable[[float], Any]], Report],
    ) -> None:
        self._database = database
        self._connect = connect
        self._every = every
        self._compare = compare
        self._away = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)

    def start(self) -> None:
        """Begin; the first comparison comes when one is due."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the comparison under way or ``STOP_TIMEOUT``."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT)

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            wait = self.step()

    def step(self) -> float:
        """Compare if it is time to; returns the seconds until the next look."""
        try:
            wait = self._step()
        except (AltsyncError, psycopg.Error) as error:
            # Said once, not at every try: PostgreSQL may be away for hours.
            say = log.debug if self._away else log.warning
            say("stores.not_compared", error=describe(error).text)
            self._away = True
            return min(self._every, RETRY)
        except Exception:
            # A thread that ends would compare nothing any more, and nothing would show it.
            log.exception("stores.not_compared")
            return min(self._every, RETRY_UNKNOWN)
        self._away = False
        return wait

    def _step(self) -> float:
        wait = self._remaining()
        if wait > 0:
            return wait
        # The pool's connections may lead through a pooler, which keeps no session's lock.
        with self._connect() as conn:
            if not claim_verification(conn):
                return min(self._every, RETRY)
            # The former holder of the right may have compared since the first look.
            wait = self._remaining()
            if wait > 0:
                return wait
            _tell(self._compare(self._stop.wait))
        return self._every

    def _remaining(self) -> float:
        """Seconds until a comparison is due; 0 or less when one is."""
        with self._database.autocommit() as conn:
            last = last_verification(conn)
        # A negative age: the clock was set back since.
        return 0.0 if last is None or last.age < 0 else self._every - last.age


def _tell(report: Report) -> None:
    say = log.info if report.consistent and report.not_saved_reason is None else log.warning
    say(
        "stores.compared",
        consistent=report.consistent,
        entities=report.entities,
        drift={t.sink: t.drifted for t in report.tallies if t.drifted},
        problems=report.problems,
        in_progress=report.in_progress,
        skipped=report.skipped,
        not_saved_reason=report.not_saved_reason,
        seconds=round(report.seconds, 3),
    )
