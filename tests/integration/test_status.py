"""How everything stands, and the questions that need a store or several."""

from __future__ import annotations

from dataclasses import asdict
from io import StringIO
from pathlib import Path
from uuid import uuid4

import pytest
from rich.console import Console

from altsports import queries
from altsports.queries import ArchetypeCount
from altsync.circuit.breaker import open_breaker
from altsync.cli.status import sink_table, verify_note
from altsync.db import Database
from altsync.entities import SyncStatus
from altsync.operations import BreakerState, Dead, ErrorKind
from altsync.outbox.claim import release
from altsync.status.batches import Work
from altsync.status.collect import MatrixRow, Status, collect
from altsync.status.sql import remote_calls
from altsync.verify.results import save_verification
from tests import sports
from tests.conftest import TOPOLOGY
from tests.imports import OUTSIDE_SDKS, imported
from tests.integration.database_fixture import (
    GRAPH,
    DatabaseFixture,
    archetype,
    deliver,
    embed,
    example,
    league,
    leagues,
)
from tests.integration.fakes import FakeGraph, FakeIndex

READY: dict[str, str | None] = dict.fromkeys(TOPOLOGY.names)


def statuses(neo4j: str, pinecone: str) -> dict[str, str]:
    """Both statuses by their columns."""
    return {"neo4j_sync_status": neo4j, "pinecone_sync_status": pinecone}


def test_the_status_of_an_empty_database(pg: DatabaseFixture) -> None:
    """Nothing is there, nothing waits."""
    found = collect(pg.conn, TOPOLOGY, READY)
    assert {kind: entity.total for kind, entity in found.entities.items()} == dict.fromkeys(
        sports.TYPES, 0
    )
    assert found.at_rest
    assert found.matrix == ()
    assert {standing.state for standing in found.sinks.values()} == {BreakerState.CLOSED}


def test_the_status_counts_living_entities_by_sink(pg: DatabaseFixture, database: Database) -> None:
    """Synced, pending and failed; deleted ones are not counted."""
    pg.save(*leagues(4), archetype("racing"))
    pg.delete(league("l003"))
    token, operations = pg.claim("neo4j")
    dead = [op for op in operations if op.entity_key == "l002"]
    pg.settle(GRAPH, token, [Dead(op, op.version, ErrorKind.ITEM, "bad") for op in dead])
    release(pg.conn, [op.id for op in operations if op not in dead], token)
    deliver(database, FakeGraph())
    found = collect(pg.conn, TOPOLOGY, READY)
    assert found.entities[sports.LEAGUE].total == 3
    assert found.entities[sports.LEAGUE].by_sink["neo4j"] == {
        SyncStatus.PENDING: 0,
        SyncStatus.SYNCED: 2,
        SyncStatus.FAILED: 1,
    }
    assert found.entities[sports.LEAGUE].by_sink["embedding"][SyncStatus.PENDING] == 3
    assert found.matrix == (
        MatrixRow(sports.SPORT_ARCHETYPE, statuses("synced", "pending"), 1),
        MatrixRow(sports.LEAGUE, statuses("failed", "pending"), 1),
        MatrixRow(sports.LEAGUE, statuses("synced", "pending"), 2),
    )


def test_the_status_counts_what_waits(pg: DatabaseFixture) -> None:
    """Pending, leased and dead operations, and for how long the oldest has waited."""
    pg.save(*leagues(3))
    pg.conn.execute(
        "UPDATE sync_operation SET created_at = now() - interval '1 hour' WHERE entity_key = 'l000'"
    )
    pg.claim("neo4j", limit=1)
    found = collect(pg.conn, TOPOLOGY, READY)
    graph = found.operations["neo4j"]
    assert (graph.pending, graph.in_progress, graph.dead) == (2, 1, 0)
    assert 3590 < (found.operations["embedding"].oldest_pending_seconds or 0) < 3700
    assert found.operations["pinecone"].oldest_pending_seconds is None
    assert not found.at_rest


def test_the_status_says_why_a_sink_stands_still(pg: DatabaseFixture) -> None:
    """Its breaker, or the setting that is missing here; or that it was never set up."""
    before, times = pg.scalar("SELECT now()"), []
    for reason in ("no answer", "no route"):  # it fails again, and has been open since the first
        open_breaker(pg.conn, "neo4j", pg.scalar("SELECT gen_random_uuid()"), reason, 60)
        pg.conn.execute("UPDATE sink_state SET open_until = now() WHERE sink = 'neo4j'")
        times.append(pg.scalar("SELECT now()"))
    pg.conn.execute("DELETE FROM sink_state WHERE sink = 'embedding'")
    disabled = {**READY, "pinecone": "PINECONE_API_KEY is not set"}
    found = collect(pg.conn, TOPOLOGY, disabled)
    sinks = found.sinks
    assert (sinks["neo4j"].state, sinks["neo4j"].reason) == (BreakerState.OPEN, "no route")
    since = sinks["neo4j"].since
    assert since is not None
    assert before <= since <= times[0]
    (why,) = (line for line in shown(found) if line.startswith("neo4j: "))
    assert why.startswith(f"neo4j: no route (since {since:%Y-%m-%d %H:%M:%S} UTC)")
    assert (sinks["pinecone"].state, sinks["pinecone"].reason) == (
        BreakerState.DISABLED,
        "PINECONE_API_KEY is not set",
    )
    assert "altsync migrate" in (sinks["embedding"].reason or "")


def test_an_open_breaker_that_holds_up_nothing_says_so(
    pg: DatabaseFixture, database: Database
) -> None:
    """No worker probes the sink while there is no operation."""
    _open(pg, "neo4j")
    assert "no route (since" in _said(pg)
    assert "nothing is pending, the next operation probes it" in _said(pg)
    pg.save(league("nfl"))
    assert "nothing is pending" not in _said(pg)
    pg.advance_time(100)
    deliver(database, FakeGraph())
    assert "no route" not in _said(pg)


def test_everything_at_rest(pg: DatabaseFixture, database: Database) -> None:
    """After a full drain; scripts read the same as JSON."""
    pg.save(*leagues(2), example("ask"))
    deliver(database, FakeGraph())
    embed(database)
    deliver(database, FakeIndex())
    found = collect(pg.conn, TOPOLOGY, READY)
    assert found.at_rest
    body = found.as_json()
    assert body["entities"]["league"]["pinecone"] == {"pending": 0, "synced": 2, "failed": 0}
    assert body["matrix"] == [
        {
            "entity": "league",
            "neo4j_sync_status": "synced",
            "pinecone_sync_status": "synced",
            "count": 2,
        },
        {
            "entity": "few_shot_example",
            "neo4j_sync_status": "synced",
            "pinecone_sync_status": "synced",
            "count": 1,
        },
    ]


def test_the_status_counts_the_work_of_the_last_minute(
    pg: DatabaseFixture, database: Database
) -> None:
    """Per sink, in every shape; what is older is not counted, and no key has changed."""
    pg.save(*leagues(3))
    deliver(database, FakeGraph())
    pg.conn.execute("UPDATE delivery_batch SET finished_at = now() - interval '61 seconds'")
    pg.save(league("l003"))
    deliver(database, FakeGraph())
    found = collect(pg.conn, TOPOLOGY, READY)
    assert found.recent["neo4j"] == Work(claimed=1, synced=1, batches=1, remote_calls=1)
    assert found.recent["pinecone"] == Work()
    sinks = found.as_json()["sinks"]
    assert set(sinks) == set(TOPOLOGY.names)
    assert list(sinks["neo4j"]) == ["state", "since", "reason", "last_claim_at", "last_minute"]
    assert sinks["neo4j"]["last_minute"] == asdict(found.recent["neo4j"])
    (row,) = (r for r in shown(found) if "neo4j" in r and "ready" in r)
    assert [cell.strip() for cell in row.strip("│").split("│")][6:8] == ["1", "1"]


def shown(found: Status) -> list[str]:
    """Lines of the table of sinks."""
    console = Console(width=200, file=StringIO())
    console.print(sink_table(found))
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_remote_calls_are_counted_over_all_workers(pg: DatabaseFixture, database: Database) -> None:
    """A second drain adds none."""
    pg.save(*leagues(4))
    graph = FakeGraph()
    graph.size = 2
    assert remote_calls(pg.conn) == 0
    deliver(database, graph)
    embed(database)
    assert remote_calls(pg.conn) == 3
    deliver(database, graph)
    embed(database)
    assert remote_calls(pg.conn) == 3


def test_leagues_by_archetype(pg: DatabaseFixture) -> None:
    """The largest first; deleted ones do not count."""
    pg.save(
        league("a", tier="TIER1"),
        league("b", status="inactive"),
        league("c"),
        league("d", sport_archetype="racing", tier="TIER1"),
    )
    pg.delete(league("c"))
    assert queries.archetype_counts(pg.conn) == [
        ArchetypeCount("team_sport", 2, 1, 1),
        ArchetypeCount("racing", 1, 1, 1),
    ]


def test_the_status_tells_what_the_last_comparison_found(pg: DatabaseFixture) -> None:
    """Agreement, drift by sink, or who could not be compared; nothing before the first one."""

    def line() -> str:
        return " ".join(text.plain for text in verify_note(look()))

    def look() -> Status:
        return collect(pg.conn, TOPOLOGY, READY)

    def note(consistent: bool, **result: object) -> None:
        save_verification(pg.conn, seconds=1.0, consistent=consistent, result=result)

    assert (line(), look().as_json()["verify"]) == ("", None)
    note(True, entities=1234)
    assert line().endswith("ago: every store agreed (1,234 entities).")
    note(
        False, sinks={"neo4j": {"missing": 2, "orphan": 1, "pending": 9}, "pinecone": {"stale": 0}}
    )
    assert line().endswith("ago: neo4j (3) did not agree. altsync verify shows the differences.")
    note(False, sinks={}, problems={"pinecone": "away"})
    assert line().endswith("ago: pinecone could not be compared.")
    assert look().as_json()["verify"]["consistent"] is False
    note(False, sinks={"neo4j": {"missing": 0}}, problems={}, idle={"neo4j": "nothing has claimed"})
    assert line().endswith("ago: inconclusive, as no worker claimed the pending operations.")
    for _ in range(120):
        note(True)
    assert pg.scalar("SELECT count(*) FROM verify_run") == 100


def test_status_imports_no_sdk(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also not for the result of the last verify, nor for sinks that are switched on.

    The classes of the catalogue are SQLModel.
    """
    pg.save(league("a"))
    save_verification(pg.conn, seconds=1.0, consistent=True, result={"entities": 1})
    pg.conn.commit()
    monkeypatch.setenv("DATABASE_URL", pg.url)
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    monkeypatch.setenv("PINECONE_API_KEY", "key")
    monkeypatch.setenv("NEO4J_URI", "bolt://127.0.0.1:1")
    found = imported("status", folder=tmp_path)
    assert "altsync.status" in found
    assert found & (OUTSIDE_SDKS - {"sqlalchemy", "sqlmodel"}) == set()


def _open(pg: DatabaseFixture, sink: str) -> None:
    open_breaker(pg.conn, sink, uuid4(), "no route", 60)


def _said(pg: DatabaseFixture) -> str:
    """The text below the table of sinks."""
    out = Console(file=StringIO(), width=200)
    out.print(sink_table(collect(pg.conn, TOPOLOGY, READY)))
    assert isinstance(out.file, StringIO)
    return out.file.getvalue()
