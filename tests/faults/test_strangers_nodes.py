"""Nodes of another application under altsync's labels stay."""

from __future__ import annotations

import json

import pytest
import structlog
from structlog.testing import capture_logs
from typer.testing import CliRunner

from altsync.cli import app as cli
from altsync.entities import Content
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.retry import dead_ids, retry_dead
from tests import sports
from tests.integration.database_fixture import archetype, example, league
from tests.integration.verifying import Site

STRANGERS = (
    "(:SportArchetype {name: 'theirs', owner: 'crm'})",
    "(:SportArchetype {name: 'bare'})",
    "(:League {league_tag: 'their_league', owner: 'crm'})",
    "(:ExampleCategory {name: 'their_category'})",
    "(:FewShotExample {example_id: 'theirs'})",
    "(:AltsyncTombstoneOfTheirs {key: 'x'})",
)


@pytest.fixture
def strangers(site: Site) -> int:
    """Nodes without a version, of every label."""
    site.graph.ask("CREATE " + ", ".join(STRANGERS))
    return len(STRANGERS)


def nodes(site: Site) -> set[str]:
    """Names of the nodes without a version that are archetypes, categories or leagues."""
    found = site.graph.ask(
        "MATCH (n) WHERE n.sync_version IS NULL AND (n:SportArchetype OR n:ExampleCategory "
        "OR n:League OR n:FewShotExample) "
        "RETURN coalesce(n.name, n.league_tag, n.example_id) AS name"
    )
    return {one["name"] for one in found}


def test_housekeeping_removes_only_marked_stubs(site: Site, strangers: int) -> None:
    """A category and an archetype that were left go, with their number; strangers' nodes stay."""
    theirs = {"theirs", "bare", "their_league", "their_category"}
    site.pg.save(league("moved", sport_archetype="precision"), example("moved", "left"))
    site.deliver()
    assert nodes(site) >= theirs | {"precision", "left"}
    site.pg.save(league("moved", sport_archetype="racing"), example("moved", "naming"))
    site.deliver()
    sink = site.app.sink("neo4j")
    structlog.configure(cache_logger_on_first_use=False)
    with capture_logs() as logs:
        sink.forget_tombstones()  # type: ignore[union-attr]
    left = nodes(site)
    assert left >= theirs
    assert not {"precision", "left"} & left
    said = {one["label"]: one["count"] for one in logs if one["event"] == "stubs.removed"}
    assert said == {"SportArchetype": 1, "ExampleCategory": 1}


def test_verify_leaves_what_altsync_never_wrote(site: Site, strangers: int) -> None:
    """Neither drift, nor removed by a repair."""
    before = site.graph.count("SportArchetype"), site.graph.count("League")
    assert site.drift(deep=True) == {}
    site.verify(repair=True, max_delete=1.0, deep=True)
    assert (site.graph.count("SportArchetype"), site.graph.count("League")) == before


def held_by_strangers(site: Site) -> dict[tuple[str, str], str]:
    """Owners by label and key."""
    found = site.graph.ask(
        "MATCH (n) WHERE n.owner IS NOT NULL RETURN labels(n)[0] AS label, "
        "coalesce(n.league_tag, n.name, n.example_id, '') AS key, n.owner AS owner"
    )
    return {(one["label"], one["key"]): one["owner"] for one in found}


@pytest.mark.parametrize(
    ("content", "node"),
    [
        (league("theirs"), "League {league_tag: 'theirs'"),
        (archetype("theirs"), "SportArchetype {name: 'theirs'"),
        (example("theirs"), "FewShotExample {example_id: 'theirs'"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_strangers_node_of_the_same_key_is_not_taken_over(
    site: Site, content: Content, node: str
) -> None:
    """Only its record ends, with what to do; a command hands the node over."""
    label = node.split(maxsplit=1)[0]
    site.graph.ask(f"CREATE (:{node}, owner: 'crm'}})")
    site.pg.save(content, league("beside"))
    site.deliver()
    assert held_by_strangers(site) == {(label, "theirs"): "crm"}
    dead = site.pg.last("neo4j", "theirs")
    assert (dead.status, dead.attempts, dead.error_kind) == ("dead", 1, "item")
    assert f"the graph has a {label} node with " in str(dead.last_error)
    assert "'theirs' that altsync did not write" in str(dead.last_error)
    assert site.pg.last("neo4j", "beside").status == "synced"
    report = site.verify("neo4j", repair=True, deep=True)
    assert [(tally.given_up, tally.enqueued) for tally in report.tallies] == [(1, 0)]
    assert "altsync adopt --nodes" in str(dead.last_error)
    assert adopted(site) == {label: 1}
    assert adopted(site) == {}
    site.app.sink("neo4j").forget_tombstones()  # type: ignore[union-attr]
    retry_all(site)
    site.deliver()
    assert held_by_strangers(site) == {(label, "theirs"): "crm"}
    assert site.drift("neo4j", deep=True) == {}


def test_a_dry_run_counts_the_nodes_that_would_be_taken_over_and_changes_none(
    site: Site, strangers: int
) -> None:
    """Nodes with the key of an entity, over pages; other nodes are neither counted nor touched."""
    site.graph.ask("UNWIND range(0, 1204) AS n CREATE (:League {league_tag: 'x' + n, owner: 'y'})")
    site.pg.save(league("x3"), league("x999"), archetype("theirs"), example("theirs"))
    site.deliver()
    expected = {"League": 2, "SportArchetype": 1, "FewShotExample": 1}
    before = held_by_strangers(site)
    assert adopted(site, "--dry-run") == expected
    assert adopted(site, "--dry-run") == expected
    unowned = "MATCH (n:League) WHERE n.sync_version IS NULL RETURN count(n) AS count"
    assert site.graph.ask(unowned) == [{"count": 1206}]
    assert adopted(site) == expected
    assert site.graph.ask(unowned) == [{"count": 1204}]
    retry_all(site)
    site.deliver()
    assert site.drift("neo4j", deep=True) == {}
    assert held_by_strangers(site) == before


def test_nodes_are_adopted_for_the_graph_alone(site: Site) -> None:
    """Wrong combinations of options are refused by name."""
    for wrong in (["--nodes", "--all"], ["--nodes", "--sink", "pinecone"], ["--dry-run"]):
        result = CliRunner().invoke(cli, ["adopt", *wrong])
        assert result.exit_code == 2, result.output


def adopted(site: Site, *options: str) -> dict[str, int]:
    """Run ``altsync adopt --nodes``; return its counts above zero, by label."""
    result = CliRunner().invoke(cli, ["adopt", "--nodes", "--json", *options])
    assert result.exit_code == 0, result.output
    (counts,) = json.loads(result.stdout).values()
    return {label: count for label, count in counts.items() if count}


def retry_all(site: Site) -> None:
    """Let every dead operation be due again."""
    with site.pg.conn.transaction():
        retry_dead(site.pg.conn, dead_ids(site.pg.conn), site.app.topology)


def test_a_node_of_altsync_without_its_version_is_written_again(site: Site) -> None:
    """Its other properties still are altsync's."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) REMOVE n.sync_version")
    assert site.drift("neo4j") == {"neo4j": {"missing": 1}}
    site.repair()


def test_a_repair_leaves_nodes_and_vectors_that_altsync_never_wrote(site: Site) -> None:
    """Without a key as well, and in a namespace that is none of altsync's."""
    site.graph.ask(
        "CREATE (:League {owner: 'crm'}), (:SportArchetype {owner: 'crm'}), "
        "(:FewShotExample {example_id: 5, owner: 'crm'}), (:League {league_tag: 7, owner: 'crm'})"
    )
    nodes_before = site.graph.count("League"), site.graph.count("SportArchetype")
    site.put_vector("theirs", owner="crm")
    site.put_vector("l003", space="theirs", owner="crm")
    site.put_vector("theirs", sports.FEW_SHOT_EXAMPLE, "theirs", owner="crm")
    before = {kind: set(site.index.records(kind)) for kind in sports.TYPES}
    assert site.drift(deep=True) == {}
    report = site.verify(repair=True, deep=True, max_delete=1.0)
    assert sum(tally.removed + tally.enqueued for tally in report.tallies) == 0
    assert (site.graph.count("League"), site.graph.count("SportArchetype")) == nodes_before
    assert {kind: set(site.index.records(kind)) for kind in sports.TYPES} == before


@pytest.mark.slow
def test_duplicates_that_forbid_a_constraint_are_named_with_what_to_do(site: Site) -> None:
    """Each label that altsync keeps unique."""
    for label, key in (
        ("League", "league_tag"),
        ("SportArchetype", "name"),
        ("FewShotExample", "example_id"),
        ("ExampleCategory", "name"),
    ):
        site.graph.wipe()
        site.graph.ask(f"CREATE (:{label} {{{key}: 'x'}}), (:{label} {{{key}: 'x', owner: 'crm'}})")
        sink = site.graph.open()
        with pytest.raises(SinkFailure) as refused:
            sink.setup()
        sink.close()
        assert refused.value.kind is ErrorKind.SINK
        assert refused.value.reason.startswith(
            f"the graph has 2 {label} nodes with {key} 'x', and altsync needs that key to be "
            "unique: delete those that are not altsync's"
        )


@pytest.mark.slow
def test_a_strangers_constraint_is_named_with_what_to_do(site: Site) -> None:
    """A record that it refuses ends; the others of its batch are written."""
    site.graph.ask(
        "CREATE CONSTRAINT theirs IF NOT EXISTS FOR (n:League) REQUIRE n.league_name IS UNIQUE"
    )
    site.pg.save(league("namesake", league_name="The l003"), league("beside"))
    try:
        for _ in range(12):
            if not any(op.live for op in site.pg.ops("neo4j")):
                break
            site.delivery("neo4j").drain(60.0)
            site.pg.advance_time(600)
        dead = site.pg.last("neo4j", "namesake")
        assert site.pg.last("neo4j", "beside").status == "synced"
        assert dead.status == "dead"
        reason = str(dead.last_error)
        assert reason.startswith("a constraint of the graph refuses the record: ")
        assert "SHOW CONSTRAINTS" in reason
    finally:
        site.graph.ask("DROP CONSTRAINT theirs IF EXISTS")


def test_a_deletion_leaves_a_strangers_node(site: Site) -> None:
    """A league whose node another application has replaced."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) DETACH DELETE n")
    site.graph.ask("CREATE (:League {league_tag: 'l003', owner: 'crm'})")
    site.pg.delete(league("l003"))
    site.deliver()
    found = site.graph.ask("MATCH (n:League {league_tag: 'l003'}) RETURN n.owner AS owner")
    assert [one["owner"] for one in found] == ["crm"]
