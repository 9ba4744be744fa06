"""Writes to a real vector index that fail in part, are applied unseen, or come three at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from altsync.db import Database
from altsync.local.services.vectors import Vectors
from altsync.local.vectors.faults import FaultRule
from altsync.protocols import Sink
from altsync.sinks.pinecone import write as pinecone
from tests import sports
from tests.contract.harness import PineconeHarness
from tests.integration.database_fixture import (
    CONFIRM_AFTER,
    DatabaseFixture,
    deliver,
    embed,
    leagues,
)

COUNT = 100

#: Vectors per request, so that a batch is five of them.
PART = 20

#: Seconds that a call may take when it is meant to run out of time.
SHORT = 1.0


@pytest.fixture
def index(vectors_server: Vectors, monkeypatch: pytest.MonkeyPatch) -> Iterator[PineconeHarness]:
    """An empty index, written in small parts."""
    monkeypatch.setattr(pinecone, "MAX_VECTORS", PART)
    harness = PineconeHarness(vectors_server)
    harness.shared().setup()
    harness.empty()
    yield harness
    harness.server.admin.clear()
    harness.close()


@pytest.fixture
def embedded(pg: DatabaseFixture, database: Database) -> DatabaseFixture:
    """A world whose leagues wait for the index and nothing else."""
    pg.save(*leagues(COUNT))
    embed(database)
    return pg


def held(index: PineconeHarness) -> dict[str, int]:
    """Versions of all vectors, by key."""
    stored = index.stored(sports.LEAGUE)
    return {key: int(metadata["version"]) for key, metadata in stored.items()}


def wanted(pg: DatabaseFixture) -> dict[str, int]:
    """Versions of all leagues, by key."""
    return dict(pg.conn.execute("SELECT league_tag, version FROM league").fetchall())


def drain(pg: DatabaseFixture, database: Database, sink: Sink) -> None:
    """Let retries and confirming writes fall due until nothing is left to do."""
    while any(op.live for op in pg.ops("pinecone")):
        pg.advance_time(CONFIRM_AFTER + 1)
        deliver(database, sink)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_one_of_five_requests_fails(
    embedded: DatabaseFixture, database: Database, index: PineconeHarness, status: int
) -> None:
    """Only its rows are sent again, and the sink is not called down."""
    admin, failed = index.server.admin, [f"l{number:03}" for number in range(40, 60)]
    admin.set_faults([FaultRule("pinecone.upsert", "status", id="l045", status=status, count=1)])
    first = deliver(database, index.shared()).settlement

    assert (first.synced, first.retried) == (COUNT - PART, PART)
    assert admin.stats().requests["pinecone.upsert"] == COUNT // PART
    waiting = [op.entity_key for op in embedded.ops("pinecone") if op.status == "pending"]
    assert sorted(waiting) == failed
    drain(embedded, database, index.shared())
    assert held(index) == wanted(embedded)
    # Each row of the failed request twice more at most: the retry, and the confirming write.
    assert admin.stats().records["pinecone.upsert"] <= COUNT - PART + 2 * PART
    assert embedded.scalar("SELECT state FROM sink_state WHERE sink = 'pinecone'") == "closed"


def test_writes_that_were_applied_and_not_answered(
    embedded: DatabaseFixture, database: Database, index: PineconeHarness
) -> None:
    """The same ids again, and once more when nothing can be late any more: no vector twice."""
    admin = index.server.admin
    sink = index.open(timeout=SHORT)
    rule = FaultRule("pinecone.upsert", "timeout_after_apply", id="l000", seconds=5.0, count=1)
    admin.set_faults([rule])
    assert deliver(database, sink).settlement.retried >= PART
    assert len(held(index)) >= PART
    assert {op.outcome_unknown for op in embedded.ops("pinecone", "l000")} == {True}
    drain(embedded, database, sink)

    assert admin.fired() == [1]
    assert held(index) == wanted(embedded)
    assert admin.stats().records["pinecone.upsert"] <= COUNT + 2 * PART
    assert [op.origin for op in embedded.ops("pinecone", "l000")] == ["embedding", "confirm"]
    sink.close()


def test_three_workers_woken_by_the_same_message(
    embedded: DatabaseFixture, database: Database, index: PineconeHarness
) -> None:
    """One effect: each row is sent once, by any worker."""
    with ThreadPoolExecutor(3) as pool:
        runs = [pool.submit(deliver, database, index.shared(), batch_size=60) for _ in range(3)]
        claimed = [run.result().claimed for run in runs]

    assert sum(claimed) == COUNT
    assert held(index) == wanted(embedded)
    assert index.server.admin.stats().records["pinecone.upsert"] == COUNT
    assert {op.status for op in embedded.ops("pinecone")} == {"synced"}
