"""Commands on dead letters: failures, retry, discard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Annotated

import typer

from altsync.app import Application
from altsync.circuit.sinks import sink_health
from altsync.cli import terminal
from altsync.cli.common import Json, age, application, known_sink, operator
from altsync.cli.tables import Table
from altsync.cli.terminal import Exit, answers, notes
from altsync.db import Conn
from altsync.operations import ErrorKind
from altsync.retry import (
    DeadOperation,
    FailureGroup,
    Failures,
    Selection,
    count_dead,
    dead_by_sink,
    dead_ids,
    discard_dead,
    most_frequent,
    retry_dead,
)
from altsync.wording import plural

#: Dead operations per transaction of a retry or discard.
PAGE = 1000

#: Greatest number of groups in a table: the most frequent ones.
MOST_GROUPS = 100

SinkOption = Annotated[str | None, typer.Option("--sink", help="Only of this sink.")]
EntityOption = Annotated[
    str | None, typer.Option(help="Only this entity, by its tag, name or id in the sinks.")
]
KindOption = Annotated[ErrorKind | None, typer.Option("--kind", help="Only errors of this kind.")]
ReasonOption = Annotated[
    str | None,
    typer.Option("--reason", help="Only errors with this text in them, or of this group."),
]
OlderOption = Annotated[
    float | None,
    typer.Option("--older-than", parser=age, metavar="AGE", help="Dead for at least that: 2h, 7d."),
]
NewerOption = Annotated[
    float | None,
    typer.Option("--newer-than", parser=age, metavar="AGE", help="Dead for at most that: 15m, 2h."),
]
Everything = Annotated[bool, typer.Option("--all", help="All dead operations.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only count them.")]

#: Options that select dead operations.
SELECTORS = "--sink, --entity, --kind, --reason, --older-than, --newer-than or --all"


def failures(
    sink: SinkOption = None,
    entity: EntityOption = None,
    kind: KindOption = None,
    reason: ReasonOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    as_json: Json = False,
) -> None:
    """List dead operations by reason, with examples."""
    which = _selection(sink, entity, kind, reason, older_than, newer_than)
    with _application(which, former=True) as app:
        with app.database.autocommit() as conn:
            found = most_frequent(conn, None if as_json else MOST_GROUPS, which)
        if as_json:
            terminal.print_json([asdict(group) for group in found.groups])
        elif found.groups:
            answers.print(failures_table(found.groups))
            _print_rest(found)
            notes.print("altsync retry --all retries them; altsync discard ends them.")
        elif which.is_empty:
            notes.print("There are no dead operations.")
        else:
            notes.print("No dead operation matches.")


def retry(
    sink: SinkOption = None,
    entity: EntityOption = None,
    kind: KindOption = None,
    reason: ReasonOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Retry dead operations, each at its entity's current version."""
    which = _selection(sink, entity, kind, reason, older_than, newer_than)
    _require_selection(which, everything)
    with _application(which) as app:
        _print_ignored(app, which)
        which = replace(which, among=tuple(app.topology.names))
        if dry_run:
            _print_count(_count(app, which), as_json, "would_retry", "Would be due again: {:,}.")
            return
        # Counted as in a dry run: several failures of an entity may become one operation.
        count = _page_by_page(app, which, lambda conn, dead: _retried(conn, dead, app))
        _print_count(count, as_json, "retried", "Due again: {:,}.")


def discard(
    why: Annotated[
        str, typer.Option("--why", help="Why it will never work; kept with each operation.")
    ],
    sink: SinkOption = None,
    entity: EntityOption = None,
    kind: KindOption = None,
    reason: ReasonOption = None,
    older_than: OlderOption = None,
    newer_than: NewerOption = None,
    everything: Everything = False,
    dry_run: DryRun = False,
    yes: Annotated[bool, typer.Option("--yes", help="Really all of them.")] = False,
    as_json: Json = False,
) -> None:
    """Discard dead operations for good. The audit keeps who did it, and why."""
    if not why.strip():
        raise typer.BadParameter("empty text: say why it will never work", param_hint="--why")
    which = _selection(sink, entity, kind, reason, older_than, newer_than)
    _require_selection(which, everything)
    with _application(which, former=True) as app:
        if dry_run:
            _print_count(_count(app, which), as_json, "would_discard", "Would be discarded: {:,}.")
            return
        if which.is_empty and not yes:
            count = _count(app, which)
            notes.print(
                f"To be discarded: {plural(count, 'dead operation')}, which are all. Nothing was "
                "changed: --yes does it.",
                style="yellow",
            )
            raise typer.Exit(Exit.NOT_CONFIRMED)
        by = operator()
        count = _page_by_page(
            app,
            which,
            lambda conn, dead: discard_dead(conn, dead, app.topology, by=by, why=why),
        )
        _print_count(count, as_json, "discarded", "Discarded: {:,}.")


@contextmanager
def _application(which: Selection, *, former: bool = False) -> Iterator[Application]:
    """Open the application of a command, and check that the selected sink exists.

    ``former``: it may also be a sink that the settings no longer name.
    """
    with application() as app:
        if which.sink is not None and not (former and _was_known(app, which.sink)):
            known_sink(app, which.sink)
        yield app


def _print_rest(found: Failures) -> None:
    more = found.all_groups - len(found.groups)
    if more:
        rest = found.operations - sum(group.count for group in found.groups)
        notes.print(
            f"Not shown: {plural(rest, 'operation')} by {plural(more, 'other error')}; --json has "
            "all of them."
        )


def _was_known(app: Application, sink: str) -> bool:
    if sink in app.topology.names:
        return True
    with app.database.autocommit() as conn:
        return sink in sink_health(conn)


def _print_ignored(app: Application, which: Selection) -> None:
    """Print the number of operations that no worker would claim: the settings lack their sink."""
    with app.database.autocommit() as conn:
        dead = dead_by_sink(conn, which)
    ignored = {sink: count for sink, count in dead.items() if sink not in app.topology.names}
    if ignored:
        sinks = ", ".join(f"{count:,} of {sink}" for sink, count in ignored.items())
        notes.print(f"Ignored, as the settings do not name their sink: {sinks}.")


def _selection(
    sink: str | None,
    entity: str | None,
    kind: ErrorKind | None,
    reason: str | None,
    older_than: float | None,
    newer_than: float | None,
) -> Selection:
    if reason == "":
        raise typer.BadParameter("an empty reason matches every error: use --all")
    return Selection(
        sink=sink,
        entity=entity,
        error_kind=kind,
        reason=reason,
        older_than=older_than,
        newer_than=newer_than,
    )


def _require_selection(which: Selection, everything: bool) -> None:
    if which.is_empty and not everything:
        raise typer.BadParameter(f"select dead operations by {SELECTORS}")


def _count(app: Application, which: Selection) -> int:
    with app.database.autocommit() as conn:
        return count_dead(conn, which)


def _retried(conn: Conn, dead: list[DeadOperation], app: Application) -> int:
    retry_dead(conn, dead, app.topology)
    return len(dead)


def _page_by_page(
    app: Application, which: Selection, do: Callable[[Conn, list[DeadOperation]], int]
) -> int:
    """Call ``do`` for each page of the selected operations, and print the progress."""
    count = after = 0
    while True:
        with app.database.transaction() as conn:
            dead = dead_ids(conn, which, limit=PAGE, after=after)
            count += do(conn, dead)
        if len(dead) < PAGE:
            return count
        after = dead[-1][0]
        notes.print(f"{count:,} so far …")


def _print_count(count: int, as_json: bool, name: str, sentence: str) -> None:
    if as_json:
        terminal.print_json({name: count})
    else:
        notes.print(sentence.format(count))


def failures_table(groups: Sequence[FailureGroup]) -> Table:
    """Return a table of dead operations by reason."""
    table = Table(
        *("sink", "kind", "count", "reason", "for example"),
        title="Dead operations",
        numbers=("count",),
        names=("sink", "kind"),
    )
    for group in groups:
        samples = ", ".join(group.sample_keys)
        table.add_row(group.sink, group.error_kind, f"{group.count:,}", group.reason, samples)
    return table
