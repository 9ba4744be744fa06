"""``altsync verify``: compare every store with PostgreSQL, and repair what differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.console import Group, RenderableType

from altsync.app import Application
from altsync.cli import ending, terminal
from altsync.cli.bars import Bars
from altsync.cli.common import Json, application
from altsync.cli.operate import SinkOption
from altsync.cli.tables import Table, Text
from altsync.cli.terminal import answers, notes
from altsync.contract import Drift, imported
from altsync.declarations import CHARGED, SINKS, title_of
from altsync.errors import AltsyncError, ConfigurationError
from altsync.verify.report import Options, Report, Tally, kinds_of
from altsync.verify.sql import namespace_sizes
from altsync.wording import plural, unknown

#: Exit codes of this command.
AGREE, DRIFT, CANNOT_TELL = 0, 1, 2

_DEFAULTS = Options()


def verify(
    sink: SinkOption = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Enqueue differences; remove a few orphans."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --repair: only count the repairs.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Compare every property and number, too.")
    ] = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Compare only so many random entities.")
    ] = None,
    max_delete: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="Greatest share that may be removed or written over."),
    ] = _DEFAULTS.max_delete,
    grace: Annotated[
        float,
        typer.Option(min=0.0, help="Seconds that an index may lag behind its writes."),
    ] = _DEFAULTS.grace,
    as_json: Json = False,
) -> None:
    """Compare every store with PostgreSQL. Exit codes: 0 agree, 1 differ, 2 cannot tell."""
    if dry_run and not repair:
        raise typer.BadParameter("--dry-run goes with --repair: without it nothing is changed")
    options = Options(repair, dry_run, deep, sample, max_delete, grace)
    try:
        with application() as app:
            report = _compare(app, sink, options, quiet=as_json)
        _print(report, as_json=as_json)
    except (BrokenPipeError, typer.Exit):
        raise
    except Exception as error:  # noqa: BLE001  (shown)
        raise typer.Exit(ending.report(error, CANNOT_TELL, "could not tell: ")) from None
    if report.drifted:
        raise typer.Exit(DRIFT)
    if not report.consistent:
        raise typer.Exit(CANNOT_TELL)


def _print(report: Report, *, as_json: bool) -> None:
    if report.not_saved_reason is not None:
        notes.print(
            f"altsync: this is not stored as the last result: {report.not_saved_reason}",
            style="yellow",
            soft_wrap=True,
        )
    if as_json:
        terminal.print_json(report.as_json())
    else:
        answers.print(view(report))


def _compare(app: Application, sink: str | None, options: Options, *, quiet: bool) -> Report:
    if sink is not None and sink not in app.topology.names:
        raise AltsyncError(unknown("sink", sink, app.topology.names))
    reason = app.disabled_reason(sink) if sink is not None else None
    if reason is not None:
        raise ConfigurationError(f"{sink} is switched off: {reason}")
    sinks = None if sink is None else [sink]
    for name in CHARGED if not quiet else ():
        if sink in (None, name) and name in app.topology.names:
            _print_price(app, name, options)
    with Bars(transient=True, disable=quiet) as bars:
        return app.verify(options, sinks, progress=bars.show)


def _print_price(app: Application, sink: str, options: Options) -> None:
    """Print the price of reading an enabled sink."""
    if app.disabled_reason(sink) is not None:
        return
    title = title_of(sink)
    if options.sample is None:
        with app.database.autocommit() as conn:
            namespaces = namespace_sizes(conn)
        count, price = sum(namespaces), imported(SINKS[sink].price)(namespaces)
        notes.print(
            f"{title}: about {plural(price.requests, 'request')} and "
            f"{plural(price.units, 'read unit')} for {plural(count, 'vector')}."
        )
    else:
        units = -(-options.sample // 10)
        notes.print(
            f"{title}: at least {plural(units, 'read unit')} for "
            f"{plural(options.sample, 'vector')}. A sample finds no orphans: it reads "
            "PostgreSQL's entities only."
        )


# --- tables and sentences ---------------------------------------------------------------------


def view(report: Report) -> RenderableType:
    """Return a table of the differences, and their summary."""
    table = Table(
        *("sink", "kind", "count", "for example"),
        title="Stores against PostgreSQL",
        numbers=("count",),
        names=("sink", "kind"),
    )
    for tally in report.every if report.rows.drifted else report.tallies:
        for cells in _rows(tally):
            table.add_row(*cells)
    return Group(table, *(Text(line, style=style) for line, style in _lines(report)))


def _rows(tally: Tally) -> Iterator[tuple[str, RenderableType, str, str]]:
    if tally.problem is not None:
        yield tally.sink, Text("could not tell", style="red"), "", tally.problem
    for kind in kinds_of(tally.sink):
        if tally.kinds[kind]:
            samples = ", ".join(tally.samples[kind])
            yield tally.sink, Text(_WORDS[kind], style="red"), f"{tally.kinds[kind]:,}", samples
    if tally.given_up:
        samples = ", ".join(tally.given_up_keys)
        yield tally.sink, "given up on", f"{tally.given_up:,}", f"counted above: {samples}"
    if tally.edges:
        yield tally.sink, "relationships", f"{tally.edges:,}", "counted with their sources"
    if tally.pending:
        yield tally.sink, "in progress", f"{tally.pending:,}", "their operations are live: no drift"
    if not (tally.drifted or tally.pending or tally.problem):
        yield tally.sink, Text("agrees", style="green"), "0", ""


#: Words for the kinds of drift.
_WORDS = {
    Drift.MISSING: "missing",
    Drift.STALE: "stale",
    Drift.ORPHAN: "orphan",
    Drift.AHEAD: "ahead",
    Drift.WRONG_MODEL: "wrong model",
    Drift.WRONG_NAMESPACE: "wrong namespace",
    Drift.EDITED: "edited",
}


def _lines(report: Report) -> Iterator[tuple[str, str]]:
    for name, reason in report.skipped.items():
        yield f"{name}: not compared, as it is switched off ({reason}).", "dim"
    if report.rows.drifted and not report.options.writes:
        edited = plural(report.rows.drifted, "entity was", "entities were")
        yield (
            f"postgresql: {edited} edited by SQL: the row does not fit its hashes. "
            "altsync seed restores the seed's values; altsync verify --repair keeps the edit and "
            "writes it to every sink.",
            "yellow",
        )
    for tally in report.every:
        if tally.requests:
            yield (
                f"{tally.sink}: {plural(tally.requests, 'request')}, "
                f"{plural(tally.read_units, 'read unit')}.",
                "dim",
            )
        if tally.refused is not None:
            yield f"{tally.sink}: {tally.refused}", "red"
    for name, state in report.blocked_sinks.items():
        yield f"{name} is {state}: its operations may wait for long.", "yellow"
    for name, why in report.idle.items():
        yield f"{name}: {why}.", "red"
    given_up = {tally.sink: tally.given_up for tally in report.tallies if tally.given_up}
    if given_up:
        counted = ", ".join(f"{sink} ({count:,})" for sink, count in given_up.items())
        yield (
            f"Given up on: {counted}. altsync failures shows the causes. Remove them, then run "
            "altsync retry, or altsync backfill for discarded operations. A repair leaves these "
            "entities out: each attempt may cost a call, and fails until the cause is removed.",
            "yellow",
        )
    yield from _repairs(report)
    yield _last(report)


def _repairs(report: Report) -> Iterator[tuple[str, str]]:
    if not report.options.repair:
        return
    enqueued = sum(tally.enqueued for tally in report.every)
    removed = sum(tally.removed for tally in report.tallies)
    if report.options.dry_run:
        yield (
            f"To be enqueued: {enqueued:,}; to be removed: {removed:,}. Nothing was changed.",
            "yellow",
        )
    elif enqueued or removed:
        yield (
            f"Enqueued: {enqueued:,}; removed: {removed:,}. Workers deliver the rest: altsync "
            "status shows it.",
            "",
        )


def _last(report: Report) -> tuple[str, str]:
    counted = plural(report.entities, "entity", "entities")
    if report.options.sample is not None:
        counted = f"{min(report.options.sample, report.entities):,} of {counted}"
    if not report.tallies:
        return _nothing_compared(report), "bold red"
    if report.consistent:
        return _agreement(report, counted)
    if not report.drifted and not report.problems:
        waiting = ", ".join(f"{sink} ({count:,})" for sink, count in report.in_progress.items())
        return f"Could not tell: no worker claims the operations of {waiting}.", "bold red"
    if not report.drifted:
        failed = ", ".join(report.problems)
        return f"Could not tell: {failed} could not be compared. Nothing else differs.", "bold red"
    drifted = ", ".join(f"{t.sink} ({t.drifted:,})" for t in report.every if t.drifted)
    fixable = any(tally.drifted > tally.given_up for tally in report.tallies)
    advice = " altsync verify --repair repairs it." if fixable and not report.options.writes else ""
    return f"Not every store agrees: {drifted}.{advice}", "bold red"


def _agreement(report: Report, counted: str) -> tuple[str, str]:
    """Return the sentence of an agreement, with entities in progress and sinks left out."""
    rest = f" Not compared: {', '.join(report.not_compared)}." if report.not_compared else ""
    if report.in_progress:
        waiting = ", ".join(f"{sink} ({count:,})" for sink, count in report.in_progress.items())
        return f"Nothing differs ({counted}); in progress: {waiting}.{rest}", "bold yellow"
    stores = "Every compared store" if report.not_compared else "Every store"
    return f"{stores} agrees ({counted}).{rest}", "bold green"


def _nothing_compared(report: Report) -> str:
    reasons = "; ".join(dict.fromkeys(report.skipped.values()))
    return (
        f"Could not tell: nothing was compared, as every sink is switched off: {reasons}. Use the "
        "settings of the relay."
    )
