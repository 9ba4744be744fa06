"""The graph's digests: the same facts on every graph, and different ones for every difference."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import pytest

from altsync.contract import Digest, Written
from altsync.entities import Edge, EntityType, Row
from altsync.sinks.neo4j.statements import DIGEST_PRIME, STRANGE, WEIGHT_PRIME
from altsync.sinks.neo4j.write import Sink
from tests import sports
from tests.contract.harness import GraphHarness
from tests.contract.rows import MAKERS, archetype, example, league

MODULUS = 7


@pytest.fixture
def sink(graph: GraphHarness) -> Sink:
    """The graph sink, set up."""
    opened = graph.shared()
    opened.setup()
    assert isinstance(opened, Sink)
    return opened


def linked(one: Row, *targets: Row, score: float | None = 0.25) -> Row:
    """The row with a relationship to each of ``targets``."""
    edges = (Edge(uuid4(), "COMPETES_WITH", t.key, t.graph_version, score) for t in targets)
    return replace(one, edges=tuple(edges))


def test_a_digest_says_what_is_there(graph: GraphHarness, sink: Sink) -> None:
    """Counts, sums, keys and hashes, by hand."""
    one, other = league("f1", 10), league("formula_2", 17)
    sink.upsert([one, other], graph.model)
    sink.upsert([linked(one, other)], graph.model)
    least, greatest = sorted([one.content_hash, other.content_hash])
    weights = 10 * 2 + 17 * 9
    assert sink.digest(sports.LEAGUE, MODULUS) == {
        3: {
            ("node", 2, 27, weights, "f1", "formula_2", least, greatest),
            ("parent BELONGS_TO_ARCHETYPE", "racing", 2, 27),
            ("edge", "COMPETES_WITH", 1, 10 * 17, 25_000 * (10 + 17)),
        }
    }
    assert (DIGEST_PRIME, WEIGHT_PRIME) == (1_000_000_007, 8191)


@pytest.mark.parametrize("kind", sports.TYPES)
def test_large_versions_do_not_overflow(graph: GraphHarness, sink: Sink, kind: EntityType) -> None:
    """Versions are microseconds: their sums would leave 64 bits at some thousand nodes."""
    version = 1_795_381_382_000_001
    sink.upsert([MAKERS[kind](f"e{n}", version + 7 * n) for n in range(3)], graph.model)
    (facts,) = sink.digest(kind, MODULUS).values()
    (node,) = (fact for fact in facts if fact[0] == "node")
    assert node[1:3] == (3, sum((version + 7 * n) % DIGEST_PRIME for n in range(3)))


def test_ends_of_edges_do_not_overflow(graph: GraphHarness, sink: Sink) -> None:
    """Each factor is small, however large the versions."""
    version = 1_795_381_382_000_001
    rows = [league(f"e{n}", version + 7 * n) for n in range(40)]
    sink.upsert(rows, graph.model)
    sink.upsert([linked(one, *rows) for one in rows], graph.model)
    (facts,) = sink.digest(sports.LEAGUE, MODULUS).values()
    (edges,) = (fact[3:] for fact in facts if fact[0] == "edge")
    versions = [(one.graph_version, other.graph_version) for one in rows for other in rows]
    assert edges == (
        sum((a % WEIGHT_PRIME) * (b % DIGEST_PRIME) for a, b in versions),
        sum(25_000 * (a % WEIGHT_PRIME + b % WEIGHT_PRIME) for a, b in versions),
    )


def test_two_edges_of_one_bucket_that_swap(graph: GraphHarness, sink: Sink) -> None:
    """Their targets or their scores: counts and sums of each alone stay as they are."""
    one, other = league("a", 10), league("b", 10 + MODULUS)
    near, far = league("y", 12), league("z", 13)

    def digest(*rows: Row) -> Digest:
        sink.upsert(rows, graph.model)
        return sink.digest(sports.LEAGUE, MODULUS)

    digest(near, far)
    found = [
        digest(linked(one, near), linked(other, far)),
        digest(linked(one, far), linked(other, near)),
        digest(linked(one, near, score=0.5), linked(other, far)),
        digest(linked(one, near), linked(other, far, score=0.5)),
    ]
    assert all(a != b for n, a in enumerate(found) for b in found[:n])


@pytest.mark.parametrize(
    "change",
    [
        "MATCH (n:League {league_tag: 'a'}) DETACH DELETE n",
        "MATCH (n:League {league_tag: 'a'}) SET n.sync_version = 11",
        "MATCH (n:League {league_tag: 'a'}) SET n.sync_version = 17",
        "MATCH (n:League {league_tag: 'a'}) SET n.league_tag = 'b'",
        "MATCH (n:League {league_tag: 'a'}) SET n.content_hash = 'x'",
        "MATCH (n:League {league_tag: 'a'})-[r:BELONGS_TO_ARCHETYPE]->() DELETE r",
        "MATCH (n:League {league_tag: 'a'}) MERGE (p:SportArchetype {name: 'rowing'}) "
        "MERGE (n)-[:BELONGS_TO_ARCHETYPE]->(p)",
        "MATCH (n:League {league_tag: 'a'})-[r:COMPETES_WITH]->() DELETE r",
        "MATCH (n:League {league_tag: 'a'})-[r:COMPETES_WITH]->() SET r.score = 0.26",
        "MATCH (n:League {league_tag: 'z'}), (a:League {league_tag: 'a'}) "
        "MERGE (n)-[:SIMILAR_TO]->(a)",
        "MATCH (n:League {league_tag: 'a'})-[r:COMPETES_WITH]->() DELETE r "
        "WITH n MATCH (o:League {league_tag: 'y'}) MERGE (n)-[:COMPETES_WITH {score: 0.25}]->(o)",
        "CREATE (:League {league_tag: 'g', sync_version: 9})",
        "CREATE (:League {league_tag: 'g', sync_version: 'x'})",
        "CREATE (:League {sync_version: 9})",
        "CREATE (:League {league_tag: 9, sync_version: 9})",
        "MATCH (n:League {league_tag: 'a'}) SET n.sync_version = [10]",
        "MATCH (n:League {league_tag: 'z'}) SET n.sync_version = 'x'",
        "MATCH (n:League {league_tag: 'a'}) SET n.content_hash = ['x']",
        "MATCH (n:League {league_tag: 'a'})-[r:COMPETES_WITH]->() SET r.score = 'x'",
        "MATCH (n:League {league_tag: 'a'})-[r:COMPETES_WITH]->() SET r.score = 1.0e300",
        "MATCH (n:League {league_tag: 'a'})-[r:COMPETES_WITH]->(o) "
        "CREATE (n)-[:COMPETES_WITH {score: 0.25}]->(o)",
        "MATCH (n:League {league_tag: 'a'})-[r:BELONGS_TO_ARCHETYPE]->(p) "
        "CREATE (n)-[:BELONGS_TO_ARCHETYPE]->(p)",
    ],
)
def test_every_difference_shows(graph: GraphHarness, sink: Sink, change: str) -> None:
    """Whatever is done to nodes and relationships, the digest is another one."""
    rows = [league("a", 10), league("y", 12), league("z", 13)]
    sink.upsert(rows, graph.model)
    sink.upsert([linked(rows[0], rows[2])], graph.model)
    before: Digest = sink.digest(sports.LEAGUE, MODULUS)
    graph.ask(change)
    assert sink.digest(sports.LEAGUE, MODULUS) != before


def test_what_is_not_altsyncs_does_not_show(graph: GraphHarness, sink: Sink) -> None:
    """Stubs, other labels, other relationships."""
    for one in (league("a", 10), archetype("racing", 11), example("e", 12)):
        sink.upsert([one], graph.model)
    before = [sink.digest(kind, MODULUS) for kind in sports.TYPES]
    graph.ask("CREATE (:League {league_tag: 'stub'}), (:Mine {league_tag: 'm', sync_version: 1})")
    graph.ask(
        "MATCH (a:League {league_tag: 'a'}), (s:League {league_tag: 'stub'}) "
        "MERGE (a)-[:LIKES]->(s)"
    )
    assert [sink.digest(kind, MODULUS) for kind in sports.TYPES] == before
    assert [sink.count(kind) for kind in sports.TYPES] == [1, 1, 1]


def test_buckets_are_listed_by_pages(
    graph: GraphHarness, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each key of the buckets once, no other, no page longer than it may be."""
    graph.small_pages(monkeypatch, 3)
    monkeypatch.setattr("altsync.sinks.neo4j.read.LIST_PAGE", 3)
    sink.upsert([league(f"l{n:02}", 100 + n) for n in range(20)], graph.model)
    pages = list(sink.keys_in(sports.LEAGUE, MODULUS, [2, 4]))
    wanted = [f"l{n:02}" for n in range(20) if (100 + n) % MODULUS in (2, 4)]
    assert [key for page in pages for key in page] == wanted
    assert max(map(len, pages)) == 3


def test_nodes_with_all_that_hangs_on_them(graph: GraphHarness, sink: Sink) -> None:
    """Version, properties, parents, relationships; stubs and unknown keys are left out."""
    one = linked(league("a", 10), league("z", 13))
    sink.upsert([one], graph.model)
    found = sink.nodes(sports.LEAGUE, ["a", "z", "unknown"])
    assert set(found) == {"a"}
    node = found["a"]
    assert (node.version, node.parents) == (10, (("BELONGS_TO_ARCHETYPE", "racing"),))
    assert node.edges == (("COMPETES_WITH", "z", 0.25),)
    assert node.properties["league_name"] == "Formula 1"


def test_removal_stops_at_newer_nodes_and_is_remembered(graph: GraphHarness, sink: Sink) -> None:
    """Nodes above the version stay; a late upsert of a removed one is refused."""
    sink.upsert([league("a", 10), league("b", 30)], graph.model)
    sink.remove(sports.LEAGUE, ["a", "b"], 20)
    assert set(sink.nodes(sports.LEAGUE, ["a", "b"])) == {"b"}
    sink.upsert([league("a", 15)], graph.model)
    assert set(sink.nodes(sports.LEAGUE, ["a"])) == set()
    sink.upsert([league("a", 21)], graph.model)
    assert set(sink.nodes(sports.LEAGUE, ["a"])) == {"a"}


#: Versions that only a hand writes; each way to be none.
NO_VERSIONS = ("x", "10", 1.5, True, [1], -1)


def test_nodes_of_no_version_are_listed_beside_the_others(
    graph: GraphHarness, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By key where they have one, and by the graph's id where they have none."""
    monkeypatch.setattr("altsync.sinks.neo4j.read.LIST_PAGE", 3)
    sink.upsert([league("a", 10)], graph.model)
    for number, version in enumerate(NO_VERSIONS):
        graph.ask("CREATE (:League {league_tag: $k, sync_version: $v})", k=f"n{number}", v=version)
    for key in (5, ["a"], None):
        graph.ask("CREATE (n:League {sync_version: 10}) SET n.league_tag = $k", k=key)
    graph.ask("CREATE (:League {league_tag: 'stub'})")
    (strange,) = sink.digest(sports.LEAGUE, MODULUS)[STRANGE]
    assert strange == ("node", len(NO_VERSIONS) + 3, 0, 0, None, None, None, None)
    keys = [f"n{number}" for number in range(len(NO_VERSIONS))]
    assert [k for page in sink.keys_in(sports.LEAGUE, MODULUS, [STRANGE]) for k in page] == keys
    assert [k for page in sink.keys_in(sports.LEAGUE, MODULUS, [3]) for k in page] == ["a"]
    assert {node.version for node in sink.nodes(sports.LEAGUE, keys).values()} <= {0, -1}
    without_key = sink.without_key(sports.LEAGUE, 10)
    assert len(without_key) == 3
    everything = graph.ask("MATCH (n:League) RETURN elementId(n) AS id")
    sink.remove_without_key(sports.LEAGUE, [one["id"] for one in everything])
    assert sink.without_key(sports.LEAGUE, 10) == []
    assert graph.count("League") == len(everything) - 3


@pytest.mark.parametrize("version", NO_VERSIONS)
def test_what_is_no_version_stands_in_nobodys_way(
    graph: GraphHarness, sink: Sink, version: object
) -> None:
    """A write goes over it, and a removal takes it along."""
    for key in ("a", "b"):
        graph.ask("CREATE (:League {league_tag: $k, sync_version: $v})", k=key, v=version)
    assert list(sink.versions(sports.LEAGUE)) == []
    (outcome,) = sink.upsert([league("a", 10)], graph.model).outcomes
    assert isinstance(outcome, Written)
    sink.remove(sports.LEAGUE, ["b"], 20)
    assert [one.version for one in sink.versions(sports.LEAGUE)] == [10]
    assert graph.count("League") == 1


def test_neighbours_of_any_kind_are_read(graph: GraphHarness, sink: Sink) -> None:
    """Keys and scores are told as they are, and the next write leaves what is wanted."""
    one = linked(league("a", 10), league("z", 13))
    sink.upsert([one], graph.model)
    graph.ask("MATCH (n:League {league_tag: 'a'})-[r:COMPETES_WITH]->() SET r.score = 'x'")
    graph.ask(
        "MATCH (n:League {league_tag: 'a'}) CREATE (n)-[:SIMILAR_TO]->(:League), "
        "(n)-[:SIMILAR_TO]->(:League {league_tag: 5}), "
        "(n)-[:BELONGS_TO_ARCHETYPE]->(:SportArchetype)"
    )
    node = sink.nodes(sports.LEAGUE, ["a"])["a"]
    assert sorted(edge[:2] for edge in node.edges) == [
        ("COMPETES_WITH", "z"),
        ("SIMILAR_TO", "5"),
        ("SIMILAR_TO", "None"),
    ]
    assert {key for _, key in node.parents} == {"racing", None}
    sink.upsert([one], graph.model)
    node = sink.nodes(sports.LEAGUE, ["a"])["a"]
    assert node.edges == (("COMPETES_WITH", "z", 0.25),)
    assert node.parents == (("BELONGS_TO_ARCHETYPE", "racing"),)
