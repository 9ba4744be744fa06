"""One clean harness per test, and the servers behind them once a session."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator

import pytest

from altsync.local.services.graph import Graph
from altsync.local.services.vectors import Vectors
from altsync.sinks.base import Sink
from tests.contract.harness import (
    HARNESSES,
    EmbeddingHarness,
    GraphHarness,
    Harness,
    MemoryHarness,
    PineconeHarness,
    arcade_harness,
)
from tests.contract.rows import MAKERS, deleted
from tests.real_neo4j.server import RealNeo4j, start_real_neo4j, why_unavailable

#: Seconds of a call on a graph that has just started.
COLD = 120.0

GRAPHS = tuple(HARNESSES["neo4j"])


def _params(names: Iterator[str]) -> list[object]:
    marks = {"real_neo4j": pytest.mark.real_neo4j}
    return [pytest.param(name, marks=marks.get(name, ())) for name in names]


def _warm(harness: GraphHarness) -> None:
    """Set up, and have every statement planned: the first time takes seconds on a busy machine."""
    sink = harness.open(timeout=COLD)
    sink.setup()
    for make in MAKERS.values():
        sink.upsert([make("warm", 10)], harness.model)
        sink.upsert([make("warm", 9)], harness.model)
        sink.delete([deleted(make("warm"), 11)])
    sink.close()


@pytest.fixture(scope="session")
def _arcadedb(graph_server: Graph) -> Iterator[GraphHarness]:
    harness = arcade_harness(graph_server)
    _warm(harness)
    yield harness
    harness.close()


@pytest.fixture(scope="session")
def real_neo4j_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealNeo4j]:
    """A real Neo4j of this session. Skips where there is no Java, but not in CI."""
    missing = why_unavailable()
    if missing and not os.environ.get("CI"):
        pytest.skip(missing)
    with start_real_neo4j(tmp_path_factory.mktemp("neo4j")) as server:
        yield server


@pytest.fixture(scope="session")
def _real_neo4j(real_neo4j_server: RealNeo4j) -> Iterator[GraphHarness]:
    server = real_neo4j_server
    harness = GraphHarness(server.uri, server.auth, server.database)
    _warm(harness)
    yield harness
    harness.close()


@pytest.fixture(scope="session")
def _pinecone(vectors_server: Vectors) -> Iterator[PineconeHarness]:
    harness = PineconeHarness(vectors_server)
    harness.shared().setup()
    yield harness
    harness.close()


@pytest.fixture(scope="session")
def _embedding(vectors_server: Vectors) -> Iterator[EmbeddingHarness]:
    harness = EmbeddingHarness(vectors_server)
    yield harness
    harness.close()


@pytest.fixture
def memory() -> MemoryHarness:
    """The reference sink, empty."""
    return MemoryHarness()


@pytest.fixture
def arcadedb(_arcadedb: GraphHarness) -> GraphHarness:
    """ArcadeDB with constraints and no node."""
    _arcadedb.empty()
    return _arcadedb


@pytest.fixture
def real_neo4j(_real_neo4j: GraphHarness) -> GraphHarness:
    """A real Neo4j with constraints and no node."""
    _real_neo4j.empty()
    return _real_neo4j


@pytest.fixture
def pinecone(_pinecone: PineconeHarness) -> PineconeHarness:
    """The vectors server without vectors, faults and counts."""
    _pinecone.empty()
    return _pinecone


@pytest.fixture
def embedding(_embedding: EmbeddingHarness) -> EmbeddingHarness:
    """The vectors server without faults and counts, and an empty store."""
    _embedding.wipe()
    return _embedding


@pytest.fixture(params=_params(name for names in HARNESSES.values() for name in names))
def harness(request: pytest.FixtureRequest) -> Harness:
    """Every sink in turn."""
    found: Harness = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=_params(iter(GRAPHS)))
def graph(request: pytest.FixtureRequest) -> GraphHarness:
    """The graph sink on each server in turn."""
    found: GraphHarness = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def sink(harness: Harness) -> Sink:
    """The sink of the harness, set up."""
    opened = harness.shared()
    opened.setup()
    return opened


@pytest.fixture
def hanging() -> Iterator[Callable[[], None]]:
    """A call that answers when the test is over, and not before."""
    over = threading.Event()

    def hang() -> None:
        over.wait()

    yield hang
    over.set()
