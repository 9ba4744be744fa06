"""Rows that kill their workers, and workers that are killed: real processes, SIGKILL."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from altsync.db import Database
from tests.children import exit_code
from tests.integration.database_fixture import (
    LEASE,
    DatabaseFixture,
    dead_letter_exhausted,
    delivery,
    leagues,
)
from tests.integration.fakes import Call, FileGraph

ROWS = 500

#: The row that ends every process that sends it.
KILLER = "l042"

#: Leases that may run out before an operation is given up on.
LEASES = 10


def test_a_row_that_kills_every_worker_dies_alone(
    pg: DatabaseFixture, database: Database, tmp_path: Path
) -> None:
    """Claimed 500, 50, 5 and then one at a time: 499 are synced, one is dead after ten."""
    pg.save(*leagues(ROWS))
    held = tmp_path / "graph.json"
    deaths = 0
    while any(op.live for op in pg.ops("neo4j")):
        code = exit_code(_deliver_with_a_killer, pg.url, str(held))
        assert code in (0, -signal.SIGKILL)
        deaths += code != 0
        assert deaths <= LEASES
        pg.advance_time(LEASE + 1)
        dead_letter_exhausted(pg, database)

    assert deaths == LEASES
    assert pg.counts("neo4j") == {"synced": ROWS - 1, "dead": 1}
    dead = pg.last("neo4j", KILLER)
    assert (dead.status, dead.error_kind, dead.attempts) == ("dead", "lost", LEASES)
    assert "10 workers in a row vanished" in (dead.last_error or "")
    assert {key for _, key in FileGraph(held).living()} == {
        one.league_tag for one in leagues(ROWS) if one.league_tag != KILLER
    }
    synced = [op for op in pg.ops("neo4j") if op.status == "synced"]
    assert max(op.attempts for op in synced) <= 4


def test_ten_kills_in_a_row_leave_no_dead_letter(
    pg: DatabaseFixture, database: Database, tmp_path: Path
) -> None:
    """Whatever a killed worker held: the next one takes less, and others of it first."""
    pg.save(*leagues(ROWS))
    held = tmp_path / "graph.json"
    for _ in range(LEASES):
        assert exit_code(_deliver_and_be_killed, pg.url, str(held)) == -signal.SIGKILL
        pg.advance_time(LEASE + 1)
        dead_letter_exhausted(pg, database)
    while delivery(database, FileGraph(held)).deliver_batch().claimed:
        pass

    assert pg.counts("neo4j") == {"synced": ROWS}
    assert len(FileGraph(held).living()) == ROWS
    assert max(op.attempts for op in pg.ops("neo4j")) < LEASES


def _deliver_with_a_killer(url: str, file: str) -> None:
    """In a process of its own: deliver everything, and die of one row."""
    graph = FileGraph(Path(file))

    def kill(call: Call) -> None:
        if KILLER in call.keys:
            os.kill(os.getpid(), signal.SIGKILL)

    graph.before = kill
    database = Database(url)
    while delivery(database, graph).deliver_batch().claimed:
        pass
    database.close()


def _deliver_and_be_killed(url: str, file: str) -> None:
    """In a process of its own: write a batch, and be killed before it is settled."""

    def at(point: str) -> None:
        if point == "written":
            os.kill(os.getpid(), signal.SIGKILL)

    delivery(Database(url), FileGraph(Path(file)), at).deliver_batch()
