"""Commands of everyday operation: migrate, relay, pause, resume, backfill, doctor."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import asdict
from typing import Annotated

import typer

from altsync import log
from altsync.app import Application
from altsync.catalogue.current import entity_types
from altsync.circuit import pause as pauses
from altsync.circuit.pause import probe_now
from altsync.circuit.sinks import sink_health, wanted_model
from altsync.cli import terminal
from altsync.cli.common import Json, application, known_sink, operator
from altsync.cli.costs import MaxCost, is_refused
from altsync.cli.planned import planner_of
from altsync.cli.tables import Table, Text
from altsync.cli.terminal import Exit, answers, notes
from altsync.contract import SinkTraits
from altsync.doctor import Finding, Health, check_services
from altsync.entities import EntityType, Model
from altsync.operations import BreakerState
from altsync.outbox.upkeep import backfill_page
from altsync.planning import plan_backfill
from altsync.revisions import own_revision
from altsync.store.unembedded import charged_again
from altsync.wording import plural

SinkOption = Annotated[str | None, typer.Option("--sink", help="This sink.")]
EverySink = Annotated[bool, typer.Option("--all", help="Every sink.")]


def migrate(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the SQL of the catalogue's tables, run none.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring the schema to its head, then create constraints and indexes in the sinks."""
    with application() as app:
        if dry_run:
            _show_plan(app, as_json)
            return
        done = app.migrate()
        notes.print("PostgreSQL: the schema is at its head")
        for change in done.changes:
            notes.print(f"PostgreSQL: {change}")
        for note in done.notes:
            notes.print(Text(note, style="yellow"))
        sinks: dict[str, dict[str, str]] = {}
        for sink in app.topology.names:
            reason = app.disabled_reason(sink)
            if reason:
                notes.print(f"{sink}: disabled ({reason})")
                sinks[sink] = {"state": "disabled", "reason": reason}
        for sink, problem in app.set_up_sinks().items():
            reason = None if problem is None else log.redact(problem)
            notes.print(f"{sink}: {reason or 'ready'}")
            sinks[sink] = {"state": "failed", "reason": reason} if reason else {"state": "ready"}
        if as_json:
            body = {"schema": own_revision(), "sinks": sinks, "statements": list(done.statements)}
            terminal.print_json(body)
        if any(one["state"] == "failed" for one in sinks.values()):
            raise typer.Exit(Exit.ERROR)


def revision(
    message: Annotated[str, typer.Argument(help="What it does, in a few words.")],
) -> None:
    """Draft a revision beside the catalogue, for what migrate refuses."""
    with application() as app:
        answers.print(f"{app.draft_revision(message)}: complete it, then run altsync migrate")


def _show_plan(app: Application, as_json: bool) -> None:
    """Show the changes of the catalogue's tables; an error when data would be lost."""
    plan = app.plan_migration()
    if as_json:
        terminal.print_json(asdict(plan))
    else:
        for statement in plan.statements:
            answers.print(Text(f"{statement};"))
        for note in (*plan.notes, *plan.refused):
            notes.print(Text(note, style="yellow"))
        if not plan.statements and not plan.refused:
            notes.print("The tables are as the catalogue declares them.")
    if plan.refused:
        raise typer.Exit(Exit.ERROR)


def relay() -> None:
    """Wake workers for what is due, until stopped. One is enough, two are safe."""
    with application(serving=True) as app:
        log.set_up(level=app.settings.altsync_log_level, form=app.settings.altsync_log_format)
        app.require_schema()
        from altsync.workers.app import app as celery
        from altsync.workers.app import waker

        relay = app.relay(waker(celery, app.settings.altsync_wake_limit))
        signal.signal(signal.SIGTERM, lambda *_: relay.stop())
        signal.signal(signal.SIGINT, lambda *_: relay.stop())
        with app.verifying():
            relay.run()


def pause(
    sink: SinkOption = None,
    everything: EverySink = False,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why, shown in the status.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Stop delivery to a sink until it is resumed. Changes stay pending; nothing is lost."""
    _require_sink(sink, everything)
    with application() as app:
        sinks = _sinks_of(app, sink)
        with app.database.transaction() as conn:
            done = {s: pauses.pause(conn, s, _reason(reason)) for s in sinks}
        if as_json:
            terminal.print_json({"paused": done})
            return
        for name, newly in done.items():
            notes.print(f"{name}: {'paused' if newly else 'was paused already'}")


def resume(sink: SinkOption = None, everything: EverySink = False, as_json: Json = False) -> None:
    """Resume delivery to a paused sink. Pending operations are delivered at once."""
    _require_sink(sink, everything)
    with application() as app:
        sinks = _sinks_of(app, sink)
        with app.database.transaction() as conn:
            done = {s: pauses.resume(conn, s) for s in sinks}
            health = sink_health(conn)
        if as_json:
            terminal.print_json({"resumed": done})
            return
        for name, resumed in done.items():
            state = health[name].state if name in health else BreakerState.CLOSED
            now = "" if state is BreakerState.CLOSED else f"; it is {state} again"
            tried = ", and tried at once" if state is BreakerState.OPEN else ""
            notes.print(f"{name}: {f'resumed{now}' if resumed else 'was not paused'}{tried}")


def _require_sink(sink: str | None, everything: bool) -> None:
    if sink is None and not everything:
        raise typer.BadParameter("name a sink: --sink or --all")
    if sink is not None and everything:
        raise typer.BadParameter("--sink and --all exclude each other")


def _sinks_of(app: Application, sink: str | None) -> list[str]:
    return app.topology.names if sink is None else [known_sink(app, sink).name]


def _reason(reason: str | None) -> str:
    text = (reason or "").strip()
    return f"{text} ({operator()})" if text else f"by {operator()}"


def backfill(
    sink: Annotated[str, typer.Option("--sink", help="The sink to fill.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also what the sink has confirmed already.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Even if texts are to be embedded, and paid, again.")
    ] = False,
    max_cost: MaxCost = None,
    as_json: Json = False,
) -> None:
    """Enqueue every entity for one sink again, behind all other work."""
    with application() as app:
        traits = known_sink(app, sink)
        if max_cost is not None:
            _require_cost(app, traits, max_cost, force=force)
        if not yes:
            _require_confirmation(app, traits, force)
        counts = {
            kind.value: backfill_type(app, traits, kind, force)
            for kind in entity_types()
            if traits.takes(kind)
        }
        with app.database.transaction() as conn:
            probe_now(conn, sink)
        if as_json:
            terminal.print_json({"enqueued": counts})
        else:
            notes.print(f"Enqueued for {sink}: {plural(sum(counts.values()), 'operation')}.")


def _require_cost(app: Application, sink: SinkTraits, most: float, *, force: bool) -> None:
    with app.database.transaction() as conn:
        planner = planner_of(app, conn)
        plan_backfill(conn, planner, sink, force=force)
    if is_refused(planner.plan(), most):
        raise typer.Exit(Exit.NOT_CONFIRMED)


def _require_confirmation(app: Application, sink: SinkTraits, force: bool) -> None:
    with app.database.autocommit() as conn:
        wanted = wanted_model(conn)
        count = charged_again(conn, sink, Model(*wanted), force=force) if wanted else 0
    if count:
        notes.print(
            f"To be embedded and paid again, though the text is as it was: "
            f"{plural(count, 'row')}. Nothing was changed: --yes does it.",
            style="yellow",
        )
        raise typer.Exit(Exit.NOT_CONFIRMED)


def backfill_type(app: Application, sink: SinkTraits, kind: EntityType, force: bool) -> int:
    """Enqueue entities of one type that a sink lacks, or all by ``force``, in pages."""
    count, after = 0, None
    while True:
        with app.database.transaction() as conn:
            found, after = backfill_page(conn, sink, kind, after=after, force=force)
        count += found
        if after is None:
            return count


def doctor(as_json: Json = False) -> None:
    """Ask every configured service whether it answers."""
    with application() as app:
        from altsync.workers.broker import check_broker

        findings = check_services(app, check_broker)
        if as_json:
            terminal.print_json([asdict(finding) for finding in findings])
        else:
            answers.print(findings_table(findings))
        if any(finding.health is Health.FAILED for finding in findings):
            raise typer.Exit(Exit.ERROR)


_HEALTH_MARK = {
    Health.OK: ("✔", "green"),
    Health.FAILED: ("✘", "red"),
    Health.DISABLED: ("–", "dim"),
}


def findings_table(findings: Iterable[Finding]) -> Table:
    """Return a table of services and their answers. A long answer continues below."""
    table = Table("health", "name", "answer", names=("name",), plain=True)
    for finding in findings:
        mark, style = _HEALTH_MARK[finding.health]
        disabled = "disabled: " if finding.health is Health.DISABLED else ""
        answer = Text(disabled, "dim").append(finding.detail, "not dim")
        table.add_row(Text(mark, style), finding.name, answer)
    return table
