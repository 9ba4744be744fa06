"""``seed --wait``: it waits until the stores hold what the files say, by any writer."""

from __future__ import annotations

from pathlib import Path

import pytest

from altsync.db import Database
from altsync.status.run_progress import note_seen, run_progress
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import DatabaseFixture, deliver
from tests.integration.fakes import FakeGraph
from tests.integration.seeds import league_line, seed, write


def progress(pg: DatabaseFixture, sink: str = "neo4j") -> tuple[int, int, int]:
    """(changed, synced, failed) of what the last run's lines name."""
    note_seen(pg.conn)
    found = run_progress(pg.conn, TOPOLOGY.traits(sink))
    return found.changed, found.synced, found.failed


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Three leagues."""
    write(tmp_path, "leagues.jsonl", [league_line(f"l{number}") for number in range(3)])
    return tmp_path


def test_what_another_seeder_wrote_is_waited_for(
    pg: DatabaseFixture, database: Database, files: Path
) -> None:
    """An interrupted run has loaded the same lines: this one changes nothing, and waits."""
    other = DatabaseFixture(pg.url)
    seed(other, files)
    other.close()
    seed(pg, files)
    assert progress(pg) == (3, 0, 0)
    deliver(database, FakeGraph())
    assert progress(pg) == (3, 3, 0)


def test_what_is_not_in_the_files_is_not_waited_for(
    pg: DatabaseFixture, database: Database, files: Path
) -> None:
    seed(pg, files)
    deliver(database, FakeGraph())
    other = DatabaseFixture(pg.url)
    write(files, "leagues.jsonl", [league_line("l9")])
    seed(other, files)
    other.close()
    write(files, "leagues.jsonl", [league_line("l0")])
    seed(pg, files)
    assert progress(pg) == (1, 1, 0)


def test_a_live_operation_is_waited_for_though_the_status_says_synced(
    pg: DatabaseFixture, database: Database, files: Path
) -> None:
    """Such as an edge that follows, or a write that is confirmed once more."""
    seed(pg, files)
    deliver(database, FakeGraph())
    pg.conn.execute(
        "UPDATE sync_operation SET status = 'pending', finished_at = NULL WHERE sink = 'neo4j' "
        "AND entity_key = (SELECT min(entity_key) FROM sync_operation)"
    )
    assert progress(pg) == (3, 2, 0)


def test_what_is_dead_is_an_error_at_every_run(pg: DatabaseFixture, files: Path) -> None:
    seed(pg, files)
    pg.conn.execute("UPDATE league SET neo4j_sync_status = 'failed'")
    pg.conn.execute(
        "UPDATE sync_operation SET status = 'dead', finished_at = now(), last_error = 'bad', "
        "error_kind = 'item' WHERE sink = 'neo4j'"
    )
    for _ in range(2):
        seed(pg, files)
        assert progress(pg) == (3, 0, 3)
