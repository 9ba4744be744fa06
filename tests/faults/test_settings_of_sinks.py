"""Sinks that cannot work, that were taken out, and that no worker delivers to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from altsync.config import read_settings
from altsync.errors import ConfigurationError
from altsync.operations import BreakerState
from altsync.status.collect import IDLE_SECONDS, collect, idle_message
from altsync.status.sql import idle_sinks
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import DatabaseFixture, league

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("neo4j,pinecone", "pinecone needs the sink embedding"),
        ("pinecone", "pinecone needs the sink embedding"),
        ("embedding,neo4", "did you mean 'neo4j'"),
        ("Embedding", "did you mean 'embedding'"),
        ("embedding,base", "no sink 'base'"),
        ("embedding,pinecone,similarity", "ALTSYNC_SIMILARITY"),
        (",", "give sink names"),
        ("a b", "give sink names"),
    ],
)
def test_sinks_that_cannot_work_are_refused(
    value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALTSYNC_SINKS", value)
    with pytest.raises(ConfigurationError, match=f"ALTSYNC_SINKS.*{reason}"):
        read_settings()


@pytest.mark.parametrize("value", [" neo4j ,neo4j", "neo4j", "embedding , pinecone"])
def test_spaces_and_repeated_names_of_sinks_are_understood(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALTSYNC_SINKS", value)
    names = [name.strip() for name in value.split(",")]
    assert read_settings().sink_names == list(dict.fromkeys(names))


def test_a_sink_that_was_taken_out_is_shown(pg: DatabaseFixture) -> None:
    """Its operations wait, and no setting of this process names it."""
    pg.save(league("nfl"))
    pg.conn.execute("UPDATE sync_operation SET sink = 'archive' WHERE sink = 'neo4j'")
    found = collect(pg.conn, TOPOLOGY, {})
    assert found.operations["archive"].pending == 1
    assert found.sinks["archive"].state is BreakerState.DISABLED
    assert "ALTSYNC_SINKS" in str(found.sinks["archive"].reason)
    assert json.dumps(found.as_json()["operations"]["archive"])
    pg.conn.execute("UPDATE sync_operation SET status = 'synced', finished_at = now()")
    assert "archive" not in collect(pg.conn, TOPOLOGY, {}).operations


def test_work_that_no_worker_claims_is_said(pg: DatabaseFixture) -> None:
    """With a relay that wakes, a worker is missing; without, the relay is."""
    pg.save(league("nfl"))
    assert collect(pg.conn, TOPOLOGY, {}).idle == {}
    pg.conn.execute("UPDATE sync_operation SET available_at = now() - interval '40 s'")
    pg.conn.execute("UPDATE sink_state SET last_claim_at = now() - interval '2 min'")
    pg.conn.execute("UPDATE sink_state SET last_wake_at = now() - interval '3 s'")
    idle = collect(pg.conn, TOPOLOGY, {}).idle
    assert sorted(idle) == ["embedding", "neo4j"]
    said = idle_message("neo4j", idle["neo4j"])
    assert "nothing has claimed for 40 s" in said
    assert "celery -A workers.app worker -Q neo4j" in said
    pg.conn.execute("UPDATE sink_state SET last_wake_at = NULL")
    idle = idle_sinks(pg.conn, IDLE_SECONDS)
    assert "altsync relay" in idle_message("neo4j", idle["neo4j"])
    pg.conn.execute("UPDATE sink_state SET paused_since = now() WHERE sink = 'neo4j'")
    pg.conn.execute("UPDATE sink_state SET last_claim_at = now() WHERE sink = 'embedding'")
    assert idle_sinks(pg.conn, IDLE_SECONDS) == {}


def _environment(url: str) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": url,
        "REDIS_URL": "redis://127.0.0.1:1",
        "LC_ALL": "C.UTF-8",
    }


@pytest.mark.parametrize("queue", ["similarity", "embeding", "neo4j,unknown"])
def test_a_worker_of_an_unknown_queue_is_refused(queue: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "altsync.workers.app", "worker", "-Q", queue],
        env=_environment("postgresql://u@127.0.0.1:1/d"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "altsync: no queue" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("form", [(), ("--json",)])
def test_a_watched_status_goes_through_a_pipe(database_url: str, form: tuple[str, ...]) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "altsync", "status", "--watch", "--every", "0.1", *form],
        env=_environment(database_url),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            if form:
                for _ in range(3):
                    assert "operations" in json.loads(process.stdout.readline())
            else:
                blocks = 0
                while blocks < 3:
                    line = process.stdout.readline()
                    assert line
                    blocks += line.startswith("Sync status")
        finally:
            process.terminate()
