"""Fixtures that start what a test needs, once a session, and give each test a clean part of it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import structlog

from altsync import db, schema
from altsync.circuit.sinks import register_sinks
from altsync.contract import SinkTraits, Topology
from altsync.db import Database
from altsync.local.services.broker import Broker, start_redis
from altsync.local.services.graph import Graph, start_graph
from altsync.local.services.postgres import ROLE, Postgres, start_postgres
from altsync.local.services.vectors import Vectors, start_vectors
from tests.real_neo4j.server import RELEASES, RealNeo4j, start_real_neo4j, why_unavailable

#: The sinks of the product, by their traits alone: no driver is imported.
TOPOLOGY = Topology(
    (
        SinkTraits("embedding", guarded=True),
        SinkTraits("neo4j", guarded=True, edges=True),
        SinkTraits("pinecone", needs_embedding=True),
    )
)

#: How the names of variables begin that altsync reads.
SETTINGS = (
    *("ALTSYNC_", "DATABASE_", "REDIS_", "NEO4J_", "PINECONE_", "PGVECTOR_", "OPENAI_"),
    "FLOWER_",
)

#: The model that test databases want.
MODEL, DIMENSIONS = "test-model", 4


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Restore the logging that a test has changed."""
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    structlog.reset_defaults()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable, .env or local stack of this machine reaches a test."""
    for name in list(os.environ):
        if name.startswith(SETTINGS):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ALTSYNC_HOME", str(tmp_path / "home"))


@pytest.fixture
def hanging() -> Iterator[Callable[[], None]]:
    """A call that answers when the test is over, and not before."""
    over = threading.Event()

    def hang() -> None:
        over.wait()

    yield hang
    over.set()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL of this session, with a migrated database to copy from."""
    server = start_postgres(tmp_path_factory.mktemp("postgres"))
    try:
        with psycopg.connect(server.superuser_url, autocommit=True) as conn:
            # Tests count the statements of a session, and shorten its wait for deadlocks.
            conn.execute(f"GRANT SET ON PARAMETER log_statement, deadlock_timeout TO {ROLE}")
            _make_fast(conn, server.secret)
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute("CREATE DATABASE migrated")
        template = _with_name(server.url, "migrated")
        schema.migrate(template)
        with psycopg.connect(template) as conn:
            register_sinks(conn, TOPOLOGY, MODEL, DIMENSIONS)
        yield server
    finally:
        server.stop()


@pytest.fixture
def empty_database_url(postgres: Postgres) -> Iterator[str]:
    """A database of this test's own, without any table."""
    yield from _database(postgres, "template0")


@pytest.fixture
def database_url(postgres: Postgres) -> Iterator[str]:
    """A migrated database of this test's own, with the sinks of TOPOLOGY registered."""
    yield from _database(postgres, "migrated")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A pool on ``database_url``."""
    pool = Database(database_url)
    yield pool
    pool.close()


@pytest.fixture
def conn(database_url: str) -> Iterator[db.Conn]:
    """An autocommit connection of its own on ``database_url``."""
    with db.connect(database_url) as connection:
        yield connection


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A Redis of this session."""
    server = start_redis(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def graph_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """An ArcadeDB of this session, spoken to over Bolt."""
    server = start_graph(tmp_path_factory.mktemp("graph"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def vectors_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vectors]:
    """A local Pinecone and embeddings server of this session."""
    server = start_vectors(tmp_path_factory.mktemp("vectors"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def neo4j_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RealNeo4j]]:
    """Start the real Neo4j of a release, by its name, when it is first asked for.

    Skip where Java or Maven is missing, but not in CI.
    """
    started: dict[str, RealNeo4j] = {}
    with ExitStack() as running:

        def server_of(name: str) -> RealNeo4j:
            missing = why_unavailable(RELEASES[name])
            if missing and not os.environ.get("CI"):
                pytest.skip(missing)
            if name not in started:
                server = start_real_neo4j(tmp_path_factory.mktemp(name), RELEASES[name])
                started[name] = running.enter_context(server)
            return started[name]

        yield server_of


def _make_fast(conn: psycopg.Connection, password: str) -> None:
    """Spare the tests' server what only a machine that loses its power needs, and hashing.

    Copying a database takes a tenth of the time, a connection a quarter.
    """
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        conn.execute(f"ALTER SYSTEM SET {setting} = off")
    conn.execute("SELECT pg_reload_conf()")
    conn.execute("SET scram_iterations = 1")
    conn.execute(f"ALTER ROLE {ROLE} PASSWORD '{password}'")


def _with_name(url: str, name: str) -> str:
    return url.rsplit("/", 1)[0] + "/" + name


def _database(server: Postgres, template: str) -> Iterator[str]:
    name = f"test_{uuid4().hex}"
    with psycopg.connect(server.url, autocommit=True) as conn:
        conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield _with_name(server.url, name)
    # Only a superuser ends an autovacuum that is at work there.
    with psycopg.connect(server.superuser_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")
