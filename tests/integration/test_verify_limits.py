"""The limits of a repair: its share, its evidence, and its time."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from altsync.sinks.neo4j import write as neo4j
from altsync.verify.orphans import PAUSE, TRIES
from altsync.verify.repairs import highest_plausible, version_above
from altsync.verify.report import Options
from altsync.verify.sql import lock_out_writers
from tests import sports
from tests.integration.database_fixture import league
from tests.integration.verifying import Site

pytestmark = pytest.mark.slow


#: A version that no sequence gives out, and one that ends it.
INVALID_VERSIONS = (10**18, 2**63 - 1)

#: A day and a minute of microseconds: no plausible version is so far above the clock.
FAR = 86_460_000_000


def sequence(site: Site) -> int:
    """The last version that was given out."""
    return int(site.pg.scalar("SELECT last_value FROM entity_version"))


def assert_plausible(site: Site) -> None:
    """The sequence is where clocks are, and seeding goes on."""
    clock = site.pg.scalar("SELECT (extract(epoch FROM now()) * 1000000)::bigint")
    assert sequence(site) < clock + FAR
    site.pg.save(league("orphan"), league("l003", tier="TIER2"))
    site.deliver()
    assert site.drift(deep=True) == {}


# --- versions that no sequence has given out ------------------------------------------------------


@pytest.mark.parametrize("version", INVALID_VERSIONS)
def test_invalid_versions_in_the_graph(site: Site, version: int) -> None:
    """Nodes, orphans and tombstones are repaired in one run, and the sequence follows none."""
    site.relate(("l003", "l005", 0.5))
    site.deliver()
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) SET n.sync_version = $v", v=version)
    site.graph.ask("MATCH (n:League {league_tag: 'l005'}) DETACH DELETE n")
    site.graph.ask("CREATE (:League {league_tag: 'orphan', sync_version: $v})", v=version)
    for key in ("l005", "l006", "orphan"):
        site.graph.ask(
            "CREATE (:AltsyncTombstone {key: 'League:' + $key, version: $v, at: timestamp()})",
            key=key,
            v=version,
        )
    # A tombstone beside a node would refuse its next change.
    site.graph.ask("MATCH (n:League {league_tag: 'l006'}) SET n.sync_version = 5")
    assert site.drift() == {"neo4j": {"stale": 2, "missing": 1, "orphan": 1}}
    site.repair(max_delete=0.1)
    assert_plausible(site)


@pytest.mark.parametrize("version", INVALID_VERSIONS)
def test_invalid_versions_in_the_index(site: Site, version: int) -> None:
    """They are written anew at the version that PostgreSQL has."""
    before = site.key_version("l003")
    site.put_vector("l003", version=version)
    site.put_vector("orphan", version=version)
    assert site.drift() == {"pinecone": {"stale": 1, "orphan": 1}}
    site.repair()
    assert site.key_version("l003") == before
    assert_plausible(site)


def test_versions_that_are_no_numbers(site: Site) -> None:
    """They break no comparison, and are repaired like others."""
    site.relate(("l006", "l000", 0.5))
    site.deliver()
    half = site.key_version("l005") + 1.5
    wrong = ("abc", 1.5, float("nan"), True, [1], half, float("inf"))
    for number, version in enumerate(wrong):
        site.graph.ask(
            "MATCH (n:League {league_tag: $key}) SET n.sync_version = $v",
            key=f"l00{number}",
            v=version,
        )
    site.graph.ask("CREATE (:League {league_tag: 'orphan', sync_version: 'abc'})")
    site.graph.ask("MATCH (n:League {league_tag: 'l009'}) DETACH DELETE n")
    site.graph.ask("CREATE (:AltsyncTombstone {key: 'League:l009', version: 'abc'})")
    for number, vector in enumerate(("abc", 1.5, True, half)):
        site.put_vector(f"l00{number}", version=vector)
    site.put_vector("orphan", version="abc")
    assert site.drift() == {
        "neo4j": {"stale": len(wrong), "missing": 1, "orphan": 1},
        "pinecone": {"stale": 4, "orphan": 1},
    }
    site.repair(max_delete=0.5)
    assert_plausible(site)


def test_a_version_to_follow_beside_an_invalid_one(site: Site) -> None:
    """One is gone above, the other taken away."""
    beyond = site.beyond()
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) SET n.sync_version = $v", v=10**18)
    site.graph.ask("CREATE (:AltsyncTombstone {key: 'League:l003', version: $v})", v=beyond)
    assert site.drift() == {"neo4j": {"ahead": 1}}
    site.repair()
    assert site.key_version("l003") > beyond
    assert_plausible(site)


def test_a_orphan_vector_moves_no_sequence(site: Site) -> None:
    """No guard compares its version with anything."""
    beyond = site.beyond()
    site.put_vector("orphan", version=beyond)
    site.repair()
    assert sequence(site) < beyond


def test_the_sequence_follows_no_invalid_version(site: Site) -> None:
    """Not even when it is told to."""
    last, minute = sequence(site), 60_000_000
    with site.database.transaction() as conn:
        highest = highest_plausible(conn)
        assert version_above(conn, highest + minute) < highest
        assert version_above(conn, 2**63 - 1) < highest
    try:  # no rollback takes a sequence back
        for value, believed in (
            (2**53, 2**53),  # a database's own numbers are believed
            (2**53 - FAR, 2**53 - FAR + 60_000_000),
        ):
            site.pg.conn.execute("SELECT setval('entity_version', %s)", (value,))
            assert highest_plausible(site.pg.conn) == believed
    finally:
        site.pg.conn.execute("SELECT setval('entity_version', %s)", (last + minute,))


# --- how much -------------------------------------------------------------------------------------


def test_too_many_in_wrong_namespaces_stay(site: Site) -> None:
    """They count with the orphans: each alone would be few enough."""
    kind = sports.FEW_SHOT_EXAMPLE
    for key in ("e1", "e3"):
        site.put_vector(key, kind, "naming", version=7)
    site.put_vector("orphan", version=7)
    body = site.json("--repair", "--grace", "0", code=1)
    refused = body["refused"]["pinecone"]
    assert "Of 41 records that pinecone holds, 3 are not in PostgreSQL or are" in refused
    assert "in a wrong namespace (2): more than the 5.0% that may be removed" in refused
    assert body["sinks"]["pinecone"]["removed"] == 0
    assert {("naming", "e1"), ("naming", "e3")} <= site.index.records(kind).keys()
    site.repair(max_delete=0.1)


@pytest.mark.parametrize("sink", ["neo4j", "pinecone"])
def test_too_many_ahead_stay(site: Site, sink: str) -> None:
    """An old copy of the database must not be written over what is newer, nor remove it."""
    beyond = site.beyond()
    for number in range(4):
        if sink == "neo4j":
            site.graph.ask(
                "MATCH (n:League {league_tag: $key}) SET n.sync_version = $v",
                key=f"l00{number}",
                v=beyond,
            )
        else:
            site.put_vector(f"l00{number}", version=beyond)
    site.put_vector("orphan", version=beyond)
    site.graph.ask("CREATE (:League {league_tag: 'orphan', sync_version: $v})", v=beyond)
    body = site.json("--repair", "--grace", "0", "--sink", sink, code=1)
    assert "Of 4 of 38 compared entities" in body["refused"][sink]
    assert "Is this a restored backup, or the wrong database?" in body["refused"][sink]
    assert "raise --max-delete" in body["refused"][sink]
    assert (body["sinks"][sink]["enqueued"], body["sinks"][sink]["removed"]) == (0, 0)
    assert (site.live(), sequence(site) < beyond) == (0, True)
    sample = site.json("--repair", "--grace", "0", "--sink", sink, "--sample", "38", code=1)
    assert sample["refused"][sink].startswith("Of 4 of 38 compared entities")
    site.repair(max_delete=0.2)
    assert site.key_version("l003") > beyond


# --- how long writers are held up -----------------------------------------------------------------


def test_a_long_transaction_holds_up_no_writer_for_long(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Removal waits in short tries, and says what it has done before it gave up."""
    monkeypatch.setattr("altsync.verify.orphans.PAGE", 1)
    for key in ("orphan1", "orphan2"):
        site.graph.ask("CREATE (:League {league_tag: $key, sync_version: 7})", key=key)
    pauses: list[float] = []
    writer = psycopg.connect(site.pg.url)
    remove = neo4j.Sink.remove

    def hold_after_first(*arguments: Any) -> None:
        remove(*arguments)
        writer.execute("LOCK TABLE league IN ROW EXCLUSIVE MODE")

    monkeypatch.setattr(neo4j.Sink, "remove", hold_after_first)
    report = site.app.verify(Options(repair=True, max_delete=0.2), ["neo4j"], wait=pauses.append)
    writer.rollback()
    (graph,) = report.tallies
    assert graph.removed == 1
    assert "so only 1 could be removed safely: run it again" in str(graph.refused)
    assert pauses == [PAUSE] * (TRIES - 1)
    # A writer that ends between two tries is waited for.
    monkeypatch.setattr(neo4j.Sink, "remove", remove)
    writer.execute("LOCK TABLE league IN ROW EXCLUSIVE MODE")
    again = Options(repair=True, max_delete=0.2)
    report = site.app.verify(again, ["neo4j"], wait=lambda _: writer.rollback())
    writer.close()
    assert (report.tallies[0].removed, report.tallies[0].refused) == (1, None)
    with site.database.transaction() as conn:
        lock_out_writers(conn, sports.LEAGUE)
        (limit,) = conn.execute("SHOW lock_timeout").fetchone() or ("",)
    assert limit == "1s"
