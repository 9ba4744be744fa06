"""Three stores with the real seeds in them, and what tests of queries do to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psycopg

from altsync.app import Application
from altsync.config import read_settings
from altsync.db import Conn, Database
from altsync.embedding import Embedded, Embedder
from altsync.entities import Model
from altsync.local.services.graph import Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from altsync.projection import digest
from altsync.protocols import Match
from altsync.queries import Stores
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from tests import sports
from tests.contract.harness import GraphHarness, PineconeHarness, arcade_harness

#: The seeds that come with altsync.
SEEDS = Path(__file__).resolve().parents[2] / "seeds"

#: Seconds that one sink gets to take everything; far more than it needs.
TIMEOUT = 120.0

DATABASE = "queries"


@dataclass
class AskStack:
    """The stores, and clients of them that the product does not know."""

    app: Application
    conn: Conn
    graph: GraphHarness
    index: PineconeHarness
    env: Mapping[str, str]
    stores: Stores

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.conn.execute(statement, parameters).fetchall()

    def tags(self, condition: str, *parameters: object) -> set[str]:
        """Tags of the living leagues (``l``) under a condition."""
        rows = self.rows(
            f"SELECT league_tag FROM league l WHERE deleted_at IS NULL AND {condition}",
            *parameters,
        )
        return {row[0] for row in rows}

    def vector(self, tag: str) -> bytes:
        """The stored vector of a league."""
        return bytes(
            self.rows("SELECT l.embedding_vector FROM league l WHERE league_tag = %s", tag)[0][0]
        )

    def question(self, text: str) -> bytes:
        """The vector that was paid for a question."""
        (row,) = self.rows(
            "SELECT vector FROM embedding WHERE text_hash = %s", digest(text.encode())
        )
        return bytes(row[0])

    def ranking(self, vector: bytes, condition: str = "true", table: str = "league") -> Ranking:
        """(key, cosine) of all rows under a condition, the best first, one number at a time."""
        key = {"league": "league_tag", "few_shot_example": "example_id"}[table]
        rows = self.rows(
            f"SELECT {key}, l.embedding_vector FROM {table} l "
            f"WHERE deleted_at IS NULL AND l.embedding_vector IS NOT NULL AND {condition}"
        )
        scored = [(row[0], cosine(vector, bytes(row[1]))) for row in rows]
        return sorted(scored, key=lambda one: (-one[1], one[0]))


#: Tests draw the relationships that they are about.
PARTS = tuple(part for part in sports.PARTS if part is not sports.RELATIONSHIPS)

Ranking = list[tuple[str, float]]


def cosine(one: bytes, other: bytes) -> float:
    """By the textbook, in double precision."""
    a, b = (np.frombuffer(v, "<f4").astype("f8") for v in (one, other))
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


@contextmanager
def ask_stack(postgres: Postgres, graph: Graph, vectors: Vectors) -> Iterator[AskStack]:
    """Every real seed in all three stores, brought there by the product itself."""
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {DATABASE}")
    url = f"{postgres.url.rsplit('/', 1)[0]}/{DATABASE}"
    index, nodes = PineconeHarness(vectors, dimensions=1536), arcade_harness(graph)
    index.wipe()
    nodes.wipe()
    env = {
        "DATABASE_URL": url,
        "ALTSYNC_SINK_TIMEOUT_SECONDS": "25",
        "ALTSYNC_SIMILARITY": "false",
        **graph.env,
        **vectors.env,
    }
    app = Application(read_settings(dotenv=None, **{k.lower(): v for k, v in env.items()}))
    try:
        app.migrate()
        assert set(app.set_up_sinks().values()) == {None}
        with app.connect() as conn:
            Loader(conn, app.topology, SeedOptions(SEEDS, PARTS), SeedReport(None)).run()
            for name in app.topology.names:
                delivery = app.delivery(name)
                assert delivery is not None
                assert not delivery.drain(TIMEOUT).has_more
            yield AskStack(app, conn, nodes, index, env, app.stores())
    finally:
        app.close()
        nodes.empty()
        index.wipe()
        nodes.close()
        index.close()
        with psycopg.connect(postgres.superuser_url, autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


class CountingDatabase(Database):
    """A database that notes every statement."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.statements: list[str] = []

    @contextmanager
    def autocommit(self) -> Iterator[Conn]:
        """A connection whose statements are noted."""
        with super().autocommit() as conn:
            yield cast(Conn, _Noted(conn, self.statements))

    @contextmanager
    def transaction(self) -> Iterator[Conn]:
        """The same in a transaction."""
        with super().transaction() as conn:
            yield cast(Conn, _Noted(conn, self.statements))


class _Noted:
    def __init__(self, conn: Conn, statements: list[str]) -> None:
        self._conn, self._statements = conn, statements

    def execute(self, statement: str, *arguments: Any, **options: Any) -> Any:
        self._statements.append(statement)
        return self._conn.execute(cast(Any, statement), *arguments, **options)

    def cursor(self, *arguments: Any, **options: Any) -> Any:
        self._statements.append("stream")
        return self._conn.cursor(*arguments, **options)


@dataclass
class CountingEmbedder:
    """An embedder that notes every text it is paid for."""

    inner: Embedder
    texts: list[str] = field(default_factory=list)

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """Note, then embed."""
        self.texts += texts
        return self.inner.embed(texts, model)


@dataclass
class CountingIndex:
    """A vector index that notes how many matches it is asked for, and with which filter."""

    inner: Any
    asked: list[int] = field(default_factory=list)
    filters: list[Any] = field(default_factory=list)

    def nearest(self, *arguments: Any, **options: Any) -> list[Match]:
        """Note, then ask."""
        self.asked.append(options["top_k"])
        self.filters.append(options["where"])
        found: list[Match] = self.inner.nearest(*arguments, **options)
        return found


@dataclass
class CountingGraph:
    """A graph that notes every statement."""

    inner: Any
    statements: list[str] = field(default_factory=list)

    def query(self, statement: str, **parameters: Any) -> Any:
        """Note, then ask."""
        self.statements.append(statement)
        return self.inner.query(statement, **parameters)


def with_counting_index(stores: Stores) -> tuple[Stores, CountingIndex]:
    """The same stores with an index that notes its questions."""
    assert stores.vectors is not None
    index = CountingIndex(stores.vectors)
    return replace(stores, vectors=cast(Any, index)), index
