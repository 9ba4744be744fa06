"""Ctrl-C in a process of its own: one line, its exit code, and what was done until then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from altsync.sentences import Exit

ARCHETYPE = {
    "id": "a",
    "archetype_name": "racing",
    "display_name": "Racing",
    "code_pattern": "R",
}
LEAGUE = {
    "id": "l",
    "league_name": "Formula X",
    "sport_name": "Racing",
    "sport_archetype": "racing",
    "status": "active",
}

#: Seconds until a process is given up on.
TIMEOUT = 120.0


@contextmanager
def running(folder: Path, database_url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "altsync", *arguments],
        env={**os.environ, "DATABASE_URL": database_url, "ALTSYNC_HOME": str(folder / "home")},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for_a_waiter(conn: psycopg.Connection, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + TIMEOUT
    while not conn.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


def test_an_interrupted_seed_says_what_was_loaded(tmp_path: Path, database_url: str) -> None:
    seeds = tmp_path / "seeds"
    (seeds / "leagues").mkdir(parents=True)
    (seeds / "archetypes.jsonl").write_text(json.dumps(ARCHETYPE))
    (seeds / "leagues" / "a.jsonl").write_text(json.dumps(LEAGUE))
    with psycopg.connect(database_url) as locker, psycopg.connect(database_url) as looker:
        looker.autocommit = True
        locker.execute("LOCK TABLE league IN SHARE MODE")
        with running(tmp_path, database_url, "seed", "--all", "--json") as process:
            wait_for_a_waiter(looker, process)
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == Exit.INTERRUPTED
    body = json.loads(stdout)
    assert body["interrupted"] is True
    assert body["parts"]["archetypes"]["created"] == 1
    assert body["parts"].get("leagues", {"created": 0})["created"] == 0
    said = [line for line in stderr.splitlines() if line.startswith("altsync: ")]
    assert said == ["altsync: interrupted"]
    assert "Traceback" not in stderr


@pytest.fixture
def waiting(tmp_path: Path, database_url: str) -> Iterator[subprocess.Popen[str]]:
    """``seed --wait --json`` of one archetype and one league, with a graph and no worker."""
    seeds = tmp_path / "seeds"
    (seeds / "leagues").mkdir(parents=True)
    (seeds / "archetypes.jsonl").write_text(json.dumps(ARCHETYPE))
    (seeds / "leagues" / "a.jsonl").write_text(json.dumps(LEAGUE))
    (tmp_path / ".env").write_text("NEO4J_URI=bolt://127.0.0.1:1\nALTSYNC_SINKS=neo4j\n")
    with running(tmp_path, database_url, "seed", "--all", "--wait", "--json") as process:
        yield process


def read_until(process: subprocess.Popen[str], said: str) -> str:
    """Return what the process writes to stderr until a text is in it."""
    assert process.stderr is not None
    seen = ""
    while said not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    return seen


def test_an_interrupted_wait_says_what_was_loaded(waiting: subprocess.Popen[str]) -> None:
    """The process that is missing is named meanwhile."""
    seen = read_until(waiting, "start altsync relay")
    waiting.send_signal(signal.SIGINT)
    stdout, stderr = waiting.communicate(timeout=TIMEOUT)
    assert waiting.returncode == Exit.INTERRUPTED
    assert "Seeded" in seen
    assert "altsync: interrupted" in stderr
    assert "Traceback" not in stderr
    body = json.loads(stdout)
    assert body["interrupted"] is True
    assert (body["created"], body["parts"]["leagues"]["created"]) == (2, 1)
    assert body["neo4j"] == {"synced": 0, "errors": 0}


def test_a_wait_that_postgresql_ends_says_what_was_loaded(
    waiting: subprocess.Popen[str], database_url: str
) -> None:
    read_until(waiting, "start altsync relay")
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE application_name = 'altsync-seed'"
        )
    stdout, _ = waiting.communicate(timeout=TIMEOUT)
    assert waiting.returncode == Exit.UNAVAILABLE
    body = json.loads(stdout)
    assert (body["created"], body["kind"]) == (2, "unavailable")
    assert "interrupted" not in body


def test_an_interrupted_watch_ends_with_a_document(tmp_path: Path, database_url: str) -> None:
    watch = ("status", "--watch", "--every", "0.1", "--json")
    with running(tmp_path, database_url, *watch) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        rest, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == Exit.INTERRUPTED
    documents = [json.loads(line) for line in [first, *rest.splitlines()]]
    assert "operations" in documents[0]
    assert documents[-1]["interrupted"] is True
    assert stderr == "altsync: interrupted\n"


@pytest.mark.parametrize(
    "command",
    ["status", "status --json", "status --watch --every 0.1", "failures --json", "leagues --json"],
)
def test_an_answer_whose_reader_has_ended_is_no_error(database_url: str, command: str) -> None:
    """As ``altsync status | head -1``: here it ends after one byte, or before."""
    with subprocess.Popen(
        [sys.executable, "-m", "altsync", *command.split()],
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        if "--watch" in command:
            assert process.stdout.read(1)
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
        assert process.wait(TIMEOUT) == Exit.PIPE
    assert said == b""
