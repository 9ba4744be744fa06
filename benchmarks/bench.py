"""The servers, empty databases and progress messages for the code of a figure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar
from uuid import uuid4

import psutil
import psycopg
from rich.console import Console

from altsync import schema
from altsync.circuit.sinks import register_sinks
from altsync.contract import SinkTraits, Topology
from altsync.local.services.base import Service
from altsync.local.services.broker import Broker
from altsync.local.services.graph import Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from altsync.similarity.local import Sink
from benchmarks.report import Measured
from tests.acceptance.stack import LOOK, Folders, Running, Stack

S = TypeVar("S", bound=Service)

#: The sinks of the product, by their traits: databases are registered for these.
TOPOLOGY = Topology(
    (
        SinkTraits("embedding", guarded=True),
        SinkTraits("neo4j", guarded=True, edges=True),
        SinkTraits("pinecone", needs_embedding=True),
    )
)

#: The same with similarity, as it is when nothing is set.
EVERYTHING = Topology((*TOPOLOGY.sinks, Sink.traits))

#: The embedding model that databases want, and its dimensions: those of OpenAI's small model.
MODEL, DIMENSIONS = "benchmark-model", 1536


#: Settings that ``docs/scaling.md`` recommends for a million rows: memory for pages in use, and
#: checkpoints by time alone.
LARGE = {
    "shared_buffers": f"{psutil.virtual_memory().total // 4 // 2**20}MB",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "15min",
}


class LargePostgres(Postgres):
    """PostgreSQL with the settings of a large database."""

    def command(self) -> list[str]:
        """The server in the foreground."""
        flags = [part for name, value in LARGE.items() for part in ("-c", f"{name}={value}")]
        return [*super().command(), *flags]


class Bench:
    """One run of the benchmarks, a context manager. ``full``: use sizes that take an hour.

    ``folder`` is removed at the end. Servers start at their first use, serve all figures, and stop
    at the end.
    """

    def __init__(self, folder: Path, *, full: bool = False, console: Console | None = None) -> None:
        self.full = full
        self.folder = folder
        self.console = console or Console(stderr=True, highlight=False)
        self._running = ExitStack()
        self._templates: set[str] = set()

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_error: object) -> None:
        self._running.close()

    @cached_property
    def postgres(self) -> Postgres:
        """PostgreSQL with its defaults: fsync is on."""
        return self._start(Postgres(self.folder / "postgresql"))

    @cached_property
    def large_postgres(self) -> Postgres:
        """PostgreSQL with the settings of a large database; fsync is on."""
        return self._start(LargePostgres(self.folder / "large-postgresql"))

    @cached_property
    def redis(self) -> Broker:
        """A Redis server."""
        return self._start(Broker(self.folder / "redis"))

    @cached_property
    def graph(self) -> Graph:
        """An ArcadeDB that speaks Bolt."""
        return self._start(Graph(self.folder / "graph"))

    @cached_property
    def vectors(self) -> Vectors:
        """The local server of Pinecone's and OpenAI's interfaces."""
        return self._start(Vectors(self.folder / "vectors"))

    @cached_property
    def stack(self) -> Stack:
        """The embedded stack as its commands start it, migrated; figures ``reset`` it."""
        root = self.folder / "stack"
        folders = Folders(root / "home", root / "work", root / "logs")
        folders.work.mkdir(parents=True)
        folders.logs.mkdir()
        stack = Stack(folders)
        with self.doing("starting the embedded stack"):
            self._running.callback(stack.run, "local", "down")
            stack.run("local", "up")
            stack.run("migrate")
            self._running.callback(stack.close)
            self._running.callback(stack.kill_all)
            stack.remember_clean_state()
        return stack

    @contextmanager
    def database(
        self, dimensions: int = DIMENSIONS, server: Postgres | None = None
    ) -> Iterator[str]:
        """The URL of a migrated database of its own, dropped at the end."""
        server = server or self.postgres
        name = f"bench_{uuid4().hex}"
        url = _url(server, name)
        with psycopg.connect(server.url, autocommit=True) as conn:
            conn.execute(f"CREATE DATABASE {name} TEMPLATE {self._template(server)}")
            with psycopg.connect(url) as registering:
                register_sinks(registering, TOPOLOGY, MODEL, dimensions)
            try:
                yield url
            finally:
                drop_database(server, name)

    def _template(self, server: Postgres) -> str:
        """The name of a server's migrated database without sinks, to copy from."""
        if server.url not in self._templates:
            with psycopg.connect(server.url, autocommit=True) as conn:
                conn.execute("CREATE DATABASE migrated")
            schema.migrate(_url(server, "migrated"))
            self._templates.add(server.url)
        return "migrated"

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Show people what takes its time now."""
        with self.console.status(what):
            yield
        self.console.print(f"  [dim]{what}[/]")

    def _start(self, service: S) -> S:
        with self.doing(f"starting {service.name}"):
            self._running.enter_context(service)
        return service


def drop_database(server: Postgres, name: str) -> None:
    """Drop a database as the superuser: a role may not end the autovacuum workers in it."""
    with psycopg.connect(server.superuser_url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _url(server: Postgres, database: str) -> str:
    return f"{server.url.rsplit('/', 1)[0]}/{database}"


def until(
    condition: Callable[[], bool], what: str, running: Sequence[Running] = (), seconds: float = 1800
) -> None:
    """Return when the condition holds. Raises ``AssertionError`` when one of ``running`` has died,
    or ``seconds`` have passed.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        died = [process for process in running if process.died]
        assert not died, f"waited for {what}, but {died[0].name} died:\n{died[0].output[-2000:]}"
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(LOOK)


def medians(*runs: Callable[[], Measured], times: int = 3) -> list[Measured]:
    """Of each the run that took neither the longest nor the shortest; ``times`` is odd.

    They take turns, so that what else the machine does meanwhile is in all of them.
    """
    rounds = [[run() for run in runs] for _ in range(times)]
    sorted_runs = (sorted(same, key=_seconds) for same in zip(*rounds, strict=True))
    return [same[times // 2] for same in sorted_runs]


def _seconds(measured: Measured) -> float:
    return measured.seconds
