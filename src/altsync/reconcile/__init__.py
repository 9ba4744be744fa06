"""Verify: that every sink agrees with PostgreSQL, and what to enqueue where one does not.

Nothing is repaired here: entities are enqueued in the outbox, and workers deliver them like any
other change. Only what PostgreSQL does not know is removed directly.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import psycopg

from altsync import outbox, store
from altsync.catalogue.current import entity_types
from altsync.db import Conn, Database
from altsync.errors import SinkFailure
from altsync.log import redact
from altsync.reconcile import graph, inside, vectors
from altsync.reconcile.comparison import Comparison
from altsync.reconcile.report import KINDS, POSTGRESQL, Options, Report, Tally
from altsync.reconcile.schedule import Schedule
from altsync.records import EMBEDDING, SIMILARITY, BreakerState, Drift, Topology
from altsync.sentences import describe
from altsync.sinks import neo4j, pinecone
from altsync.sinks.base import Sink

__all__ = ["KINDS", "Drift", "Options", "Report", "Schedule", "Tally", "verify"]


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
    """Compare PostgreSQL with ``sinks`` (by name), and enqueue repairs when asked to.

    A sink that is away is a ``problem`` of its tally; the others are compared all the same.
    ``progress`` is called with (sink, done, total) now and then. Unless ``keep`` is off or only
    a sample was compared, the result is kept in the database, when it is about all sinks that
    are enabled. ``idle`` names the sinks whose due work no worker claims, and says what to start.
    """
    started = time.monotonic()
    with database.autocommit() as conn:
        entities = sum(store.count_living(conn, kind) for kind in entity_types())
        drawn = None if options.sample is None else store.random_entities(conn, options.sample)
        highest = outbox.highest_believable(conn)
    compared = entities if drawn is None else sum(len(ids) for ids in drawn.values())
    run = Comparison(database, topology, options, compared, highest, wait, progress, drawn)
    rows = Tally(POSTGRESQL)
    run = replace(run, edited=inside.compare_rows(run, rows))
    tallies = tuple(_compare(run, name, sink) for name, sink in sinks.items())
    seconds = time.monotonic() - started
    with database.autocommit() as conn:
        states = {name: one.state for name, one in outbox.sink_health(conn).items()}
        enabled = outbox.enabled_sinks(conn)
        unclaimed = dict(idle(conn))
    left_out = tuple(name for name in topology.names if name not in sinks)
    still = {
        name: states[name].value
        for name in sinks
        if states.get(name, BreakerState.CLOSED) is not BreakerState.CLOSED
    }
    skips = dict(skipped or {})
    report = Report(entities, tallies, options, seconds, skips, left_out, still, rows=rows)
    report = replace(report, idle=unclaimed)
    if keep and drawn is None:
        report = replace(report, unkept=_keep(database, report, enabled & set(left_out)))
    return report


def _keep(database: Database, report: Report, missed: set[str]) -> str | None:
    """Keep a result in the database; return why not, None when it is kept.

    A comparison is worth what it found even where nothing may be written, as on a standby. One
    with fewer settings than the relay's must not speak for the sinks that it has left out.
    """
    if missed:
        return f"others deliver to {', '.join(sorted(missed))}, which was not compared"
    if not report.tallies:
        return "nothing was compared"
    try:
        with database.transaction() as conn:
            store.note_verification(
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
        match name:
            case "neo4j":
                graph.compare(run, cast("neo4j.Sink", sink), tally)
            case "pinecone":
                vectors.compare(run, cast("pinecone.Sink", sink), tally)
            case _ if name == EMBEDDING:
                inside.compare_embeddings(run, tally)
            case _ if name == SIMILARITY:
                inside.compare_neighbours(run, tally)
            case _:
                tally.problem = "there is no comparison for this sink in altsync.reconcile"
    except SinkFailure as failure:
        tally.problem = redact(failure.reason)
    except psycopg.errors.LockNotAvailable:
        done = f"only {tally.removed:,}" if tally.removed else "nothing"
        tally.refused = (
            f"a long transaction is writing to PostgreSQL, so {done} could be removed safely: "
            "run it again"
        )
    return tally
