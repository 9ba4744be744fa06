"""A process that vanishes between any two steps: nothing is lost, and all stores agree."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from altsync import db
from altsync.catalogue.current import entity_type
from altsync.catalogue.parts import Part
from altsync.contract import EMBEDDING
from altsync.db import Database
from altsync.protocols import Sink
from altsync.seed import loader
from altsync.seed.changes import Changes
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from altsync.seed.sql.entities import upsert_staged
from tests import points, sports
from tests.children import exit_code
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import (
    CONFIRM_AFTER,
    DatabaseFixture,
    dead_letter_exhausted,
    delivery,
    embed,
    embedding_sink,
    example,
    league,
    leagues,
)
from tests.integration.fakes import (
    FakeEmbedder,
    FakeGraph,
    FakeIndex,
    FakeSink,
    FileGraph,
    FileIndex,
    Held,
    file_embedder,
)

#: The exit code of a process that was killed here; any other one fails the test.
KILLED = 9


class Killed(BaseException):
    """An exception that nothing in delivery may catch."""


def kill_at(point: str, times: int = 1) -> Callable[[str], None]:
    """Vanish at a named point, so many times."""
    left = [times]

    def at(reached: str) -> None:
        if reached == point and left[0]:
            left[0] -= 1
            raise Killed(point)

    return at


@pytest.mark.parametrize("point", points.DELIVERY)
@pytest.mark.parametrize("sink", TOPOLOGY.names)
def test_a_worker_that_vanishes_anywhere(
    pg: DatabaseFixture, database: Database, point: str, sink: str
) -> None:
    """After its lease another one takes over, and the sinks equal PostgreSQL."""
    graph, index, embedder = FakeGraph(), FakeIndex(), FakeEmbedder()
    sinks: dict[str, Sink] = {
        EMBEDDING: embedding_sink(database, embedder),
        "neo4j": graph,
        "pinecone": index,
    }
    pg.save(*leagues(6), example("ask"))
    pg.delete(league("l005"))
    if sink == "pinecone":
        delivery(database, sinks[EMBEDDING]).drain(10)
    with pytest.raises(Killed):
        delivery(database, sinks[sink], kill_at(point)).deliver_batch()
    pg.save(league("l004", tier="TIER1"))
    _converge(pg, database, list(sinks.values()))
    _assert_agreement(pg, graph, index)
    assert set(embedder.paid.values()) <= {1}


@pytest.mark.parametrize("point", [p for p in points.DELIVERY if p not in points.DELIVERED])
def test_a_worker_that_vanishes_again_and_again(
    pg: DatabaseFixture, database: Database, point: str
) -> None:
    """Five times in a row, with smaller batches each time; no operation becomes dead."""
    pg.save(*leagues(40))
    graph = FakeGraph()
    for _ in range(5):
        with pytest.raises(Killed):
            delivery(database, graph, kill_at(point)).deliver_batch()
        pg.expire_leases()
    _converge(pg, database, [graph])
    assert set(pg.counts("neo4j")) == {"synced"}
    assert len(graph.living()) == 40


def test_a_record_that_kills_its_worker_each_time(pg: DatabaseFixture, database: Database) -> None:
    """It ends up alone and becomes a dead letter; all others are synced."""
    pg.save(*leagues(100))
    graph = FakeGraph()

    def kill(call: Any) -> None:
        if "l042" in call.keys:
            raise Killed

    graph.before = kill
    crashes = 0
    for _ in range(200):
        try:
            while delivery(database, graph).deliver_batch().claimed:
                pass
        except Killed:
            crashes += 1
        pg.expire_leases()
        dead_letter_exhausted(pg, database)
        if not any(op.live for op in pg.ops("neo4j")):
            break
    assert pg.counts("neo4j") == {"synced": 99, "dead": 1}
    dead = pg.last("neo4j", "l042")
    assert (dead.error_kind, dead.attempts, crashes) == ("lost", 10, 10)
    assert "10 workers in a row vanished" in (dead.last_error or "")
    assert max(op.attempts for op in pg.ops("neo4j") if op.status == "synced") <= 4


@pytest.mark.parametrize("point", points.DELIVERY)
def test_a_probe_that_vanishes(pg: DatabaseFixture, database: Database, point: str) -> None:
    """The breaker is not left half open: after the probe's lease another one probes."""
    pg.save(*leagues(3))
    pg.conn.execute("UPDATE sink_state SET state = 'open' WHERE sink = 'neo4j'")
    graph = FakeGraph()
    with pytest.raises(Killed):
        delivery(database, graph, kill_at(point)).deliver_batch()
    over = point == "breaker_updated"  # the breaker is closed, and the rest may be claimed
    assert delivery(database, graph).deliver_batch().claimed == (2 if over else 0)
    _converge(pg, database, [graph])
    assert pg.scalar("SELECT state FROM sink_state WHERE sink = 'neo4j'") == "closed"
    assert len(graph.living()) == 3


@pytest.mark.parametrize("point", points.DELIVERY)
@pytest.mark.parametrize("sink", TOPOLOGY.names)
def test_a_process_that_is_gone_at_once(
    pg: DatabaseFixture, database: Database, sink: str, point: str, tmp_path: Path
) -> None:
    """A real one, of each role: it neither rolls back nor closes anything."""
    pg.save(*leagues(4))
    if sink == "pinecone":
        _embed_and_close(pg.url, tmp_path)
    assert exit_code(_deliver_and_exit, pg.url, sink, str(tmp_path), point) == KILLED
    pg.until_alone()
    assert _count_kept(sink, tmp_path) == (4 if _has_called(point) else 0)
    assert pg.counts(sink) == {_status_after(point): 4}
    graph, index = FileGraph(tmp_path / "neo4j"), FileIndex(tmp_path / "pinecone")
    embedder = file_embedder(tmp_path / EMBEDDING)
    _converge(pg, database, [embedding_sink(database, embedder), graph, index])
    _assert_agreement(pg, graph, index)
    assert len(graph.living()) == 4
    assert set(embedder.paid.values()) == {1}


@pytest.mark.parametrize("lines", [1, 25, 60, 119])
def test_a_seeder_that_vanishes_leaves_whole_batches(
    pg: DatabaseFixture, tmp_path: Path, lines: int
) -> None:
    """After so many lines of 120, in batches of 25: what is there has its operations."""
    _write_leagues(tmp_path, 120)
    assert exit_code(_seed_and_exit, pg.url, str(tmp_path), lines) == KILLED
    pg.until_alone()
    there = pg.scalar("SELECT count(*) FROM league")
    assert there % 25 == 0
    assert lines - 3 * 25 <= there <= lines  # one is being read, one worked out, one written
    assert pg.counts("neo4j").get("pending", 0) == there
    assert pg.scalar("SELECT count(*) FROM tag_registry") == there
    report = _seed(pg, tmp_path)
    assert (report.total.created, report.total.unchanged) == (120 - there, there)
    assert pg.counts("neo4j") == {"pending": 120}


def test_a_seeder_that_vanishes_inside_a_batch(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Entities written, operations written, nothing committed: nothing is there."""
    monkeypatch.setattr(loader, "BATCH", 25)
    _write_leagues(tmp_path, 60)
    upsert = upsert_staged
    calls: list[int] = []

    def upsert_and_die(*args: Any, **options: Any) -> Changes:
        changes = upsert(*args, **options)
        calls.append(changes.created)
        if len(calls) == 2:
            raise Killed
        return changes

    monkeypatch.setattr("altsync.seed.writing.upsert_staged", upsert_and_die)
    with pytest.raises(Killed):
        _seed(pg, tmp_path)
    assert calls == [25, 25]
    assert pg.scalar("SELECT count(*) FROM league") == 25
    assert pg.counts("neo4j") == {"pending": 25}
    assert pg.scalar("SELECT count(*) FROM tag_registry") == 25


def _deliver_and_exit(url: str, sink: str, folder: str, point: str) -> None:
    """In a process of its own."""

    def at(reached: str) -> None:
        if reached == point:
            os._exit(KILLED)

    database = Database(url)
    delivery(database, _kept_sink(sink, database, Path(folder)), at).deliver_batch()


def _kept_sink(name: str, database: Database, folder: Path) -> Sink:
    """A sink that outlives its process, kept in a file of its name."""
    match name:
        case "neo4j":
            return FileGraph(folder / name)
        case "pinecone":
            return FileIndex(folder / name)
        case _:
            return embedding_sink(database, file_embedder(folder / name))


def _embed_and_close(url: str, folder: Path) -> None:
    """Embed all that waits, and leave no session behind."""
    database = Database(url)
    embed(database, file_embedder(folder / EMBEDDING))
    database.close()


def _count_kept(sink: str, folder: Path) -> int:
    """How many nodes, vectors or paid texts a sink has kept."""
    file = folder / sink
    return len(json.loads(file.read_text())) if file.exists() else 0


def _has_called(point: str) -> bool:
    return points.DELIVERY.index(point) >= points.DELIVERY.index("called")


def _status_after(point: str) -> str:
    if point in points.DELIVERED:
        return "synced"
    return "pending" if point == "admitted" else "in_progress"


def _seed_and_exit(url: str, folder: str, lines: int) -> None:
    """In a process of its own."""
    read = 0

    def progress(part: Part, size: int) -> None:
        nonlocal read
        if read == lines:
            os._exit(KILLED)
        read += 1

    loader.BATCH = 25
    with db.connect(url) as conn:
        options = SeedOptions(Path(folder), (sports.LEAGUES,))
        Loader(conn, TOPOLOGY, options, SeedReport(None), progress).run()


def _write_leagues(folder: Path, count: int) -> None:
    lines = [
        {"id": f"s{n}", "league_name": f"L{n}", "sport_name": "F", "sport_archetype": "racing"}
        for n in range(count)
    ]
    (folder / "leagues.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _seed(pg: DatabaseFixture, folder: Path) -> SeedReport:
    report = SeedReport(None)
    Loader(pg.conn, TOPOLOGY, SeedOptions(folder, (sports.LEAGUES,)), report).run()
    return report


def _converge(pg: DatabaseFixture, database: Database, sinks: Sequence[Any]) -> None:
    """Let leases, retries, breakers and confirming writes fall due until nothing is left."""
    for _ in range(30):
        pg.advance_time(CONFIRM_AFTER + 1)
        for sink in sinks:
            delivery(database, sink).drain(10)
        names = [sink.traits.name for sink in sinks]
        if not any(op.live for op in pg.ops() if op.sink in names):
            break
    calls = [len(sink.calls) for sink in sinks if isinstance(sink, FakeSink)]
    for sink in sinks:
        delivery(database, sink).drain(10)
    assert [len(sink.calls) for sink in sinks if isinstance(sink, FakeSink)] == calls


def _assert_agreement(pg: DatabaseFixture, graph: FakeGraph, index: FakeIndex) -> None:
    living = {}
    for kind, column in (("league", "league_tag"), ("few_shot_example", "example_id")):
        for key, version, content in pg.conn.execute(
            f"SELECT {column}, version, content_hash FROM {kind} WHERE deleted_at IS NULL"
        ):
            living[entity_type(kind), key] = Held(version, content)
    assert graph.living() == living
    assert {(kind, key): held for (kind, _, key), held in index.held.items()} == living
    for kind in ("league", "few_shot_example"):
        statuses = pg.conn.execute(
            f"SELECT DISTINCT embedding_sync_status, neo4j_sync_status, pinecone_sync_status "
            f"FROM {kind}"
        ).fetchall()
        assert statuses in ([], [("synced",) * 3])
