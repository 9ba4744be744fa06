"""The statements of the queries, which every graph server must answer alike."""

from __future__ import annotations

from typing import Any

import pytest

from altsports.queries.archetypes import RANKED
from altsports.queries.explore import AROUND
from altsports.queries.graph import CROSS_ARCHETYPE, OF_ARCHETYPE, SAME_ARCHETYPE
from altsports.queries.similar import EDGES, OF_SAME_ARCHETYPE
from tests.contract.harness import GraphHarness

#: Two archetypes and one that is a stub; four leagues, one of no tier, and one that is a stub.
WORLD = """
CREATE (c:SportArchetype {name: 'combat', sync_version: 1}),
       (r:SportArchetype {name: 'racing', sync_version: 1}), (x:SportArchetype {name: 'x'}),
       (u:League {league_tag: 'ufc', league_name: 'UFC', sport_archetype: 'combat',
                  tier: 'TIER1', status: 'active', sync_version: 1}),
       (b:League {league_tag: 'bellator', league_name: 'Bellator', sport_archetype: 'combat',
                  tier: 'TIER2', status: 'inactive', sync_version: 1}),
       (o:League {league_tag: 'one', league_name: 'ONE', sport_archetype: 'combat',
                  status: 'active', sync_version: 1}),
       (f:League {league_tag: 'f1', league_name: 'Formula 1', sport_archetype: 'racing',
                  tier: 'TIER1', status: 'active', sync_version: 1}),
       (s:League {league_tag: 'stub', sport_archetype: 'racing'}),
       (u)-[:BELONGS_TO_ARCHETYPE]->(c), (b)-[:BELONGS_TO_ARCHETYPE]->(c),
       (o)-[:BELONGS_TO_ARCHETYPE]->(c), (s)-[:BELONGS_TO_ARCHETYPE]->(c),
       (f)-[:BELONGS_TO_ARCHETYPE]->(r), (f)-[:BELONGS_TO_ARCHETYPE]->(x),
       (u)-[:SIMILAR_TO {score: 0.83}]->(b), (b)-[:SIMILAR_TO {score: 0.83}]->(u),
       (f)-[:SIMILAR_TO {score: 0.81}]->(u), (u)-[:SIMILAR_TO {score: 0.99}]->(s),
       (u)-[:SIMILAR_TO {score: 0.85}]->(f), (o)-[:COMPETES_WITH]->(u)
"""


@pytest.fixture
def pg(graph: GraphHarness) -> GraphHarness:
    """The nodes above, and nothing else."""
    graph.empty()
    graph.ask(WORLD)
    return graph


def ask(pg: GraphHarness, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
    """Records as the product reads them."""
    sink = pg.shared()
    return [tuple(record) for record in sink.query(statement, **parameters)]  # type: ignore[attr-defined]


def test_archetypes_ranked(pg: GraphHarness) -> None:
    """Neither stubs nor what hangs on them count."""
    for tier, status, expected in (
        (None, None, [("combat", 3), ("racing", 1)]),
        ("TIER1", None, [("combat", 1), ("racing", 1)]),
        (None, "inactive", [("combat", 1)]),
        ("TIER9", "active", []),
    ):
        assert ask(pg, RANKED, tier=tier, status=status, limit=10) == expected
    assert len(ask(pg, RANKED, tier=None, status=None, limit=1)) == 1


def test_leagues_of_an_archetype(pg: GraphHarness) -> None:
    """By tier, those of none at the end."""
    found = ask(pg, OF_ARCHETYPE, archetype="combat", limit=10)
    assert found == [
        ("ufc", "UFC", "combat", "TIER1", "active"),
        ("bellator", "Bellator", "combat", "TIER2", "inactive"),
        ("one", "ONE", "combat", None, "active"),
    ]
    assert ask(pg, SAME_ARCHETYPE, tag="ufc", limit=10) == found[1:]
    assert ask(pg, SAME_ARCHETYPE, tag="ufc", limit=1) == found[1:2]


def test_pairs_across_archetypes(pg: GraphHarness) -> None:
    """In the direction of their edges, the most similar first."""
    found = ask(pg, CROSS_ARCHETYPE, limit=10)
    assert [(row[0], row[3], row[6]) for row in found] == [("ufc", "f1", 0.85), ("f1", "ufc", 0.81)]
    assert ask(pg, CROSS_ARCHETYPE, limit=1) == found[:1]


def test_edges_of_a_league(pg: GraphHarness) -> None:
    """Both directions, the strongest first; on request of one archetype alone."""
    assert ask(pg, EDGES, tag="ufc", archetype=None, limit=10) == [
        ("f1", "SIMILAR_TO", 0.85, True),
        *sorted([("bellator", "SIMILAR_TO", 0.83, out) for out in (True, False)], reverse=True),
        ("f1", "SIMILAR_TO", 0.81, False),
        ("one", "COMPETES_WITH", None, False),
    ]
    found = ask(pg, EDGES, tag="ufc", archetype="combat", limit=10)
    assert {row[0] for row in found} == {"bellator", "one"}


def test_siblings_of_a_league(pg: GraphHarness) -> None:
    """Near ones come first, then by tier."""
    found = ask(pg, OF_SAME_ARCHETYPE, tag="ufc", near=[], limit=10)
    assert found == [("bellator", "combat"), ("one", "combat")]
    assert ask(pg, OF_SAME_ARCHETYPE, tag="ufc", near=["one"], limit=1) == found[1:]


def test_what_is_around_leagues(pg: GraphHarness) -> None:
    """For several at once; one that is not there, or a stub, is left out."""
    asked = {"tags": ["ufc", "f1", "one", "unknown", "stub"], "others": 1}
    around = {row[0]: row[1:] for row in ask(pg, AROUND, **asked, similar=10)}
    bellator = {"tag": "bellator", "name": "Bellator"}
    ufc, f1 = {"tag": "ufc", "name": "UFC"}, {"tag": "f1", "name": "Formula 1"}
    assert around == {
        "ufc": ([bellator], [{**f1, "score": 0.85}, {**bellator, "score": 0.83}]),
        "f1": ([], [{**ufc, "score": 0.85}]),
        "one": ([ufc], []),
    }
    ((_tag, _others, similar),) = ask(pg, AROUND, tags=["ufc"], others=1, similar=1)
    assert [one["tag"] for one in similar] == ["f1"]
