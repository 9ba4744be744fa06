"""Fixtures of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
import structlog

from altsync.db import Database
from altsync.local.services.graph import Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from tests.contract.harness import PineconeHarness
from tests.integration.database_fixture import DatabaseFixture, empty
from tests.integration.neighbourhood import CROWDED, Compass, Neighbourhood
from tests.integration.verifying import Site, site_of


@pytest.fixture(scope="session")
def reused_database_url(postgres: Postgres) -> Iterator[str]:
    """One migrated database for all tests of this folder."""
    name = "integration"
    with psycopg.connect(postgres.url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE migrated")
    yield f"{postgres.url.rsplit('/', 1)[0]}/{name}"


@pytest.fixture
def database_url(reused_database_url: str) -> str:
    """A migrated database, as good as new: emptying it is ten times faster than copying one."""
    with psycopg.connect(reused_database_url) as conn:
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND backend_type = 'client backend'"
        )
        empty(conn)
    return reused_database_url


@pytest.fixture(autouse=True)
def _plain_log() -> Iterator[None]:
    """Log lines without the pretty tracebacks, which take longer than the tests."""
    before = structlog.get_config()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["level", "event"]),
        ]
    )
    yield
    structlog.configure(**before)


@pytest.fixture
def pg(database_url: str) -> Iterator[DatabaseFixture]:
    """A clean database, and a session on it."""
    pg = DatabaseFixture(database_url)
    yield pg
    pg.close()


@pytest.fixture(scope="module")
def _index(vectors_server: Vectors) -> Iterator[PineconeHarness]:
    with closing(PineconeHarness(vectors_server)) as harness:
        harness.shared().setup()
        yield harness


@pytest.fixture
def index(_index: PineconeHarness) -> PineconeHarness:
    """An empty index of four dimensions."""
    _index.empty()
    return _index


@pytest.fixture
def circle(
    pg: DatabaseFixture, database: Database, index: PineconeHarness
) -> Iterator[Neighbourhood]:
    """Leagues on a circle, each where its description says, related by PostgreSQL's vectors."""
    place = Neighbourhood(pg, database, index.open(), CROWDED, "local")
    place.embedder = Compass()
    yield place
    place.similarity.close()


@pytest.fixture
def site(
    pg: DatabaseFixture,
    database: Database,
    graph_server: Graph,
    vectors_server: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """Every store, filled and at rest."""
    with site_of(pg, database, graph_server, vectors_server, monkeypatch) as site:
        yield site
