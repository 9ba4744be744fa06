"""Every kind of drift is planted, found, and repaired in one run."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from altsync.app import Application
from altsync.config import read_settings
from altsync.contract import Drift
from altsync.db import Database
from altsync.declarations import SINKS
from altsync.entities import EntityType
from altsync.local.services.graph import Graph
from altsync.local.services.vectors import Vectors
from altsync.local.vectors.faults import FaultRule
from altsync.projection import namespace
from altsync.sinks.neo4j import client
from altsync.store import rows as store_rows
from altsync.verify import sql as verify_sql
from altsync.verify.repairs import version_above
from altsync.verify.report import Options
from altsync.verify.results import last_verification
from altsync.verify.schedule import Schedule
from altsync.verify.sql import entity_snapshots
from tests import sports
from tests.contract import memory
from tests.contract.doubles import closed_port
from tests.integration.database_fixture import DatabaseFixture, archetype, eventually, league
from tests.integration.verifying import CONTENTS, LEAGUES, Site, found, site_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("deep", [False, True])
def test_stores_at_rest_agree(site: Site, deep: bool) -> None:
    """Nothing is found, nothing is enqueued, and the numbers say what was compared."""
    site.relate(("l000", "l001", 0.5), ("l001", "l000", None))
    site.deliver()
    body = site.json("--repair", *(["--deep"] if deep else []))
    assert body["consistent"] is True
    assert body["entities"] == len(CONTENTS)
    assert body["sinks"]["neo4j"] == dict.fromkeys(body["sinks"]["neo4j"], 0)
    assert body["sinks"]["embedding"]["missing"] == 0
    assert site.live() == 0


# --- the graph ----------------------------------------------------------------------------------


def test_a_node_that_was_deleted(site: Site) -> None:
    """It is missing, and comes back."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) DETACH DELETE n")
    assert site.drift() == {"neo4j": {"missing": 1}}
    site.repair()
    assert site.graph.count("League") == LEAGUES


def test_a_property_that_was_changed(site: Site) -> None:
    """Only a deep look sees what the version does not tell."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) SET n.league_name = 'Mine'")
    assert site.drift() == {}
    assert site.drift(deep=True) == {"neo4j": {"stale": 1}}
    site.repair(deep=True)


def test_a_node_of_an_older_version(site: Site) -> None:
    """It is stale."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) SET n.sync_version = 5")
    assert site.drift() == {"neo4j": {"stale": 1}}
    site.repair()


def test_a_node_under_another_key(site: Site) -> None:
    """One is missing and one is too much, though all versions are there."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) SET n.league_tag = 'other'")
    assert site.drift() == {"neo4j": {"missing": 1, "orphan": 1}}
    site.repair()


def test_a_orphan_in_the_graph(site: Site) -> None:
    """A node that was not seeded goes, at any version; a node without a version stays."""
    site.graph.ask(
        "CREATE (:League {league_tag: 'orphan', sync_version: $v, content_hash: 'x'}), "
        "(:League {league_tag: 'stub'}), (:Mine {league_tag: 'other', sync_version: 1})",
        v=site.beyond(),
    )
    assert site.drift() == {"neo4j": {"orphan": 1}}
    report = site.repair()
    assert sum(tally.removed for tally in report.tallies) == 1
    assert site.graph.count("Mine") == 1
    assert site.graph.count("League") == LEAGUES + 1
    # The tombstone is no trap for an entity that comes by that name later.
    site.pg.save(league("orphan"))
    site.deliver()
    assert site.drift(deep=True) == {}


def test_relationships_removed_added_and_rescored(site: Site) -> None:
    """Each counts as stale of its source, even where a league never had any."""
    site.relate(("l000", "l001", 0.5), ("l002", "l003", 0.25))
    site.deliver()
    assert site.drift() == {}
    site.graph.ask("MATCH (:League {league_tag: 'l000'})-[r:COMPETES_WITH]->() DELETE r")
    site.graph.ask("MATCH (:League {league_tag: 'l002'})-[r:COMPETES_WITH]->() SET r.score = 0.9")
    site.graph.ask(
        "MATCH (a:League {league_tag: 'l007'}), (b:League {league_tag: 'l008'}) "
        "CREATE (a)-[:SIMILAR_TO {score: 0.9}]->(b), (a)-[:MINE]->(b)"
    )
    report = site.verify()
    (graph,) = (tally for tally in report.tallies if tally.sink == "neo4j")
    assert (graph.kinds[Drift.STALE], graph.edges) == (3, 3)
    assert sorted(graph.samples[Drift.STALE]) == ["l000", "l002", "l007"]
    site.repair()
    found = site.graph.ask("MATCH (:League)-[r]->(:League) RETURN type(r) AS t, r.score AS s")
    kept = {("COMPETES_WITH", 0.5), ("COMPETES_WITH", 0.25), ("MINE", None)}
    assert {(one["t"], one["s"]) for one in found} == kept


def test_relationships_that_swap_their_targets(site: Site) -> None:
    """Seen without a deep look, though counts and scores are the same."""
    site.relate(("l000", "l001", 0.5), ("l002", "l003", 0.5))
    site.deliver()
    site.graph.ask("MATCH (:League)-[r:COMPETES_WITH]->() DELETE r")
    site.graph.ask(
        "UNWIND [['l000', 'l003'], ['l002', 'l001']] AS pair "
        "MATCH (a:League {league_tag: pair[0]}), (b:League {league_tag: pair[1]}) "
        "CREATE (a)-[:COMPETES_WITH {score: 0.5}]->(b)"
    )
    assert site.drift() == {"neo4j": {"stale": 2}}
    site.repair()


def test_relationships_with_what_is_not_there(site: Site) -> None:
    """One to a stub that was not seeded is too much; a deleted node takes those to it along."""
    site.relate(("l000", "l001", 0.5), ("l002", "l001", 0.25))
    site.deliver()
    site.graph.ask("MATCH (n:League {league_tag: 'l001'}) DETACH DELETE n")
    site.graph.ask(
        "MATCH (a:League {league_tag: 'l005'}) "
        "CREATE (a)-[:COMPETES_WITH]->(:League {league_tag: 'stub'})"
    )
    assert site.drift() == {"neo4j": {"missing": 1, "stale": 3}}
    site.repair()
    found = site.graph.ask("MATCH (a:League)-[]->(b:League) RETURN a.league_tag AS t")
    assert sorted(one["t"] for one in found) == ["l000", "l002"]


def test_an_edge_to_another_archetype(site: Site) -> None:
    """The node is stale, by whichever way its parent is wrong."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'})-[r:BELONGS_TO_ARCHETYPE]->() DELETE r")
    site.graph.ask(
        "MATCH (n:FewShotExample {example_id: 'e1'}), (c:ExampleCategory {name: 'naming'}) "
        "CREATE (n)-[:IN_CATEGORY]->(c)"
    )
    assert site.drift() == {"neo4j": {"stale": 2}}
    site.repair()


def test_doubled_relationships_and_parents(site: Site) -> None:
    """Whatever is there twice is stale, and one run leaves one of each."""
    site.relate(("l000", "l001", 0.5), ("l002", "l003", 0.25))
    site.deliver()
    site.graph.ask(
        "MATCH (a:League {league_tag: 'l000'})-[:COMPETES_WITH]->(b) "
        "CREATE (a)-[:COMPETES_WITH {score: 0.5}]->(b), (a)-[:COMPETES_WITH {score: 0.1}]->(b)"
    )
    site.graph.ask(
        "MATCH (a:League {league_tag: 'l007'})-[:BELONGS_TO_ARCHETYPE]->(p) "
        "CREATE (a)-[:BELONGS_TO_ARCHETYPE]->(p)"
    )
    site.graph.ask(
        "MATCH (a:FewShotExample {example_id: 'e1'})-[:IN_CATEGORY]->(p) "
        "CREATE (a)-[:IN_CATEGORY]->(p), (a)-[:IN_CATEGORY]->(p)"
    )
    assert site.drift() == {"neo4j": {"stale": 3}}
    site.repair()
    found = site.graph.ask("MATCH ()-[r]->() RETURN type(r) AS t, count(r) AS n")
    assert {one["t"]: one["n"] for one in found} == {
        "COMPETES_WITH": 2,
        "BELONGS_TO_ARCHETYPE": LEAGUES,
        "IN_CATEGORY": 6,
    }


def test_versions_that_are_no_numbers(site: Site) -> None:
    """Written by hand: stale where the key is a league's, an orphan otherwise."""
    for key, version in (("l003", "x"), ("l004", 1.5), ("l005", True), ("l006", [1]), ("l007", -5)):
        site.graph.ask(
            "MATCH (n:League {league_tag: $key}) SET n.sync_version = $version",
            key=key,
            version=version,
        )
    site.graph.ask("CREATE (:League {league_tag: 'orphan', sync_version: 'x'})")
    assert site.drift() == {"neo4j": {"stale": 5, "orphan": 1}}
    site.repair()
    assert site.graph.count("League") == LEAGUES


def test_nodes_whose_key_is_no_text(site: Site) -> None:
    """They are orphans, told by the graph's own ids; what was renamed so is missing."""
    site.graph.ask("CREATE (:League {sync_version: 7})")
    site.graph.ask("MATCH (n:FewShotExample {example_id: 'e1'}) SET n.example_id = 5")
    report = site.verify()
    assert found(report) == {"neo4j": {"missing": 1, "orphan": 2}}
    (graph,) = (tally for tally in report.tallies if tally.sink == "neo4j")
    assert [text.split()[::3] for text in graph.samples[Drift.ORPHAN]] == [
        ["League", "league_tag"],
        ["FewShotExample", "example_id"],
    ]
    site.repair(max_delete=0.1)
    assert (site.graph.count("League"), site.graph.count("FewShotExample")) == (LEAGUES, 6)


def test_other_values_that_altsync_does_not_write(site: Site) -> None:
    """Scores, hashes, and relationships with nodes of no name: found, and repaired."""
    site.relate(("l000", "l001", 0.5), ("l002", "l003", 0.25))
    site.deliver()
    site.graph.ask("MATCH (:League {league_tag: 'l000'})-[r:COMPETES_WITH]->() SET r.score = 'x'")
    site.graph.ask("MATCH (n:League {league_tag: 'l004'}) SET n.content_hash = ['x']")
    site.graph.ask("MATCH (n:League {league_tag: 'l005'}) CREATE (n)-[:SIMILAR_TO]->(:League)")
    site.graph.ask(
        "MATCH (n:League {league_tag: 'l006'}) "
        "CREATE (n)-[:BELONGS_TO_ARCHETYPE]->(:SportArchetype)"
    )
    assert site.drift(deep=True) == {"neo4j": {"stale": 4}}
    site.repair(deep=True)


def test_a_graph_ahead_of_the_database(site: Site) -> None:
    """After a restore: versions go above the sink's, so that its guard lets them pass."""
    site.graph.ask(
        "MATCH (n:League) WHERE n.league_tag IN ['l003', 'l004'] SET n.sync_version = $v",
        v=(beyond := site.beyond()),
    )
    assert site.drift() == {"neo4j": {"ahead": 2}}
    site.repair(max_delete=0.1)
    assert site.key_version("l003") > beyond


def test_a_deletion_that_the_database_has_forgotten(site: Site) -> None:
    """After a restore: the tombstone is ahead, and would refuse the league at its version."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) DETACH DELETE n")
    site.graph.ask(
        "CREATE (:AltsyncTombstone {key: 'League:l003', version: $v, at: timestamp()})",
        v=(beyond := site.beyond()),
    )
    assert site.drift() == {"neo4j": {"ahead": 1}}
    site.repair()
    assert site.key_version("l003") > beyond


# --- the index ----------------------------------------------------------------------------------


def test_a_vector_that_was_deleted(site: Site) -> None:
    """It is missing, and comes back without being paid again."""
    site.drop_vector("l003")
    paid = site.embedder.paid.total()
    assert site.drift() == {"pinecone": {"missing": 1}}
    site.repair()
    assert site.embedder.paid.total() == paid


def test_a_vector_of_an_older_version(site: Site) -> None:
    """A late write went over a newer one."""
    site.put_vector("l003", version=5, league_name="its former name")
    assert site.drift() == {"pinecone": {"stale": 1}}
    site.repair()


@pytest.mark.parametrize("deep", [False, True])
def test_a_vector_that_a_change_of_other_fields_has_left_as_it_is(site: Site, deep: bool) -> None:
    """It has an older version, and agrees while vector and metadata are equal."""
    site.pg.save(archetype("team_sport", characteristics={"players": 11}))
    site.pg.note_lines()
    site.deliver()
    before = site.pg.version(archetype("team_sport"))
    site.pg.save(archetype("team_sport", characteristics={"players": 12}))
    assert [op.sink for op in site.pg.ops(key="team_sport") if op.live] == ["neo4j"]
    site.deliver()
    assert site.pg.version(archetype("team_sport")) > before
    assert site.drift(deep=deep) == {}
    site.put_vector("team_sport", sports.SPORT_ARCHETYPE, "", display_name="late")
    assert site.drift(deep=deep) == {"pinecone": {"stale": 1}}
    site.repair(deep=deep)


def test_a_orphan_vector(site: Site) -> None:
    """It goes by its id and namespace."""
    site.put_vector("orphan", version=5, model="test-model", content_hash="x")
    assert site.drift() == {"pinecone": {"orphan": 1}}
    report = site.repair()
    assert sum(tally.removed for tally in report.tallies) == 1


def test_a_vector_of_another_model(site: Site) -> None:
    """Vectors of two models cannot be compared with each other."""
    site.put_vector("l003", model="another")
    assert site.drift() == {"pinecone": {"wrong_model": 1}}
    site.repair()


def test_a_vector_in_a_second_namespace_and_one_in_the_wrong_one(site: Site) -> None:
    """An example belongs to its category's namespace alone."""
    kind = sports.FEW_SHOT_EXAMPLE
    version = site.pg.scalar("SELECT version FROM few_shot_example WHERE example_id = 'e1'")
    site.put_vector("e1", kind, "naming", version=version)
    site.put_vector("e2", kind, "triage", version=version)
    index = site.index.index(kind.index_name)
    index.delete(ids=["e2"], namespace="naming")
    assert site.drift() == {"pinecone": {"missing": 1, "wrong_namespace": 2}}
    site.repair(max_delete=0.1)
    places = sorted((space, key) for space, key in site.index.records(kind) if key in ("e1", "e2"))
    assert places == [("naming", "e2"), ("triage", "e1")]


def test_vectors_ahead_of_the_database(site: Site) -> None:
    """A new version goes over them in every store."""
    beyond = site.beyond()
    site.put_vector("l003", version=beyond)
    assert site.drift() == {"pinecone": {"ahead": 1}}
    site.repair()
    assert site.key_version("l003") > beyond


def test_numbers_and_metadata_of_a_vector(site: Site) -> None:
    """Only a deep look sees them."""
    site.put_vector("l003", values=[9.0, 0.0, 0.0, 1.0])
    site.put_vector("l004", league_name="Mine")
    assert site.drift() == {}
    assert site.drift(deep=True) == {"pinecone": {"stale": 2}}
    site.repair(deep=True)


@pytest.mark.parametrize(
    "fault",
    [
        FaultRule("pinecone.fetch", "status", status=429, retry_after=3, count=1),
        FaultRule("pinecone.fetch", "cut", count=2),
        FaultRule("pinecone.list", "status", status=503, count=1),
        FaultRule("pinecone.stats", "status", status=503, count=1),
    ],
    ids=lambda fault: f"{fault.scope}-{fault.status or fault.kind}",
)
def test_a_read_that_fails_once_is_asked_for_again(site: Site, fault: FaultRule) -> None:
    """One lost answer voids nothing; what it cost is counted."""
    clean = site.json("--sink", "pinecone")["sinks"]["pinecone"]["requests"]
    waits: list[float] = []
    site.index.server.admin.set_faults([fault])
    report = site.app.verify(Options(grace=0.0), ["pinecone"], wait=waits.append)
    (tally,) = report.tallies
    assert (report.consistent, report.problems) == (True, {})
    assert len(waits) == fault.count
    assert tally.requests == clean + len(waits)
    if fault.retry_after is not None:
        assert waits == [fault.retry_after]


def test_an_index_that_is_away_is_given_up(site: Site) -> None:
    """After a few tries of one read, or at once when the run is to end."""
    for stopped, tries in ((False, 4), (True, 1)):
        waits: list[float] = []

        def wait(seconds: float, stopped: bool = stopped, waits: list[float] = waits) -> bool:
            waits.append(seconds)
            return stopped

        site.index.server.admin.set_faults([FaultRule("pinecone.*", "status", status=503)])
        site.index.server.admin.reset_stats()
        report = site.app.verify(Options(), ["pinecone"], wait=wait)
        assert set(report.problems) == {"pinecone"}
        assert len(waits) == max(1, tries - 1)
        assert site.index.server.admin.stats().requests["pinecone.stats"] == tries


def test_an_index_that_is_gone(site: Site) -> None:
    """Everything of it is missing, and one run brings it back."""
    site.index.client.indexes.delete(sports.LEAGUE.index_name)
    assert site.drift() == {"pinecone": {"missing": LEAGUES}}
    site.repair()


# --- inside PostgreSQL --------------------------------------------------------------------------


def test_an_embedding_that_was_forgotten(site: Site) -> None:
    """A vector that is kept by its text comes back at no cost."""
    site.pg.conn.execute("UPDATE league SET embedding_text_hash = NULL WHERE league_tag = 'l003'")
    site.pg.conn.execute(
        """
        WITH old AS (
          UPDATE league SET embedding_model = 'old' WHERE league_tag = 'l004' RETURNING text_hash)
        INSERT INTO embedding (model, dimensions, text_hash, vector)
        SELECT 'old', e.dimensions, e.text_hash, e.vector
        FROM old JOIN embedding e USING (text_hash)
        """
    )
    paid = site.embedder.paid.total()
    found = site.drift()
    assert found["embedding"] == {"missing": 1, "stale": 1}
    site.repair()
    assert site.embedder.paid.total() == paid


def test_a_kept_vector_that_was_deleted(site: Site) -> None:
    """There is no second copy: its text is embedded again, and nothing else is."""
    site.pg.conn.execute(
        """
        DELETE FROM embedding
        WHERE text_hash = (SELECT text_hash FROM league WHERE league_tag = 'l005')
        """
    )
    paid = site.embedder.paid.total()
    assert site.drift() == {"embedding": {"missing": 1}}
    site.repair()
    assert site.embedder.paid.total() == paid + 1


# --- what is no drift ---------------------------------------------------------------------------


def test_what_is_under_way_is_no_drift(site: Site) -> None:
    """Changes, new ones and deletions that wait are counted as pending."""
    site.pg.save(league("l000", tier="TIER2"), league("new"))
    site.pg.delete(league("l001"))
    report = site.verify()
    assert report.consistent
    pending = {tally.sink: tally.pending for tally in report.tallies}
    assert pending == {"embedding": 1, "neo4j": 3, "pinecone": 3}


def test_a_dead_operation_is_drift(site: Site) -> None:
    """No operation will deliver it, so it is missing."""
    site.pg.save(league("new"))
    site.pg.conn.execute(
        "UPDATE sync_operation SET status = 'dead', finished_at = now(), last_error = 'x', "
        "error_kind = 'item' WHERE finished_at IS NULL AND sink = 'neo4j'"
    )
    assert site.drift("neo4j") == {"neo4j": {"missing": 1}}
    site.repair()


def test_a_recent_write_of_the_graph_is_looked_at_again_after_the_grace(site: Site) -> None:
    """A follower of a cluster may lack what the leader has just confirmed."""
    site.pg.conn.execute("UPDATE league SET neo4j_synced_at = clock_timestamp()")
    statement = "MATCH (n:League {league_tag: 'l001'}) SET n.content_hash = $hash"
    site.graph.ask(statement, hash="before")
    waits: list[float] = []

    def arrives(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            hashed = site.pg.scalar("SELECT content_hash FROM league WHERE league_tag = 'l001'")
            site.graph.ask(
                "MATCH (n:League {league_tag: 'l001'}) SET n.content_hash = $h", h=hashed
            )

    report = site.app.verify(Options(grace=600.0, deep=True), ["neo4j"], wait=arrives)
    assert found(report) == {}
    assert len(waits) == 1
    assert 0 < waits[0] <= 600.0


def test_a_recent_write_is_looked_at_again_after_the_grace(site: Site) -> None:
    """An index may show a write late: only what was just written is waited for."""
    waits: list[float] = []
    name = site.pg.scalar("SELECT league_name FROM league WHERE league_tag = 'l003'")

    def wait(seconds: float) -> None:
        waits.append(seconds)
        site.put_vector("l003", version=site.key_version("l003"), league_name=name)
        site.pg.conn.execute(
            "UPDATE league SET pinecone_synced_at = now() - interval '1 hour' "
            "WHERE league_tag = 'l003'"
        )

    site.put_vector("l003", version=5, league_name="its former name")
    report = site.app.verify(Options(grace=600.0), wait=wait)
    assert report.consistent
    assert len(waits) == 1
    assert 0 < waits[0] <= 600
    # Long ago, it is waited for no more.
    site.put_vector("l003", version=5, league_name="its former name")
    report = site.app.verify(Options(grace=600.0), wait=waits.append)
    assert (report.drifted, len(waits)) == (True, 1)


# --- orphans and safety --------------------------------------------------------------------------


def test_too_many_orphans_stay(site: Site) -> None:
    """A database that is not the right one must not empty the stores."""
    for number in range(10):
        site.graph.ask(
            "CREATE (:League {league_tag: $key, sync_version: 7})", key=f"orphan{number}"
        )
        site.put_vector(f"orphan{number}", version=7)
    body = site.json("--repair", "--grace", "0", code=1)
    assert "more than the 5.0% that may be removed" in body["refused"]["neo4j"]
    assert "more than the 5.0% that may be removed" in body["refused"]["pinecone"]
    assert site.graph.count("League") == LEAGUES + 10
    text = site.run("--repair", "--grace", "0", code=1).output
    assert "raise --max-delete" in " ".join(text.split())
    site.repair(max_delete=0.5)


def test_a_orphan_that_comes_to_life_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the comparison and the removal, it is seeded."""
    site.put_vector("phoenix", version=7)
    site.graph.ask("CREATE (:League {league_tag: 'phoenix', sync_version: 7})")
    lock_out_writers = verify_sql.lock_out_writers
    seeded: list[str] = []

    def seed_first(conn: object, entity_type: EntityType) -> None:
        if not seeded:
            seeded.append("phoenix")
            site.pg.save(league("phoenix"))
        lock_out_writers(conn, entity_type)  # type: ignore[arg-type]

    monkeypatch.setattr("altsync.verify.orphans.lock_out_writers", seed_first)
    report = site.verify(repair=True)
    assert sum(tally.removed for tally in report.tallies) == 0
    site.deliver()
    assert site.drift(deep=True) == {}


def test_a_dry_run_changes_nothing(site: Site) -> None:
    """It says what a repair would do."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) DETACH DELETE n")
    site.put_vector("orphan", version=7)
    text = " ".join(site.run("--repair", "--dry-run", "--grace", "0", code=1).output.split())
    assert "To be enqueued: 1; to be removed: 1. Nothing was changed." in text
    assert site.live() == 0
    assert site.drift() == {"neo4j": {"missing": 1}, "pinecone": {"orphan": 1}}


# --- the command --------------------------------------------------------------------------------


def test_people_see_what_differs_and_what_to_do(site: Site) -> None:
    """A table with samples, and a last line."""
    assert "Every store agrees (38 entities)." in site.run().output
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) DETACH DELETE n")
    text = " ".join(site.run(code=1).output.split())
    assert "missing │ 1 │ l003" in text
    assert "Not every store agrees: neo4j (1). altsync verify --repair repairs it." in text


def test_a_sink_that_is_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2, and the reason; what differs elsewhere is still said."""
    monkeypatch.setenv("NEO4J_URI", f"bolt://127.0.0.1:{closed_port()}")
    body = site.json(code=2)
    assert body["consistent"] is False
    assert set(body["problems"]) == {"neo4j"}
    assert body["sinks"]["pinecone"]["missing"] == 0
    site.drop_vector("l003")
    assert site.json("--grace", "0", code=1)["sinks"]["pinecone"]["missing"] == 1


def test_a_database_that_is_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be told."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://127.0.0.1:{closed_port()}/none")
    site.run(code=2)


def test_questions_that_make_no_sense(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown sink, one that is switched off, a dry run of nothing."""
    assert "no sink 'nosuch'" in site.run("--sink", "nosuch", code=2).output
    assert "--dry-run goes with --repair" in site.run("--dry-run", code=2).output
    monkeypatch.delenv("NEO4J_URI")
    assert "NEO4J_URI is not set" in site.run("--sink", "neo4j", code=2).output
    assert site.json()["skipped"] == {"neo4j": "NEO4J_URI is not set"}


def test_a_sink_without_a_comparison_of_its_own_is_compared_by_its_list(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of ``versions`` shows missing, stale and orphaned records; a repair delivers."""
    monkeypatch.setitem(SINKS, "memory", memory.SINK)
    monkeypatch.setenv("ALTSYNC_SINKS", "memory")
    app = Application()
    with site.database.transaction() as conn:
        app.register_sinks(conn)
    try:
        other = replace(site, app=app)
        assert other.drift() == {"memory": {"missing": len(CONTENTS)}}
        other.verify(repair=True)
        other.deliver()
        assert other.drift() == {}
        held = cast(memory.Sink, app.sink("memory")).held
        del held[sports.LEAGUE, "l003"]
        held[sports.LEAGUE, "l004"] = replace(held[sports.LEAGUE, "l004"], version=1)
        held[sports.LEAGUE, "l005"] = replace(held[sports.LEAGUE, "l005"], content_hash="x")
        held[sports.LEAGUE, "orphan"] = held[sports.LEAGUE, "l006"]
        assert other.drift() == {"memory": {"missing": 1, "stale": 2, "orphan": 1}}
        assert other.drift(sample=10_000) == {"memory": {"missing": 1, "stale": 2}}
        other.verify(repair=True)
        other.deliver()
        assert other.drift() == {"memory": {"orphan": 1}}
    finally:
        app.close()


def test_a_sample_looks_at_so_many(site: Site) -> None:
    """Orphans cannot be found so, missing ones can."""
    site.put_vector("orphan", version=7)
    assert site.json("--sample", "1000")["consistent"] is True
    site.graph.ask("MATCH (n) DETACH DELETE n")
    body = site.json("--sample", "5", "--grace", "0", code=1)
    assert body["sinks"]["neo4j"]["missing"] == 5
    assert body["sinks"]["pinecone"]["read_units"] <= 5


def test_the_last_result_is_kept(site: Site) -> None:
    """For status and the dashboard; a look at one sink or a sample is not the whole."""
    with site.database.autocommit() as conn:
        assert last_verification(conn) is None
    site.json("--sink", "neo4j")
    site.json("--sample", "3")
    with site.database.autocommit() as conn:
        assert last_verification(conn) is None
    site.json()
    with site.database.autocommit() as conn:
        last = last_verification(conn)
    assert last is not None
    assert (last.consistent, last.result["entities"]) == (True, len(CONTENTS))


# --- cost ---------------------------------------------------------------------------------------


def test_agreement_costs_few_statements(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph is asked for digests alone; the index for one list and fetch per page."""
    graph = site.app.sink("neo4j")
    asked: list[str] = []
    monkeypatch.setattr("altsync.sinks.neo4j.client.query", _noting(asked))
    assert graph is not None
    report = site.verify()
    assert report.consistent
    # The owner; nodes of three types, parents of two, relationships of one.
    assert len(asked) == 7
    (index,) = (tally for tally in report.tallies if tally.sink == "pinecone")
    # Three counts, three namespaces listings by type, and for each of the four namespaces a
    # list and a fetch.
    assert index.requests == 3 + 3 + 4 * 2
    # A list is 1 unit, a fetch 1 for every 10: 30, 2, 3 and 3 vectors.
    assert index.read_units == 4 + 3 + 1 + 1 + 1


def _noting(asked: list[str]) -> object:
    query = client.query

    def note(tx: object, statement: str, **parameters: object) -> object:
        asked.append(statement)
        return query(tx, statement, **parameters)  # type: ignore[arg-type]

    return note


def test_pages_are_small(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever there is, no step holds more than a page of it."""
    monkeypatch.setattr("altsync.verify.comparison.PAGE", 7)
    monkeypatch.setattr("altsync.verify.orphans.PAGE", 7)
    monkeypatch.setattr("altsync.verify.derived.PAGE", 7)
    monkeypatch.setattr("altsync.sinks.neo4j.read.LIST_PAGE", 7)
    monkeypatch.setattr("altsync.sinks.pinecone.read.FETCH_IDS", 7)
    sizes: list[int] = []
    read_rows = store_rows.read_rows

    def note(conn: object, kind: EntityType, ids: list[object], **more: object) -> object:
        sizes.append(len(ids))
        return read_rows(conn, kind, ids, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("altsync.verify.sql.read_rows", note)
    monkeypatch.setattr("altsync.verify.gaps.read_rows", note)
    site.graph.ask("MATCH (n) DETACH DELETE n")
    site.put_vector("orphan", version=7)
    found = site.drift(deep=True)
    assert found == {"neo4j": {"missing": len(CONTENTS)}, "pinecone": {"orphan": 1}}
    assert max(sizes) <= 7
    site.repair()


def test_a_schedule_compares_when_it_is_time(site: Site) -> None:
    """Once per period over all processes, and a database that is away is no end."""
    schedule = Schedule(
        site.database,
        site.app.connect,
        3600.0,
        lambda wait: site.app.verify(Options(), wait=wait),
    )
    assert schedule.step() == 3600.0
    assert 0 < schedule.step() < 3600.0
    assert site.pg.scalar("SELECT count(*) FROM verify_run") == 1
    site.pg.conn.execute("UPDATE verify_run SET finished_at = now() - interval '2 hours'")
    assert schedule.step() == 3600.0
    assert site.pg.scalar("SELECT count(*) FROM verify_run") == 2


def test_the_relay_compares_when_asked(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only with the setting."""
    with site.app.verifying():
        pass
    assert site.pg.scalar("SELECT count(*) FROM verify_run") == 0
    monkeypatch.setenv("ALTSYNC_VERIFY_EVERY", "3600")
    app = Application(read_settings())
    with app.verifying():
        eventually(lambda: bool(site.pg.scalar("SELECT count(*) FROM verify_run")))
    app.close()


def test_neighbours_that_were_never_asked_for(
    pg: DatabaseFixture,
    database: Database,
    graph_server: Graph,
    vectors_server: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A league whose neighbours are another vector's is asked for again."""
    with site_of(pg, database, graph_server, vectors_server, monkeypatch, similarity=True) as site:
        assert site.drift(deep=True) == {}
        pg.conn.execute("UPDATE league SET neighbours_input_hash = NULL WHERE league_tag = 'l003'")
        assert site.drift() == {"similarity": {"missing": 1}}
        site.repair()


def test_namespaces_are_the_same_in_sql(site: Site) -> None:
    """The comparison and the projection have the same namespace of an entity."""
    for kind in sports.TYPES:
        ids = [row[0] for row in site.pg.conn.execute(f"SELECT id FROM {kind}")]
        rows = store_rows.read_rows(site.pg.conn, kind, ids)
        keys = [row.key for row in rows]
        found = entity_snapshots(site.pg.conn, kind, keys, "pinecone", ["pinecone"])
        assert {key: one.namespace for key, one in found.items()} == {
            row.key: namespace(row) for row in rows
        }


def test_versions_above_what_a_sink_holds(site: Site) -> None:
    """The sequence moves only when it must."""
    with site.database.transaction() as conn:
        low = version_above(conn, 5)
        high = version_above(conn, low + 10)
    assert high > low + 10
    with site.database.transaction() as conn:
        assert version_above(conn, low) == high + 1
