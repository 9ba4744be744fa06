"""Invalid versions in the graph: they break no digest, and are removed on request."""

from __future__ import annotations

from typing import Any

import pytest

from altsync.contract import AlreadyNewer, Written
from altsync.sinks.neo4j.write import Sink
from tests import sports
from tests.contract.harness import GraphHarness
from tests.contract.rows import league

#: The highest plausible version in these tests.
HIGHEST = 1000

#: Above all that is believed.
TOO_HIGH = [10**18, 2**63 - 1]

#: Values that are no whole number, as a manual edit may leave them.
NO_VERSIONS = ["abc", "5", 7.5, float("nan"), float("inf"), True, [1, 2]]


@pytest.fixture
def sink(graph: GraphHarness) -> Sink:
    """The graph sink, set up."""
    opened = graph.shared()
    opened.setup()
    assert isinstance(opened, Sink)
    return opened


@pytest.mark.parametrize("version", NO_VERSIONS, ids=repr)
def test_a_node_of_no_version(graph: GraphHarness, sink: Sink, version: Any) -> None:
    """It is in the digest and the list, and blocks no write."""
    row = league("f1", 7)
    _spoiled(graph, sink, version)
    assert sink.nodes(sports.LEAGUE, ["f1"])["f1"].version == 0
    assert isinstance(sink.upsert([row], graph.model).outcomes[0], Written)


@pytest.mark.parametrize("version", TOO_HIGH)
def test_a_node_of_too_high_a_version(graph: GraphHarness, sink: Sink, version: int) -> None:
    """It is in the digest and the list, refuses what comes, and lets it pass once reset."""
    row = league("f1", 7)
    _spoiled(graph, sink, version)
    assert sink.nodes(sports.LEAGUE, ["f1"])["f1"].version == version
    assert sink.upsert([row], graph.model).outcomes == (AlreadyNewer(row.id, version),)
    sink.reset_versions(sports.LEAGUE, ["another"], HIGHEST)
    assert isinstance(sink.upsert([row], graph.model).outcomes[0], AlreadyNewer)
    sink.reset_versions(sports.LEAGUE, ["f1"], HIGHEST)
    assert sink.nodes(sports.LEAGUE, ["f1"])["f1"].version == 0
    assert isinstance(sink.upsert([row], graph.model).outcomes[0], Written)


def _spoiled(graph: GraphHarness, sink: Sink, version: Any) -> None:
    """A node of version 7 that another application changes; the digest differs, and lists it."""
    sink.upsert([league("f1", 7)], graph.model)
    before = sink.digest(sports.LEAGUE, 7)
    graph.ask("MATCH (n:League) SET n.sync_version = $v", v=version)
    found = sink.digest(sports.LEAGUE, 7)
    assert found != before
    assert list(sink.keys_in(sports.LEAGUE, 7, list(found))) == [["f1"]]


@pytest.mark.parametrize("version", TOO_HIGH + NO_VERSIONS, ids=repr)
def test_a_tombstone_of_no_version(graph: GraphHarness, sink: Sink, version: Any) -> None:
    """It refuses what comes, until it is reset."""
    row = league("f1", 7)
    graph.ask("CREATE (:AltsyncTombstone {key: 'League:f1', version: $v})", v=version)
    assert sink.tombstones(sports.LEAGUE, ["f1"])["f1"] > HIGHEST
    assert isinstance(sink.upsert([row], graph.model).outcomes[0], AlreadyNewer)
    sink.reset_versions(sports.LEAGUE, ["f1"], HIGHEST)
    assert isinstance(sink.upsert([row], graph.model).outcomes[0], Written)


def test_what_is_a_version_stays(graph: GraphHarness, sink: Sink) -> None:
    """Guards go on refusing what is older."""
    sink.upsert([league("f1", HIGHEST)], graph.model)
    sink.delete([league("f2", HIGHEST)])
    sink.reset_versions(sports.LEAGUE, ["f1", "f2"], HIGHEST)
    older = [league("f1", HIGHEST - 1), league("f2", HIGHEST - 1)]
    outcomes = sink.upsert(older, graph.model).outcomes
    assert [type(one) for one in outcomes] == [AlreadyNewer, AlreadyNewer]
