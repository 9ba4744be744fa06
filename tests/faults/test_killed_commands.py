"""A repair, a pruning or a search for neighbours is killed at each of its steps: kill -9.

A step is a request that changes a store. The command goes through a proxy to each store, and is
killed when the n-th step is on its way: the store does it, and no process receives the answer.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from altsync.cli import app as cli
from altsync.db import Database
from altsync.local.services.vectors import Vectors
from altsync.operations import Dead, ErrorKind
from altsync.similarity.rules import Rules
from tests import sports
from tests.children import child
from tests.contract.harness import PineconeHarness
from tests.faults.proxies import relayed
from tests.integration.database_fixture import (
    GRAPH,
    LEASE,
    DatabaseFixture,
    delivery,
    embed,
    empty,
    league,
    leagues,
)
from tests.integration.fakes import FakeGraph
from tests.integration.neighbourhood import Neighbourhood, faults
from tests.integration.verifying import Site

pytestmark = pytest.mark.slow

#: Requests that change something, in SQL, in Bolt (COMMIT is a structure of type 0x12) and in
#: Pinecone's API.
STEP = re.compile(
    rb"COMMIT|INSERT INTO|UPDATE |DELETE FROM|setval|nextval|\xb0\x12|/vectors/(upsert|delete)"
)

#: More steps than any of these commands takes; one that goes on for ever ends here.
MOST_STEPS = 200

#: Seconds of a day.
DAY = 86_400


class Killer:
    """Counts the steps of a process, and kills it at one of them."""

    def __init__(self, at: int | None) -> None:
        self.steps = 0
        self._at = at
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._started = threading.Event()

    def aim(self, pid: int | None) -> None:
        """The process, once it is there."""
        self._pid = pid
        self._started.set()

    def watch(self, data: bytes) -> None:
        """The hook that a proxy calls before it forwards a request."""
        self._started.wait()
        if not STEP.search(data):
            return
        with self._lock:
            self.steps += 1
            if self.steps == self._at and self._pid is not None:
                os.kill(self._pid, signal.SIGKILL)


@dataclass(frozen=True)
class Command:
    """``altsync …`` on stores, by the variables that name their URLs; ``said`` keeps its output."""

    arguments: str
    stores: Mapping[str, str]
    said: Path

    def run(self, killed_at: int | None = None) -> int | None:
        """How it ends that is killed at its n-th step, or never."""
        killer = Killer(killed_at)
        with ExitStack() as proxies:
            env = dict(os.environ)
            for name, url in self.stores.items():
                relay, env[name] = proxies.enter_context(relayed(url))
                relay.on_request = killer.watch
            process = child(_command, env, self.arguments.split(), self.said)
            process.start()
            killer.aim(process.pid)
            process.join()
            code = process.exitcode
            process.close()
        return code

    def finish(self, code: int = 0) -> None:
        """Run it to its end."""
        assert self.run() == code, self.said.read_text()

    def kill_at_each_step(
        self, prepare: Callable[[], None], judge: Callable[[], None], code: int = 0
    ) -> int:
        """Kill it at its first step, its second …, until it ends; returns the number of kills.

        ``prepare`` comes before each run, and ``judge`` after it.
        """
        for at in range(1, MOST_STEPS):
            prepare()
            ended = self.run(at)
            judge()
            if ended != -signal.SIGKILL:
                assert ended == code, self.said.read_text()
                return at - 1
        raise AssertionError(f"more than {MOST_STEPS} steps")


def _command(env: Mapping[str, str], arguments: Sequence[str], said: Path) -> None:
    """In a process of its own."""
    os.environ.clear()  # of what the first child's parent had set
    os.environ.update(env)
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    cli(arguments)


# --- verify --repair --------------------------------------------------------------------------


def test_a_repair_that_is_killed_anywhere(site: Site, tmp_path: Path) -> None:
    """Its work is right, and the next one does the rest: no orphan, nothing lost or older."""
    named = ("DATABASE_URL", "NEO4J_URI", "PINECONE_CONTROLLER_HOST")
    stores = {name: os.environ[name] for name in named}
    command = Command("verify --repair --grace 0 --json", stores, tmp_path / "said")

    def damage() -> None:
        beyond = site.beyond()
        site.graph.ask("MATCH (n:League {league_tag: 'l001'}) DETACH DELETE n")
        site.graph.ask("MATCH (n:League {league_tag: 'l002'}) SET n.sync_version = 5")
        site.graph.ask("MATCH (n:League {league_tag: 'l003'}) SET n.sync_version = $v", v=beyond)
        site.graph.ask("CREATE (:League {league_tag: 'orphan', sync_version: $v})", v=beyond)
        site.drop_vector("l004")
        site.put_vector("l005", version=5)
        site.put_vector("l006", version=beyond)
        site.put_vector("orphan", version=beyond, model="test-model", content_hash="x")

    def judge() -> None:
        site.verify(repair=True)
        site.deliver()
        assert_held(site)
        assert site.drift(deep=True) == {}
        assert site.pg.scalar("SELECT count(*) FROM sync_operation WHERE status = 'dead'") == 0

    assert command.kill_at_each_step(damage, judge, code=1) > 8


def assert_held(site: Site) -> None:
    """Every store holds exactly the living leagues, at their versions, by clients of their own."""
    rows = site.pg.conn.execute(
        "SELECT league_tag, version, graph_version FROM league WHERE deleted_at IS NULL"
    ).fetchall()
    nodes = site.graph.stored(sports.LEAGUE)
    vectors = site.index.stored(sports.LEAGUE)
    assert {key: int(one["sync_version"]) for key, one in nodes.items()} == {
        key: graph_version for key, _, graph_version in rows
    }
    assert {key: int(one["version"]) for key, one in vectors.items()} == {
        key: version for key, version, _ in rows
    }


# --- prune ------------------------------------------------------------------------------------


def test_a_pruning_that_is_killed_anywhere(
    pg: DatabaseFixture, database: Database, tmp_path: Path
) -> None:
    """History goes page by page; what lives, what is young and what is in use stays."""
    everything = "prune --older-than 30d --embeddings --dead --yes --json"
    command = Command(everything, {"DATABASE_URL": pg.url}, tmp_path / "said")

    def prepare() -> None:
        empty(pg.conn)
        old = [league(one.league_tag, description="Old.") for one in leagues(6)]
        pg.save(*old)
        token, operations = pg.claim("neo4j", limit=1)
        bad = [Dead(op, op.version, ErrorKind.ITEM, "refused") for op in operations]
        pg.settle(GRAPH, token, bad)
        delivery(database, FakeGraph()).drain(10)
        embed(database)
        for column in ("created_at", "finished_at"):
            pg.conn.execute(
                f"UPDATE sync_operation SET {column} = {column} - make_interval(secs => %s)",
                (40 * DAY,),
            )
        for table, column in (("embedding", "created_at"), ("delivery_batch", "finished_at")):
            pg.conn.execute(f"UPDATE {table} SET {column} = now() - interval '40 days'")
        pg.save(*leagues(6))
        embed(database)

    def judge() -> None:
        command.finish()
        assert pg.counts("neo4j") == {"pending": 6}
        assert pg.counts("embedding") == {"synced": 6}
        assert pg.counts("pinecone") == {"pending": 6}
        assert pg.scalar("SELECT count(*) FROM league WHERE deleted_at IS NULL") == 6
        used = "SELECT count(*) FROM embedding e JOIN league l ON l.text_hash = e.text_hash"
        assert pg.scalar(used) == 6
        assert pg.scalar("SELECT count(*) FROM embedding") == 6
        assert pg.scalar("SELECT count(*) FROM delivery_batch") == 1
        graph = FakeGraph()
        delivery(database, graph).drain(10)
        assert len(graph.living()) == 6

    assert command.kill_at_each_step(prepare, judge) > 3


# --- relate -----------------------------------------------------------------------------------

#: As it was, and as it is to be: many more leagues are similar.
NARROW = Rules(enter=0.95, leave=0.95, top_k=5)
WIDE = replace(NARROW, enter=0.6, leave=0.5)


def test_a_search_for_neighbours_that_is_killed_anywhere(
    pg: DatabaseFixture,
    database: Database,
    vectors_server: Vectors,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The next one finishes it: edges are those of the rules, in the table and in the graph."""
    index = PineconeHarness(vectors_server)
    index.empty()
    stores = {"DATABASE_URL": pg.url, "PINECONE_CONTROLLER_HOST": vectors_server.url}
    command = Command("relate --all --json", stores, tmp_path / "said")
    for name, value in {
        **stores,
        "PINECONE_API_KEY": vectors_server.secret,
        "ALTSYNC_EMBEDDING_MODEL": "test-model",
        "ALTSYNC_EMBEDDING_DIMENSIONS": "4",
        "ALTSYNC_SIMILARITY": "index",
        "ALTSYNC_CATALOGUE": "tests.faults.wide:catalogue",
    }.items():
        monkeypatch.setenv(name, value)
    narrow = Neighbourhood(pg, database, index.open(), NARROW)
    wide = Neighbourhood(pg, database, index.open(), WIDE)
    wide.graph = narrow.graph  # one graph, which is told of every change
    narrow.save(*leagues(10))
    narrow.settle()
    few = len(narrow.edges())

    def prepare() -> None:
        narrow.ask_for_all()
        narrow.settle()
        assert len(narrow.edges()) == few
        assert list(faults(narrow)) == []

    def judge() -> None:
        pg.advance_time(LEASE + 1)
        command.finish()
        wide.settle()
        assert len(wide.edges()) > few
        assert list(faults(wide)) == []

    assert command.kill_at_each_step(prepare, judge) > 3
    for place in (narrow, wide):
        place.similarity.close()
    index.close()
