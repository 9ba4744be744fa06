"""``altsync seed``: load, and wait for the sinks when asked."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from altsync.app import Application
from altsync.catalogue.current import parts
from altsync.catalogue.parts import Part
from altsync.cli import ending, terminal
from altsync.cli.common import application
from altsync.cli.tables import Table, Text
from altsync.cli.terminal import Exit, notes
from altsync.contract import EMBEDDING
from altsync.db import Conn
from altsync.declarations import MIRRORS, title_of
from altsync.errors import ConfigurationError
from altsync.seed.files import find_files, named_by
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from altsync.sentences import Failure
from altsync.status.collect import idle_message
from altsync.status.sql import (
    FOLLOWED,
    FailedEntity,
    RunProgress,
    failed_in_run,
    idle_sinks,
    note_seen,
    run_progress,
)
from altsync.wording import sentences

_RULE = "=" * 50

#: Seconds between two looks at how far the sinks are.
POLL_INTERVAL = 0.2

#: Part of the time that looking itself may take.
POLL_SHARE = 0.2

#: Entities that the sentence of an error names.
NAMED = 5

#: Seconds without a claim, while work is due, after which waiting says what to start. The relay
#: wakes a worker within a second.
IDLE_HINT_AFTER = 5.0


def _seed(
    chosen: tuple[Part, ...],
    only: Mapping[str, str],
    limit: Annotated[
        int | None, typer.Option(min=0, help="At most so many lines of each part.")
    ] = None,
    folder: Annotated[Path, typer.Option("--dir", help="The seed folder.")] = Path("seeds"),
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what the files no longer hold.")
    ] = False,
    prune_saved: Annotated[
        bool, typer.Option("--prune-saved", help="With --prune: also what programs have saved.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Prune even more than a fifth of a part.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would happen, and write nothing.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a whole file for one bad line in it.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until every sink has this run's changes.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="With --wait: give up after so many seconds.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The counts as JSON.")] = False,
) -> None:
    """Load JSONL seeds into PostgreSQL and its outbox, in one transaction per batch.

    Exit codes: 0 done, 1 error, 2 usage, 3 some lines were refused or nothing was pruned,
    4 a sink gave up on some, 5 --timeout passed.
    """
    if prune_saved and not prune:
        raise typer.BadParameter("--prune-saved needs --prune")
    options = SeedOptions(folder, chosen, limit, only, prune, yes, strict, dry_run, wait)
    options = replace(options, prune_saved=prune_saved)
    with application() as app:
        raise typer.Exit(run(app, options, wait=wait, timeout=timeout, as_json=as_json))


def seed() -> Callable[..., None]:
    """Return the command, with an option for each part of the catalogue and each file name."""
    flags = {_parameter(part): part for part in parts()}
    names = {_parameter(column): column for part in parts() if (column := named_by(part))}
    own = [
        p for p in signature(_seed, eval_str=True).parameters.values() if p.default is not p.empty
    ]
    _check_options([*flags.values(), *names.values()], {EVERYTHING, *(p.name for p in own)})

    def command(**given: Any) -> None:
        everything = given.pop(EVERYTHING)
        chosen = tuple(part for flag, part in flags.items() if given.pop(flag) or everything)
        named = {column: given.pop(name) for name, column in names.items()}
        only = {column: name for column, name in named.items() if name is not None}
        if not chosen:
            options = ", ".join(["--all", *map(_option, flags)])
            raise typer.BadParameter(f"say what to seed: {options}")
        for column in only:
            if not any(named_by(part) == column for part in chosen):
                needed = " or ".join([*_options_of(column), "--all"])
                raise typer.BadParameter(f"{_option(column)} needs {needed}")
        _seed(chosen, only, **given)

    def parameter(name: str, kind: Any, default: Any, text: str) -> Parameter:
        annotation = Annotated[kind, typer.Option(_option(name), help=text)]
        return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

    limit, *rest = (one.replace(kind=Parameter.KEYWORD_ONLY) for one in own)
    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter(
                EVERYTHING,
                Parameter.KEYWORD_ONLY,
                default=False,
                annotation=Annotated[bool, typer.Option("--all", help="Every part that is there.")],
            ),
            *(
                parameter(flag, bool, False, f"{part}.jsonl, {part}/*.jsonl")
                for flag, part in flags.items()
            ),
            limit,
            *(
                parameter(name, str | None, None, _only_help(column))
                for name, column in names.items()
            ),
            *rest,
        ]
    )
    command.__doc__ = _seed.__doc__
    return command


#: The parameter of ``--all``.
EVERYTHING = "everything"


def _parameter(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _option(name: str) -> str:
    return f"--{re.sub('[^A-Za-z0-9]', '-', name)}"


def _options_of(column: str) -> list[str]:
    return [_option(part) for part in parts() if named_by(part) == column]


def _only_help(column: str) -> str:
    files = ", ".join(f"{part}/<{column}>.jsonl" for part in parts() if named_by(part) == column)
    needed = " or ".join([*_options_of(column), "--all"])
    return f"Only {files}; needs {needed}."


def _check_options(made: Sequence[str], taken: set[str]) -> None:
    """Raise ``ConfigurationError`` for a part or field whose option means something else."""
    known = {_option(name) for name in (*taken, "all", "dir", "json")}
    for name in dict.fromkeys(made):
        if _option(name) in known:
            raise ConfigurationError(
                f"catalogue: {name!r} cannot be a part of the seeds or a file_name: "
                f"altsync seed {_option(name)} means something else"
            )


def run(
    app: Application,
    options: SeedOptions,
    *,
    wait: bool = False,
    timeout: float | None = None,
    as_json: bool = False,
) -> Exit:
    """One seeding run with its output; returns the exit code."""
    waits = wait and not options.dry_run
    progress: dict[str, RunProgress] = {}
    arrived, dead = True, list[FailedEntity]()
    with app.connect("altsync-seed") as conn:
        report = load(app, conn, options, as_json=as_json)
        if waits:
            try:
                arrived = follow(app, conn, progress, timeout)
                dead = find_failed(app, conn, progress)
            except BaseException as error:
                ending.attach(error, _body(report, progress, app.topology.names, waits=wait))
                raise
    body = _body(report, progress, app.topology.names, waits=wait)
    if waits and not as_json:
        terminal.answers.print(seed_summary(report, progress, app.topology.names))
    code = end(report, dead, arrived=arrived, body=body)
    if as_json and not dead:
        terminal.print_json(body)
    return code


def end(
    report: SeedReport,
    dead: list[FailedEntity],
    *,
    arrived: bool,
    body: dict[str, Any] | None = None,
) -> Exit:
    """Return the exit status of a run, after an error that names what was given up on."""
    code = Exit.SINK_ERRORS if dead else Exit.OK
    if report.total.rejected or report.not_pruned:
        code = Exit.REJECTED
    if not arrived:
        code = Exit.TIMED_OUT
    if dead:
        failed = {"failed": [asdict(one) for one in dead]}
        ending.show(Failure(_given_up(dead), Exit.SINK_ERRORS), code, {**(body or {}), **failed})
    return code


def _body(
    report: SeedReport, progress: dict[str, RunProgress], sinks: Sequence[str], *, waits: bool
) -> dict[str, Any]:
    """Return the JSON document of a run, as far as it has come."""
    body = report.as_json()
    if report.total.rejected:
        body["refused"] = report.refused()
    for sink in mirrors(sinks) if waits else ():
        done = progress.get(sink, RunProgress(0, 0, 0))
        body[sink] = {"synced": done.synced, "errors": done.failed}
    return body


def find_failed(
    app: Application, conn: Conn, progress: dict[str, RunProgress]
) -> list[FailedEntity]:
    """Return some entities of the run that sinks have given up on."""
    failed = [app.topology.traits(sink) for sink, done in progress.items() if done.failed]
    return [one for sink in failed for one in failed_in_run(conn, sink, NAMED + 1)]


def _given_up(dead: list[FailedEntity]) -> str:
    """Return a sentence that names what was given up on, by entity."""
    sinks: dict[str, list[FailedEntity]] = {}
    for one in dead:
        sinks.setdefault(f"{one.entity_type} {one.key}", []).append(one)
    named = [
        f"{name} ({', '.join(one.sink for one in found)}: {found[0].reason or 'no reason kept'})"
        for name, found in sinks.items()
    ]
    more = ", …" if len(named) > NAMED else ""
    said = f"given up on: {', '.join(named[:NAMED])}{more}"
    return sentences(said, "altsync failures shows all, altsync retry tries again").rstrip(".")


def load(
    app: Application, conn: Conn, options: SeedOptions, *, as_json: bool = False
) -> SeedReport:
    """Load with a progress bar per part, and show the counts."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    folder = app.settings.altsync_home / "runs" / stamp
    report = SeedReport(folder, only_refusals=options.dry_run)
    options = replace(options, cut_long=app.settings.altsync_long_text == "cut")
    try:
        with _loading(options) as advance:
            Loader(conn, app.topology, options, report, advance).run()
    except BaseException as error:
        ending.attach(error, report.as_json())
        raise
    finally:
        report.close()
        if report.parts:
            title = "Would be seeded (nothing was written)" if options.dry_run else "Seeded"
            (notes if as_json else terminal.answers).print(seed_table(report, title))
        print_rejects(report)
    return report


@contextmanager
def _loading(options: SeedOptions) -> Iterator[_Advance]:
    columns = (TextColumn("{task.description:<12}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeElapsedColumn(), console=notes) as progress:
        yield _Advance(progress, options)


class _Advance:
    """Moves the bar of a part, which is made when its first line is read."""

    def __init__(self, progress: Progress, options: SeedOptions) -> None:
        self._progress = progress
        self._options = options
        self._tasks: dict[Part, object] = {}

    def __call__(self, part: Part, size: int) -> None:
        if part not in self._tasks:
            files = find_files(self._options.folder, part, self._options.only)
            total = sum(file.path.stat().st_size for file in files)
            self._tasks[part] = self._progress.add_task(part.value, total=total)
        self._progress.advance(self._tasks[part], size)  # type: ignore[arg-type]


def waited_for(app: Application) -> list[str]:
    """Sinks that a run can arrive at: configured, and fed by a configured embedder."""
    embeds = EMBEDDING in app.enabled
    names = [s for s in app.enabled if embeds or not app.topology.traits(s).needs_embedding]
    return [s for s in names if s in FOLLOWED]


def follow(
    app: Application,
    conn: Conn,
    progress: dict[str, RunProgress],
    timeout: float | None,
    hint_after: float = IDLE_HINT_AFTER,
) -> bool:
    """Wait until every sink holds this run's lines, or has given up on them.

    Return whether that happened before ``timeout``. ``progress`` is updated at each poll, so that
    an interrupted caller can report it. A sink without a claim for ``hint_after`` seconds gets a
    note about the process to start.
    """
    sinks = waited_for(app)
    note_seen(conn)
    deadline = None if timeout is None else time.monotonic() + timeout
    hinted: set[str] = set()
    columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=notes) as bars:
        tasks = {sink: bars.add_task(sink, total=None) for sink in sinks}
        while True:
            looked = time.monotonic()
            with conn.transaction():
                conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                found = {s: run_progress(conn, app.topology.traits(s)) for s in sinks}
            progress.update(found)
            took = time.monotonic() - looked
            for sink, done in progress.items():
                completed = done.synced + done.failed
                bars.update(tasks[sink], completed=completed, total=done.changed)
            if all(p.waiting == 0 for p in progress.values()):
                return True
            is_over = deadline is not None and time.monotonic() > deadline
            idle_for = min(hint_after, timeout or 0.0) if is_over else hint_after
            for sink, idle in idle_sinks(conn, idle_for).items():
                if sink in sinks and sink not in hinted and progress[sink].waiting:
                    hinted.add(sink)
                    said = f"{sink}: {idle_message(sink, idle, app.topology.names)}"
                    text = sentences(said, "altsync status shows all sinks")
                    notes.print(text, style="yellow")
            if is_over:
                notes.print(f"Not there yet after {timeout:g} s: altsync status says why.")
                return False
            time.sleep(max(POLL_INTERVAL, took / POLL_SHARE))


def seed_table(report: SeedReport, title: str = "Seeded") -> Table:
    """Counts by part."""
    numbers = ("processed", "created", "updated", "unchanged", "deleted", "rejected")
    table = Table("part", *numbers, title=title, numbers=numbers)
    for part, c in report.parts.items():
        counts = (c.processed, c.created, c.updated, c.unchanged, c.deleted, c.rejected)
        table.add_row(part.value, *(f"{n:,}" for n in counts))
    return table


def mirrors(sinks: Sequence[str]) -> list[str]:
    """Return those of ``sinks`` that hold entities themselves, in the order of the summary."""
    return [sink for sink in MIRRORS if sink in sinks]


def seed_summary(report: SeedReport, progress: dict[str, RunProgress], sinks: Sequence[str]) -> str:
    """The closing summary of a seeding run that was waited for."""
    total = report.total
    lines = [
        "MULTI-DATABASE SEEDING SUMMARY",
        _RULE,
        f"Total Processed: {total.processed}",
        "PostgreSQL:",
        f"  Created: {total.created}",
        f"  Updated: {total.updated}",
        f"  Unchanged: {total.unchanged}",
        *([f"  Deleted: {total.deleted}"] if total.deleted else []),
        f"  Errors: {total.rejected}",
    ]
    for sink in mirrors(sinks):
        title = title_of(sink)
        if sink in progress:
            lines += [
                f"{title}:",
                f"  Synced: {progress[sink].synced}",
                f"  Errors: {progress[sink].failed}",
            ]
        else:
            lines += [f"{title}: disabled"]
    return "\n".join([*lines, _RULE])


def print_rejects(report: SeedReport) -> None:
    """The first refused lines, and where all of them are."""
    for line in report.shown:
        notes.print(Text(f"rejected {line}", style="red"))
    more = report.total.rejected - len(report.shown)
    if more > 0:
        notes.print(f"… and {more:,} more refused, which are in that file:")
    if report.rejects_file:
        notes.print(f"All refused lines: {report.rejects_file}")
    for note in report.notes:
        notes.print(Text(note, style="yellow"))
