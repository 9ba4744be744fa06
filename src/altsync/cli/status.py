"""``altsync status``: entities per sink, operations and breakers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType

from altsync.app import Application
from altsync.cli import ending, terminal
from altsync.cli.common import Json, application
from altsync.cli.costs import cost_table
from altsync.cli.tables import Table, Text
from altsync.cli.terminal import answers
from altsync.contract import Drift
from altsync.entities import SyncStatus
from altsync.operations import BreakerState
from altsync.status.collect import Status, idle_message
from altsync.wording import plural

_STATUS_STYLE = {
    SyncStatus.SYNCED.value: "green",
    SyncStatus.PENDING.value: "yellow",
    SyncStatus.FAILED.value: "red",
}
_STATE_STYLE = {
    BreakerState.CLOSED: "green",
    BreakerState.PROBING: "yellow",
    BreakerState.OPEN: "red",
    BreakerState.PAUSED: "yellow",
    BreakerState.DISABLED: "dim",
}
#: States that end when an operation succeeds.
_TRIED = (BreakerState.OPEN, BreakerState.PROBING)

#: Words for the states of a breaker; others keep their name.
_STATE_WORD = {BreakerState.CLOSED: "ready"}

_IN_ORDER = (SyncStatus.SYNCED, SyncStatus.PENDING, SyncStatus.FAILED)


def _collect(app: Application) -> Status:
    with app.database.autocommit() as conn:
        return app.status(conn, app.settings.wanted_model)


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Update until Ctrl-C.")] = False,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two updates.")] = 1.0,
    as_json: Json = False,
) -> None:
    """Show entities per sink, operations and circuit breakers."""
    with application() as app:
        if not watch and as_json:
            terminal.print_json(_collect(app).as_json())
            return
        if not watch:
            answers.print(status_view(_collect(app)))
            return
        if as_json or not answers.is_terminal:
            ending.line.one_line = True
            _print_repeatedly(app, every, as_json=as_json)
        from rich.live import Live

        with Live(status_view(_collect(app)), console=answers, screen=True) as live:
            while True:
                time.sleep(every)
                live.update(status_view(_collect(app)))


def _print_repeatedly(app: Application, every: float, *, as_json: bool) -> None:
    """Print one line of JSON, or the tables, at each interval, for a pipe or a file."""
    while True:
        found = _collect(app)
        if as_json:
            terminal.print_json_line(found.as_json())
        else:
            answers.print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC")
            answers.print(status_view(found))
        answers.file.flush()
        time.sleep(every)


def status_view(status: Status) -> RenderableType:
    """Return the tables and notes of the status."""
    tables = [matrix_table(status), entity_table(status), sink_table(status)]
    if status.freshness:
        tables.append(freshness_table(status))
    notes = (*leftover_notes(status), *model_note(status), *verify_note(status))
    return Group(*tables, *cost_table(status.costs), *notes)


def leftover_notes(status: Status) -> list[Text]:
    """Return a note on each type that the catalogue lacks, and that has rows or operations."""
    return [
        Text(
            f"{name} is not in the catalogue, and has {plural(one.rows, 'row')} and "
            f"{plural(one.operations, 'operation')}: nothing delivers or compares them. Put its "
            "class back, and delete its entities before it goes (seed --prune).",
            style="yellow",
        )
        for name, one in status.leftovers.items()
    ]


def model_note(status: Status) -> list[Text]:
    """Return a note on another model beside the serving one, or in the settings."""
    database, settings = status.model.database, status.model.settings
    if status.models is not None and status.models.shadow is not None:
        text = (
            f"{status.models.serving.model.name} serves, and {status.models.shadow.model.name} is "
            f"kept beside it ({status.models.state}): altsync model status."
        )
        return [Text(text)]
    if database is None or settings is None or database == settings:
        return []
    text = (
        f"The database wants embeddings by {database.name} ({database.dimensions} dimensions), "
        f"the settings say {settings.name} ({settings.dimensions}): altsync reembed shows what "
        "a change costs."
    )
    return [Text(text, style="yellow")]


def verify_note(status: Status) -> list[Text]:
    """Return a note on the last verification, by a command or the relay."""
    last = status.verified
    if last is None:
        return []
    when = f"Last verified {age(last.age)} ago"
    problems = last.result.get("problems") or {}
    sinks = last.result.get("sinks") or {}
    drift = {
        sink: sum(n for kind, n in numbers.items() if kind in tuple(Drift))
        for sink, numbers in sinks.items()
    }
    differs = ", ".join(f"{sink} ({count:,})" for sink, count in drift.items() if count)
    if last.consistent:
        return [Text(f"{when}: {_agreed(last.result)}", style="green")]
    if differs:
        return [
            Text(
                f"{when}: {differs} did not agree. altsync verify shows the differences.",
                style="red",
            )
        ]
    if not problems:
        return [
            Text(f"{when}: inconclusive, as no worker claimed the pending operations.", "yellow")
        ]
    return [Text(f"{when}: {', '.join(problems)} could not be compared.", style="yellow")]


def _agreed(result: Mapping[str, Any]) -> str:
    """Return the sentence of a result without differences."""
    counted = plural(result.get("entities", 0), "entity", "entities")
    not_compared = result.get("not_compared") or []
    rest = f" Not compared: {', '.join(not_compared)}." if not_compared else ""
    waiting = result.get("in_progress", 0)
    if waiting:
        return f"nothing differed ({counted}); in progress: {waiting:,}.{rest}"
    return f"every {'compared ' if not_compared else ''}store agreed ({counted}).{rest}"


def matrix_table(status: Status) -> Table:
    """Return a table of entities by their statuses."""
    columns = ("entity", *status.matrix_sinks, "count")
    table = Table(*columns, title="Sync status", numbers=("count",))
    for row in status.matrix:
        statuses = (Text(one, style=_STATUS_STYLE[one]) for one in row.statuses.values())
        table.add_row(row.entity.value, *statuses, f"{row.count:,}")
    if not status.matrix:
        table.add_row("nothing seeded yet", *("" for _ in status.matrix_sinks), "0")
    return table


def entity_table(status: Status) -> Table:
    """Return a table of entities by sink: synced / pending / failed."""
    sinks = list(next(iter(status.entities.values())).by_sink)
    title = "Synced / pending / failed"
    table = Table("entity", "total", *sinks, title=title, numbers=("total", *sinks))
    for kind, entity in status.entities.items():
        cells = []
        for sink in sinks:
            counts = entity.by_sink[sink]
            cell = Text()
            for position, state in enumerate(_IN_ORDER):
                style = _STATUS_STYLE[state] if counts[state] else "dim"
                cell.append(" / " if position else "").append(f"{counts[state]:,}", style=style)
            cells.append(cell)
        table.add_row(kind.value, f"{entity.total:,}", *cells)
    return table


def sink_table(status: Status) -> RenderableType:
    """Return a table of breakers, operations, and the work of the last minute, by sink."""
    # In two lines, so that the table fits into 80 columns.
    numbers = ("pending", "in\nprogress", "dead", "oldest", "synced\n/min", "calls\n/min")
    table = Table(
        "sink", "state", *numbers, title="Operations", numbers=numbers, names=("sink", "state")
    )
    for sink, backlog in status.operations.items():
        found = status.sinks[sink]
        table.add_row(
            sink,
            Text(
                _STATE_WORD.get(found.state, found.state.value),
                style=_STATE_STYLE[found.state],
            ),
            f"{backlog.pending:,}",
            f"{backlog.in_progress:,}",
            Text(f"{backlog.dead:,}", style="red" if backlog.dead else ""),
            age(backlog.oldest_pending_seconds),
            f"{status.recent[sink].synced:,}",
            f"{status.recent[sink].remote_calls:,}",
        )
    reasons = [(sink, _reason(status, sink)) for sink in status.operations]
    idle = [
        Text(f"{s}: {idle_message(s, one, list(status.sinks))}", style="red")
        for s, one in status.idle.items()
    ]
    return Group(table, *(Text(f"{sink}: {reason}") for sink, reason in reasons if reason), *idle)


def _reason(status: Status, sink: str) -> str:
    found = status.sinks[sink]
    waits = status.operations[sink].pending
    reason = found.reason or ""
    if found.state is BreakerState.DISABLED and waits:
        return f"{reason}; {plural(waits, 'pending operation')}"
    if found.since is not None and found.state is not BreakerState.CLOSED:
        since = f"{reason} (since {found.since:%Y-%m-%d %H:%M:%S} UTC)"
        idle = found.state in _TRIED and not (waits or status.operations[sink].in_progress)
        return f"{since}; nothing is pending, the next operation probes it" if idle else since
    return reason


def freshness_table(status: Status) -> RenderableType:
    """Return a table of how old changes were when each sink confirmed them."""
    numbers = ("changes\n/hour", "p50", "p95", "p99", "goal", "met", "burn\n1 h", "burn\n6 h")
    title = "Freshness: seconds from commit to confirmation"
    table = Table("sink", *numbers, title=title, numbers=numbers, names=("sink",))
    for sink, one in status.freshness.items():
        burn = one.burn or {}
        style = "red" if one.alerting else ""
        table.add_row(
            sink,
            f"{one.changes:,}",
            *(_short(value) for value in (one.p50, one.p95, one.p99)),
            "" if one.objective is None else f"{one.objective:g}",
            "" if one.share is None else Text(f"{one.share:.2%}", style=style),
            *(Text(f"{burn[name]:.1f}" if burn else "", style=style) for name in ("1h", "6h")),
        )
    overdue = [
        Text(
            f"{sink}: {plural(one.overdue, 'change waits', 'changes wait')} for more than "
            f"{one.objective:g} s",
            style="red",
        )
        for sink, one in status.freshness.items()
        if one.overdue
    ]
    return Group(table, *overdue)


def _short(seconds: float | None) -> str:
    """Return seconds with two decimals, without any from 10 s; empty for None."""
    if seconds is None:
        return ""
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:,.0f}"


def age(seconds: float | None) -> str:
    """Return a duration with its unit."""
    if seconds is None:
        return ""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
