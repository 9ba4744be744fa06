"""Relationships between leagues in the graph: part of their source's projection."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier
from typing import Any

import pytest

from altsync.contract import AlreadyNewer, Written
from altsync.entities import Edge, Row, entity_id
from altsync.errors import SinkFailure
from altsync.sinks.neo4j.write import Sink
from tests.contract.harness import GraphHarness
from tests.contract.rows import HOSTILE, MODEL, deleted, league


@pytest.fixture
def sink(graph: GraphHarness) -> Sink:
    """The sink of the harness; constraints are there."""
    shared = graph.shared()
    assert isinstance(shared, Sink)
    return shared


def edge(
    source: Row,
    target: str,
    score: float | None = 0.9,
    relation: str = "SIMILAR_TO",
    target_version: int = 10,
) -> Edge:
    """An edge as it is read from the table."""
    return Edge(
        entity_id(relation, f"{source.key}:{target}"), relation, target, target_version, score
    )


def linked(tag: str, version: int, *targets: Any, **content: Any) -> Row:
    """A league with edges: tags, or (tag, score), or whole edges."""
    one = league(tag, version, **content)
    edges = []
    for target in targets:
        match target:
            case Edge():
                edges.append(target)
            case (name, score):
                edges.append(edge(one, name, score))
            case name:
                edges.append(edge(one, name))
    return replace(one, edges=tuple(edges))


def upsert(sink: Sink, *rows: Row) -> list[Any]:
    """Outcomes of one call."""
    return list(sink.upsert(rows, MODEL).outcomes)


def drawn(graph: GraphHarness) -> list[tuple[str, str, str, float | None]]:
    """Every relationship between leagues: source, type, target, score."""
    found = graph.ask(
        "MATCH (a:League)-[r]->(b:League) RETURN a.league_tag AS a, type(r) AS r, "
        "b.league_tag AS b, r.score AS score ORDER BY a, r, b"
    )
    return [(one["a"], one["r"], one["b"], one["score"]) for one in found]


def test_edges_are_drawn_and_their_ids_written_back(graph: GraphHarness, sink: Sink) -> None:
    """Each type by its name, with its score; the outcome carries the graph's own ids."""
    one = league("a")
    wanted = (
        edge(one, "b", 0.83),
        edge(one, "b", None, "COMPETES_WITH"),
        edge(one, "c", 0.5, "SAME_ARCHETYPE"),
    )
    outcomes = upsert(sink, replace(one, edges=wanted), league("b"), league("c"))
    assert drawn(graph) == [
        ("a", "COMPETES_WITH", "b", None),
        ("a", "SAME_ARCHETYPE", "c", 0.5),
        ("a", "SIMILAR_TO", "b", 0.83),
    ]
    found = graph.ask("MATCH (:League)-[r]->(:League) RETURN elementId(r) AS id")
    written = next(o for o in outcomes if isinstance(o, Written) and o.id == one.id)
    assert set(written.edge_ids) == {e.id for e in wanted}
    assert sorted(written.edge_ids.values()) == sorted(one["id"] for one in found)


def test_edges_follow_the_row(graph: GraphHarness, sink: Sink) -> None:
    """Unwanted edges go, the others take their new scores, and none is doubled."""
    upsert(sink, linked("a", 10, "b", "c"), league("b"), league("c"), league("d"))
    upsert(sink, linked("a", 11, ("b", 0.81), "d"))
    assert drawn(graph) == [("a", "SIMILAR_TO", "b", 0.81), ("a", "SIMILAR_TO", "d", 0.9)]
    upsert(sink, linked("a", 11, ("b", 0.81), "d"))
    assert len(drawn(graph)) == 2
    upsert(sink, linked("a", 12))
    assert drawn(graph) == []


def test_doubled_edges_are_left_once(graph: GraphHarness, sink: Sink) -> None:
    """One duplicate stays and gives its id. Foreign edges and other leagues' edges stay."""
    one, other = linked("a", 10, "b", "c"), linked("d", 10, "b")
    upsert(sink, one, other, league("b"), league("c"))
    for tag in "ad":
        graph.ask(
            "MATCH (n:League {league_tag: $tag})-[:SIMILAR_TO]->(o:League {league_tag: 'b'}) "
            "CREATE (n)-[:SIMILAR_TO]->(o), (n)-[:SIMILAR_TO {score: 0.1}]->(o), "
            "(n)-[:MINE]->(o), (n)-[:MINE]->(o)",
            tag=tag,
        )
    (outcome,) = upsert(sink, one)
    mine = ("a", "MINE", "b", None)
    near = [("a", "SIMILAR_TO", "b", 0.9), ("a", "SIMILAR_TO", "c", 0.9)]
    assert [edge for edge in drawn(graph) if edge[0] == "a"] == [mine, mine, *near]
    assert len(drawn(graph)) == 4 + 5
    found = graph.ask(
        "MATCH (:League {league_tag: 'a'})-[r:SIMILAR_TO]->() RETURN elementId(r) AS i"
    )
    assert sorted(outcome.edge_ids.values()) == sorted(one["i"] for one in found)


def test_a_league_that_never_had_edges_is_not_asked_for_them(
    graph: GraphHarness, sink: Sink
) -> None:
    """Without edges of its own, what others drew by hand is left alone."""
    upsert(sink, league("a"), league("b"))
    graph.ask(
        "MATCH (a:League {league_tag: 'a'}), (b:League {league_tag: 'b'}) "
        "CREATE (a)-[:OWNED_BY_OTHERS]->(b)"
    )
    upsert(sink, league("a", 11))
    upsert(sink, linked("a", 12, "b"))
    assert drawn(graph) == [("a", "OWNED_BY_OTHERS", "b", None), ("a", "SIMILAR_TO", "b", 0.9)]


def test_an_edge_may_come_before_its_target(graph: GraphHarness, sink: Sink) -> None:
    """A stub holds it until the target's own operation fills it."""
    upsert(sink, linked("a", 10, "b"))
    assert drawn(graph) == [("a", "SIMILAR_TO", "b", 0.9)]
    assert "b" not in graph.stored(league().entity_type)
    upsert(sink, league("b", 5))
    assert drawn(graph) == [("a", "SIMILAR_TO", "b", 0.9)]
    assert graph.stored(league().entity_type)["b"]["sync_version"] == 5
    assert graph.count("League") == 2


def test_an_older_version_draws_nothing(graph: GraphHarness, sink: Sink) -> None:
    """The guard of the node guards its edges, too."""
    upsert(sink, linked("a", 20, "b"), league("b"), league("c"))
    assert upsert(sink, linked("a", 19, "c")) == [AlreadyNewer(league("a").id, 20)]
    assert drawn(graph) == [("a", "SIMILAR_TO", "b", 0.9)]


def test_a_deleted_target_is_not_brought_back(graph: GraphHarness, sink: Sink) -> None:
    """A late write that still knew the target meets its tombstone, and draws the rest."""
    upsert(sink, linked("a", 10, "b", "c"), league("b"), league("c"))
    sink.delete([deleted(league("b"), 15)])
    upsert(sink, linked("a", 11, "b", "c"))
    assert drawn(graph) == [("a", "SIMILAR_TO", "c", 0.9)]
    assert graph.count("League") == 2


def test_a_target_that_came_back_is_drawn_again(graph: GraphHarness, sink: Sink) -> None:
    """An edge that was read after the re-creation passes the old tombstone."""
    upsert(sink, league("a"), league("b"))
    sink.delete([deleted(league("b"), 15)])
    again = replace(league("a", 21), edges=(edge(league("a"), "b", target_version=20),))
    upsert(sink, again)
    upsert(sink, league("b", 20))
    assert drawn(graph) == [("a", "SIMILAR_TO", "b", 0.9)]


def test_deleting_a_source_takes_its_edges(graph: GraphHarness, sink: Sink) -> None:
    """Both ends' edges go with a node."""
    upsert(sink, linked("a", 10, "b"), linked("b", 10, "a"))
    sink.delete([deleted(league("a"), 11)])
    assert drawn(graph) == []


def test_a_late_deletion_spares_what_points_to_the_next_life(
    graph: GraphHarness, sink: Sink
) -> None:
    """An edge of a source that was written after it stays; all else of the league goes."""
    upsert(sink, linked("a", 10, "b"), linked("b", 10, "a", "c"), linked("c", 10, "b"))
    again = replace(league("a", 21), edges=(edge(league("a"), "b", target_version=20),))
    upsert(sink, again)
    (outcome,) = sink.delete([deleted(league("b"), 15)]).outcomes
    assert isinstance(outcome, Written)
    assert drawn(graph) == [("a", "SIMILAR_TO", "b", 0.9)]
    assert graph.parents(league("b")) == []
    assert graph.ask("MATCH (n:League {league_tag: 'b'}) RETURN properties(n) AS p") == [
        {"p": {"league_tag": "b", "altsync_stub": True}}
    ]
    upsert(sink, league("b", 20))
    assert drawn(graph) == [("a", "SIMILAR_TO", "b", 0.9)]
    assert graph.parents(league("b")) == [("BELONGS_TO_ARCHETYPE", "racing")]


def test_a_deletion_takes_the_edges_of_others_with_it(graph: GraphHarness, sink: Sink) -> None:
    """Relationships that altsync does not keep go with the node, of any origin."""
    upsert(sink, league("a", 20), league("b"))
    graph.ask(
        "MATCH (a:League {league_tag: 'a'}), (b:League {league_tag: 'b'}) "
        "CREATE (a)-[:OWNED_BY_OTHERS]->(b), (b)-[:OWNED_BY_OTHERS]->(a)"
    )
    sink.delete([deleted(league("b"), 15)])
    assert drawn(graph) == []
    assert graph.count("League") == 1


@pytest.mark.parametrize("tag", HOSTILE)
def test_hostile_tags_of_targets(graph: GraphHarness, sink: Sink, tag: str) -> None:
    """A target is data, whatever it looks like."""
    upsert(sink, linked("a", 10, tag), league(tag))
    assert drawn(graph) == [("a", "SIMILAR_TO", tag, 0.9)]
    upsert(sink, linked("a", 11, tag))
    assert drawn(graph) == [("a", "SIMILAR_TO", tag, 0.9)]


def test_writers_that_draw_to_each_other(graph: GraphHarness) -> None:
    """Two batches whose edges cross at once: each comes through, repeated where locks met."""
    tags = [f"l{n}" for n in range(20)]
    sides = [
        [linked(tag, 10, *(other for other in tags if other != tag)) for tag in half]
        for half in (tags[:10], tags[10:])
    ]
    start = Barrier(2, timeout=30)

    def write(rows: list[Row]) -> None:
        sink = graph.open()
        try:
            start.wait()
            for _ in range(20):
                try:
                    sink.upsert(rows, MODEL)
                    return
                except SinkFailure as failure:
                    assert failure.lock_conflict, failure.reason
            raise AssertionError("never came through")
        finally:
            sink.close()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, side) for side in sides]:
            done.result()
    assert len(drawn(graph)) == len(tags) * (len(tags) - 1)
