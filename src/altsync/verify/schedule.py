"""Periodic comparison of all stores, beside the relay."""

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
from altsync.verify.results import claim_verification, last_verification

log = structlog.get_logger(__name__)

#: Seconds to wait for the thread to stop. One call to a sink takes less.
STOP_TIMEOUT = 15.0

#: Seconds until the next attempt when PostgreSQL is unavailable, or another relay compares.
RETRY = 10.0

#: Seconds until the next attempt after an unexpected error. It may come at the end of a comparison,
#: and the vector index charges for reading.
RETRY_UNKNOWN = 600.0


class Schedule:
    """A thread that compares all stores every ``every`` seconds, over all processes together.

    ``connect`` opens a separate session, which holds the right to compare: two schedules never
    compare at once. ``compare`` gets a wait function that returns early when the schedule stops.
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
        self._unavailable = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)

    def start(self) -> None:
        """Start the thread. The first comparison runs when it is due."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, after the running comparison or ``STOP_TIMEOUT``."""
        self._stop.set()
        self._thread.join(STOP_TIMEOUT)

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.wait(wait):
            wait = self.step()

    def step(self) -> float:
        """Compare if it is due; return the seconds until the next step."""
        try:
            wait = self._step()
        except (AltsyncError, psycopg.Error) as error:
            # Logged once as a warning: PostgreSQL may be unavailable for hours.
            write_log = log.debug if self._unavailable else log.warning
            write_log("stores.not_compared", error=describe(error).text)
            self._unavailable = True
            return min(self._every, RETRY)
        except Exception:
            # The thread must survive: its end would stop all comparisons unnoticed.
            log.exception("stores.not_compared")
            return min(self._every, RETRY_UNKNOWN)
        self._unavailable = False
        return wait

    def _step(self) -> float:
        wait = self._remaining()
        if wait > 0:
            return wait
        # Not from the pool: a pooler behind it would not keep the lock of a session.
        with self._connect() as conn:
            if not claim_verification(conn):
                return min(self._every, RETRY)
            # Another session may have compared since the first check.
            wait = self._remaining()
            if wait > 0:
                return wait
            _log_report(self._compare(self._stop.wait))
        return self._every

    def _remaining(self) -> float:
        """Return the seconds until a comparison is due, 0 or less if it is."""
        with self._database.autocommit() as conn:
            last = last_verification(conn)
        # A negative age: the clock was set back since.
        return 0.0 if last is None or last.age < 0 else self._every - last.age


def _log_report(report: Report) -> None:
    write_log = log.info if report.consistent and report.not_saved_reason is None else log.warning
    write_log(
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
