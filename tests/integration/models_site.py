"""An installation of vectors alone, on the local server of Pinecone and embeddings."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

from typer.testing import CliRunner

from altsync.app import Application
from altsync.catalogue.current import entity_types
from altsync.cli import app as cli
from altsync.contract import SHADOW
from altsync.entities import Content
from altsync.local.services.vectors import Vectors
from altsync.moves import state
from altsync.protocols import Reads
from altsync.verify.report import Options
from tests.integration.database_fixture import DatabaseFixture

OLD, NEW = "wordllama-l2-256", "wordllama-l2-64"

#: More numbers than the smaller model fills.
DIMENSIONS = 96


class ModelsSite:
    """A database, an index and an embedder, and commands as a user gives them."""

    def __init__(self, pg: DatabaseFixture, app: Application) -> None:
        self.pg = pg
        self.app = app

    def save(self, *contents: Content) -> None:
        """Seed, without delivering."""
        self.pg.save(*contents)

    def deliver(self, at: Callable[[str], None] | None = None, *only: str) -> None:
        """Deliver until nothing is due, as workers would."""
        names = only or (
            *self.app.topology.names,
            *(one.name for one in self.app.topology.shadows),
        )
        for _ in range(20):
            claimed = 0
            for name in names:
                delivery = self.app.delivery(name)
                if delivery is None:
                    continue
                delivery._at = at or (lambda point: None)
                delivery._writers.clear()
                claimed += delivery.drain(60.0).claimed
            if not claimed:
                return

    def run(self, *arguments: str, code: int = 0) -> Any:
        """A command of ``altsync model``, as JSON where it has some."""
        result = CliRunner().invoke(cli, ["model", *arguments, "--json"])
        logging.root.handlers[:] = [logging.NullHandler()]
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return json.loads(result.stdout) if result.stdout.strip() else result.output

    def say(self, *arguments: str, code: int = 0) -> str:
        """The words of a command."""
        result = CliRunner().invoke(cli, ["model", *arguments])
        logging.root.handlers[:] = [logging.NullHandler()]
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        return " ".join(result.output.split())

    def held(self, *, shadow: bool = False) -> dict[tuple[str, str, str], tuple[Any, Any, int]]:
        """The vectors of a generation: version, model and length by type, namespace and key."""
        sink = self.index(shadow=shadow)
        return {
            (kind.value, one.namespace, one.key): (
                one.version,
                one.metadata.get("model"),
                len(one.values),
            )
            for kind in entity_types()
            for page in sink.stored(kind, Reads())
            for one in page
        }

    def index(self, *, shadow: bool = False) -> Any:
        """The index of a generation."""
        return self.app.sink(
            (SHADOW if shadow else "") + self.app.topology.vector[0], self.app.generations()
        )

    def consistent(self) -> bool:
        """Assert that every store agrees with PostgreSQL, by ``verify``; return true."""
        report = self.app.verify(Options(deep=True, grace=0.0))
        assert report.consistent, report.as_json()
        return True

    def expected(self, model: str, dimensions: int = DIMENSIONS) -> dict[Any, Any]:
        """The vectors that PostgreSQL's rows demand."""
        found = {}
        for kind in entity_types():
            space = kind.namespace_column or f"'{kind.namespace}'"
            rows = self.pg.conn.execute(
                f"SELECT {space}, {kind.key_column}, version FROM {kind} WHERE deleted_at IS NULL"
            )
            for name, key, version in rows:
                found[kind.value, name, key] = (version, model, dimensions)
        return found

    def exchange(self) -> None:
        """The exchange alone, as ``switch`` and ``rollback`` do it."""
        with self.app.database.transaction() as conn:
            state.exchange(conn, self.app.topology)


@contextmanager
def models_site(
    pg: DatabaseFixture, vectors: Vectors, monkeypatch: Any, **more: str
) -> Iterator[ModelsSite]:
    """An installation of its own on a shared server."""
    values = {
        "DATABASE_URL": pg.url,
        **vectors.env,
        "ALTSYNC_SINKS": "embedding,pinecone",
        "ALTSYNC_PREFIX": "t" + uuid4().hex[:8],
        "ALTSYNC_EMBEDDING_MODEL": OLD,
        "ALTSYNC_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
        **more,
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    app = Application()
    pg.topology = app.topology
    pg.conn.execute("DELETE FROM sink_state")
    with app.database.transaction() as conn:
        app.register_sinks(conn)
    try:
        yield ModelsSite(pg, app)
    finally:
        app.close()
        for index in vectors_of(vectors, values["ALTSYNC_PREFIX"]):
            index()


def vectors_of(vectors: Vectors, prefix: str) -> list[Callable[[], None]]:
    """Return functions that delete the indexes of a prefix."""
    from pinecone import Pinecone

    client = Pinecone(api_key=vectors.secret, host=vectors.url)
    names = [one.name for one in client.indexes.list() if one.name.startswith(prefix)]
    return [lambda name=name: client.indexes.delete(name) for name in names]  # type: ignore[misc]
