"""The real processes on the embedded stack: commands, relay, workers, and clients of the stores.

Everything runs as a user would run it: ``python -m altsync …`` and ``celery -A workers.app …``
in an environment of its own, in an empty folder. Clients are built from what ``altsync local
env`` prints, and from nothing else.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import neo4j
import pinecone
import psycopg
import redis

from altsync.db import Conn
from altsync.local.vectors.admin import VectorsAdmin

T = TypeVar("T")

#: Seconds for things that happen by themselves; far more than they need.
TIMEOUT = 120.0

#: Seconds between two looks at a condition.
LOOK = 0.05

#: Seconds that an orderly end may take before a process is killed.
GOODBYE = 30.0

#: The variables by which the stores are found, as ``altsync local env`` must print them.
ADDRESSES = (
    "DATABASE_URL",
    "REDIS_URL",
    "NEO4J_URI",
    "NEO4J_USERNAME",
    "NEO4J_PASSWORD",
    "NEO4J_DATABASE",
    "PINECONE_API_KEY",
    "PINECONE_CONTROLLER_HOST",
    "PGVECTOR_URL",
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ALTSYNC_EMBEDDING_MODEL",
)

SINKS = ("embedding", "neo4j", "pinecone")


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    command: Sequence[str]
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Return its output, which must be one JSON document and nothing else."""
        return json.loads(self.stdout)

    def __str__(self) -> str:
        said = f"{self.stdout[-3000:]}\n{self.stderr[-3000:]}".strip()
        return f"{' '.join(self.command[1:])} ended with {self.code}:\n{said}"


class Running:
    """A process that goes on, its output in a file."""

    def __init__(
        self, name: str, command: Sequence[str], env: Mapping[str, str], cwd: Path, log: Path
    ) -> None:
        self.name = name
        self.log = log
        self._expected_to_end = False
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=env,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process' number."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Return whether it has not ended yet."""
        return self._process.poll() is None

    @property
    def died(self) -> bool:
        """Return whether it has ended without a signal of the tests."""
        return not self._expected_to_end and not self.alive

    @property
    def output(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(errors="replace")

    def send(self, what: signal.Signals) -> None:
        """Send a signal to the process alone."""
        self._process.send_signal(what)

    def wait(self, seconds: float = GOODBYE) -> int:
        """Its exit code; fails when it does not end within ``seconds``."""
        self._expected_to_end = True
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} did not end within {seconds:g} s") from None

    def end(self) -> int:
        """Ask it to end, and return its exit code."""
        if self.alive:
            self.send(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it and all its children with SIGKILL."""
        self._expected_to_end = True
        if self.alive:
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()


@dataclass(frozen=True)
class Folders:
    """The folders of one stack: its data, the working folder of commands, and logs."""

    home: Path
    work: Path
    logs: Path


@dataclass
class Stack:
    """One embedded stack, and everything that runs on it."""

    folders: Folders
    #: Processes that were started for the current test, or go on from earlier ones.
    running: list[Running] = field(default_factory=list)
    _started: int = 0

    @property
    def env(self) -> dict[str, str]:
        """An environment that names this stack's folder.

        Similarity asks a question for each league, so only tests that are about it have it on.
        """
        home = str(self.folders.home)
        return {**self.bare_env, "ALTSYNC_HOME": home, "ALTSYNC_SIMILARITY": "false"}

    @property
    def bare_env(self) -> dict[str, str]:
        """An environment without a word about altsync, far from the stack's own files."""
        return {
            **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
            "HOME": str(self.folders.work),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "200",
            "ALTSYNC_HOME": str(self.folders.work / "no-stack"),
        }

    # --- commands and processes ---------------------------------------------------------------

    def run(self, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None) -> Finished:
        """``altsync …`` to its end, which must be with exit code ``code``."""
        return self._finish(["altsync", *arguments], code, env)

    def seed(
        self, *arguments: str, code: int = 0, env: Mapping[str, str] | None = None
    ) -> Finished:
        """``python -m altsync.seed …`` to its end."""
        return self._finish(["altsync.seed", *arguments], code, env)

    def together(self, *calls: Callable[[], Finished]) -> list[Finished]:
        """Several commands at once; their results in the order given."""
        with ThreadPoolExecutor(len(calls)) as pool:
            return [future.result() for future in [pool.submit(call) for call in calls]]

    def start(
        self, name: str, module: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> Running:
        """``python -m module …`` that goes on, by default in the stack's own environment."""
        self._started += 1
        log = self.folders.logs / f"{self._started:03}-{name}.log"
        command = [sys.executable, "-m", module, *arguments]
        process = Running(name, command, self.env if env is None else env, self.folders.work, log)
        self.running.append(process)
        return process

    def start_relay(self, settings: Mapping[str, str] | None = None) -> Running:
        """``altsync relay`` with these settings."""
        return self.start("relay", "altsync", "relay", env={**self.env, **(settings or {})})

    def start_worker(
        self,
        *queues: str,
        size: int = 1,
        forks: bool = False,
        settings: Mapping[str, str] | None = None,
        app: str = "altsync.workers.app",
    ) -> Running:
        """``celery -A workers.app worker`` for these queues, or for all."""
        arguments = worker_arguments(*queues, size=size, forks=forks, app=app)
        return self.start("worker", "celery", *arguments, env={**self.env, **(settings or {})})

    def kill_all(self, spared: Sequence[Running] = ()) -> None:
        """Kill what runs, but for those spared."""
        for process in self.running:
            if process not in spared:
                process.kill()
        self.running[:] = spared

    def _finish(self, module: Sequence[str], code: int, env: Mapping[str, str] | None) -> Finished:
        command = [sys.executable, "-m", *module]
        done = subprocess.run(
            command,
            env=self.env if env is None else env,
            cwd=self.folders.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        finished = Finished(command, done.returncode, done.stdout, done.stderr)
        assert finished.code == code, str(finished)
        return finished

    # --- clients ------------------------------------------------------------------------------

    @cached_property
    def addresses(self) -> dict[str, str]:
        """Return the variables that ``altsync local env`` prints, read as a shell would."""
        lines = self.run("local", "env").stdout.splitlines()
        pairs = (shlex.split(line)[0].split("=", 1) for line in lines)
        return dict(pairs)

    @cached_property
    def postgres(self) -> Conn:
        """An autocommit connection."""
        return psycopg.connect(self.addresses["DATABASE_URL"], autocommit=True)

    @cached_property
    def graph(self) -> neo4j.Driver:
        """A driver of the graph."""
        auth = (self.addresses["NEO4J_USERNAME"], self.addresses["NEO4J_PASSWORD"])
        return neo4j.GraphDatabase.driver(self.addresses["NEO4J_URI"], auth=auth)

    @cached_property
    def vector_index(self) -> pinecone.Pinecone:
        """A client of the vector index."""
        return pinecone.Pinecone(
            api_key=self.addresses["PINECONE_API_KEY"],
            host=self.addresses["PINECONE_CONTROLLER_HOST"],
        )

    @cached_property
    def indexes(self) -> dict[str, pinecone.Index]:
        """A handle of every index there is, by name."""
        return {
            index.name: pinecone.Index(
                host=str(index.host), api_key=self.addresses["PINECONE_API_KEY"]
            )
            for index in self.vector_index.indexes.list()
        }

    @cached_property
    def vectors(self) -> VectorsAdmin:
        """Faults and counters of the vectors server."""
        return VectorsAdmin(
            self.addresses["PINECONE_CONTROLLER_HOST"], self.addresses["PINECONE_API_KEY"]
        )

    @cached_property
    def redis(self) -> redis.Redis:
        """A client of the broker."""
        return redis.Redis.from_url(self.addresses["REDIS_URL"])

    def rows(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        return self.postgres.execute(statement, parameters).fetchall()

    def number(self, statement: str, *parameters: object) -> int:
        """The one number that a query returns; 0 for NULL."""
        return int(self.rows(statement, *parameters)[0][0] or 0)

    def cypher(self, statement: str, **parameters: Any) -> list[neo4j.Record]:
        """All records of a query of the graph."""
        database = self.addresses["NEO4J_DATABASE"]
        return self.graph.execute_query(statement, parameters, database_=database).records

    def until(self, condition: Callable[[], T], what: str, seconds: float = TIMEOUT) -> T:
        """The first true answer of ``condition``.

        Fails when there is none within ``seconds``, and as soon as a process has died.
        """
        deadline = time.monotonic() + seconds
        while True:
            answer = condition()
            if answer:
                return answer
            died = [process.name for process in self.running if process.died]
            assert not died, f"waited for {what}, but these have died: {died}"
            assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
            time.sleep(LOOK)

    # --- how things stand ---------------------------------------------------------------------

    def live(self, sink: str | None = None) -> int:
        """Operations that wait or are leased; those of one sink, or all."""
        return self.number(
            "SELECT count(*) FROM sync_operation"
            " WHERE finished_at IS NULL AND coalesce(sink = %s, true)",
            sink,
        )

    def leases(self, sink: str | None = None) -> dict[int, int]:
        """Operations under a lease now, of one sink or all, by the process that holds it."""
        rows = self.rows(
            "SELECT split_part(leased_by, ':', 2)::int, count(*) FROM sync_operation"
            " WHERE status = 'in_progress' AND available_at > now() AND coalesce(sink = %s, true)"
            " GROUP BY 1",
            sink,
        )
        return dict(rows)

    def remote_calls(self, sink: str | None = None) -> int:
        """Calls to the sinks that workers have written down."""
        return self.number(
            "SELECT sum(remote_calls) FROM delivery_batch WHERE coalesce(sink = %s, true)", sink
        )

    def wait_until_drained(self) -> None:
        """Return when no operation is live."""
        self.until(lambda: self.live() == 0, "no live operation")

    def wait_until_recorded(self) -> None:
        """Return when no operation is live, and ``delivery_batch`` tells of every batch.

        It does so a moment after a batch was settled; of a killed worker's last one, never.
        """
        self.wait_until_drained()
        self.until(self.all_recorded, "every batch in delivery_batch")

    def all_recorded(self) -> bool:
        """Return whether every finished operation is counted in ``delivery_batch``."""
        finished = "SELECT count(*) FROM sync_operation WHERE finished_at IS NOT NULL"
        recorded = "SELECT sum(synced + superseded + dead) FROM delivery_batch"
        return self.number(recorded) >= self.number(finished)

    # --- a clean state ------------------------------------------------------------------------

    def remember_clean_state(self) -> None:
        """Keep what migration put into the tables, for ``reset``."""
        self.postgres.execute("CREATE SCHEMA clean")
        self.postgres.execute("CREATE TABLE clean.sink_state AS TABLE public.sink_state")

    def reset(self) -> None:
        """Empty every store; constraints, indexes and running processes stay."""
        self.vectors.clear()
        names = [row[0] for row in self.rows(_TABLES)]
        self.postgres.execute(f"TRUNCATE {', '.join(names)}")
        self.postgres.execute("INSERT INTO public.sink_state SELECT * FROM clean.sink_state")
        self.redis.flushall()
        self.cypher("MATCH (n) DETACH DELETE n")
        for index in self.indexes.values():
            for space in index.describe_index_stats().namespaces:
                index.delete(delete_all=True, namespace=space.replace("__default__", ""))
        self.vectors.reset_stats()

    def close(self) -> None:
        """Let go of all clients."""
        for name in ("postgres", "graph", "vector_index", "redis"):
            if name in self.__dict__:
                self.__dict__[name].close()


_TABLES = """
SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'
"""


def worker_arguments(
    *queues: str, size: int = 1, forks: bool = False, app: str = "altsync.workers.app"
) -> list[str]:
    """The arguments of ``celery`` for a worker of these queues, with ``size`` threads or forks."""
    # Forks do not import again what was imported before: a replaced one starts at once.
    imports = [f"altsync.sinks.{sink}.write" for sink in SINKS] if forks else []
    return [
        *("-A", app, "worker", "-Q", ",".join(queues or SINKS)),
        *("-n", f"{'-'.join(queues or ('all',))}@%h"),
        *("--pool", "prefork" if forks else "threads", "--concurrency", str(size)),
        *(("--include", ",".join(imports)) if imports else ()),
        *("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"),
    ]
