"""Verification: compare every sink with PostgreSQL, and enqueue repairs.

Repairs are operations of the outbox, and workers deliver them like any change. Only orphans are
removed directly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import psycopg

from altsync.catalogue.current import entity_types
from altsync.circuit.sinks import enabled_sinks, sink_health
from altsync.contract import SHADOW, Drift, Topology, imported
from altsync.db import Conn, Database
from altsync.declarations import declaration
from altsync.entities import Model
from altsync.errors import SinkFailure
from altsync.log import redact
from altsync.operations import BreakerState
from altsync.protocols import Sink
from altsync.sentences import describe
from altsync.store.reads import count_living
from altsync.verify import derived
from altsync.verify.comparison import Comparison
from altsync.verify.repairs import highest_plausible
from altsync.verify.report import POSTGRESQL, Options, Report, Tally, kinds_of
from altsync.verify.results import save_verification
from altsync.verify.schedule import Schedule
from altsync.verify.sql import random_entities, recent_batches

__all__ = ["Drift", "Options", "Report", "Schedule", "Tally", "kinds_of", "verify"]


def verify(
    database: Database,
    topology: Topology,
    sinks: Mapping[str, Sink],
    options: Options,
    *,
    skipped: Mapping[str, str] | None = None,
    keep: bool = True,
    wait: Callable[[float], Any] = time.sleep,
    progress: Callable[[str, int, int], None] = lambda sink, done, total: None,
    idle: Callable[[Conn], Mapping[str, str]] = lambda conn: {},
) -> Report:
    """Compare PostgreSQL with ``sinks`` (by name), and enqueue repairs if the options say so.

    An unavailable sink is a ``problem`` of its tally; the others are compared. ``progress`` is
    called with (sink, done, total). With ``keep``, the result is stored, unless it is of a sample
    or an enabled sink was not compared. ``idle`` returns the sinks whose due operations no worker
    claims, each with the process to start.
    """
    started = time.monotonic()
    with database.autocommit() as conn:
        entities = sum(count_living(conn, kind) for kind in entity_types())
        drawn = None if options.sample is None else random_entities(conn, options.sample)
        highest = highest_plausible(conn)
    compared = entities if drawn is None else sum(len(ids) for ids in drawn.values())
    run = Comparison(database, topology, options, compared, highest, wait, progress, drawn)
    own = Tally(POSTGRESQL)
    run = replace(run, edited=derived.compare_rows(run, own))
    tallies = tuple(_compare(run, name, sink) for name, sink in sinks.items())
    seconds = time.monotonic() - started
    with database.autocommit() as conn:
        states = {name: one.state for name, one in sink_health(conn).items()}
        enabled = enabled_sinks(conn)
        unclaimed = dict(idle(conn))
    not_compared = tuple(name for name in topology.names if name not in sinks)
    blocked = {
        name: states[name].value
        for name in sinks
        if states.get(name, BreakerState.CLOSED) is not BreakerState.CLOSED
    }
    skips = dict(skipped or {})
    report = Report(entities, tallies, options, seconds, skips, not_compared, blocked, rows=own)
    report = replace(report, idle=unclaimed)
    if keep and drawn is None:
        report = replace(
            report, not_saved_reason=_store(database, report, enabled & set(not_compared))
        )
    return report


def _store(database: Database, report: Report, missed: set[str]) -> str | None:
    """Store a result; return why it was not stored, None if it was.

    On a standby nothing can be stored; the result is still printed. A run with fewer sinks than
    the relay's must not replace the result of all.
    """
    if missed:
        return f"others deliver to {', '.join(sorted(missed))}, which was not compared"
    if not report.tallies:
        return "nothing was compared"
    try:
        with database.transaction() as conn:
            save_verification(
                conn,
                seconds=report.seconds,
                consistent=report.consistent,
                result=report.as_json(),
            )
    except psycopg.Error as error:
        return describe(error).text
    return None


def _compare(run: Comparison, name: str, sink: Sink) -> Tally:
    tally = Tally(name)
    try:
        imported(declaration(name).compare)(run, sink, tally)
    except SinkFailure as failure:
        tally.problem = redact(failure.reason)
    except psycopg.errors.LockNotAvailable:
        done = f"only {tally.removed:,}" if tally.removed else "nothing"
        tally.refused = (
            f"a long transaction is writing to PostgreSQL, so {done} could be removed safely: "
            "run it again"
        )
    return tally


def verify_shadow(
    database: Database,
    topology: Topology,
    sinks: Mapping[str, Sink],
    model: Model,
    options: Options,
    *,
    wait: Callable[[float], Any] = time.sleep,
    progress: Callable[[str, int, int], None] = lambda sink, done, total: None,
) -> Report:
    """Compare the indexes of the model beside the serving one with PostgreSQL.

    ``sinks`` are those of the shadow, by the names of the sinks that they are shadows of. Nothing
    is stored.
    """
    started = time.monotonic()
    with database.autocommit() as conn:
        entities = sum(count_living(conn, kind) for kind in entity_types())
        highest = highest_plausible(conn)
        recent = recent_batches(conn, [SHADOW + name for name in sinks], options.grace)
    if recent:
        wait(options.grace)  # an index may lag behind its last writes
    run = Comparison(database, topology, options, entities, highest, wait, progress, shadow=model)
    tallies = tuple(_compare(run, name, sink) for name, sink in sinks.items())
    return Report(entities, tallies, options, time.monotonic() - started)
