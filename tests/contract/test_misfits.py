"""Stores that are there and cannot hold what altsync writes; servers that are overloaded."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import neo4j.exceptions
import pytest

from altsync.contract import Written
from altsync.errors import SinkFailure
from altsync.local.vectors.faults import FaultRule
from altsync.operations import ErrorKind
from altsync.sinks.neo4j import client
from altsync.sinks.neo4j.write import Sink
from altsync.sinks.pinecone.indexes import misfit
from tests import sports
from tests.contract.harness import GraphHarness, PineconeHarness
from tests.contract.rows import MODEL, archetype, league


def failure_of(call: Callable[[], object]) -> SinkFailure:
    """The failure that a call ends with."""
    with pytest.raises(SinkFailure) as caught:
        call()
    return caught.value


def test_an_index_of_another_form_is_refused_with_what_to_do(pinecone: PineconeHarness) -> None:
    """At set-up, when looked at, and at a write; the other types go on."""
    pinecone.wipe()
    other = PineconeHarness(pinecone.server, MODEL.dimensions + 1)
    with_other = other.open()
    with_other._create(sports.SPORT_ARCHETYPE.index_name)
    with_other.close()
    sink = pinecone.open()
    try:
        for call in (sink.setup, sink.check_indexes):
            failure = failure_of(call)
            assert failure.kind is ErrorKind.SINK
            assert failure.only == {sports.SPORT_ARCHETYPE}
            assert "dimension 5 where altsync needs 4" in failure.reason
            assert "altsync migrate" in failure.reason
        refused = failure_of(lambda: sink.upsert([archetype()], MODEL))
        assert refused.kind is ErrorKind.SINK
        assert "dimension 5" in refused.reason
        assert isinstance(sink.upsert([league()], MODEL).outcomes[0], Written)
    finally:
        sink.close()
        pinecone.wipe()


@pytest.mark.parametrize("status", [400, 403, 422, 503])
def test_an_index_that_cannot_be_created_is_the_sinks_and_is_asked_for_once(
    pinecone: PineconeHarness, status: int
) -> None:
    pinecone.wipe()
    sink = pinecone.open()
    rule = FaultRule("pinecone.create_index", "status", status=status, message="not in your plan")
    pinecone.server.admin.reset_stats()
    pinecone.server.admin.set_faults([rule])
    try:
        failure = failure_of(sink.setup)
        assert failure.kind is ErrorKind.SINK
        assert "not in your plan" in failure.reason
        assert pinecone.server.admin.stats().requests["pinecone.create_index"] == 1
    finally:
        pinecone.server.admin.clear()
        sink.close()


FITS = SimpleNamespace(
    name="altsports-leagues",
    vector_type="dense",
    dimension=4,
    metric="cosine",
    deployment=SimpleNamespace(),
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dimension": 3072}, "dimension 3072 where altsync needs 4"),
        ({"metric": "euclidean"}, "metric euclidean where altsync needs cosine"),
        ({"vector_type": "sparse", "dimension": None}, "kind sparse where altsync needs dense"),
        ({"deployment": SimpleNamespace(pod_type="p1")}, "deployment pod"),
    ],
)
def test_each_fact_of_an_index_is_compared(change: dict[str, Any], said: str) -> None:
    assert misfit(FITS, 4) is None
    assert said in (misfit(SimpleNamespace(**{**vars(FITS), **change}), 4) or "")


def opened(graph: GraphHarness) -> Sink:
    """The graph's sink."""
    return cast(Sink, graph.shared())


OVERLOAD = [
    "Neo.TransientError.Request.NoThreadsAvailable",
    "Neo.TransientError.General.MemoryPoolOutOfMemoryError",
    "Neo.TransientError.General.TransactionMemoryLimit",
    "Neo.TransientError.Transaction.BookmarkTimeout",
    "Neo.TransientError.General.DatabaseUnavailable",
    "Neo.TransientError.Cluster.NotALeader",
    "Neo.DatabaseError.Transaction.TransactionCommitFailed",
]


@pytest.mark.parametrize("code", OVERLOAD)
def test_a_graph_that_is_overloaded_gets_one_transaction(graph: GraphHarness, code: str) -> None:
    """The error is injected into the driver's own transaction, at a real server."""
    tries = []

    def work(tx: neo4j.ManagedTransaction) -> None:
        tries.append(tx)
        raise neo4j.exceptions.Neo4jError._hydrate_neo4j(code=code, message="no room")

    sink = opened(graph)
    assert failure_of(lambda: sink._run(work)).kind is ErrorKind.SINK
    assert len(tries) == 1


def test_writers_that_met_are_repeated_at_once(graph: GraphHarness) -> None:
    tries = []

    def work(tx: neo4j.ManagedTransaction) -> str:
        tries.append(tx)
        if len(tries) == 1:
            code = "Neo.TransientError.Transaction.DeadlockDetected"
            raise neo4j.exceptions.Neo4jError._hydrate_neo4j(code=code, message="met")
        return "written"

    assert opened(graph)._run(work) == "written"


@pytest.mark.parametrize(
    ("agent", "fits"),
    [
        ("Neo4j/4.4.30", False),
        ("Neo4j/5.9.0", False),
        ("Neo4j/5.10.0", True),
        ("Neo4j/5.26.0", True),
        ("Neo4j/2026.09.0", True),
        ("Memgraph 3", True),
    ],
)
def test_a_graph_that_is_too_old_is_refused(
    graph: GraphHarness, monkeypatch: pytest.MonkeyPatch, agent: str, fits: bool
) -> None:
    """The name that its server reports is injected."""
    monkeypatch.setattr(client, "agent", lambda tx: agent)
    sink = opened(graph)
    if fits:
        sink.check_version()
        return
    failure = failure_of(sink.setup)
    assert failure.kind is ErrorKind.SINK
    assert agent in failure.reason
    assert "needs Neo4j 5.10 or newer" in failure.reason
