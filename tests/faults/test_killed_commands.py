"""A repair, a pruning or a search for neighbours is killed at each of its steps: kill -9.

A step is a request that changes a store. The command goes through a proxy to each store, and is
killed when the n-th step is on its way: the store does it, and nobody hears the answer.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from altsync.cli import app as cli
from altsync.db import Database
from altsync.local.services.graph import Graph
from altsync.local.services.vectors import Vectors
from altsync.records import Dead, EntityType, ErrorKind
from altsync.store import Rules
from tests.children import child
from tests.contract.harness import PineconeHarness
from tests.faults.proxies import relayed
from tests.integration.fakes import FakeGraph
from tests.integration.neighbourhood import Neighbourhood, faults
from tests.integration.verifying import Site, site_of
from tests.integration.world import GRAPH, LEASE, World, delivery, embed, empty, league, leagues

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

    def __init__(self, at: int) -> None:
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
        """What a proxy asks before it passes a request on."""
        self._started.wait()
        if not STEP.search(data):
            return
        with self._lock:
            self.steps += 1
            if self.steps == self._at and self._pid is not None:
                os.kill(self._pid, signal.SIGKILL)


def run_killed(stores: Mapping[str, str], arguments: Sequence[str], at: int) -> int | None:
    """``altsync …`` in a process that is killed at its n-th step; how it ended.

    ``stores`` are the URLs of all stores by the variables that name them.
    """
    killer = Killer(at)
    with ExitStack() as proxies:
        env = dict(os.environ)
        for name, url in stores.items():
            relay, env[name] = proxies.enter_context(relayed(url))
            relay.on_request = killer.watch
        process = child(_command, env, list(arguments))
        process.start()
        killer.aim(process.pid)
        process.join()
        code = process.exitcode
        process.close()
    return code


def _command(env: Mapping[str, str], arguments: Sequence[str]) -> None:
    """In a process of its own: a command as a user gives it, and silent."""
    os.environ.update(env)
    with Path(os.devnull).open("w") as nowhere:
        sys.stdout = sys.stderr = nowhere
        cli(arguments)


def killed_at_each_step(
    stores: Mapping[str, str],
    arguments: Sequence[str],
    prepare: Callable[[], None],
    judge: Callable[[], None],
    ends: int = 0,
) -> int:
    """Kill a command at its first step, its second …, until it ends (with code ``ends``).

    ``prepare`` comes before each run, and ``judge`` after it. Returns the number of kills.
    """
    for at in range(1, MOST_STEPS):
        prepare()
        code = run_killed(stores, arguments, at)
        judge()
        if code != -signal.SIGKILL:
            assert code == ends
            return at - 1
    raise AssertionError(f"more than {MOST_STEPS} steps")


# --- verify --repair --------------------------------------------------------------------------


@pytest.fixture
def site(
    world: World,
    database: Database,
    graph_server: Graph,
    vectors_server: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """Every store, filled and at rest."""
    with site_of(world, database, graph_server, vectors_server, monkeypatch) as site:
        yield site


def test_a_repair_that_is_killed_anywhere(site: Site) -> None:
    """What it did is right, and the next one does the rest: no ghost, nothing lost or older."""
    stores = {
        name: os.environ[name] for name in ("DATABASE_URL", "NEO4J_URI", "PINECONE_CONTROLLER_HOST")
    }

    def damage() -> None:
        beyond = site.beyond()
        site.graph.ask("MATCH (n:League {league_tag: 'l001'}) DETACH DELETE n")
        site.graph.ask("MATCH (n:League {league_tag: 'l002'}) SET n.sync_version = 5")
        site.graph.ask("MATCH (n:League {league_tag: 'l003'}) SET n.sync_version = $v", v=beyond)
        site.graph.ask("CREATE (:League {league_tag: 'ghost', sync_version: $v})", v=beyond)
        site.drop_vector("l004")
        site.put_vector("l005", version=5)
        site.put_vector("l006", version=beyond)
        site.put_vector("ghost", version=beyond, model="test-model", content_hash="x")

    def judge() -> None:
        site.deliver()
        site.verify(repair=True)
        site.deliver()
        assert_held(site)
        assert site.drift(deep=True) == {}
        assert site.world.scalar("SELECT count(*) FROM sync_operation WHERE status = 'dead'") == 0

    kills = killed_at_each_step(
        stores, ("verify", "--repair", "--grace", "0", "--json"), damage, judge, ends=1
    )
    assert kills > 8


def assert_held(site: Site) -> None:
    """Every store holds exactly the living leagues, at their versions, by clients of their own."""
    rows = site.world.conn.execute(
        "SELECT league_tag, version, graph_version FROM league WHERE deleted_at IS NULL"
    ).fetchall()
    nodes = site.graph.stored(EntityType.LEAGUE)
    vectors = site.index.stored(EntityType.LEAGUE)
    assert {key: int(one["sync_version"]) for key, one in nodes.items()} == {
        key: graph_version for key, _, graph_version in rows
    }
    assert {key: int(one["version"]) for key, one in vectors.items()} == {
        key: version for key, version, _ in rows
    }


# --- prune ------------------------------------------------------------------------------------


def test_a_pruning_that_is_killed_anywhere(world: World, database: Database) -> None:
    """History goes page by page; what lives, what is young and what is in use stays."""
    command = ("prune", "--older-than", "30d", "--embeddings", "--dead", "--yes", "--json")

    def prepare() -> None:
        empty(world.conn)
        old = [league(one.league_tag, description="Old.") for one in leagues(6)]
        world.save(*old)
        token, operations = world.claim("neo4j", limit=1)
        bad = [Dead(op, op.version, ErrorKind.ITEM, "refused") for op in operations]
        world.settle(GRAPH, token, bad)
        delivery(database, FakeGraph()).drain(10)
        embed(database)
        for column in ("created_at", "finished_at"):
            world.conn.execute(
                f"UPDATE sync_operation SET {column} = {column} - make_interval(secs => %s)",
                (40 * DAY,),
            )
        for table, column in (("embedding", "created_at"), ("delivery_batch", "finished_at")):
            world.conn.execute(f"UPDATE {table} SET {column} = now() - interval '40 days'")
        world.save(*leagues(6))
        embed(database)

    def judge() -> None:
        assert run_killed({"DATABASE_URL": world.url}, command, MOST_STEPS) == 0
        assert world.counts("neo4j") == {"pending": 6}
        assert world.counts("embedding") == {"synced": 6}
        assert world.counts("pinecone") == {"pending": 6}
        assert world.scalar("SELECT count(*) FROM league WHERE deleted_at IS NULL") == 6
        used = "SELECT count(*) FROM embedding e JOIN league l ON l.text_hash = e.text_hash"
        assert world.scalar(used) == 6
        assert world.scalar("SELECT count(*) FROM embedding") == 6
        assert world.scalar("SELECT count(*) FROM delivery_batch") == 1
        graph = FakeGraph()
        delivery(database, graph).drain(10)
        assert len(graph.living()) == 6

    assert killed_at_each_step({"DATABASE_URL": world.url}, command, prepare, judge) > 3


# --- relate -----------------------------------------------------------------------------------

#: As it was, and as it is to be: many more leagues are similar.
NARROW = Rules(enter=0.95, leave=0.90, top_k=5, debounce=0.0)
WIDE = replace(NARROW, enter=0.6, leave=0.5)


def test_a_search_for_neighbours_that_is_killed_anywhere(
    world: World,
    database: Database,
    vectors_server: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one finishes it: edges are those of the rules, in the table and in the graph."""
    index = PineconeHarness(vectors_server)
    index.empty()
    stores = {"DATABASE_URL": world.url, "PINECONE_CONTROLLER_HOST": vectors_server.url}
    for name, value in {
        **stores,
        "PINECONE_API_KEY": vectors_server.secret,
        "ALTSYNC_EMBEDDING_MODEL": "test-model",
        "ALTSYNC_EMBEDDING_DIMENSIONS": "4",
        "ALTSYNC_SIMILARITY_ENTER": str(WIDE.enter),
        "ALTSYNC_SIMILARITY_LEAVE": str(WIDE.leave),
        "ALTSYNC_SIMILARITY_TOP_K": str(WIDE.top_k),
        "ALTSYNC_SIMILARITY_DEBOUNCE_SECONDS": "0",
    }.items():
        monkeypatch.setenv(name, value)
    narrow = Neighbourhood(world, database, index.open(), NARROW)
    wide = Neighbourhood(world, database, index.open(), WIDE)
    wide.graph = narrow.graph  # one graph, which is told of every change
    narrow.save(*leagues(20))
    narrow.settle()
    few = len(narrow.edges())

    def prepare() -> None:
        narrow.ask_for_all()
        narrow.settle()
        assert len(narrow.edges()) == few
        assert list(faults(narrow)) == []

    def judge() -> None:
        world.pass_time(LEASE + 1)
        assert run_killed(stores, ("relate", "--all", "--json"), MOST_STEPS) == 0
        wide.settle()
        assert len(wide.edges()) > few
        assert list(faults(wide)) == []

    assert killed_at_each_step(stores, ("relate", "--all", "--json"), prepare, judge) > 3
    for place in (narrow, wide):
        place.similarity.close()
    index.close()
