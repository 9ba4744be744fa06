"""``altsync watch``: seed a folder whenever its files change."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Annotated, Any

import typer

from altsync import log
from altsync.app import Application
from altsync.catalogue.current import parts as parts_of_catalogue
from altsync.catalogue.parts import Part
from altsync.cli import ending
from altsync.cli.common import Json, application
from altsync.cli.seed import Strict, Yes
from altsync.cli.seed_run import print_rejects, run_folder
from altsync.cli.tables import Text
from altsync.cli.terminal import Exit, answers, notes, print_json_line
from altsync.errors import SeedError
from altsync.seed.listing import list_files
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from altsync.seed.watching import Due, changes
from altsync.sentences import describe

#: Seconds before PostgreSQL is tried again, at first and at most.
RETRY_SECONDS, MOST_RETRY_SECONDS = 1.0, 30.0

#: Exit statuses of errors that may pass without a change of settings or files.
_PASSING = (Exit.UNAVAILABLE, Exit.BUSY)


def watch(
    folder: Annotated[Path, typer.Argument(help="The seed folder.")] = Path("seeds"),
    prune: Annotated[
        bool, typer.Option("--prune", help="Delete what changed files no longer hold.")
    ] = False,
    yes: Yes = False,
    strict: Strict = False,
    quiet: Annotated[
        float,
        typer.Option("--quiet-seconds", min=0.01, max=60, help="Wait so long after a change."),
    ] = 0.2,
    as_json: Json = False,
) -> None:
    """Seed a folder now and whenever its files change, until Ctrl-C.

    Exit codes: 0 stopped; others as of seed.
    """
    ending.line.one_line = as_json
    with application(serving=True) as app:
        app.require_schema()
        stop = Event()
        options = SeedOptions(folder, (), prune=prune, yes=yes, strict=strict, followed=False)
        watcher = Watcher(app, options, as_json=as_json)
        with _stopped_by_signals(stop, watcher):
            watcher.run(changes(folder, quiet, stop))


@contextmanager
def _stopped_by_signals(stop: Event, watcher: Watcher) -> Iterator[None]:
    """End the watch on Ctrl-C and SIGTERM, between two batches of a run."""

    def end(_number: int, _frame: FrameType | None) -> None:
        if watcher.is_seeding:
            raise KeyboardInterrupt
        stop.set()

    before = {one: signal.signal(one, end) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


class Watcher:
    """Seeds the parts that changes make due, and prints one line a run.

    While PostgreSQL is away the parts stay due, and the reason is printed once.
    """

    def __init__(
        self,
        app: Application,
        options: SeedOptions,
        *,
        as_json: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._options = options
        self._as_json = as_json
        self._clock = clock
        self._due = Due(options.folder, tuple(parts_of_catalogue()), clock)
        self._waits_for: str | None = None
        self._retry_seconds = RETRY_SECONDS
        self._retry_at = 0.0
        self.is_seeding = False

    def run(self, changed: Iterator[set[Path]]) -> None:
        """Seed what is due after each set of changed paths. An empty set is a tick."""
        for paths in changed:
            gone = self._due.note(paths)
            if gone and not self._options.prune:
                self._note(f"{', '.join(gone)}: gone; its entities stay without --prune")
            ready = self._due.ready()
            if ready and self._clock() >= self._retry_at:
                self._try(ready)

    def _try(self, ready: tuple[Part, ...]) -> None:
        try:
            refused = self._seed(ready)
        except Exception as error:
            failure = describe(error)
            if failure.exit not in _PASSING and not isinstance(error, SeedError):
                raise
            self._retry_at = self._clock() + self._retry_seconds
            self._retry_seconds = min(2 * self._retry_seconds, MOST_RETRY_SECONDS)
            if failure.text != self._waits_for:
                self._waits_for = failure.text
                self._note(f"{failure.text}; waiting")
            return
        self._waits_for, self._retry_seconds = None, RETRY_SECONDS
        self._due.seeded(ready, refused)

    def _seed(self, ready: tuple[Part, ...]) -> list[Part]:
        """Seed the parts that have files. Return those with refused lines."""
        listing = list_files(self._options.folder, ready)
        bad = {part for part, _label, _reason in listing.refused}
        chosen = tuple(part for part in ready if listing.files[part] or part in bad)
        if not chosen:
            return []
        report = SeedReport(run_folder(self._app), only_refusals=True)
        cut_long = self._app.settings.cut_long
        options = replace(self._options, parts=chosen, cut_long=cut_long)
        started = self._clock()
        try:
            self.is_seeding = True
            with self._app.connect("altsync-watch") as conn:
                Loader(conn, self._app.topology, options, report).run()
        finally:
            self.is_seeding = False
            report.close()
            if report.parts:
                self._print(report, self._clock() - started)
        return [part for part, counts in report.parts.items() if counts.rejected]

    def _print(self, report: SeedReport, seconds: float) -> None:
        now = datetime.now(UTC)
        if self._as_json:
            body = {"at": now, "seconds": round(seconds, 3), **report.as_json()}
            print_json_line({**body, "refused": report.refused()})
            return
        total = report.total
        counts = {name: getattr(total, name) for name in _COUNTS if getattr(total, name)}
        said = ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "nothing"
        answers.print(f"{now:%H:%M:%S} {', '.join(report.parts)}: {said} ({seconds:.2f} s)")
        if report.not_pruned:
            notes.print(Text(f"nothing was pruned: {report.not_pruned}", style="yellow"))
        print_rejects(report)

    def _note(self, text: str) -> None:
        if self._as_json:
            body: dict[str, Any] = {"at": datetime.now(UTC), "note": log.redact(text)}
            print_json_line(body)
        else:
            notes.print(Text(log.redact(text), style="yellow"))


#: The counts of a line, in this order.
_COUNTS = ("created", "updated", "unchanged", "deleted", "rejected")
