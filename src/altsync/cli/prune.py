"""``altsync prune``: removal of old history."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from psycopg import errors

from altsync.app import Application
from altsync.cli import terminal
from altsync.cli.common import Json, age, application
from altsync.cli.terminal import Exit, notes
from altsync.errors import AltsyncError
from altsync.outbox.batches import count_batches, prune_batches
from altsync.outbox.freshness import prune_freshness
from altsync.outbox.retention import prune_range
from altsync.store.reads import clock
from altsync.store.vectors import count_unused_vectors, prune_vectors
from altsync.wording import plural

#: Age in seconds below which history is kept. A dashboard that is scraped at least so often has
#: counted everything older, so its counters do not go down.
YOUNGEST = 3600.0

#: Number of newest run folders that are kept at any age.
KEPT_RUNS = 20

#: Attempts to lock out writers for one page of vectors, and the pause after each in seconds.
TRIES = 5
PAUSE = 1.0


@dataclass(slots=True)
class Pruned:
    """Counts of removed rows and folders. ``dead`` operations are not in ``operations``."""

    operations: int = 0
    dead: int = 0
    batches: int = 0
    runs: int = 0
    embeddings: int = 0


def prune(
    older_than: Annotated[
        float,
        typer.Option("--older-than", parser=age, metavar="AGE", help="Only what is older: 30d."),
    ],
    embeddings: Annotated[
        bool,
        typer.Option("--embeddings", help="Also vectors that no entity uses. They cost money."),
    ] = False,
    dead: Annotated[
        bool, typer.Option("--dead", help="Also dead operations; needs --yes.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Confirm the removal of dead operations.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    as_json: Json = False,
) -> None:
    """Remove finished history: operations, batches, folders of seeding runs."""
    if older_than < YOUNGEST:
        raise typer.BadParameter("history younger than 1h is kept", param_hint="--older-than")
    with application() as app:
        count_only = dry_run or (dead and not yes)
        with app.database.autocommit() as conn:
            before = clock(conn) - timedelta(seconds=older_than)
        pruned = Pruned()
        _operations(app, before, pruned, dead=dead, dry_run=count_only)
        pruned.batches = _batches(app, before, dry_run=count_only)
        pruned.runs = _runs(app.settings.altsync_home / "runs", older_than, dry_run=count_only)
        if embeddings:
            pruned.embeddings = _embeddings(app, before, dry_run=count_only)
        if as_json:
            body = {"before": before, "dry_run": count_only, **asdict(pruned)}
            terminal.print_json(body)
        else:
            notes.print(_sentence(pruned, count_only))
        if count_only and not dry_run:
            notes.print(
                f"To be removed: {plural(pruned.dead, 'dead operation')}. Nothing was changed: "
                "--yes removes them.",
                style="yellow",
            )
            raise typer.Exit(Exit.NOT_CONFIRMED)


#: The singular of each count.
_NOUNS = {
    "operations": "operation",
    "dead": "dead",
    "batches": "batch",
    "runs": "run",
    "embeddings": "embedding",
}


def _sentence(pruned: Pruned, count_only: bool) -> str:
    counts = asdict(pruned).items()
    parts = ", ".join(plural(count, _NOUNS[name], name) for name, count in counts)
    return f"{'Would be removed' if count_only else 'Removed'}: {parts}."


def _operations(
    app: Application, before: datetime, pruned: Pruned, *, dead: bool, dry_run: bool
) -> None:
    start = 0
    while True:
        with app.database.transaction() as conn:
            found = prune_range(conn, app.topology, start, before, dead=dead, dry_run=dry_run)
        if found is None:
            return
        pruned.operations += found.finished
        pruned.dead += found.dead
        start = found.go_on


def _batches(app: Application, before: datetime, *, dry_run: bool) -> int:
    if dry_run:
        with app.database.autocommit() as conn:
            return count_batches(conn, before)

    def page() -> int:
        with app.database.autocommit() as conn:
            prune_freshness(conn, before)
            return prune_batches(conn, before)

    return _until_none(page)


def _embeddings(app: Application, before: datetime, *, dry_run: bool) -> int:
    if dry_run:
        with app.database.autocommit() as conn:
            return count_unused_vectors(conn, before)

    def page() -> int:
        for _ in range(TRIES):
            try:
                with app.database.transaction() as conn:
                    return prune_vectors(conn, before)
            except (errors.LockNotAvailable, errors.DeadlockDetected):
                time.sleep(PAUSE)
        raise AltsyncError(
            "vectors were not removed, as entities are being written: run altsync prune when no "
            "seeding runs"
        )

    return _until_none(page)


def _until_none(page: Callable[[], int]) -> int:
    count = 0
    while found := page():
        count += found
    return count


def _runs(folder: Path, older_than: float, *, dry_run: bool) -> int:
    """Remove folders of old runs; return how many. Their names begin with their time."""
    if not folder.is_dir():
        return 0
    found = (run for run in folder.iterdir() if run.is_dir() and not run.is_symlink())
    runs = sorted(found, key=lambda run: run.name, reverse=True)
    cutoff = time.time() - older_than
    old = [run for run in runs[KEPT_RUNS:] if run.stat().st_mtime < cutoff]
    if not dry_run:
        for run in old:
            shutil.rmtree(run, ignore_errors=True)
    return len(old)
