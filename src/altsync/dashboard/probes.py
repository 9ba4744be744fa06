"""Whether the process is up, and whether it can do its work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import psycopg
import psycopg_pool

from altsync import db, log, outbox
from altsync.app import Application
from altsync.records import BreakerState


@dataclass(frozen=True, slots=True)
class SinkReadiness:
    """Whether a sink is delivered to, and why not."""

    state: BreakerState
    reason: str | None


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the database answers and is migrated. Sinks that stand still do not make it unready:
    nothing is lost meanwhile, and a restart would not help."""

    ready: bool
    database: str
    schema: str | None
    sinks: dict[str, SinkReadiness]


def readiness(app: Application) -> Readiness:
    """How things are now."""
    try:
        with app.database.autocommit() as conn:
            schema = db.schema_revision(conn)
            if schema != _head():
                detail = f"at {schema or 'no revision'}, wanted {_head()}: run altsync migrate"
                return Readiness(False, detail, schema, {})
            return Readiness(True, "ok", schema, _sinks(app, conn))
    except (psycopg.Error, psycopg_pool.PoolTimeout) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return Readiness(False, f"no answer: {log.redact(text)}", None, {})


def _sinks(app: Application, conn: db.Conn) -> dict[str, SinkReadiness]:
    shared = outbox.sink_health(conn)
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
    return db.schema_head()
