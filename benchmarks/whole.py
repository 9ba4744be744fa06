"""The whole pipeline on the embedded stack: real seeder, relay and workers, every server slow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from altsync.local.vectors.faults import FaultRule
from benchmarks.loading import seed, seeding
from tests.acceptance.seeds import write_leagues
from tests.acceptance.stack import SINKS, Folders, Stack
from tests.proxy import Proxy, proxy

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


class Whole:
    """An embedded stack, its servers behind latencies, and the processes that run on it."""

    def __init__(self, stack: Stack, bolt: Proxy) -> None:
        self.stack = stack
        self._bolt = bolt
        self._leagues = 0

    @property
    def env(self) -> dict[str, str]:
        """The servers by their variables; the graph's address is that of its slow line."""
        return {**self.stack.addresses, "NEO4J_URI": f"bolt://127.0.0.1:{self._bolt.port}"}

    def slow(self, latency: Latency) -> None:
        """Let every remote call from now on take this much longer."""
        self._bolt.delay = latency.neo4j
        seconds = {"pinecone.*": latency.pinecone, "openai.*": latency.openai}
        self.stack.vectors.set_faults(
            [FaultRule(scope, "latency", seconds=s) for scope, s in seconds.items() if s]
        )

    @contextmanager
    def crew(self, processes: int) -> Iterator[None]:
        """A relay, and for each sink a Celery worker with so many prefork processes, all warm."""
        self.stack.reset()
        self._leagues = 0
        self.stack.start_relay(self.env)
        for sink in SINKS:
            self.stack.start_worker(sink, size=processes, forks=True, settings=self.env)
        try:
            self._warm_up(processes)
            yield
        finally:
            self.stack.kill_all()

    def seed(self, count: int) -> None:
        """Seed so many new leagues."""
        folder = write_leagues(self.stack.folders.work / "seeds", count, first=self._leagues)
        self._leagues += count
        with seeding(self.stack.addresses["DATABASE_URL"]) as conn:
            seed(conn, folder)

    def deliver(self, count: int) -> float:
        """Seconds from the start of seeding ``count`` leagues until every store has them."""
        started = time.perf_counter()
        self.seed(count)
        self.stack.wait_until_drained()
        seconds = time.perf_counter() - started
        assert self.counts() == dict.fromkeys(("postgres", "neo4j", "pinecone"), self._leagues)
        return seconds

    def counts(self) -> dict[str, int]:
        """Leagues in every store, counted by its own client; in PostgreSQL those all synced."""
        synced = " AND ".join(f"{sink}_sync_status = 'synced'" for sink in SINKS)
        nodes = self.stack.cypher("MATCH (n:League)-[:BELONGS_TO_ARCHETYPE]->() RETURN count(n)")
        stats = self.stack.indexes["altsports-leagues"].describe_index_stats()
        return {
            "postgres": self.stack.number(f"SELECT count(*) FROM league WHERE {synced}"),
            "neo4j": nodes[0][0],
            "pinecone": stats.total_vector_count,
        }

    def _warm_up(self, processes: int) -> None:
        """Deliver until each process has taken part: its clients are made at its first task."""
        delivered = "SELECT count(DISTINCT worker) FROM delivery_batch"
        for _ in range(WARM_UPS):
            self.deliver(WARM_UP)
            if self.stack.number(delivered) == len(SINKS) * processes:
                return
        raise AssertionError(f"after {WARM_UPS} rounds some processes have delivered nothing")


@contextmanager
def whole(folder: Path) -> Iterator[Whole]:
    """A migrated embedded stack of its own in ``folder``, stopped at the end."""
    folders = Folders(folder / "home", folder / "work", folder / "logs")
    folders.work.mkdir(parents=True)
    folders.logs.mkdir()
    stack = Stack(folders)
    try:
        stack.run("local", "up")
        stack.run("migrate")
        stack.remember_clean_state()
        host, _, port = stack.addresses["NEO4J_URI"].removeprefix("bolt://").rpartition(":")
        with proxy(host, int(port)) as bolt:
            yield Whole(stack, bolt)
    finally:
        stack.kill_all()
        stack.close()
        stack.run("local", "down")
