"""Count statements, bytes, remote calls and messages of a thousand leagues, without a clock."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
from psycopg.pq import Trace

from altsync import db
from altsync.catalogue.parts import Part
from altsync.circuit.sinks import register_sinks
from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn, Database
from altsync.delivery import Delivery, DrainResult, Policy
from altsync.protocols import Sink
from altsync.relay import Relay, RelayPolicy
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from altsync.similarity import local as similarity_local
from altsync.similarity.rules import Rules
from tests import sports
from tests.acceptance import seeds as generated
from tests.conftest import DIMENSIONS, MODEL, TOPOLOGY
from tests.integration.database_fixture import TIMEOUT, DatabaseFixture, delivery, embedding_sink
from tests.integration.fakes import FakeEmbedder, FakeGraph, FakeIndex
from tests.integration.seeds import seed

ROWS = 1000

#: Operations per claim.
BATCH = 500

#: Edited leagues where one in a hundred is.
EDITED = ROWS // 100

#: Statements of a seeding run that makes its temporary tables and loads one batch of lines: 26,
#: of which two read the wanted model and the archetypes once a run; and two to spare.
RUN_STATEMENTS = 28

#: Statements of one delivered batch, for every sink, BEGIN and COMMIT included: 12, and one to
#: spare, as a slow batch renews its lease.
BATCH_STATEMENTS = 13

#: Statements of a claim that finds nothing, which ends a drain.
LAST_LOOK = 3

#: Statements of similarity for each group of a batch, two times BEGIN and COMMIT included.
GROUP_STATEMENTS = 23

#: The product's sinks with similarity, as it is when nothing is set.
SEARCHING = Topology((*TOPOLOGY.sinks, replace(similarity_local.Sink.traits, delay=0.0)))

#: Bytes that a league sends to PostgreSQL: its content, three hashes, its id and tag; 460 here.
ROW_BYTES = 520

#: Statements of a seeding run over unchanged lines, 16, and one to spare; bytes of such a line:
#: its id and what it is compared by, 96 here.
UNCHANGED_STATEMENTS, UNCHANGED_BYTES = 17, 110

#: Bytes that the three deliveries of a league send to PostgreSQL, but for its vector: 715 here.
DELIVERED_BYTES = 800

#: Lines that are read before the memory of a seeder is looked at first, and altogether.
EARLY, ALL = 10_000, 60_000

#: Bytes by which a seeder may have grown meanwhile, for each line that it has read. An id or a hash
#: kept of every line would be more.
GROWTH = 50


@dataclass
class Sent:
    """The statements and bytes of the protocol that went to PostgreSQL."""

    statements: int = 0
    bytes: int = 0

    def note(self, trace: Path) -> None:
        """Count a libpq trace: direction, length, kind of message, and what it holds."""
        with trace.open("rb") as lines:
            for line in lines:
                parts = line.split(b"\t", 3)
                if len(parts) > 2 and parts[0] == b"F":
                    self.bytes += int(parts[1])
                    self.statements += parts[2].strip() in (b"Query", b"Execute")


@contextmanager
def traced(conn: Conn, sent: Sent) -> Iterator[Conn]:
    """Everything that is sent meanwhile, as libpq writes it down."""
    with tempfile.NamedTemporaryFile() as file:
        conn.pgconn.trace(file.fileno())
        conn.pgconn.set_trace_flags(Trace.SUPPRESS_TIMESTAMPS)
        try:
            yield conn
        finally:
            conn.pgconn.untrace()
            sent.note(Path(file.name))


class TracedDatabase(Database):
    """A pool whose connections are traced whenever they are lent, BEGIN and COMMIT included."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.sent = Sent()

    @contextmanager
    def autocommit(self) -> Iterator[Conn]:
        """A traced connection."""
        with super().autocommit() as conn, traced(conn, self.sent):
            yield conn


@dataclass
class Stores:
    """The three sinks, which count what they are asked for."""

    embedder: FakeEmbedder
    graph: FakeGraph
    index: FakeIndex

    def drain(self, database: Database) -> dict[str, DrainResult]:
        """Deliver everything, the vectors first."""
        sinks: dict[str, Sink] = {
            EMBEDDING: embedding_sink(database, self.embedder),
            "neo4j": self.graph,
            "pinecone": self.index,
        }
        return {
            name: delivery(database, sink, batch_size=BATCH).drain(TIMEOUT)
            for name, sink in sinks.items()
        }

    @property
    def calls(self) -> tuple[list[int], list[int], list[int]]:
        """Records of each call so far, sink by sink."""
        return (
            [len(texts) for texts in self.embedder.requests],
            [len(call.rows) for call in self.graph.calls],
            [len(call.rows) for call in self.index.calls],
        )


@pytest.fixture
def stores() -> Stores:
    """Empty stores, whose calls hold a whole batch."""
    stores = Stores(FakeEmbedder(), FakeGraph(), FakeIndex())
    stores.graph.size = stores.index.size = BATCH
    return stores


@pytest.fixture
def tracing(database_url: str) -> Iterator[TracedDatabase]:
    """A traced pool."""
    database = TracedDatabase(database_url)
    yield database
    database.close()


def test_new_leagues(
    pg: DatabaseFixture, tracing: TracedDatabase, stores: Stores, tmp_path: Path
) -> None:
    """Two operations each; one call a batch; statements by the batch, not by the row."""
    sent, operations = _seeded(pg, generated.write_leagues(tmp_path, ROWS))
    assert operations == 2 * ROWS
    assert sent.statements <= RUN_STATEMENTS
    assert sent.bytes <= ROW_BYTES * ROWS
    drained = stores.drain(tracing)
    assert stores.calls == ([BATCH, BATCH], [BATCH, BATCH], [BATCH, BATCH])
    assert {name: d.batches for name, d in drained.items()} == dict.fromkeys(TOPOLOGY.names, 2)
    assert tracing.sent.statements <= 3 * (2 * BATCH_STATEMENTS + LAST_LOOK)
    assert tracing.sent.bytes <= (DELIVERED_BYTES + 4 * DIMENSIONS) * ROWS


def test_twice_the_leagues_are_as_many_statements(pg: DatabaseFixture, tmp_path: Path) -> None:
    """As long as they are one batch of the seeder."""
    few, _ = _seeded(pg, generated.write_leagues(tmp_path / "few", ROWS))
    many, _ = _seeded(pg, generated.write_leagues(tmp_path / "many", 2 * ROWS, first=ROWS))
    # Temporary tables are created once a session; the second time it is the same statement.
    assert many.statements == few.statements


@pytest.mark.parametrize("rows", [ROWS, 2 * ROWS])
def test_similarity_takes_statements_by_the_group_and_not_by_the_league(
    pg: DatabaseFixture, tracing: TracedDatabase, stores: Stores, tmp_path: Path, rows: int
) -> None:
    """As long as what a group changes is one transaction's work."""
    sent = _searched(pg, tracing, stores, generated.write_leagues(tmp_path, rows))
    assert sent.statements <= BATCH_STATEMENTS + GROUP_STATEMENTS * len(generated.ARCHETYPES)
    assert pg.scalar("SELECT count(*) FROM league_relationship") > rows


def test_unchanged_leagues(
    pg: DatabaseFixture, tracing: TracedDatabase, stores: Stores, tmp_path: Path
) -> None:
    """No operation, no remote call, no message; what names each line, in a few statements."""
    folder = generated.write_leagues(tmp_path, ROWS)
    _seeded(pg, folder)
    stores.drain(tracing)
    before = stores.calls
    again, operations = _seeded(pg, folder)
    assert operations == 0
    assert again.statements <= UNCHANGED_STATEMENTS
    assert again.bytes <= UNCHANGED_BYTES * ROWS
    stores.drain(tracing)
    assert stores.calls == before
    assert _messages(pg, tracing) == []


def test_one_in_a_hundred_edited(
    pg: DatabaseFixture, tracing: TracedDatabase, stores: Stores, tmp_path: Path
) -> None:
    """Their operations, bytes and statements, one call to each sink, one message to each queue."""
    _seeded(pg, generated.write_leagues(tmp_path, ROWS))
    stores.drain(tracing)
    lines = [generated.league(number) for number in range(ROWS)]
    for line in lines[:: ROWS // EDITED]:
        line["description"] += " Edited."
    generated.write(tmp_path, "leagues/generated.jsonl", lines)
    sent, operations = _seeded(pg, tmp_path)
    assert operations == 2 * EDITED
    assert sent.statements <= RUN_STATEMENTS
    assert sent.bytes <= UNCHANGED_BYTES * ROWS + ROW_BYTES * EDITED
    assert _messages(pg, tracing) == [EMBEDDING, "neo4j"]
    before = tracing.sent.statements
    stores.drain(tracing)
    assert tracing.sent.statements - before <= 3 * (BATCH_STATEMENTS + LAST_LOOK)
    assert [calls[2:] for calls in stores.calls] == [[EDITED], [EDITED], [EDITED]]


def test_messages_for_a_thousand(
    pg: DatabaseFixture, tracing: TracedDatabase, tmp_path: Path
) -> None:
    """One for each full batch of each sink, and no more while no worker takes them."""
    _seeded(pg, generated.write_leagues(tmp_path, ROWS))
    expected = [EMBEDDING, EMBEDDING, "neo4j", "neo4j"]
    assert sorted(_messages(pg, tracing, looks=20)) == expected


def test_memory_does_not_grow_with_the_files(database_url: str, tmp_path: Path) -> None:
    """A seeder that has read six times as many lines is no larger, in a process of its own."""
    folder = generated.write_leagues(tmp_path, ALL)
    spawning = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawning) as pool:
        early, late = pool.submit(_resident, database_url, folder).result()
    assert late - early <= GROWTH * (ALL - EARLY)


def _resident(url: str, folder: Path) -> tuple[int, int]:
    """Bytes that this process has resident after the early lines, and after all of them."""
    seen: list[int] = []
    this = psutil.Process()
    lines = 0

    def look(_part: Part, _size: int) -> None:
        nonlocal lines
        lines += 1
        if lines % EARLY == 0:
            seen.append(this.memory_info().rss)

    with db.connect(url) as conn:
        options = SeedOptions(folder, (sports.LEAGUES,), followed=False)
        Loader(conn, TOPOLOGY, options, SeedReport(None), look).run()
    return seen[0], seen[-1]


def _seeded(pg: DatabaseFixture, folder: Path) -> tuple[Sent, int]:
    """Return what a run sent, and the operations that it enqueued."""
    sent = Sent()
    with traced(pg.conn, sent):
        report = seed(pg, folder, sports.LEAGUES)
    return sent, report.total.operations


def _searched(pg: DatabaseFixture, tracing: TracedDatabase, stores: Stores, folder: Path) -> Sent:
    """Return what the search for the neighbours of new leagues sent."""
    with pg.conn.transaction():
        register_sinks(pg.conn, SEARCHING, MODEL, DIMENSIONS)
    Loader(pg.conn, SEARCHING, SeedOptions(folder, (sports.LEAGUES,)), SeedReport(None)).run()
    embed = embedding_sink(tracing, stores.embedder)
    Delivery(tracing, embed, SEARCHING, Policy(), worker="tests").drain(TIMEOUT)
    pg.conn.execute("TRUNCATE delivery_batch")  # searches wait for embeddings in numbers
    tracing.sent = Sent()
    search = similarity_local.Sink(tracing, SEARCHING, lambda _kind: Rules())
    policy = Policy(batch_size=2 * ROWS)
    batch = Delivery(tracing, search, SEARCHING, policy, worker="tests").deliver_batch()
    assert batch.claimed == pg.scalar("SELECT count(*) FROM league")
    return tracing.sent


def _messages(pg: DatabaseFixture, database: Database, looks: int = 3) -> list[str]:
    """The wake-ups that a relay sends when it looks so often, by their sinks."""
    sent: list[str] = []
    policy = RelayPolicy(batch_size=BATCH)
    relay = Relay(database, lambda: pg.conn, sent.append, TOPOLOGY, TOPOLOGY.names, policy)
    for _ in range(looks):
        relay.poll(TOPOLOGY.names)
    return sent
