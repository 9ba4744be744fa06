"""``altsync wait``: wait until every store shows the changes up to a version."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from altsync.cli.bars import Bars
from altsync.cli.common import Json, application
from altsync.cli.seed_run import IDLE_HINT_AFTER, print_hints
from altsync.cli.tables import Table, Text
from altsync.cli.terminal import Exit, answers, notes, print_json
from altsync.outbox.versions import newest_version
from altsync.waiting import Reached, Wait, awaited_sinks, summary, wait_for

_STYLES = {
    Reached.VISIBLE: "green",
    Reached.CONFIRMED: "yellow",
    Reached.WAITING: "yellow",
    Reached.FAILED: "red",
}


def wait(
    version: Annotated[
        int | None,
        typer.Option("--version", min=1, help="The version to wait for; the newest by default."),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option("--sink", help="Only this sink; may be given several times."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Give up after so many seconds.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Wait until queries of every store show the changes up to a version.

    Exit codes: 0 shown, 1 error, 2 usage, 4 dead letters at or below the version,
    5 --timeout passed.
    """
    started = time.monotonic()
    with application() as app:
        sinks = awaited_sinks(app, sink or ())
        if version is None:
            with app.database.autocommit() as conn:
                version = newest_version(conn)
        with Bars() as bars:
            tasks = {name: bars.add_task(name, total=None) for name in sinks}
            most = dict.fromkeys(sinks, 0)
            hinted: set[str] = set()

            def show(state: Wait) -> None:
                for name, one in state.sinks.items():
                    most[name] = max(most[name], one.waiting)
                    total = most[name] or 1
                    done = total - one.waiting - (name in state.unseen and total == 1)
                    bars.update(tasks[name], completed=done, total=total)
                if time.monotonic() - started >= IDLE_HINT_AFTER:
                    waiting = {n for n, one in state.sinks.items() if one.waiting} - hinted
                    with app.database.autocommit() as conn:
                        hinted.update(print_hints(app, conn, waiting, IDLE_HINT_AFTER))

            found = wait_for(app, version, sinks, timeout=timeout, show=show)
    code = exit_of(found)
    if as_json:
        body = wait_json(found)
        print_json({**body, "reached": code is Exit.OK, "seconds": _since(started)})
    else:
        answers.print(_table(found))
        print_notes(found, timeout)
    raise typer.Exit(code)


def exit_of(found: Wait) -> Exit:
    """Return the exit status of a wait."""
    if found.timed_out:
        return Exit.TIMED_OUT
    return Exit.SINK_ERRORS if found.failed else Exit.OK


def wait_json(found: Wait) -> dict[str, Any]:
    """Return the version and the state of each sink."""
    return {"version": found.version, "sinks": {n: asdict(one) for n, one in found.sinks.items()}}


def print_notes(found: Wait, timeout: float | None) -> None:
    """Say what is left, and which stores do not say what they show."""
    if found.timed_out:
        text = f"Version {found.version} was not reached within {timeout:g} s: {summary(found)}."
        notes.print(text, style="yellow")
    elif found.failed:
        text = f"Version {found.version} was not reached: {summary(found)}."
        notes.print(text, style="red")
    for name, one in found.sinks.items():
        if one.state is Reached.CONFIRMED and name not in found.unseen:
            notes.print(f"{name}: {one.reason}")


def _table(found: Wait) -> Table:
    title = f"Version {found.version}"
    table = Table("sink", "state", "waiting", "dead", title=title, numbers=("waiting", "dead"))
    for name, one in found.sinks.items():
        state = Text(one.state.value, style=_STYLES[one.state])
        table.add_row(name, state, f"{one.waiting:,}", f"{one.dead:,}")
    return table


def _since(started: float) -> float:
    return round(time.monotonic() - started, 3)
