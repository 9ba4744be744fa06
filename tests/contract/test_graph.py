"""Guarantees of the graph sink beyond the contract: edges, stubs, tombstones, ids."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from threading import Barrier
from typing import Any

import pytest
from neo4j.exceptions import ConstraintError

from altsync.contract import AlreadyNewer, Failed, Written
from altsync.entities import Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.sinks.neo4j import client
from altsync.sinks.neo4j.read import Edges, Held
from altsync.sinks.neo4j.write import Sink
from tests import sports
from tests.contract.harness import GraphHarness
from tests.contract.rows import HOSTILE, MODEL, archetype, deleted, example, league

#: Labels that altsync may make, whatever it is given.
LABELS = {"League", "SportArchetype", "FewShotExample", "ExampleCategory", "AltsyncTombstone"}

#: Milliseconds in an hour.
HOUR = 3_600_000


@pytest.fixture
def sink(graph: GraphHarness) -> Sink:
    """The sink of the harness; constraints are there."""
    shared = graph.shared()
    assert isinstance(shared, Sink)
    return shared


def upsert(sink: Sink, *rows: Row) -> list[Any]:
    """Outcomes of one call."""
    return list(sink.upsert(rows, MODEL).outcomes)


# --- nodes ------------------------------------------------------------------------------------


def test_a_leagues_node(graph: GraphHarness, sink: Sink) -> None:
    """Every property, written by hand."""
    one = league()
    upsert(sink, one)
    assert graph.stored(sports.LEAGUE) == {
        "formula_1": {
            "league_tag": "formula_1",
            "league_name": "Formula 1",
            "sport_name": "Motorsport",
            "sport_archetype": "racing",
            "location": "World",
            "tier": "TIER1",
            "status": "active",
            "description": "Grand prix racing.",
            "content_hash": one.content_hash,
            "sync_version": 10,
        }
    }
    assert graph.parents(one) == [("BELONGS_TO_ARCHETYPE", "racing")]


def test_an_archetypes_node(graph: GraphHarness, sink: Sink) -> None:
    """Every property, written by hand."""
    one = archetype()
    upsert(sink, one)
    assert graph.stored(sports.SPORT_ARCHETYPE) == {
        "racing": {
            "name": "racing",
            "display_name": "Racing & Speed",
            "code_pattern": "RaceEvent",
            "description": "Entrants cover a course.",
            "content_hash": one.content_hash,
            "sync_version": 10,
        }
    }
    assert graph.parents(one) == []


def test_an_examples_node(graph: GraphHarness, sink: Sink) -> None:
    """Every property, written by hand; tags are a list."""
    one = example()
    upsert(sink, one)
    assert graph.stored(sports.FEW_SHOT_EXAMPLE) == {
        "triage_001": {
            "example_id": "triage_001",
            "category": "triage",
            "input_text": "Who answers this?",
            "output_text": '{"route":"sales"}',
            "sport_archetype": "racing",
            "tags": ["routing", "contracts"],
            "content_hash": one.content_hash,
            "sync_version": 10,
        }
    }
    assert graph.parents(one) == [("IN_CATEGORY", "triage")]


def test_an_example_without_tags(graph: GraphHarness, sink: Sink) -> None:
    """An empty list may be kept as such or as nothing, but not as the former tags."""
    upsert(sink, example())
    upsert(sink, example(version=11, tags=(), sport_archetype=None))
    stored = graph.stored(sports.FEW_SHOT_EXAMPLE)["triage_001"]
    assert not stored.get("tags")
    assert stored.get("sport_archetype") is None


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_of_parents(graph: GraphHarness, sink: Sink, name: str) -> None:
    """Categories and archetypes become nodes: their names are values there, too."""
    one, other = example(category=name), league(sport_archetype=name)
    upsert(sink, one)
    upsert(sink, other)
    assert graph.parents(one) == [("IN_CATEGORY", name)]
    assert graph.parents(other) == [("BELONGS_TO_ARCHETYPE", name)]
    labels = {
        label for found in graph.ask("MATCH (n) RETURN labels(n) AS l") for label in found["l"]
    }
    assert labels <= LABELS


def test_the_graphs_version_counts(graph: GraphHarness, sink: Sink) -> None:
    """A changed edge raises it alone; the sink says and compares that one."""
    one = replace(league(version=10), graph_version=15)
    (outcome,) = upsert(sink, one)
    assert isinstance(outcome, Written)
    assert outcome.version == 15
    assert [marks.version for marks in sink.versions(sports.LEAGUE)] == [15]
    assert upsert(sink, replace(league(version=12), graph_version=12)) == [AlreadyNewer(one.id, 15)]
    gone = replace(deleted(league(), 16), graph_version=14)
    assert sink.delete([gone]).outcomes == (AlreadyNewer(one.id, 15),)


def test_element_ids_are_those_of_the_graph(graph: GraphHarness, sink: Sink) -> None:
    """The id that is kept in PostgreSQL finds the node, and stays over updates."""
    rows = [league("a"), league("b")]
    outcomes = upsert(sink, *rows)
    found = graph.ask("MATCH (n:League) RETURN n.league_tag AS tag, elementId(n) AS id")
    ids = {one["tag"]: one["id"] for one in found}
    assert {o.id: o.remote_id for o in outcomes} == {one.id: ids[one.key] for one in rows}
    (again,) = upsert(sink, league("a", 11))
    assert again.remote_id == ids["a"]


def test_what_others_wrote_stays(graph: GraphHarness, sink: Sink) -> None:
    """Properties and edges that altsync does not know are not its own to remove."""
    upsert(sink, league("a"), league("b"))
    graph.ask(
        "MATCH (a:League {league_tag: 'a'}), (b:League {league_tag: 'b'}) "
        "SET a.reviewed_by = 'someone' MERGE (a)-[:SIMILAR_TO {score: 0.5}]->(b)"
    )
    upsert(sink, league("a", 11, sport_archetype="combat"))
    assert graph.stored(sports.LEAGUE)["a"]["reviewed_by"] == "someone"
    assert graph.parents(league("a")) == [("BELONGS_TO_ARCHETYPE", "combat"), ("SIMILAR_TO", None)]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE (:League {league_tag: 'taken'})",
        "CREATE (:SportArchetype {name: 'taken'})",
        "CREATE (:FewShotExample {example_id: 'taken'})",
        "CREATE (:ExampleCategory {name: 'taken'})",
        "CREATE (:AltsyncTombstone {key: 'taken'})",
    ],
)
def test_keys_are_unique_in_the_graph(graph: GraphHarness, sink: Sink, statement: str) -> None:
    """The constraints of setting up hold against everybody."""
    graph.ask(statement)
    with pytest.raises(ConstraintError):
        graph.ask(statement)


def test_names_are_not_unique_in_the_graph(graph: GraphHarness, sink: Sink) -> None:
    """Two leagues of one name are two nodes."""
    upsert(sink, league("england", league_name="Premier sports.League"))
    upsert(sink, league("ghana", league_name="Premier sports.League"))
    assert graph.count("League") == 2


# --- edges ------------------------------------------------------------------------------------


def test_a_moved_league_has_one_archetype(graph: GraphHarness, sink: Sink) -> None:
    """The edge moves with the row, there and back, and is never doubled."""
    for version, name in enumerate(["racing", "combat", "combat", "racing"], 10):
        upsert(sink, league(version=version, sport_archetype=name))
        assert graph.parents(league()) == [("BELONGS_TO_ARCHETYPE", name)]
    assert graph.count("SportArchetype") == 2


def test_edges_that_should_not_be_are_removed(graph: GraphHarness, sink: Sink) -> None:
    """Whatever was drawn by hand to other archetypes: one edge is left."""
    upsert(sink, league())
    graph.ask(
        "MATCH (l:League {league_tag: 'formula_1'}) "
        "CREATE (l)-[:BELONGS_TO_ARCHETYPE]->(:SportArchetype {name: 'one'}) "
        "CREATE (l)-[:BELONGS_TO_ARCHETYPE]->(:SportArchetype {name: 'two'})"
    )
    assert len(graph.parents(league())) == 3
    upsert(sink, league(version=11))
    assert graph.parents(league()) == [("BELONGS_TO_ARCHETYPE", "racing")]


@pytest.mark.parametrize("one", [league(), example()], ids=["league", "example"])
def test_a_doubled_parent_is_left_once(
    graph: GraphHarness, sink: Sink, monkeypatch: pytest.MonkeyPatch, one: Row
) -> None:
    """One statement more for the nodes that have it, and none when no node has."""
    asked: list[str] = []
    query = client.query

    def note(tx: Any, statement: str, **parameters: Any) -> Any:
        asked.append(statement)
        return query(tx, statement, **parameters)

    monkeypatch.setattr(client, "query", note)
    upsert(sink, one)
    (parent,) = graph.parents(one)
    graph.ask(f"MATCH (n)-[:{parent[0]}]->(p) CREATE (n)-[:{parent[0]}]->(p), (n)-[:MINE]->(p)")
    for _ in range(2):
        upsert(sink, one)
        assert graph.parents(one) == [parent, ("MINE", parent[1])]
    assert [len(asked), sum("duplicate" in statement for statement in asked)] == [4, 1]


def test_an_older_version_moves_nothing(graph: GraphHarness, sink: Sink) -> None:
    """A refused record leaves edges alone, and makes no stub of its archetype."""
    upsert(sink, league(version=20))
    assert upsert(sink, league(version=10, sport_archetype="combat")) == [
        AlreadyNewer(league().id, 20)
    ]
    assert graph.parents(league()) == [("BELONGS_TO_ARCHETYPE", "racing")]
    assert graph.count("SportArchetype") == 1


def test_a_moved_example_has_one_category(graph: GraphHarness, sink: Sink) -> None:
    """IN_CATEGORY moves with the category."""
    upsert(sink, example())
    upsert(sink, example(version=11, category="other"))
    assert graph.parents(example()) == [("IN_CATEGORY", "other")]


def test_a_league_may_come_before_its_archetype(graph: GraphHarness, sink: Sink) -> None:
    """A stub holds the edges until the archetype's own operation fills it; nothing is dropped."""
    upsert(sink, league("a"), league("b"))
    assert list(sink.versions(sports.SPORT_ARCHETYPE)) == []
    assert graph.count("SportArchetype") == 1

    (outcome,) = upsert(sink, archetype(version=5))
    assert isinstance(outcome, Written)
    assert graph.count("SportArchetype") == 1
    assert graph.stored(sports.SPORT_ARCHETYPE)["racing"]["display_name"] == "Racing & Speed"
    for tag in ("a", "b"):
        assert graph.parents(league(tag)) == [("BELONGS_TO_ARCHETYPE", "racing")]
    found = graph.ask("MATCH (n:SportArchetype {name: 'racing'}) RETURN elementId(n) AS id")
    assert [one["id"] for one in found] == [outcome.remote_id]


def test_an_updated_archetype_keeps_its_leagues(graph: GraphHarness, sink: Sink) -> None:
    """Edges that lead to a node outlive its updates."""
    upsert(sink, archetype())
    upsert(sink, league())
    upsert(sink, archetype(version=11, display_name="Renamed"))
    assert graph.parents(league()) == [("BELONGS_TO_ARCHETYPE", "racing")]


def test_a_deleted_archetype_leaves_its_leagues_a_stub(graph: GraphHarness, sink: Sink) -> None:
    """Whatever their version, they keep their edge to it; nothing is left of its properties."""
    upsert(sink, archetype(version=10))
    upsert(sink, league("a", 9), league("b", 20))
    (outcome,) = sink.delete([deleted(archetype(), 15)]).outcomes
    assert isinstance(outcome, Written)
    assert graph.ask("MATCH (n:SportArchetype) RETURN properties(n) AS p") == [
        {"p": {"name": "racing", "altsync_stub": True}}
    ]
    for tag in ("a", "b"):
        assert graph.parents(league(tag)) == [("BELONGS_TO_ARCHETYPE", "racing")]
    assert upsert(sink, archetype(version=14)) == [AlreadyNewer(archetype().id, 15)]
    upsert(sink, archetype(version=21))
    assert graph.stored(sports.SPORT_ARCHETYPE)["racing"]["display_name"] == "Racing & Speed"
    assert graph.parents(league("a")) == [("BELONGS_TO_ARCHETYPE", "racing")]


def test_a_deleted_archetype_without_leagues_leaves_no_stub(
    graph: GraphHarness, sink: Sink
) -> None:
    """Its leagues have moved or are gone."""
    upsert(sink, archetype())
    upsert(sink, league("a"), league("b"))
    upsert(sink, league("a", 11, sport_archetype="combat"))
    sink.delete([deleted(league("b"), 12)])
    sink.delete([deleted(archetype(), 13)])
    found = graph.ask("MATCH (n:SportArchetype) RETURN n.name AS name")
    assert [one["name"] for one in found] == ["combat"]


def test_a_league_that_comes_while_its_archetype_is_deleted(graph: GraphHarness) -> None:
    """Both at once, many times over: in either order, the league has its edge at the end."""
    one, other = graph.open(), graph.open()
    start = Barrier(2, timeout=30)

    def run(call: Callable[[], object]) -> None:
        start.wait()
        for _ in range(20):
            try:
                call()
            except SinkFailure:
                continue
            return
        raise AssertionError("never done")

    with ThreadPoolExecutor(2) as pool:
        for version in range(10, 20, 2):
            upsert(one, archetype(version=version))
            new = [league(f"l{version}", version)]
            calls = [
                pool.submit(run, partial(one.delete, [deleted(archetype(), version + 1)])),
                pool.submit(run, partial(other.upsert, new, MODEL)),
            ]
            for call in calls:
                call.result()
            assert graph.parents(new[0]) == [("BELONGS_TO_ARCHETYPE", "racing")]
            one.delete([deleted(new[0], version + 1)])
    one.close()
    other.close()


def test_a_deleted_league_leaves_no_edge(graph: GraphHarness, sink: Sink) -> None:
    """The archetype stays, and so do the others on it."""
    upsert(sink, league("a"), league("b"))
    sink.delete([deleted(league("a"), 11)])
    assert graph.ask("MATCH ()-[r]->() RETURN count(r) AS count") == [{"count": 1}]
    assert graph.parents(league("b")) == [("BELONGS_TO_ARCHETYPE", "racing")]


def test_a_strangers_node_of_the_same_key_is_refused_and_the_others_are_written(
    graph: GraphHarness, sink: Sink
) -> None:
    """A stub, a node without a version that altsync wrote, and a new one are no strangers."""
    graph.ask(
        "CREATE (:League {league_tag: 'theirs', owner: 'crm'}), "
        "(:League {league_tag: 'stub', altsync_stub: true}), "
        "(:League {league_tag: 'ours', content_hash: 'x'})"
    )
    rows = [league(tag) for tag in ("theirs", "stub", "ours", "new")]
    refused, *others = upsert(sink, *rows)
    assert isinstance(refused, Failed)
    assert (refused.kind, refused.final) == (ErrorKind.ITEM, True)
    assert refused.reason.startswith(
        "the graph has a League node with league_tag 'theirs' that altsync did not write"
    )
    assert [type(one) for one in others] == [Written] * 3
    assert set(graph.stored(sports.LEAGUE)) == {"stub", "ours", "new"}
    (node,) = graph.ask("MATCH (n:League {league_tag: 'theirs'}) RETURN properties(n) AS held")
    assert node["held"] == {"league_tag": "theirs", "owner": "crm"}
    assert graph.ask("MATCH (n:League) WHERE n.altsync_stub RETURN n.league_tag") == []


def test_a_strangers_node_is_written_once_it_is_adopted(graph: GraphHarness, sink: Sink) -> None:
    """Its own properties and relationships stay; housekeeping leaves it, though no edge does."""
    graph.ask(
        "CREATE (:League {league_tag: 'theirs', owner: 'crm', tier: 'old'}), "
        "(:SportArchetype {name: 'racing', owner: 'crm'}), "
        "(:League {league_tag: 'marked', altsync_stub: true, owner: 'crm'})"
        "-[:KNOWS]->(:Club {name: 'c'})"
    )
    graph.ask("MATCH (n:Club) DETACH DELETE n")
    assert sink.strangers(sports.LEAGUE, "") == ["theirs"]
    assert sink.strangers(sports.LEAGUE, "theirs") == []
    assert sink.strangers(sports.SPORT_ARCHETYPE, "") == ["racing"]
    assert sink.adopt_nodes(sports.LEAGUE, ["theirs", "marked", "never"]) == 1
    assert sink.adopt_nodes(sports.LEAGUE, ["theirs"]) == 0
    sink.forget_tombstones()
    (outcome,) = upsert(sink, league("theirs"))
    assert isinstance(outcome, Written)
    held = graph.ask("MATCH (n:League {league_tag: 'theirs'}) RETURN properties(n) AS p")[0]["p"]
    assert (held["owner"], held["sync_version"]) == ("crm", league("theirs").graph_version)
    assert graph.ask("MATCH (n:League {league_tag: 'marked'}) RETURN n.owner AS o") == [
        {"o": "crm"}
    ]
    assert graph.parents(league("theirs")) == [("BELONGS_TO_ARCHETYPE", "racing")]
    assert sink.adopt_nodes(sports.SPORT_ARCHETYPE, ["racing"]) == 1
    graph.ask("MATCH (n:Club) DETACH DELETE n")


def test_duplicates_that_forbid_a_constraint_are_named(graph: GraphHarness, sink: Sink) -> None:
    graph.wipe()
    graph.ask("UNWIND [1, 2, 3] AS n CREATE (:ExampleCategory {name: 'x', number: n})")
    other = graph.open()
    try:
        with pytest.raises(SinkFailure) as refused:
            other.setup()
        assert refused.value.kind is ErrorKind.SINK
        assert refused.value.reason.startswith(
            "the graph has 3 ExampleCategory nodes with name 'x', and altsync needs that key to "
            "be unique: delete those"
        )
    finally:
        graph.wipe()
        other.setup()
        other.close()


def test_leagues_that_point_to_each_other_are_deleted_in_one_call(
    graph: GraphHarness, sink: Sink
) -> None:
    """Beside one that stays as it is newer, one that was never there, and one in its next life."""
    rows = [league(tag) for tag in ("a", "b", "c")]
    upsert(sink, *rows, league("newer", 30))
    graph.ask(
        "MATCH (a:League), (b:League) WHERE a <> b "
        "CREATE (a)-[:SIMILAR_TO {score: 0.9}]->(b), (a)-[:COMPETES_WITH]->(b)"
    )
    gone = [*rows, league("newer"), league("never")]
    outcomes = sink.delete([deleted(one, 20) for one in gone]).outcomes
    assert {o.id: type(o) for o in outcomes} == {
        **{one.id: Written for one in gone},
        league("newer").id: AlreadyNewer,
    }
    found = graph.ask("MATCH (n:League) RETURN n.league_tag AS tag ORDER BY tag")
    assert "newer" in [one["tag"] for one in found]
    assert [marks.key for marks in sink.versions(sports.LEAGUE)] == ["newer"]
    again = sink.delete([deleted(one, 21) for one in rows]).outcomes
    assert {type(outcome) for outcome in again} == {Written}
    assert [type(o) for o in upsert(sink, *[league(tag, 25) for tag in "abc"])] == [Written] * 3


def test_deleting_everything_in_one_call_each(graph: GraphHarness, sink: Sink) -> None:
    """Examples with their category, leagues, and the archetype that they leave."""
    upsert(sink, example("one"), example("two"))
    upsert(sink, archetype())
    upsert(sink, league("a"), league("b"))
    for rows in ([example("one"), example("two")], [league("a"), league("b")], [archetype()]):
        outcomes = sink.delete([deleted(one, 20) for one in rows]).outcomes
        assert [type(outcome) for outcome in outcomes] == [Written] * len(rows)
    assert graph.count("League") + graph.count("SportArchetype") == 0
    assert graph.count("FewShotExample") == 0


def test_many_leagues_move_in_one_call(graph: GraphHarness, sink: Sink) -> None:
    """Each keeps exactly one edge, whatever the others of the call do."""
    names = ["racing", "combat", "precision"]
    rows = [league(f"l{n}", 10, sport_archetype=names[n % 3]) for n in range(60)]
    upsert(sink, *rows)
    moved = [league(f"l{n}", 11, sport_archetype=names[(n + 1) % 3]) for n in range(60)]
    upsert(sink, *moved)
    found = graph.ask(
        "MATCH (l:League)-[r:BELONGS_TO_ARCHETYPE]->(a) RETURN l.league_tag AS tag, a.name AS name"
    )
    assert sorted((one["tag"], one["name"]) for one in found) == sorted(
        (f"l{n}", names[(n + 1) % 3]) for n in range(60)
    )


def test_writers_that_share_a_parent(graph: GraphHarness) -> None:
    """Different leagues of one new archetype, at once: one stub, and every edge."""
    sinks = [graph.open() for _ in range(4)]
    barrier = Barrier(len(sinks), timeout=30)

    def write(number: int) -> None:
        rows = [league(f"w{number}_{n}", 10, sport_archetype=f"new_{n % 3}") for n in range(10)]
        barrier.wait()
        for _ in range(20):
            try:
                sinks[number].upsert(rows, MODEL)
            except SinkFailure as failure:
                assert failure.kind is ErrorKind.UNKNOWN, failure.reason
            else:
                return
        raise AssertionError("never written")

    with ThreadPoolExecutor(len(sinks)) as pool:
        runs = [pool.submit(write, number) for number in range(len(sinks))]
    assert [run.exception() for run in runs] == [None] * len(sinks)
    assert graph.count("SportArchetype") == 3
    assert graph.ask("MATCH (:League)-[r]->() RETURN count(r) AS count") == [{"count": 40}]
    for one in sinks:
        one.close()


# --- tombstones -------------------------------------------------------------------------------


def tombstones(graph: GraphHarness) -> dict[str, int]:
    """Remembered deletions and their versions."""
    found = graph.ask("MATCH (t:AltsyncTombstone) RETURN t.key AS key, t.version AS version")
    return {one["key"]: one["version"] for one in found}


def test_a_deletion_is_remembered_at_its_highest_version(graph: GraphHarness, sink: Sink) -> None:
    """A later call with an earlier deletion does not lower it."""
    for version in (20, 15, 25):
        sink.delete([deleted(league(), version)])
    sink.delete([deleted(archetype("formula_1"), 7)])
    assert tombstones(graph) == {"League:formula_1": 25, "SportArchetype:formula_1": 7}


def test_a_batch_with_a_remembered_deletion(graph: GraphHarness, sink: Sink) -> None:
    """Only the record that it stands against is refused."""
    sink.delete([deleted(league("b"), 20)])
    outcomes = {o.id: o for o in upsert(sink, league("a"), league("b"), league("c"))}
    assert outcomes[league("b").id] == AlreadyNewer(league("b").id, 20)
    assert [one.key for one in sink.versions(sports.LEAGUE)] == ["a", "c"]


def test_tombstones_are_no_entities(graph: GraphHarness, sink: Sink) -> None:
    """The list has exactly the stored edges."""
    sink.delete([deleted(league("a"), 20)])
    assert list(sink.versions(sports.LEAGUE)) == []


def test_old_tombstones_are_forgotten_and_young_ones_kept(graph: GraphHarness, sink: Sink) -> None:
    """After a day no upsert can be late any more."""
    sink.delete([deleted(league(tag), 20) for tag in ("old", "young")])
    graph.ask(
        "MATCH (t:AltsyncTombstone {key: 'League:old'}) SET t.at = timestamp() - $age",
        age=25 * HOUR,
    )
    graph.ask(
        "MATCH (t:AltsyncTombstone {key: 'League:young'}) SET t.at = timestamp() - $age",
        age=23 * HOUR,
    )
    sink.forget_tombstones()
    assert tombstones(graph) == {"League:young": 20}


def test_stubs_of_archetypes_that_nothing_needs_are_forgotten(
    graph: GraphHarness, sink: Sink
) -> None:
    """Stubs without a league. Archetypes of their own stay, with leagues or without."""
    upsert(sink, archetype("combat"))
    upsert(sink, league("a", 10, sport_archetype="left"), league("b", 10, sport_archetype="needed"))
    upsert(sink, league("a", 11, sport_archetype="racing"))
    sink.forget_tombstones()
    found = graph.ask("MATCH (n:SportArchetype) RETURN n.name AS name ORDER BY name")
    assert [one["name"] for one in found] == ["combat", "needed", "racing"]


# --- reading ----------------------------------------------------------------------------------


def test_a_query_answers_records(graph: GraphHarness, sink: Sink) -> None:
    """Parameters are values, records have the names of the query."""
    upsert(sink, league("a"), league("b", tier="TIER2"))
    found = sink.query(
        "MATCH (l:League) WHERE l.tier = $tier RETURN l.league_tag AS tag", tier="TIER2"
    )
    assert [record.data() for record in found] == [{"tag": "b"}]


def test_a_query_that_is_wrong_is_a_failure(graph: GraphHarness, sink: Sink) -> None:
    """Nothing but SinkFailure leaves, from reads as from writes."""
    with pytest.raises(SinkFailure):
        sink.query("THIS IS NO CYPHER")


# --- one node, read back ----------------------------------------------------------------------


def test_a_node_is_found_with_all_that_hangs_on_it(graph: GraphHarness, sink: Sink) -> None:
    """Properties, version, and edges of both directions by type."""
    one = league()
    upsert(sink, one, league("formula_2"))
    graph.ask(
        "MATCH (a:League {league_tag: 'formula_2'}), (b:League {league_tag: 'formula_1'}) "
        "CREATE (a)-[:SIMILAR_TO]->(b)"
    )
    held = sink.find(sports.LEAGUE, "formula_1")
    (node,) = graph.ask("MATCH (n:League {league_tag: 'formula_1'}) RETURN elementId(n) AS id")
    assert held == Held(
        node_id=node["id"],
        version=10,
        properties={
            "league_tag": "formula_1",
            "league_name": "Formula 1",
            "sport_name": "Motorsport",
            "sport_archetype": "racing",
            "location": "World",
            "tier": "TIER1",
            "status": "active",
            "description": "Grand prix racing.",
            "content_hash": one.content_hash,
        },
        edges=(
            Edges("BELONGS_TO_ARCHETYPE", "out", 1, ("racing",)),
            Edges("SIMILAR_TO", "in", 1, ("formula_2",)),
        ),
        tombstone=None,
    )


def test_a_stub_is_found_without_a_version(sink: Sink) -> None:
    """Its league has been written, and it has not. Of many neighbours a few are named."""
    upsert(sink, *(league(f"l{number}") for number in range(7)))
    held = sink.find(sports.SPORT_ARCHETYPE, "racing")
    assert (held.version, held.properties) == (None, {"name": "racing"})
    names = ("l0", "l1", "l2", "l3", "l4")
    assert held.edges == (Edges("BELONGS_TO_ARCHETYPE", "in", 7, names),)


def test_a_deletion_is_found_as_long_as_it_is_remembered(sink: Sink) -> None:
    """And nothing at all of what never was."""
    upsert(sink, league())
    sink.delete([deleted(league(), 11)])
    assert sink.find(sports.LEAGUE, "formula_1") == Held(tombstone=11)
    assert sink.find(sports.LEAGUE, "nothing") == Held()


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_key_finds_nothing(sink: Sink, text: str) -> None:
    """Keys are data."""
    upsert(sink, league())
    assert sink.find(sports.LEAGUE, text) == Held()
    assert sink.find(sports.LEAGUE, "formula_1").version == 10
