"""One clean harness per test, and the servers behind them once a session."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from altsync.local.services.graph import Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from altsync.protocols import Sink
from tests.contract.harness import (
    HARNESSES,
    EmbeddingHarness,
    GraphHarness,
    Harness,
    MemoryHarness,
    PgvectorHarness,
    PineconeHarness,
    arcade_harness,
)
from tests.contract.rows import MAKERS, deleted
from tests.real_neo4j.server import RELEASES, RealNeo4j

#: Seconds of a call on a graph that has just started.
COLD = 120.0

GRAPHS = tuple(HARNESSES["neo4j"])


def _params(names: Iterator[str]) -> list[object]:
    marks = dict.fromkeys(RELEASES, pytest.mark.real_neo4j)
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
def _real_neo4j(
    neo4j_servers: Callable[[str], RealNeo4j],
) -> Iterator[Callable[[str], GraphHarness]]:
    """The harness of each release by its name."""
    opened: dict[str, GraphHarness] = {}

    def harness_of(name: str) -> GraphHarness:
        if name not in opened:
            server = neo4j_servers(name)
            opened[name] = GraphHarness(server.uri, server.auth, server.database)
            _warm(opened[name])
        return opened[name]

    yield harness_of
    for harness in opened.values():
        harness.close()


@pytest.fixture(scope="session")
def _pinecone(vectors_server: Vectors) -> Iterator[PineconeHarness]:
    harness = PineconeHarness(vectors_server)
    harness.shared().setup()
    yield harness
    harness.close()


@pytest.fixture(scope="session")
def _pgvector(postgres: Postgres) -> Iterator[PgvectorHarness]:
    harness = PgvectorHarness(postgres)
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
def neo4j_by_name(_real_neo4j: Callable[[str], GraphHarness]) -> Callable[[str], GraphHarness]:
    """A release of real Neo4j by its name, with constraints and no node."""

    def empty(name: str) -> GraphHarness:
        harness = _real_neo4j(name)
        harness.empty()
        return harness

    return empty


@pytest.fixture(params=_params(iter(RELEASES)))
def real_neo4j(
    request: pytest.FixtureRequest, neo4j_by_name: Callable[[str], GraphHarness]
) -> GraphHarness:
    """Every release of real Neo4j in turn."""
    return neo4j_by_name(request.param)


@pytest.fixture
def pinecone(_pinecone: PineconeHarness) -> PineconeHarness:
    """The vectors server without vectors, faults and counts."""
    _pinecone.empty()
    return _pinecone


@pytest.fixture
def pgvector(_pgvector: PgvectorHarness) -> PgvectorHarness:
    """pgvector's tables without rows."""
    _pgvector.empty()
    return _pgvector


@pytest.fixture
def embedding(_embedding: EmbeddingHarness) -> EmbeddingHarness:
    """The vectors server without faults and counts, and an empty store."""
    _embedding.wipe()
    return _embedding


@pytest.fixture(params=_params(name for names in HARNESSES.values() for name in names))
def harness(request: pytest.FixtureRequest) -> Harness:
    """Every sink in turn."""
    return _harness(request)


@pytest.fixture(params=_params(iter(GRAPHS)))
def graph(request: pytest.FixtureRequest) -> GraphHarness:
    """The graph sink on each server in turn."""
    found = _harness(request)
    assert isinstance(found, GraphHarness)
    return found


def _harness(request: pytest.FixtureRequest) -> Harness:
    if request.param in RELEASES:
        found: Harness = request.getfixturevalue("neo4j_by_name")(request.param)
    else:
        found = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def sink(harness: Harness) -> Sink:
    """The sink of the harness, set up."""
    opened = harness.shared()
    opened.setup()
    return opened
