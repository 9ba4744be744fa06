"""One seeding run: load the lines, wait for the sinks, and print the counts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.progress import DownloadColumn, TaskID

from altsync.app import Application
from altsync.catalogue.parts import Part
from altsync.cli import ending
from altsync.cli.bars import Bars
from altsync.cli.costs import is_refused
from altsync.cli.planned import plan_view, planner_of
from altsync.cli.tables import Table, Text
from altsync.cli.terminal import Exit, answers, notes, print_json
from altsync.contract import EMBEDDING
from altsync.costs.planner import Planner
from altsync.db import Conn
from altsync.declarations import MIRRORS, title_of
from altsync.outbox.versions import newest_version
from altsync.seed.listing import find_files
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from altsync.sentences import Failure
from altsync.status.collect import idle_message
from altsync.status.run_progress import (
    FOLLOWED,
    FailedEntity,
    RunProgress,
    failed_in_run,
    note_seen,
    run_progress,
)
from altsync.status.sql import idle_sinks
from altsync.waiting import awaited_sinks, summary, wait_for
from altsync.wording import sentences

#: Seconds between two polls of the sinks' progress.
POLL_INTERVAL = 0.2

#: Greatest share of the time that the polls themselves may take.
POLL_SHARE = 0.2

#: Entities that an error message names.
NAMED = 5

#: Seconds without a claim, while work is due, after which a note names the process to start. The
#: relay wakes a worker within a second.
IDLE_HINT_AFTER = 5.0


class Until(StrEnum):
    """How long ``seed --wait`` waits: until every sink confirms, or until queries show it."""

    CONFIRMED = "confirmed"
    SEARCHABLE = "searchable"


_RULE = "=" * 50


def run(
    app: Application,
    options: SeedOptions,
    *,
    wait: Until | None = None,
    timeout: float | None = None,
    as_json: bool = False,
    model: str | None = None,
    dimensions: int | None = None,
    max_cost: float | None = None,
) -> Exit:
    """Run one seeding, print its result, and return the exit code.

    A dry run also prints its cost, by another model if ``model`` names one. With ``max_cost`` in
    dollars, a dry run comes first, and nothing is written if it costs more.
    """
    if max_cost is not None and not options.dry_run:
        dry = replace(options, dry_run=True)
        with app.connect("altsync-seed") as conn:
            first = planner_of(app, conn)
            load(app, conn, dry, as_json=as_json, planner=first)
        if is_refused(first.plan(), max_cost):
            return Exit.NOT_CONFIRMED
    waits = wait is not None and not options.dry_run
    ends = None if timeout is None else time.monotonic() + timeout
    sinks = app.topology.names
    progress: dict[str, RunProgress] = {}
    arrived, dead = True, list[FailedEntity]()
    with app.connect("altsync-seed") as conn:
        planner = planner_of(app, conn, model, dimensions) if options.dry_run else None
        report = load(app, conn, options, as_json=as_json, planner=planner)
        version = None if options.dry_run else newest_version(conn)
        if version is not None and wait is None and report.total.operations and not as_json:
            notes.print(f"altsync wait --version {version} waits until every store shows it.")
        if waits:
            try:
                arrived = follow(app, conn, progress, timeout)
                dead = find_failed(app, conn, progress)
                if wait is Until.SEARCHABLE and arrived and not dead:
                    arrived = _until_shown(app, ends)
            except BaseException as error:
                ending.attach(error, _to_json(report, progress, sinks if wait else (), version))
                raise
    body = _to_json(report, progress, sinks if wait else (), version)
    if planner:
        plan = planner.plan()
        body["plan"] = plan.as_json()
        if is_refused(plan, max_cost, body):
            return Exit.NOT_CONFIRMED
        if not as_json:
            answers.print(Group(*plan_view(app, plan)))
    if waits and not as_json:
        answers.print(seed_summary(report, progress, sinks))
    code = end(report, dead, arrived=arrived, body=body)
    if as_json and not dead:
        print_json(body)
    return code


def _until_shown(app: Application, ends: float | None) -> bool:
    """Wait until queries show what the sinks have confirmed; return whether they did in time."""
    # Nothing waits below version 0: only the positions of the last writes are checked.
    left = None if ends is None else max(0.0, ends - time.monotonic())
    found = wait_for(app, 0, awaited_sinks(app), timeout=left)
    for name, one in found.sinks.items():
        if one.reason:
            notes.print(f"{name}: {one.reason}", style="yellow")
    if found.timed_out:
        notes.print(f"Not searchable yet: {summary(found)}.")
    return not found.timed_out


def end(
    report: SeedReport,
    dead: list[FailedEntity],
    *,
    arrived: bool,
    body: dict[str, Any] | None = None,
) -> Exit:
    """Return the exit code of a run. Print an error that names the ``dead`` entities."""
    code = Exit.SINK_ERRORS if dead else Exit.OK
    if report.total.rejected or report.not_pruned:
        code = Exit.REJECTED
    if not arrived:
        code = Exit.TIMED_OUT
    if dead:
        failed = {"failed": [asdict(one) for one in dead]}
        ending.show(Failure(_given_up(dead), Exit.SINK_ERRORS), code, {**(body or {}), **failed})
    return code


def _to_json(
    report: SeedReport,
    progress: dict[str, RunProgress],
    sinks: Sequence[str],
    version: int | None,
) -> dict[str, Any]:
    """Return the JSON document of a run. ``sinks`` are those that it waits for.

    ``version``: the run's changes have this version or lower ones.
    """
    body = report.as_json()
    if version is not None:
        body["version"] = version
    if report.total.rejected:
        body["refused"] = report.refused()
    for sink in _mirrors(sinks):
        done = progress.get(sink, RunProgress(0, 0, 0))
        body[sink] = {"synced": done.synced, "errors": done.failed}
    return body


def find_failed(
    app: Application, conn: Conn, progress: dict[str, RunProgress]
) -> list[FailedEntity]:
    """Return entities of the run that sinks have given up on: a few for each sink."""
    failed = [app.topology.traits(sink) for sink, done in progress.items() if done.failed]
    return [one for sink in failed for one in failed_in_run(conn, sink, NAMED + 1)]


def _given_up(dead: list[FailedEntity]) -> str:
    by_entity: dict[str, list[FailedEntity]] = {}
    for one in dead:
        by_entity.setdefault(f"{one.entity_type} {one.key}", []).append(one)
    named = [
        f"{name} ({', '.join(one.sink for one in found)}: {found[0].reason or 'no reason kept'})"
        for name, found in by_entity.items()
    ]
    more = ", …" if len(named) > NAMED else ""
    text = f"given up on: {', '.join(named[:NAMED])}{more}"
    return sentences(text, "altsync failures shows all, altsync retry tries again").rstrip(".")


def load(
    app: Application,
    conn: Conn,
    options: SeedOptions,
    *,
    as_json: bool = False,
    planner: Planner | None = None,
) -> SeedReport:
    """Load the lines, with a progress bar for each part, and print the counts."""
    report = SeedReport(run_folder(app), only_refusals=options.dry_run)
    options = replace(options, cut_long=app.settings.cut_long)
    try:
        with _part_bars(options) as advance:
            Loader(conn, app.topology, options, report, advance, planner=planner).run()
    except BaseException as error:
        ending.attach(error, report.as_json())
        raise
    finally:
        report.close()
        if report.parts:
            title = "Would be seeded (nothing was written)" if options.dry_run else "Seeded"
            (notes if as_json else answers).print(seed_table(report, title))
        print_rejects(report)
    return report


def run_folder(app: Application) -> Path:
    """Return the folder for the report and the refused lines of a run that begins now."""
    stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    return app.settings.altsync_home / "runs" / stamp


@contextmanager
def _part_bars(options: SeedOptions) -> Iterator[Callable[[Part, int], None]]:
    """Yield a function that advances a part's bar, which the part's first line creates."""
    with Bars(DownloadColumn()) as bars:
        tasks: dict[Part, TaskID] = {}

        def advance(part: Part, size: int) -> None:
            if part not in tasks:
                files = find_files(options.folder, part, options.only)
                total = sum(file.path.stat().st_size for file in files)
                tasks[part] = bars.add_task(part.value, total=total)
            bars.advance(tasks[part], size)

        yield advance


def waited_for(app: Application) -> list[str]:
    """Return the sinks that a run can reach: configured, and fed by a configured embedder."""
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
    with Bars() as bars:
        tasks = {sink: bars.add_task(sink, total=None) for sink in sinks}
        while True:
            started = time.monotonic()
            progress.update(_poll(app, conn, sinks))
            took = time.monotonic() - started
            for sink, done in progress.items():
                completed = done.synced + done.failed
                bars.update(tasks[sink], completed=completed, total=done.changed)
            if all(p.waiting == 0 for p in progress.values()):
                return True
            is_over = deadline is not None and time.monotonic() > deadline
            idle_for = min(hint_after, timeout or 0.0) if is_over else hint_after
            waiting = {sink for sink, done in progress.items() if done.waiting} - hinted
            hinted |= print_hints(app, conn, waiting, idle_for)
            if is_over:
                notes.print(f"Not there yet after {timeout:g} s: altsync status says why.")
                return False
            time.sleep(max(POLL_INTERVAL, took / POLL_SHARE))


def _poll(app: Application, conn: Conn, sinks: Sequence[str]) -> dict[str, RunProgress]:
    # One snapshot: what one sink settles is enqueued for the next sink.
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return {sink: run_progress(conn, app.topology.traits(sink)) for sink in sinks}


def print_hints(app: Application, conn: Conn, sinks: set[str], idle_for: float) -> set[str]:
    """Name the process to start for each idle sink of ``sinks``; return those sinks."""
    idle = {sink: one for sink, one in idle_sinks(conn, idle_for).items() if sink in sinks}
    for sink, one in idle.items():
        said = f"{sink}: {idle_message(sink, one, app.topology.names)}"
        notes.print(sentences(said, "altsync status shows all sinks"), style="yellow")
    return set(idle)


def seed_table(report: SeedReport, title: str = "Seeded") -> Table:
    """Return the counts by part."""
    numbers = ("processed", "created", "updated", "unchanged", "deleted", "rejected")
    table = Table("part", *numbers, title=title, numbers=numbers)
    for part, counts in report.parts.items():
        table.add_row(part.value, *(f"{getattr(counts, name):,}" for name in numbers))
    return table


def _mirrors(sinks: Sequence[str]) -> list[str]:
    """Return the sinks that hold entities themselves, in the order of the summary."""
    return [sink for sink in MIRRORS if sink in sinks]


def seed_summary(report: SeedReport, progress: dict[str, RunProgress], sinks: Sequence[str]) -> str:
    """Return the closing summary of a run that waited for its sinks."""
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
    for sink in _mirrors(sinks):
        if sink in progress:
            synced, failed = progress[sink].synced, progress[sink].failed
            lines += [f"{title_of(sink)}:", f"  Synced: {synced}", f"  Errors: {failed}"]
        else:
            lines += [f"{title_of(sink)}: disabled"]
    return "\n".join([*lines, _RULE])


def print_rejects(report: SeedReport) -> None:
    """Print the first refused lines, and the file that holds all of them."""
    for line in report.shown:
        notes.print(Text(f"rejected {line}", style="red"))
    more = report.total.rejected - len(report.shown)
    if more > 0:
        notes.print(f"… and {more:,} more refused, which are in that file:")
    if report.rejects_file:
        notes.print(f"All refused lines: {report.rejects_file}")
    for note in report.notes:
        notes.print(Text(note, style="yellow"))
