"""The probe of PostgreSQL, and the readiness of the dashboard."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import psycopg
import psycopg_pool

from altsync import db, log, revisions
from altsync.app import Application
from altsync.circuit.sinks import sink_health
from altsync.operations import BreakerState

#: Seconds in which PostgreSQL must answer a probe.
ANSWER_WITHIN = 1.5


class DatabaseProbe:
    """A probe of PostgreSQL that all callers share.

    A silent server is detected within ``ANSWER_WITHIN``, and blocks one thread only.
    """

    def __init__(self, app: Application) -> None:
        self._app = app
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="probe")
        self._running: Future[None] | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Return when PostgreSQL answers. Raises ``psycopg.OperationalError``."""
        with self._lock:
            if self._running is None or self._running.done():
                self._running = self._thread.submit(self._ask)
            running = self._running
        try:
            running.result(ANSWER_WITHIN)
        except TimeoutError:
            raise psycopg.OperationalError(f"no answer within {ANSWER_WITHIN:g} s") from None

    def _ask(self) -> None:
        with self._app.database.autocommit() as conn:
            conn.execute("SELECT 1")


@dataclass(frozen=True, slots=True)
class SinkReadiness:
    """The state of a sink's delivery, and its reason."""

    state: BreakerState
    reason: str | None


@dataclass(frozen=True, slots=True)
class Readiness:
    """The state of the database and of its schema.

    A stopped sink does not matter: no operation is lost, and a restart would not help.
    """

    ready: bool
    database: str
    schema: str | None
    sinks: dict[str, SinkReadiness]


def readiness(app: Application, probe: DatabaseProbe) -> Readiness:
    """Return the readiness now."""
    try:
        probe.check()
        with app.database.autocommit() as conn:
            schema = revisions.schema_revision(conn)
            if schema != _head():
                detail = f"at {schema or 'no revision'}, wanted {_head()}: run altsync migrate"
                return Readiness(False, detail, schema, {})
            return Readiness(True, "ok", schema, _sinks(app, conn))
    except (psycopg.Error, psycopg_pool.PoolTimeout) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return Readiness(False, f"no answer: {log.redact(text)}", None, {})


def _sinks(app: Application, conn: db.Conn) -> dict[str, SinkReadiness]:
    shared = sink_health(conn)
    found = {}
    for sink in app.topology.names:
        health = shared.get(sink)
        paused = health is not None and health.state is BreakerState.PAUSED
        if not paused and (disabled := app.disabled_reason(sink)):
            found[sink] = SinkReadiness(BreakerState.DISABLED, disabled)
        elif health is None:
            found[sink] = SinkReadiness(BreakerState.DISABLED, "never set up: run altsync migrate")
        else:
            found[sink] = SinkReadiness(health.state, health.reason)
    return found


@cache
def _head() -> str | None:
    return revisions.schema_head()
