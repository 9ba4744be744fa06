"""The whole pipeline on the embedded stack: real seeder, relay and workers, every server slow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import psutil

from altsync.local.vectors.faults import FaultRule
from benchmarks.bench import EVERYTHING, TOPOLOGY
from benchmarks.loading import seed, seeding
from benchmarks.processors import processor_seconds, server_seconds
from tests.acceptance.seeds import Line, league, write
from tests.acceptance.stack import SINKS, Folders, Running, Stack
from tests.proxy import Proxy, proxy

ROOT = Path(__file__).resolve().parents[1]

#: Leagues of one round of warming up: enough for the relay to wake four processes of each sink.
WARM_UP = 2000

#: Rounds after which a process that still has not delivered anything is a defect.
WARM_UPS = 20


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds that each remote call takes beside what the local server needs for it."""

    neo4j: float = 0.0
    pinecone: float = 0.0
    openai: float = 0.0

    def __str__(self) -> str:
        return "/".join(f"{1000 * s:g}" for s in (self.neo4j, self.pinecone, self.openai)) + " ms"


def every(seconds: float) -> Latency:
    """The same for every call."""
    return Latency(seconds, seconds, seconds)


#: Settings that switch every sink on and lead nowhere.
NOBODY = {
    "NEO4J_URI": "bolt://127.0.0.1:1",
    "PINECONE_API_KEY": "nobody",
    "OPENAI_API_KEY": "nobody",
}

#: The relay removes the graph's tombstones, and must not wait long for a closed port.
IMPATIENT = {"ALTSYNC_SINK_TIMEOUT_SECONDS": "0.2"}


#: Similarity as it is when nothing is set: the environment of a ``Stack`` has it off.
EVERYTHING_ON = {"ALTSYNC_SIMILARITY": "local"}


class Whole:
    """An embedded stack, its servers behind latencies, and the processes that run on it."""

    def __init__(self, stack: Stack, bolt: Proxy) -> None:
        self.stack = stack
        self._bolt = bolt
        self._leagues = 0
        self._latency = Latency()
        self._topology = TOPOLOGY

    @property
    def env(self) -> dict[str, str]:
        """The servers by their variables; the graph's address is that of its slow line."""
        return {**self.stack.addresses, "NEO4J_URI": f"bolt://127.0.0.1:{self._bolt.port}"}

    def slow(self, latency: Latency) -> None:
        """Let every remote call from now on take this much longer."""
        self._latency = latency
        self._bolt.delay = latency.neo4j
        seconds = {"pinecone.*": latency.pinecone, "openai.*": latency.openai}
        self.stack.vectors.set_faults(
            [FaultRule(scope, "latency", seconds=s) for scope, s in seconds.items() if s]
        )

    @contextmanager
    def crew(
        self, processes: int, settings: Mapping[str, str] | None = None
    ) -> Iterator[dict[str, Running]]:
        """A relay, and for each sink a Celery worker with so many prefork processes, all warm.

        Yields the workers by their sinks.
        """
        self._topology = EVERYTHING if settings == EVERYTHING_ON else TOPOLOGY
        settings = {**self.env, **(settings or {})}
        self._begin(settings)
        with self._workers(processes, settings, "altsync.workers.app") as workers:
            yield workers

    @contextmanager
    def sleeping_crew(self, processes: int, latency: Latency) -> Iterator[None]:
        """The same, with sinks that sleep so long in place of each remote call."""
        settings = {
            **{name: self.env[name] for name in ("DATABASE_URL", "REDIS_URL")},
            **NOBODY,
            "BENCH_LATENCY": f"{latency.neo4j},{latency.pinecone},{latency.openai}",
            "PYTHONPATH": str(ROOT),
        }
        self._topology = TOPOLOGY
        self._begin({**settings, **IMPATIENT})
        with self._workers(processes, settings, "benchmarks.asleep.workers"):
            yield

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database of its own on the stack's server."""
        name = f"peer_{uuid4().hex}"
        self.stack.postgres.execute(f"CREATE DATABASE {name}")
        yield f"{self.env['DATABASE_URL'].rsplit('/', 1)[0]}/{name}"
        self.stack.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _begin(self, settings: Mapping[str, str]) -> None:
        """Empty stores, and a relay."""
        self.stack.reset()
        self._leagues = 0
        self.stack.start_relay(settings)

    @contextmanager
    def _workers(
        self, processes: int, settings: Mapping[str, str], app: str
    ) -> Iterator[dict[str, Running]]:
        workers = {
            sink: self.stack.start_worker(
                sink, size=processes, forks=True, settings=settings, app=app
            )
            for sink in SINKS
        }
        try:
            self._warm_up(processes)
            yield workers
        finally:
            self.stack.kill_all()

    def empty(self) -> None:
        """Empty every store. The servers keep running."""
        self.stack.wait_until_recorded()
        self.stack.reset()
        self.slow(self._latency)
        self._leagues = 0

    def seed(self, count: int, line: Callable[[int], Line] = league) -> None:
        """Seed so many new leagues; ``line`` makes each by its number."""
        folder = self.stack.folders.work / "seeds"
        numbers = range(self._leagues, self._leagues + count)
        write(folder, "leagues/generated.jsonl", map(line, numbers))
        self._leagues += count
        with seeding(self.stack.addresses["DATABASE_URL"]) as conn:
            seed(conn, folder, self._topology)

    def deliver(self, count: int, line: Callable[[int], Line] = league) -> float:
        """Seconds from the start of seeding ``count`` leagues until every store has them."""
        started = time.perf_counter()
        self.seed(count, line)
        self.stack.wait_until_drained()
        seconds = time.perf_counter() - started
        assert self.synced() == self._leagues
        return seconds

    def processor_seconds(self) -> dict[str, float]:
        """Seconds of processors that each part has taken so far."""
        workers = [psutil.Process(one.pid) for one in self.stack.running if one.name == "worker"]
        return {
            "PostgreSQL": server_seconds(self.stack.addresses["DATABASE_URL"]),
            "workers": sum(map(processor_seconds, workers)),
            "seeder": time.process_time(),
        }

    def synced(self) -> int:
        """Count the leagues that every sink has, by PostgreSQL."""
        everywhere = " AND ".join(f"{sink}_sync_status = 'synced'" for sink in SINKS)
        return self.stack.number(f"SELECT count(*) FROM league WHERE {everywhere}")

    def assert_all_there(self) -> None:
        """Every store holds every league, counted by its own client."""
        nodes = self.stack.cypher("MATCH (n:League)-[:BELONGS_TO_ARCHETYPE]->() RETURN count(n)")
        stats = self.stack.indexes["altsports-leagues"].describe_index_stats()
        assert (nodes[0][0], stats.total_vector_count) == (self._leagues, self._leagues)

    def similar(self) -> int:
        """SIMILAR_TO relationships, of which the graph has as many as PostgreSQL."""
        count = self.stack.number(
            "SELECT count(*) FROM league_relationship WHERE relationship_type = 'SIMILAR_TO'"
        )
        edges = self.stack.cypher("MATCH (:League)-[r:SIMILAR_TO]->(:League) RETURN count(r)")
        assert edges[0][0] == count, f"{edges[0][0]} of {count} relationships are in the graph"
        return count

    def _warm_up(self, processes: int) -> None:
        """Deliver until each process has taken part: its clients are made at its first task."""
        delivered = "SELECT count(DISTINCT worker) FROM delivery_batch"
        for _ in range(WARM_UPS):
            self.deliver(WARM_UP)
            if self.stack.number(delivered) == len(SINKS) * processes:
                return
        raise AssertionError(f"after {WARM_UPS} rounds some processes have delivered nothing")


@contextmanager
def whole(folder: Path, graph: Mapping[str, str] | None = None) -> Iterator[Whole]:
    """A migrated embedded stack of its own in ``folder``, stopped at the end.

    ``graph``: the variables of another graph in place of the embedded one.
    """
    folders = Folders(folder / "home", folder / "work", folder / "logs")
    folders.work.mkdir(parents=True)
    folders.logs.mkdir()
    stack = Stack(folders)
    try:
        stack.run("local", "up")
        # Every sink that may be switched on has its shared state, so that ``reset`` keeps it.
        stack.run("migrate", env={**stack.env, **EVERYTHING_ON})
        stack.remember_clean_state()
        stack.addresses.update(graph or {})
        host, _, port = stack.addresses["NEO4J_URI"].removeprefix("bolt://").rpartition(":")
        with proxy(host, int(port)) as bolt:
            yield Whole(stack, bolt)
    finally:
        stack.kill_all()
        stack.close()
        stack.run("local", "down")
