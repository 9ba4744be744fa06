"""Two installations on one graph and one Pinecone project: each keeps what is its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from typer.testing import CliRunner

from altsync.app import Application
from altsync.circuit.sinks import sink_health
from altsync.cli import app as cli
from altsync.config import read_settings
from altsync.contract import Installation
from altsync.db import Database
from altsync.delivery import Delivery, Policy
from altsync.doctor import Health, check_services
from altsync.errors import ConfigurationError, SinkFailure
from altsync.installation import installation, make_installation
from altsync.local.services.graph import Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from altsync.sinks.neo4j.statements import constraints, label_prefix, with_prefix
from altsync.sinks.pinecone.client import index_names
from altsync.verify.report import Options
from tests import sports
from tests.contract.harness import GraphHarness, PineconeHarness, arcade_harness
from tests.integration.database_fixture import (
    LEASE,
    DatabaseFixture,
    archetype,
    embedding_sink,
    example,
    league,
)
from tests.integration.fakes import FakeEmbedder
from tests.integration.stores import name_stores

CONTENTS = (archetype("racing"), league("one"), league("two"), example("e1", "naming"))


class Installed:
    """One installation: a database, and altsync with the settings of the moment."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.pg = DatabaseFixture(url)
        self.database = Database(url)
        self.app = Application()

    def deliver(self) -> None:
        """Deliver what is due, as workers would."""
        for _ in range(3):
            for name in self.app.topology.names:
                sink = self.app.sink(name)
                if name == "embedding":
                    sink = embedding_sink(self.database, FakeEmbedder())
                assert sink is not None
                policy = Policy(lease=LEASE)
                Delivery(self.database, sink, self.app.topology, policy, worker="t").drain(30.0)

    def restart(self) -> None:
        """Go on as processes that were started anew."""
        self.app.close()
        self.app = Application()

    def reasons(self) -> dict[str, str]:
        """Why breakers are open."""
        with self.database.autocommit() as conn:
            health = sink_health(conn)
        return {sink: one.reason for sink, one in health.items() if one.reason}

    def statuses(self) -> set[tuple[str, int]]:
        """Statuses and attempts of what is not done in the graph and the index."""
        rows = self.pg.conn.execute(
            "SELECT status, attempts FROM sync_operation "
            "WHERE sink IN ('neo4j', 'pinecone') AND status <> 'synced' AND status <> 'superseded'"
        )
        return {(row[0], row[1]) for row in rows}

    def close(self) -> None:
        self.app.close()
        self.database.close()
        self.pg.close()


@pytest.fixture
def stores(
    graph_server: Graph, vectors_server: Vectors
) -> Iterator[tuple[GraphHarness, PineconeHarness]]:
    """A graph and a Pinecone project with nothing in them."""
    graph, index = arcade_harness(graph_server), PineconeHarness(vectors_server)
    graph.wipe()
    index.wipe()
    yield graph, index
    graph.wipe()
    index.wipe()
    graph.close()
    index.close()


Install = Callable[..., Any]


@pytest.fixture
def install(
    postgres: Postgres,
    graph_server: Graph,
    vectors_server: Vectors,
    stores: tuple[GraphHarness, PineconeHarness],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Install]:
    """Make an installation: on a new database, or on a copy of another one's."""
    made: list[Installed] = []

    @contextmanager
    def database(template: str) -> Iterator[str]:
        name = f"test_{uuid4().hex}"
        with psycopg.connect(postgres.url, autocommit=True) as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = %s AND backend_type = 'client backend'",
                (template,),
            )
            conn.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield f"{postgres.url.rsplit('/', 1)[0]}/{name}"

    def make(prefix: str = "", copy_of: Installed | None = None) -> Installed:
        template = copy_of.url.rsplit("/", 1)[1] if copy_of else "migrated"
        with database(template) as url:
            name_stores(monkeypatch, url, graph_server, vectors_server, ALTSYNC_PREFIX=prefix)
        if copy_of is None:
            with psycopg.connect(url, autocommit=True) as conn:
                conn.execute("UPDATE sink_state SET config = config - 'installation'")
        one = Installed(url)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()
    with psycopg.connect(postgres.superuser_url, autocommit=True) as conn:
        for one in made:
            conn.execute(f"DROP DATABASE {one.url.rsplit('/', 1)[1]} WITH (FORCE)")


@pytest.fixture
def production(install: Install) -> Installed:
    """An installation whose contents are in the graph and the index."""
    made: Installed = install()
    made.pg.save(*CONTENTS)
    made.deliver()
    return made


def held(stores: tuple[GraphHarness, PineconeHarness]) -> tuple[dict[str, Any], dict[Any, Any]]:
    """Versions of leagues in the graph and in the index, under the names without a prefix."""
    graph, index = stores
    vectors = index.records(sports.LEAGUE)
    return (
        {key: one["sync_version"] for key, one in graph.stored(sports.LEAGUE).items()},
        {key: one.metadata["version"] for key, one in vectors.items()},
    )


def test_a_strangers_stores_are_neither_written_nor_emptied(
    install: Install, production: Installed, stores: tuple[GraphHarness, PineconeHarness]
) -> None:
    """Staging on production's stores: edits and deletions wait, and nothing dies."""
    before = held(stores)
    assert len(before[0]) == len(before[1]) == 2

    staging = install()
    staging.pg.save(*CONTENTS, league("three"))
    staging.deliver()
    staging.pg.delete(league("two"))
    staging.pg.advance_time(3600)
    staging.deliver()

    assert held(stores) == before
    assert staging.statuses() == {("pending", 0)}
    reasons = staging.reasons()
    assert set(reasons) == {"neo4j", "pinecone"}
    owner = production.app._installation()
    assert owner is not None
    for sink, reason in reasons.items():
        assert owner.id in reason
        assert owner.since in reason
        assert owner.database in reason
        assert f"altsync adopt --sink {sink}" in reason
        assert "ALTSYNC_PREFIX" in reason


def test_every_command_that_touches_a_store_says_whose_it_is(
    install: Install, production: Installed, stores: tuple[GraphHarness, PineconeHarness]
) -> None:
    """Migrate, doctor, and verify with and without --repair."""
    before = held(stores)
    owner = production.app._installation()
    assert owner is not None

    staging = install()
    set_up = staging.app.set_up_sinks()
    assert all(owner.id in str(set_up[sink]) for sink in ("neo4j", "pinecone"))
    findings = {one.name: one for one in check_services(staging.app)}
    for name in ("Neo4j", "Pinecone"):
        assert findings[name].health is Health.FAILED
        assert owner.id in findings[name].detail
    for repair in (False, True):
        report = staging.app.verify(Options(repair=repair, grace=0.0, max_delete=1.0))
        assert all(owner.id in report.problems[sink] for sink in ("neo4j", "pinecone"))
        assert not report.consistent
    assert held(stores) == before


def test_adopting_lets_one_go_on_and_stops_the_other(
    install: Install,
    production: Installed,
    stores: tuple[GraphHarness, PineconeHarness],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The former owner finds out at its next look at the mark."""
    staging = install()
    staging.pg.save(*CONTENTS)
    staging.deliver()
    for sink in ("neo4j", "pinecone"):
        result = CliRunner().invoke(cli, ["adopt", "--sink", sink])
        assert result.exit_code == 0, result.output
    staging.pg.advance_time(3600)
    staging.deliver()
    assert staging.reasons() == {}
    assert staging.statuses() == set()

    monkeypatch.setenv("DATABASE_URL", production.url)
    production.restart()
    production.pg.save(league("four"))
    production.deliver()
    assert set(production.reasons()) == {"neo4j", "pinecone"}
    assert "four" not in held(stores)[0]


def test_two_prefixes_share_a_graph_and_a_project(
    install: Install, production: Installed, stores: tuple[GraphHarness, PineconeHarness]
) -> None:
    """Deletions of one leave the other's, and both agree with their databases."""
    staging = install(prefix="staging-2")
    staging.pg.save(*CONTENTS, league("three"))
    staging.deliver()
    staging.pg.delete(league("two"))
    staging.deliver()
    staging.pg.advance_time(3600)
    staging.deliver()

    graph, index = stores
    assert set(held(stores)[0]) == {"one", "two"}
    found = graph.ask("MATCH (n:staging_2_League) RETURN n.league_tag AS tag ORDER BY tag")
    assert [one["tag"] for one in found] == ["one", "three"]
    names = {one.name for one in index.client.indexes.list()}
    assert names == {*sports.INDEXES, *index_names("staging-2").values()}
    assert staging.reasons() == production.reasons() == {}
    report = staging.app.verify(Options(deep=True, grace=0.0))
    assert report.consistent, report.as_json()
    report = production.app.verify(Options(deep=True, grace=0.0))
    assert report.consistent, report.as_json()


def test_a_copied_database_is_told_from_its_original(
    install: Install, production: Installed, stores: tuple[GraphHarness, PineconeHarness]
) -> None:
    """The same id in another database: refused until it is adopted as moved."""
    before = held(stores)
    production.close()
    copied = install(copy_of=production)
    copied.pg.save(league("one", tier="TIER9"))
    copied.deliver()
    assert held(stores) == before
    assert all("copy" in reason for reason in copied.reasons().values())
    assert set(copied.reasons()) == {"neo4j", "pinecone"}
    assert copied.app.adopt("neo4j")
    assert copied.app.adopt("pinecone")
    copied.pg.advance_time(3600)
    copied.deliver()
    assert copied.statuses() == set()
    assert held(stores) != before


def test_stores_from_before_there_were_marks_stay_their_owners(
    install: Install, production: Installed, stores: tuple[GraphHarness, PineconeHarness]
) -> None:
    """An upgrade marks what holds this database's records; a stranger is refused all the same."""
    graph, index = stores

    def unmark() -> None:
        graph.ask("MATCH (i:AltsyncInstallation) DELETE i")
        for name in sports.INDEXES:
            index.remove_mark(name)

    unmark()
    staging = install()
    staging.pg.save(*(league(f"other{n}") for n in range(3)), archetype("rowing"))
    staging.deliver()
    assert set(staging.reasons()) == {"neo4j", "pinecone"}
    assert all("installation id" in reason for reason in staging.reasons().values())
    assert set(held(stores)[0]) == {"one", "two"}

    production.restart()
    production.app._me = None
    upgraded = Application(read_settings(database_url=production.url))
    assert upgraded.set_up_sinks() == dict.fromkeys(upgraded.enabled)
    owner = upgraded._installation()
    assert owner is not None
    (node,) = graph.ask("MATCH (i:AltsyncInstallation) RETURN i.id AS id")
    assert node["id"] == owner.id
    tags = index.client.indexes.describe(sports.LEAGUE.index_name).tags
    assert tags is not None
    assert tags["altsync-id"] == owner.id
    upgraded.close()


def test_two_first_setups_at_once_end_in_one_owner(
    install: Install, stores: tuple[GraphHarness, PineconeHarness]
) -> None:
    """Of two that set up the same empty stores, one goes on."""
    both = [install(), install()]
    together = threading.Barrier(2)
    results: list[dict[str, str | None]] = [{}, {}]

    def set_up(place: int) -> None:
        together.wait()
        results[place] = both[place].app.set_up_sinks()

    threads = [threading.Thread(target=set_up, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    graph, index = stores
    owners = {one.app._installation().id: one.app for one in both}
    nodes = graph.ask("MATCH (i:AltsyncInstallation) RETURN i.id AS id")
    assert len(nodes) == 1
    assert nodes[0]["id"] in owners
    for name in sports.INDEXES:
        tags = index.client.indexes.describe(name).tags
        assert tags is not None
        assert tags["altsync-id"] in owners
    for sink in ("neo4j", "pinecone"):
        accepted = [result for result in results if result[sink] is None]
        assert len(accepted) <= 1, results
    for app in owners.values():
        mine = app._installation()
        assert mine is not None
        own = mine.id == nodes[0]["id"]
        check = app.sink("neo4j").check_owner
        if own:
            check()
        else:
            with pytest.raises(SinkFailure, match="another altsync installation"):
                check()


def test_the_id_is_made_once_for_a_database(database_url: str) -> None:
    """Registering again, and another sink first in the alphabet, keep it."""
    pg = DatabaseFixture(database_url)
    first = installation(pg.conn)
    assert first is not None
    pg.conn.execute("INSERT INTO sink_state (sink) VALUES ('another')")
    make_installation(pg.conn)
    assert installation(pg.conn) == first
    pg.close()


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (Installation("a", "s", "db", "1"), True),
        (Installation("a", "later", "db", ""), True),
        (Installation("a", "s", "db", "2"), False),
        (Installation("a", "s", "copy", "1"), False),
        (Installation("b", "s", "db", "1"), False),
    ],
)
def test_an_installation_is_its_id_at_its_place(other: Installation, same: bool) -> None:
    assert Installation("a", "s", "db", "1").is_same(other) is same


@pytest.mark.parametrize("prefix", ["staging", "s", "a-1", "team7-eu-west"])
def test_a_prefix_fits_every_store(prefix: str) -> None:
    """45 characters of an index, no hyphen in a label, every label and constraint told apart."""
    assert read_settings(altsync_prefix=prefix).altsync_prefix == prefix
    assert all(len(name) <= 45 for name in index_names("a" * 24).values())
    label = label_prefix(prefix)
    assert "-" not in label
    for statement in constraints():
        named = with_prefix(statement, label)
        assert named.count(label) == 2, named


@pytest.mark.parametrize(
    "prefix",
    ["Staging", "1st", "a--b", "-a", "a-", "a_b", "a.b", "a b", "ä", "a" * 25, "a`b", "a\n"],
)
def test_a_prefix_that_does_not_fit_is_refused(prefix: str) -> None:
    with pytest.raises(ConfigurationError, match="ALTSYNC_PREFIX"):
        read_settings(altsync_prefix=prefix)
