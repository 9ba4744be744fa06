"""``altsync relate``: search the neighbours of entities in this process."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import datetime
from typing import Annotated

import typer

from altsync.app import Application
from altsync.catalogue.current import searched_types
from altsync.circuit.sinks import sink_health
from altsync.cli import terminal
from altsync.cli.bars import Bars
from altsync.cli.common import Json, application
from altsync.cli.operate import backfill_type
from altsync.cli.terminal import Exit, notes
from altsync.contract import SIMILARITY
from altsync.db import Conn
from altsync.errors import AltsyncError, ConfigurationError
from altsync.operations import BreakerState
from altsync.outbox.edges import enqueue_neighbour_search
from altsync.retry import Selection, count_dead, failures
from altsync.similarity.sql import count_similar, forget_neighbours
from altsync.status import sql as status_sql
from altsync.store.reads import clock
from altsync.wording import plural, sentences

#: Seconds between two polls of entities that other workers have claimed, or that will be retried.
POLL_INTERVAL = 0.2


def relate(
    key: Annotated[
        str | None, typer.Option("--key", help="One entity by its key, and its neighbours.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every entity.")] = False,
    as_json: Json = False,
) -> None:
    """Search for similar entities now, in this process, instead of after the next change.

    Changed relationships are enqueued for the graph. Workers write them.
    """
    if (key is None) == (not everything):
        raise typer.BadParameter("select entities: --all, or --key KEY")
    with application() as app:
        _check(app)
        with app.database.autocommit() as conn:
            started = clock(conn)
            before = _count(conn)
        enqueued = _enqueue_all(app) if key is None else _enqueue_one(app, key)
        _deliver_all(app)
        _show(app, enqueued, before, started, as_json=as_json)


def _check(app: Application) -> None:
    if SIMILARITY not in app.topology.names:
        raise ConfigurationError(
            "relationships are not kept: ALTSYNC_SIMILARITY is off, or ALTSYNC_SINKS lacks what "
            "it needs (embedding, or a vector index for ALTSYNC_SIMILARITY=index)"
        )
    reason = app.disabled_reason(SIMILARITY)
    if reason:
        raise ConfigurationError(f"similar entities cannot be found: {reason}")
    with app.database.transaction() as conn:
        app.register_sinks(conn)  # similarity may have been switched on since the last migration


def _count(conn: Conn, since: datetime | None = None) -> int:
    return sum(count_similar(conn, kind, since=since) for kind in searched_types())


def _enqueue_one(app: Application, key: str) -> int:
    with app.database.transaction() as conn:
        for kind in searched_types():
            found = forget_neighbours(conn, kind, key)
            if found is not None:
                return enqueue_neighbour_search(conn, kind, [SIMILARITY], [found])
    kinds = " or ".join(kind.one for kind in searched_types())
    raise AltsyncError(f"no {kinds} has the key {key!r}")


def _enqueue_all(app: Application) -> int:
    traits = app.topology.traits(SIMILARITY)
    return sum(backfill_type(app, traits, kind, force=True) for kind in searched_types())


def _deliver_all(app: Application) -> None:
    """Deliver until no entity is pending. Wait for entities that workers claimed."""
    with Bars() as bars:
        most = waiting = _waiting(app)
        task = bars.add_task(SIMILARITY, total=most)
        while waiting:
            app.deliver(SIMILARITY)
            waiting = _waiting(app)
            most = max(most, waiting)
            bars.update(task, completed=most - waiting, total=most)
            if waiting:
                _check_breaker(app, waiting)
                time.sleep(POLL_INTERVAL)


def _waiting(app: Application) -> int:
    with app.database.autocommit() as conn:
        backlog = status_sql.backlog(conn).get(SIMILARITY)
    return backlog.pending + backlog.in_progress if backlog else 0


def _check_breaker(app: Application, waiting: int) -> None:
    with app.database.autocommit() as conn:
        health = sink_health(conn).get(SIMILARITY)
    if health and health.state is not BreakerState.CLOSED:
        raise AltsyncError(
            sentences(
                f"{SIMILARITY} is {health.state}: {health.reason}",
                f"{plural(waiting, 'entity waits', 'entities wait')}, and workers go on when it "
                "answers again",
            )
        )


def _show(
    app: Application, enqueued: int, before: int, started: datetime, *, as_json: bool
) -> None:
    with app.database.autocommit() as conn:
        now, added = _count(conn), _count(conn, since=started)
        dead = Selection(sink=SIMILARITY)
        groups = failures(conn, dead) if as_json else []
        failed = count_dead(conn, dead)
    removed = before + added - now
    if as_json:
        terminal.print_json(
            {
                "entities": enqueued,
                "relationships": now,
                "added": added,
                "removed": removed,
                "failures": [asdict(group) for group in groups],
            }
        )
    else:
        notes.print(
            f"Searched for {plural(enqueued, 'entity', 'entities')}. Relationships: {added:,} "
            f"added, {removed:,} removed, {now:,} in all."
        )
    if failed:
        notes.print(
            f"{plural(failed, 'entity was', 'entities were')} given up on: altsync failures says "
            "why.",
            style="red",
        )
        raise typer.Exit(Exit.SINK_ERRORS)
