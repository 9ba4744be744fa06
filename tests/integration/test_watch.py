"""``altsync watch``: edits of a folder reach PostgreSQL without a command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

import pytest

from altsync.app import Application
from altsync.cli.watch import RETRY_SECONDS, Watcher
from altsync.seed.options import SeedOptions
from tests.integration.database_fixture import DatabaseFixture
from tests.integration.test_interrupts import ARCHETYPE, LEAGUE, TIMEOUT


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    folder = tmp_path / "seeds"
    (folder / "leagues").mkdir(parents=True)
    (folder / "archetypes.jsonl").write_text(json.dumps(ARCHETYPE) + "\n")
    (folder / "leagues" / "a.jsonl").write_text(json.dumps(LEAGUE) + "\n")
    return folder


@contextmanager
def watching(folder: Path, database_url: str, *options: str) -> Iterator[Any]:
    """Run the command; yield its process, and a function that returns the next JSON line."""
    with subprocess.Popen(
        [sys.executable, "-m", "altsync", "watch", str(folder), "--json", *options],
        env={**os.environ, "DATABASE_URL": database_url, "ALTSYNC_HOME": str(folder.parent / "h")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        lines: Queue[str] = Queue()
        assert process.stdout is not None
        stdout = process.stdout

        def read() -> None:
            for line in stdout:
                lines.put(line)

        reader = Thread(target=read)
        reader.start()

        def following(wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
            until = time.monotonic() + TIMEOUT
            while time.monotonic() < until:
                try:
                    found: dict[str, Any] = json.loads(lines.get(timeout=0.2))
                except Empty:
                    assert process.poll() is None, process.stderr and process.stderr.read()
                    continue
                if wanted(found):
                    return found
            raise AssertionError("no such line")

        try:
            yield process, following
        finally:
            process.kill()
            reader.join()


def test_edits_deletions_and_a_new_folder_are_seeded(
    seeds: Path, pg: DatabaseFixture, database_url: str
) -> None:
    file = seeds / "leagues" / "a.jsonl"
    with watching(seeds, database_url, "--prune", "--yes") as (process, following):
        assert following(lambda run: run.get("created") == 2)["rejected"] == 0
        file.write_text(json.dumps({**LEAGUE, "sport_name": "Karting"}) + "\n")
        changed = following(lambda run: run.get("updated") == 1)
        assert list(changed["parts"]) == ["leagues"]
        assert pg.scalar("SELECT sport_name FROM league") == "Karting"
        # An editor's save by renaming, of a line that is refused and one that is not.
        other = {**LEAGUE, "id": "m", "league_name": "Formula Y"}
        (seeds / "leagues" / ".new").write_text(json.dumps(other) + "\n{broken\n")
        (seeds / "leagues" / ".new").rename(seeds / "leagues" / "b.jsonl")
        run = following(lambda run: run.get("created") == 1)
        assert [(one["file"], one["line"]) for one in run["refused"]] == [("leagues/b.jsonl", 2)]
        (seeds / "leagues" / "b.jsonl").write_text(json.dumps(other) + "\n")
        following(lambda run: run.get("rejected") == 0 and run.get("unchanged") == 2)
        file.write_text(json.dumps({**other, "id": "n", "league_name": "Formula Z"}) + "\n")
        following(lambda run: run.get("deleted") == 1)
        shutil.move(seeds, seeds.parent / "away")
        (seeds.parent / "away" / "leagues" / "b.jsonl").write_text("")
        shutil.move(seeds.parent / "away", seeds)
        seen: set[str] = set()

        def is_replaced(run: dict[str, Any]) -> bool:
            """The new folder is seeded whole, its empty file at last."""
            if run.get("parts", {}).get("archetypes", {}).get("unchanged") == 1:
                seen.add("whole")
            if run.get("deleted") == 1:
                seen.add("deleted")
            return seen == {"whole", "deleted"}

        following(is_replaced)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0


def test_an_interrupt_between_two_runs_ends_with_0(
    seeds: Path, pg: DatabaseFixture, database_url: str
) -> None:
    with watching(seeds, database_url) as (process, following):
        following(lambda run: run.get("created") == 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) in (0, 130)


@pytest.fixture
def app(
    monkeypatch: pytest.MonkeyPatch, pg: DatabaseFixture, database_url: str
) -> Iterator[Application]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    made = Application()
    yield made
    made.close()


def test_a_database_that_is_away_is_waited_for(
    seeds: Path,
    app: Application,
    pg: DatabaseFixture,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The parts stay due, and the reason is printed once."""
    now = 0.0
    watcher = Watcher(app, SeedOptions(seeds, (), followed=False), as_json=True, clock=lambda: now)
    connect, away = app.connect, "postgresql://x@127.0.0.1:1/x"

    def events() -> Iterator[set[Path]]:
        nonlocal now
        from altsync import db

        monkeypatch.setattr(app, "connect", lambda name: db.connect(away, name=name))
        yield {seeds}
        for _ in range(3):
            now += 4 * RETRY_SECONDS
            yield set()
        monkeypatch.setattr(app, "connect", connect)
        now += 100.0
        yield set()

    watcher.run(events())
    notes, run = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert notes["note"].startswith("no connection to PostgreSQL")
    assert run["created"] == 2
    assert pg.scalar("SELECT count(*) FROM league") == 1


def test_a_missing_folder_is_waited_for(
    tmp_path: Path, seeds: Path, app: Application, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    late = tmp_path / "late"
    watcher = Watcher(app, SeedOptions(late, (), followed=False), as_json=True, clock=lambda: now)

    def events() -> Iterator[set[Path]]:
        nonlocal now
        yield {late}
        seeds.rename(late)
        now += 100.0
        yield {late}

    watcher.run(events())
    note, run = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert "no such folder" in note["note"]
    assert run["created"] == 2


def test_a_file_that_is_gone_is_mentioned_and_its_entities_stay(
    seeds: Path, app: Application, pg: DatabaseFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = Watcher(app, SeedOptions(seeds, (), followed=False), as_json=True)

    def events() -> Iterator[set[Path]]:
        yield {seeds}
        (seeds / "leagues" / "a.jsonl").unlink()
        yield {seeds / "leagues" / "a.jsonl"}
        yield set()

    watcher.run(events())
    _run, note = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert note["note"] == "leagues/a.jsonl: gone; its entities stay without --prune"
    assert pg.scalar("SELECT count(*) FROM league WHERE deleted_at IS NULL") == 1
