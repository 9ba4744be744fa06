"""PostgreSQL did what it was asked, and its answer never came: the retry changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from altsync import db
from altsync.contract import EMBEDDING
from altsync.db import Database
from altsync.protocols import Sink
from altsync.seed import loader
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from tests import sports
from tests.conftest import TOPOLOGY
from tests.faults.proxies import relayed
from tests.integration import seeds
from tests.integration.database_fixture import (
    DatabaseFixture,
    delivery,
    embed,
    embedding_sink,
    leagues,
)
from tests.integration.fakes import FakeEmbedder, FakeGraph, FakeIndex
from tests.proxy import Proxy

#: Leagues, and lines of a seeding run.
COUNT = 100

#: Rows whose answer PostgreSQL keeps back until it has committed: less than its 8 kB of buffer.
FEW = 20

#: Lines per transaction of the seeder.
BATCH = 25


@pytest.fixture
def relay(pg: DatabaseFixture) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of PostgreSQL, and the URL that leads through it."""
    with relayed(pg.url) as found:
        yield found


@pytest.fixture
def behind(relay: tuple[Proxy, str]) -> Iterator[Database]:
    """A pool whose connections go through the proxy."""
    pool = Database(relay[1])
    yield pool
    pool.close()


@pytest.mark.parametrize("name", TOPOLOGY.names)
def test_a_settlement_whose_answer_is_lost(
    pg: DatabaseFixture, database: Database, relay: tuple[Proxy, str], behind: Database, name: str
) -> None:
    """It is settled: nothing is called, paid, or written down a second time."""
    pg.save(*leagues(COUNT))
    graph, index, embedder = FakeGraph(), FakeIndex(), FakeEmbedder()
    opened: dict[str, Sink] = {
        EMBEDDING: embedding_sink(behind, embedder),
        "neo4j": graph,
        "pinecone": index,
    }
    if name == "pinecone":
        embed(database, embedder)

    def lose_the_next_answer(point: str) -> None:
        if point == "settling":
            relay[0].cuts_answer_to = b"COMMIT"

    with pytest.raises(psycopg.OperationalError):
        delivery(behind, opened[name], lose_the_next_answer).deliver_batch()

    assert relay[0].cuts == 1
    assert pg.counts(name) == {"synced": COUNT}
    calls = (len(graph.calls), len(index.calls), dict(embedder.paid))
    assert delivery(behind, opened[name]).deliver_batch().claimed == 0
    assert [op.attempts for op in pg.ops(name)] == [1] * COUNT
    assert (len(graph.calls), len(index.calls), dict(embedder.paid)) == calls
    assert {pg.statuses(content)[name] for content in leagues(COUNT)} == {"synced"}


def test_a_claim_whose_answer_is_lost(
    pg: DatabaseFixture, relay: tuple[Proxy, str], behind: Database
) -> None:
    """No worker holds the lease, so it expires: one attempt more, one call."""
    pg.save(*leagues(FEW))
    graph = FakeGraph()
    relay[0].cuts_answer_to = b"SKIP LOCKED"
    with pytest.raises(psycopg.OperationalError):
        delivery(behind, graph).deliver_batch()

    assert relay[0].cuts == 1
    assert pg.counts("neo4j") == {"in_progress": FEW}
    pg.expire_leases()
    while delivery(behind, graph).deliver_batch().claimed:
        pass
    assert pg.counts("neo4j") == {"synced": FEW}
    assert {op.attempts for op in pg.ops("neo4j")} == {2}
    assert sum(len(call.rows) for call in graph.calls) == FEW


@pytest.mark.parametrize("batch", range(COUNT // BATCH))
def test_a_seeding_whose_answer_is_lost(
    pg: DatabaseFixture,
    relay: tuple[Proxy, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    batch: int,
) -> None:
    """Committed rows are unchanged for the next run, with the versions that they had."""
    monkeypatch.setattr(loader, "BATCH", BATCH)
    seeds.write(tmp_path, "leagues.jsonl", (seeds.league_line(f"s{n}") for n in range(COUNT)))
    load, loaded = Loader._load_batch, 0

    def load_batch(self: Loader, *batch_of: Any) -> Any:
        nonlocal loaded
        loaded += 1
        if loaded == batch + 1:
            relay[0].cuts_answer_to = b"COMMIT"
        return load(self, *batch_of)

    monkeypatch.setattr(Loader, "_load_batch", load_batch)
    options = SeedOptions(tmp_path, (sports.LEAGUES,))
    with db.connect(relay[1]) as conn, pytest.raises(psycopg.OperationalError):
        Loader(conn, TOPOLOGY, options, SeedReport(None)).run()

    assert relay[0].cuts == 1
    versions = _versions(pg)
    assert len(versions) == (batch + 1) * BATCH
    again = seeds.seed(pg, tmp_path, sports.LEAGUES).total
    assert (again.created, again.updated, again.unchanged) == (
        COUNT - len(versions),
        0,
        len(versions),
    )
    now = _versions(pg)
    assert {seed_id: now[seed_id] for seed_id in versions} == versions
    assert pg.counts("neo4j") == {"pending": COUNT}


def _versions(pg: DatabaseFixture) -> dict[str, int]:
    """Versions of all leagues by their seed ids."""
    return dict(pg.conn.execute("SELECT seed_id, version FROM league").fetchall())
