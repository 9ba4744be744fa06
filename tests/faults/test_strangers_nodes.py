"""Nodes that somebody else keeps under altsync's labels stay."""

from __future__ import annotations

import pytest
import structlog
from structlog.testing import capture_logs

from tests.integration.verifying import Site
from tests.integration.world import example, league

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
    site.world.save(league("moved", sport_archetype="precision"), example("moved", "left"))
    site.deliver()
    assert nodes(site) >= theirs | {"precision", "left"}
    site.world.save(league("moved", sport_archetype="racing"), example("moved", "naming"))
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


def test_a_deletion_leaves_a_strangers_node(site: Site) -> None:
    """A league whose node somebody else has put in the place of altsync's."""
    site.graph.ask("MATCH (n:League {league_tag: 'l003'}) DETACH DELETE n")
    site.graph.ask("CREATE (:League {league_tag: 'l003', owner: 'crm'})")
    site.world.delete(league("l003"))
    site.deliver()
    found = site.graph.ask("MATCH (n:League {league_tag: 'l003'}) RETURN n.owner AS owner")
    assert [one["owner"] for one in found] == ["crm"]
