"""Commands of everyday operation: migrate, relay, status, failures, retry, backfill, doctor."""

from __future__ import annotations

import signal
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.live import Live

from altsync import health, log, outbox, status, store
from altsync.app import Application
from altsync.cli import terminal
from altsync.cli.common import application
from altsync.cli.terminal import Exit, answers, notes
from altsync.errors import ConfigurationError
from altsync.records import EntityType, Model, SinkTraits

#: Dead operations per transaction of ``retry``.
RETRY_PAGE = 1000

Json = Annotated[bool, typer.Option("--json", help="As JSON on stdout.")]
SinkOption = Annotated[str | None, typer.Option("--sink", help="Only this sink.")]


def migrate() -> None:
    """Bring the schema to its head, then create constraints and indexes in the sinks."""
    with application() as app:
        app.migrate()
        notes.print("PostgreSQL: the schema is at its head")
        failed = False
        for sink in app.topology.names:
            reason = app.disabled_reason(sink)
            if reason:
                notes.print(f"{sink}: disabled ({reason})")
        for sink, problem in app.set_up_sinks().items():
            failed = failed or problem is not None
            notes.print(
                f"{sink}: {'ready' if problem is None else log.redact(problem)}", markup=False
            )
        if failed:
            raise typer.Exit(Exit.ERROR)


def relay() -> None:
    """Wake workers for what is due, until stopped. One is enough, two are safe."""
    with application() as app:
        log.set_up(level=app.settings.altsync_log_level, form=app.settings.altsync_log_format)
        from workers.app import app as celery
        from workers.app import waker

        relay = app.relay(waker(celery, app.settings.altsync_wake_limit))
        signal.signal(signal.SIGTERM, lambda *_: relay.stop())
        signal.signal(signal.SIGINT, lambda *_: relay.stop())
        with app.verifying():
            relay.run()


def _collect(app: Application) -> status.Status:
    disabled = {sink: app.disabled_reason(sink) for sink in app.topology.names}
    with app.database.autocommit() as conn:
        return status.collect(conn, app.topology, disabled, app.settings.wanted_model)


def show_status(
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    as_json: Json = False,
) -> None:
    """How everything stands: entities per sink, operations, breakers."""
    with application() as app:
        if as_json:
            terminal.print_json(_collect(app).as_json())
            return
        if not watch:
            answers.print(terminal.status_view(_collect(app)))
            return
        try:
            with Live(terminal.status_view(_collect(app)), console=answers, screen=True) as live:
                while True:
                    time.sleep(every)
                    live.update(terminal.status_view(_collect(app)))
        except KeyboardInterrupt:
            return  # the way to end it


def failures(sink: SinkOption = None, as_json: Json = False) -> None:
    """Operations that were given up on, by reason, with examples."""
    with application() as app:
        _check_sink(app, sink)
        with app.database.autocommit() as conn:
            groups = outbox.failures(conn, sink)
        if as_json:
            terminal.print_json([asdict(group) for group in groups])
        elif groups:
            answers.print(terminal.failures_table(groups))
            notes.print("altsync retry --all tries them again.")
        else:
            notes.print("No operation was given up on.")


def retry(
    sink: SinkOption = None,
    entity: Annotated[
        str | None, typer.Option(help="Only this entity, by its tag, name or id in the sinks.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that were given up on.")] = False,
    as_json: Json = False,
) -> None:
    """Try again what was given up on, at the entity's current version."""
    if sink is None and entity is None and not everything:
        raise typer.BadParameter("say what to retry: --sink, --entity or --all")
    with application() as app:
        _check_sink(app, sink)
        count = 0
        while True:
            with app.database.transaction() as conn:
                dead = outbox.dead_ids(conn, sink=sink, entity=entity, limit=RETRY_PAGE)
                count += outbox.retry_dead(conn, dead, app.topology)
            if len(dead) < RETRY_PAGE:
                break
        if as_json:
            terminal.print_json({"retried": count})
        else:
            notes.print(f"Due again: {count:,}.")


def backfill(
    sink: Annotated[str, typer.Option("--sink", help="The sink to fill.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also what the sink has confirmed already.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Even if texts are to be embedded, and paid, again.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Enqueue every entity for one sink again, behind all other work."""
    with application() as app:
        traits = _check_sink(app, sink)
        assert traits is not None
        if not yes:
            _refuse_to_pay_twice(app, traits, force)
        counts = {kind.value: _backfill(app, traits, kind, force) for kind in traits.types}
        if as_json:
            terminal.print_json({"enqueued": counts})
        else:
            notes.print(f"{sum(counts.values()):,} operations were enqueued for {sink}.")


def _refuse_to_pay_twice(app: Application, sink: SinkTraits, force: bool) -> None:
    with app.database.autocommit() as conn:
        wanted = outbox.wanted_model(conn)
        count = store.paid_twice(conn, sink, Model(*wanted), force=force) if wanted else 0
    if count:
        notes.print(
            f"To be embedded and paid again, though their texts are as they were: {count:,} rows. "
            "Nothing was changed: --yes does it.",
            style="yellow",
        )
        raise typer.Exit(Exit.NOT_CONFIRMED)


def _backfill(app: Application, sink: SinkTraits, kind: EntityType, force: bool) -> int:
    count, after = 0, None
    while True:
        with app.database.transaction() as conn:
            found, after = outbox.backfill_page(conn, sink, kind, after=after, force=force)
        count += found
        if after is None:
            return count


def doctor(as_json: Json = False) -> None:
    """Ask every configured service whether it answers."""
    with application() as app:
        findings = health.look(app)
        if as_json:
            terminal.print_json([asdict(finding) for finding in findings])
        else:
            for finding in findings:
                answers.print(terminal.finding_line(finding))
        if any(finding.health is health.Health.FAILED for finding in findings):
            raise typer.Exit(Exit.ERROR)


def _check_sink(app: Application, sink: str | None) -> SinkTraits | None:
    if sink is None:
        return None
    try:
        return app.topology.traits(sink)
    except KeyError:
        known = ", ".join(app.topology.names)
        raise ConfigurationError(f"no sink {sink!r}; there are {known}") from None
