"""Sinks that are down, slow, locked or broken: whose fault it is, and that nothing else leaves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import uuid4

import pytest

from altsync.contract import Failed, Written
from altsync.entities import Edge
from altsync.errors import SinkFailure
from altsync.local.vectors.faults import FaultRule
from altsync.openai_embedder import OpenAIEmbedder
from altsync.operations import ErrorKind
from altsync.protocols import Sink
from altsync.sinks.neo4j import client as graph_client
from altsync.sinks.neo4j.write import MOST_AUTOCOMMIT_NODES
from altsync.sinks.neo4j.write import Sink as GraphSink
from altsync.sinks.pgvector.write import Sink as PgvectorSink
from altsync.sinks.pinecone import client as vector_client
from altsync.sinks.pinecone.write import Sink as PineconeSink
from tests import sports
from tests.contract.doubles import (
    Canned,
    CannedServer,
    black_hole,
    canned_server,
    closed_port,
    json_answer,
)
from tests.contract.harness import (
    TIMEOUT,
    EmbeddingHarness,
    GraphHarness,
    PgvectorHarness,
    PineconeHarness,
)
from tests.contract.rows import MODEL, deleted, example, league, vector
from tests.proxy import Proxy, proxy

#: Seconds of a call that is meant to run out of time; enough for all that comes before.
SHORT = 1.5

#: Seconds for which a server is made to hang: longer than any call waits.
HANG = 4.0

ITEM, SINK, UNKNOWN = ErrorKind.ITEM, ErrorKind.SINK, ErrorKind.UNKNOWN

Call = Callable[[Sink], object]


def _find(sink: Sink) -> object:
    match sink:
        case GraphSink():
            return sink.find(sports.LEAGUE, "formula_1")
        case PineconeSink() | PgvectorSink():
            return sink.find(sports.LEAGUE, "formula_1", "default")
        case _:
            raise TypeError(f"{type(sink).__name__} reads nothing back")


CALLS: dict[str, Call] = {
    "find": _find,
    "setup": lambda sink: sink.setup(),
    "upsert": lambda sink: sink.upsert([league()], MODEL),
    "delete": lambda sink: sink.delete([deleted(league(), 11)]),
    "versions": lambda sink: list(sink.versions(sports.LEAGUE)),
}


def failure_of(call: Callable[[], object]) -> SinkFailure:
    """The failure that a call ends with."""
    with pytest.raises(SinkFailure) as caught:
        call()
    return caught.value


@dataclass(frozen=True)
class Remote:
    """A remote sink that a test can point anywhere, where its server is, and one call of it."""

    open_at: Callable[[str, str, float], Sink]
    url: str
    scheme: str
    call: Call


def _graph_at(url: str, key: str, timeout: float) -> Sink:
    return GraphSink(url, ("root", key), database="altsync", timeout=timeout)


def _pgvector_at(url: str, key: str, timeout: float) -> Sink:
    scheme, _, place = url.partition("://")
    place = place if "/" in place else f"{place}/none"
    login = f"{scheme}://altsync:{key}@{place}"
    return PgvectorSink(login, timeout=timeout, dimensions=MODEL.dimensions)


#: Sinks and those of their calls that reach a server. ArcadeDB locks a user out at the fifth
#: wrong password, so of its two ways to read one is left out.
REMOTE_CALLS = [
    *(("arcadedb", call) for call in CALLS if call != "find"),
    *(("pinecone", call) for call in CALLS),
    *(("pgvector", call) for call in CALLS),
    ("embedding", "upsert"),
]


@pytest.fixture(params=REMOTE_CALLS, ids="-".join)
def remote(request: pytest.FixtureRequest) -> Remote:
    """Every call of every remote sink in turn."""
    name, call = request.param
    match request.getfixturevalue(name):
        case GraphHarness(uri=uri):
            return Remote(_graph_at, uri, "bolt", CALLS[call])
        case PgvectorHarness(url=url):
            place = url.rpartition("@")[2]
            return Remote(_pgvector_at, f"postgresql://{place}", "postgresql", CALLS[call])
        case PineconeHarness() as harness:
            return Remote(harness.open_at, harness.server.url, "http", CALLS[call])
        case EmbeddingHarness() as harness:
            return Remote(harness.open_at, harness.server.openai_url, "http", CALLS[call])
        case other:
            raise TypeError(f"{type(other).__name__} is not remote")


@pytest.fixture
def opened() -> Iterator[Callable[[Sink], Sink]]:
    """Closes what a test opens."""
    with ExitStack() as stack:

        def close_later(sink: Sink) -> Sink:
            stack.callback(sink.close)
            return sink

        yield close_later


Opened = Callable[[Sink], Sink]

# --- no server --------------------------------------------------------------------------------


def test_a_server_that_is_down(remote: Remote, opened: Opened) -> None:
    """The sink's fault, whatever was asked: no record becomes a dead letter while it is down."""
    sink = opened(remote.open_at(f"{remote.scheme}://127.0.0.1:{closed_port()}", "key", 4.0))
    failure = failure_of(lambda: remote.call(sink))
    assert (failure.kind, failure.timed_out, failure.retry_after) == (SINK, False, None)
    assert failure.reason


def test_a_server_that_takes_and_never_answers(remote: Remote, opened: Opened) -> None:
    """The call ends by itself, and it is the sink's fault."""
    with black_hole() as port:
        sink = opened(remote.open_at(f"{remote.scheme}://127.0.0.1:{port}", "key", 0.4))
        failure = failure_of(lambda: remote.call(sink))
    assert failure.kind is SINK


def test_a_wrong_key(remote: Remote, opened: Opened) -> None:
    """The sink's fault, and nothing was applied: it waits for a person, and nothing dies."""
    sink = opened(remote.open_at(remote.url, "planted-wrong-key", 10.0))
    failure = failure_of(lambda: remote.call(sink))
    assert (failure.kind, failure.outcome_unknown, failure.timed_out) == (SINK, False, False)
    assert "planted-wrong-key" not in failure.reason


# --- the graph --------------------------------------------------------------------------------


@pytest.fixture
def relay(graph: GraphHarness) -> Iterator[Proxy]:
    """A relay in front of the graph."""
    host, _, port = graph.uri.removeprefix("bolt://").partition(":")
    with proxy(host, int(port)) as running:
        yield running


def _through(graph: GraphHarness, relay: Proxy, timeout: float) -> GraphSink:
    url = f"bolt://127.0.0.1:{relay.port}"
    return GraphSink(url, graph.auth, database=graph.database, timeout=timeout)


def test_the_round_trips_of_a_batch(graph: GraphHarness, relay: Proxy, opened: Opened) -> None:
    """A transaction takes one for BEGIN with its first statement, and one for COMMIT."""
    sink = opened(_through(graph, relay, TIMEOUT))
    sent: list[bytes] = []

    def trips(call: Callable[[], object]) -> int:
        sent.clear()
        call()
        return sum(data.endswith(b"\0\0") for data in sent)  # the end of a Bolt message

    sink.upsert([league()], MODEL)
    relay.on_request = sent.append
    nodes = [league(f"l{n}") for n in range(MOST_AUTOCOMMIT_NODES + 1)]
    linked = [
        replace(
            one,
            graph_version=11,
            edges=tuple(
                Edge(uuid4(), "SIMILAR_TO", other.key, 10, 0.9)
                for other in nodes
                if other is not one
            ),
        )
        for one in nodes
    ]
    assert trips(lambda: sink.upsert(nodes[:2], MODEL)) == 1
    assert trips(lambda: sink.upsert(nodes, MODEL)) == 2
    assert trips(lambda: sink.upsert(linked, MODEL)) == 3
    assert trips(lambda: sink.upsert(linked, MODEL)) == 2, "the same relationships"
    assert trips(lambda: sink.delete([deleted(one, 12) for one in nodes])) == 2


def test_a_graph_that_falls_silent(graph: GraphHarness, relay: Proxy, opened: Opened) -> None:
    """In the middle of a session: the call ends in time, timed_out and outcome_unknown.

    The driver has no limit of its own there. Afterwards the same sink works again.
    """
    sink = _through(graph, relay, TIMEOUT)
    opened(sink).upsert([league()], MODEL)
    relay.stalled = True
    sink._timeout = SHORT  # only now: the first connection takes what it takes
    failure = failure_of(lambda: sink.upsert([league(version=11)], MODEL))
    assert (failure.kind, failure.outcome_unknown, failure.timed_out) == (SINK, True, True)
    assert failure.reason == "Neo4j did not answer within 1.5 s"

    relay.cut()  # the silent connection ends, and the transaction that it carried
    relay.stalled = False
    sink._timeout = TIMEOUT
    sink.upsert([league(version=12)], MODEL)
    assert [marks.version for marks in sink.versions(sports.LEAGUE)] == [12]


@pytest.mark.parametrize("call", ["upsert", "find"])
def test_idle_connections_that_a_balancer_forgot(
    graph: GraphHarness,
    relay: Proxy,
    opened: Opened,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """A connection that was idle is asked before it is used: no call fails."""
    monkeypatch.setattr(graph_client, "LIVENESS_SECONDS", 0.0)
    sink = _through(graph, relay, TIMEOUT)
    opened(sink).upsert([league()], MODEL)
    monkeypatch.setattr(sink, "_timeout", 3 * TIMEOUT)  # time for a client on a busy machine
    relay.silence()
    CALLS[call](sink)
    assert [marks.version for marks in sink.versions(sports.LEAGUE)] == [10]


def test_an_answer_of_the_graph_that_trickles(
    graph: GraphHarness, relay: Proxy, opened: Opened
) -> None:
    """Each read gets a byte in time; the call as a whole ends by its limit all the same."""
    sink = _through(graph, relay, TIMEOUT)
    opened(sink).upsert([league(f"l{n}") for n in range(50)], MODEL)
    relay.bytes_per_second = 50
    sink._timeout = SHORT
    failure = failure_of(lambda: list(sink.versions(sports.LEAGUE)))
    assert (failure.kind, failure.timed_out) == (SINK, True)
    assert failure.reason == "Neo4j did not answer within 1.5 s"


def test_a_graph_that_hangs_up(graph: GraphHarness, relay: Proxy, opened: Opened) -> None:
    """The connection is cut in the middle of a call: of unknown outcome, and no timeout."""
    sink = opened(_through(graph, relay, 6.0))
    sink.upsert([league()], MODEL)
    relay.cuts_on_request = True
    failure = failure_of(lambda: sink.upsert([league(version=11)], MODEL))
    assert (failure.kind, failure.outcome_unknown, failure.timed_out) == (SINK, True, False)
    relay.cuts_on_request = False
    sink.upsert([league(version=12)], MODEL)
    assert [marks.version for marks in sink.versions(sports.LEAGUE)] == [12]


def test_a_database_that_does_not_exist(graph: GraphHarness, opened: Opened) -> None:
    """A misspelt setting makes no dead letter."""
    sink = opened(GraphSink(graph.uri, graph.auth, database="nosuchdatabase", timeout=10.0))
    assert failure_of(lambda: sink.upsert([league()], MODEL)).kind is SINK


def test_a_lock_that_is_not_released(real_neo4j: GraphHarness, opened: Opened) -> None:
    """Another client locks the node: the sink's fault and timed_out, and nothing was written."""
    sink = real_neo4j.open()
    opened(sink).upsert([league()], MODEL)
    sink._timeout = SHORT
    with (
        real_neo4j.driver.session(database=real_neo4j.database) as session,
        session.begin_transaction() as holder,
    ):
        holder.run("MATCH (l:League {league_tag: 'formula_1'}) SET l.held = true").consume()
        failure = failure_of(lambda: sink.upsert([league(version=11)], MODEL))
        holder.rollback()
    assert (failure.kind, failure.timed_out) == (SINK, True)
    sink._timeout = TIMEOUT
    assert isinstance(sink.upsert([league(version=12)], MODEL).outcomes[0], Written)


def test_a_record_that_the_graph_refuses(real_neo4j: GraphHarness) -> None:
    """A list with a hole is no property: the record's fault, and nothing of its call stays."""
    sink = real_neo4j.shared()
    bad = example("bad")
    bad = replace(bad, content=replace(cast(Any, bad.content), tags=("a", None)))
    failure = failure_of(lambda: sink.upsert([example("fine"), bad], MODEL))
    assert (failure.kind, failure.outcome_unknown) == (ITEM, False)
    assert list(sink.versions(sports.FEW_SHOT_EXAMPLE)) == []


# --- faults of the vectors server -------------------------------------------------------------


@dataclass(frozen=True)
class Faulty:
    """A sink on the vectors server, the operation that its writes are, and how to fail it."""

    harness: PineconeHarness | EmbeddingHarness
    sink: Sink
    operation: str

    def break_it(self, **fault: Any) -> None:
        """Put one rule in force for writes, counters at zero."""
        self.harness.server.admin.reset_stats()
        self.harness.server.admin.set_faults([FaultRule(self.operation, **fault)])

    @property
    def requests(self) -> int:
        """Writes that reached the server since then."""
        return self.harness.server.admin.stats().requests[self.operation]

    def write(self) -> object:
        """One write."""
        return self.sink.upsert([league()], self.harness.model)


@pytest.fixture(params=["pinecone", "embedding"])
def faulty(request: pytest.FixtureRequest) -> Iterator[Faulty]:
    """Both sinks that the vectors server serves, set up and warm."""
    harness = request.getfixturevalue(request.param)
    operation = "pinecone.upsert" if request.param == "pinecone" else "openai.embeddings"
    sink = harness.shared()
    sink.setup()
    sink.upsert([league("warm", description="Warm.")], harness.model)
    yield Faulty(harness, sink, operation)
    harness.server.admin.clear()


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(faulty: Faulty, status: int) -> None:
    """Throttled: the sink's fault, with the time that the server itself names."""
    faulty.break_it(kind="status", status=status, retry_after=17)
    failure = failure_of(faulty.write)
    assert (failure.kind, failure.retry_after) == (SINK, 17.0)
    assert faulty.requests == 1


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_server_that_breaks_over_a_call(faulty: Faulty, status: int) -> None:
    """The sink's fault, but a record may be the cause: it is tried alone later.

    One request reaches the server: the SDK's own retries are off.
    """
    faulty.break_it(kind="status", status=status)
    failure = failure_of(faulty.write)
    assert (failure.kind, failure.timed_out) == (SINK, True)
    assert faulty.requests == 1


@pytest.mark.parametrize("status", [401, 403, 404, 408, 429])
def test_refusals_that_are_the_sinks_own(faulty: Faulty, status: int) -> None:
    """Key, right, index or model, time and rate: every record would get the same answer.

    One request each.
    """
    faulty.break_it(kind="status", status=status)
    failure = failure_of(faulty.write)
    assert (failure.kind, failure.timed_out) == (SINK, False)
    assert faulty.requests == 1


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_record(faulty: Faulty, status: int) -> None:
    """Malformed or too large: the record's fault, and surely not applied."""
    faulty.break_it(kind="status", status=status)
    failure = failure_of(faulty.write)
    assert (failure.kind, failure.outcome_unknown, failure.timed_out) == (ITEM, False, False)
    assert faulty.requests == 1


def test_an_answer_that_never_comes(faulty: Faulty, opened: Opened) -> None:
    """The call ends by its timeout: the sink's fault, timed_out. One request."""
    sink = opened(faulty.harness.open(timeout=SHORT))
    faulty.break_it(kind="hang", seconds=HANG)
    failure = failure_of(lambda: sink.upsert([league()], faulty.harness.model))
    assert (failure.kind, failure.timed_out) == (SINK, True)
    assert faulty.requests == 1


def test_a_connection_that_is_cut(faulty: Faulty) -> None:
    """Before any answer: the sink's fault, and no record is timed_out. One request."""
    faulty.break_it(kind="cut")
    failure = failure_of(faulty.write)
    assert (failure.kind, failure.timed_out) == (SINK, False)
    assert faulty.requests == 1


def test_a_sink_works_again_after_a_fault(faulty: Faulty) -> None:
    """Nothing of a failed call is left in the client."""
    for fault in ({"kind": "cut"}, {"kind": "status", "status": 503}):
        rows = [league(description=f"After {fault['kind']}.")]
        faulty.break_it(**fault, count=1)
        failure_of(lambda: faulty.sink.upsert(rows, faulty.harness.model))  # noqa: B023
        faulty.sink.upsert(rows, faulty.harness.model)


# --- Pinecone alone ---------------------------------------------------------------------------


@pytest.fixture
def vectors(pinecone: PineconeHarness) -> Iterator[Sink]:
    """The vector sink, set up."""
    sink = pinecone.shared()
    sink.setup()
    yield sink
    pinecone.server.admin.clear()


@pytest.mark.parametrize(
    "fault",
    [
        FaultRule("pinecone.upsert", "timeout_after_apply", seconds=HANG),
        FaultRule("pinecone.upsert", "apply_late", seconds=0.0, status=503),
    ],
    ids=["answer lost", "error answered"],
)
def test_a_write_that_was_applied_all_the_same(
    pinecone: PineconeHarness, opened: Opened, fault: FaultRule
) -> None:
    """The failure says that it is outcome_unknown; writing again gives the same end."""
    sink = pinecone.open()
    opened(sink).upsert([league("warm")], MODEL)
    sink._timeout = SHORT
    pinecone.server.admin.set_faults([replace(fault, count=1)])
    failure = failure_of(lambda: sink.upsert([league()], MODEL))
    assert (failure.kind, failure.outcome_unknown) == (SINK, True)
    sink._timeout = TIMEOUT
    sink.upsert([league()], MODEL)
    assert sorted(pinecone.stored(sports.LEAGUE)) == ["formula_1", "warm"]


@pytest.mark.parametrize("scope", ["pinecone.delete", "pinecone.list", "pinecone.fetch"])
@pytest.mark.parametrize("status", [429, 503])
def test_every_call_is_made_once(
    pinecone: PineconeHarness, vectors: Sink, scope: str, status: int
) -> None:
    """Deleting and listing are not repeated by the SDK either."""
    vectors.upsert([league()], MODEL)
    pinecone.server.admin.reset_stats()
    pinecone.server.admin.set_faults([FaultRule(scope, "status", status=status, retry_after=2)])
    call = CALLS["delete"] if scope == "pinecone.delete" else CALLS["versions"]
    failure = failure_of(lambda: call(vectors))
    assert (failure.kind, failure.retry_after) == (SINK, 2.0)
    assert pinecone.server.admin.stats().requests[scope] == 1


@pytest.mark.parametrize(
    "scope", ["pinecone.list_indexes", "pinecone.create_index", "pinecone.describe_index"]
)
def test_setting_up_fails_in_one_call(
    pinecone: PineconeHarness, opened: Opened, scope: str
) -> None:
    """The control plane's errors are translated, too, and it is asked once."""
    pinecone.wipe()
    sink = opened(pinecone.open())
    pinecone.server.admin.set_faults([FaultRule(scope, "status", status=503, retry_after=2)])
    call = CALLS["upsert"] if scope == "pinecone.describe_index" else CALLS["setup"]
    failure = failure_of(lambda: call(sink))
    assert (failure.kind, failure.retry_after) == (SINK, 2.0)
    assert pinecone.server.admin.stats().requests[scope] == 1


@pytest.mark.parametrize(
    "bad",
    [
        replace(league("wide"), vector=vector(1, 5)),
        replace(league("zero"), vector=b"\0" * 16),
        replace(league("none"), vector=None),
        replace(league("nan"), vector=b"\0\0\xc0\x7f" * 4),
        replace(league("é"), key="é"),
        league("heavy", league_name="x" * 50_000),
    ],
    ids=lambda one: one.key,
)
def test_a_record_that_pinecone_refuses(pinecone: PineconeHarness, vectors: Sink, bad: Any) -> None:
    """The record's fault, told before or by the server; the others of its call are not there."""
    failure = failure_of(lambda: vectors.upsert([league("fine"), bad], MODEL))
    assert (failure.kind, failure.outcome_unknown) == (ITEM, False)
    assert pinecone.stored(sports.LEAGUE) == {}


@pytest.mark.parametrize("call", ["upsert", "delete", "versions"])
def test_an_index_that_vanishes_is_made_again(
    pinecone: PineconeHarness, vectors: Sink, call: str
) -> None:
    """It was deleted while a sink had its address cached: one call fails, no more."""
    vectors.upsert([league()], MODEL)
    pinecone.wipe()
    failures = []
    for again in (call, "upsert", "upsert"):
        try:
            CALLS[again](vectors)
        except SinkFailure as failure:
            failures.append(failure.kind)
    assert failures in ([], [SINK])
    vectors.upsert([league(version=11)], MODEL)
    assert [marks.version for marks in vectors.versions(sports.LEAGUE)] == [11]


@pytest.fixture
def canned(opened: Opened) -> Iterator[tuple[CannedServer, Sink]]:
    """A vector sink whose index answers what a test says."""
    with canned_server() as server:
        field = {"type": "dense_vector", "dimension": 4, "metric": "cosine"}
        model = {
            "name": "altsports-leagues",
            "host": server.url,
            "status": {"ready": True, "state": "Ready"},
            "schema": {"fields": {"_values": field}},
            "deployment": {
                "deployment_type": "managed",
                "cloud": "aws",
                "region": "us-east-1",
                "environment": "local",
            },
            "deletion_protection": "disabled",
            "tags": {},
        }
        server.by_path["/indexes/"] = json_answer(model)
        sink = PineconeSink(
            "key",
            host=server.url,
            timeout=5.0,
            dimensions=4,
            cloud="aws",
            region="us-east-1",
        )
        yield server, opened(sink)


@pytest.mark.parametrize("part", ["head", "body"])
@pytest.mark.parametrize("call", ["setup", "upsert", "delete", "find", "versions", "embed"])
def test_an_answer_that_trickles(canned: tuple[CannedServer, Sink], call: str, part: str) -> None:
    """Each read gets a byte in time; the call as a whole ends by its limit all the same."""
    server, sink = canned
    embedder = OpenAIEmbedder("key", base_url=server.url, timeout=SHORT)
    server.trickles = part
    sink._timeout = SHORT  # type: ignore[attr-defined]
    failure = failure_of(
        (lambda: embedder.embed(["text"], MODEL))
        if call == "embed"
        else (lambda: CALLS[call](sink))
    )
    assert (failure.kind, failure.timed_out) == (SINK, True)
    assert failure.reason.endswith("did not answer in time")
    server.trickles = None
    embedder.close()


@pytest.mark.parametrize(
    "refused",
    [
        ("pinecone.list_indexes",),
        ("pinecone.list_indexes", "pinecone.create_index", "pinecone.configure_index"),
    ],
    ids=["list", "all but describe"],
)
def test_a_key_that_may_not_list_indexes(
    pinecone: PineconeHarness, opened: Opened, refused: tuple[str, ...]
) -> None:
    """The sink works while its data can be reached."""
    pinecone.shared().setup()
    rules = [FaultRule(scope, "status", status=403) for scope in refused]
    pinecone.server.admin.set_faults(rules)
    sink = opened(pinecone.open())
    for call in ("setup", "upsert", "find", "versions", "delete"):
        CALLS[call](sink)
    pinecone.server.admin.clear()
    assert pinecone.stored(sports.LEAGUE) == {}


def test_a_key_for_data_alone(pinecone: PineconeHarness, opened: Opened) -> None:
    """It may not even ask for a host: the setting names it, and a refusal says so."""
    pinecone.shared().setup()
    control = ("list_indexes", "describe_index", "create_index", "configure_index")
    pinecone.server.admin.set_faults(
        [FaultRule(f"pinecone.{scope}", "status", status=403) for scope in control]
    )
    blind = opened(pinecone.open())
    blind.setup()
    failure = failure_of(lambda: blind.upsert([league()], MODEL))
    assert failure.kind is SINK
    assert "ALTSYNC_PINECONE_HOSTS=altsports-leagues=" in failure.reason

    hosts = {name: pinecone.index(name).host for name in sports.INDEXES}
    sink = opened(
        PineconeSink(
            pinecone.server.secret,
            host=pinecone.server.url,
            timeout=TIMEOUT,
            dimensions=pinecone.dimensions,
            cloud="aws",
            region="us-east-1",
            hosts=hosts,
        )
    )
    for call in ("setup", "upsert", "find", "versions", "delete"):
        CALLS[call](sink)


def test_an_index_that_may_not_be_created(pinecone: PineconeHarness, opened: Opened) -> None:
    """There is none to write to: the reason names it and what to do."""
    pinecone.wipe()
    pinecone.server.admin.set_faults([FaultRule("pinecone.create_index", "status", status=403)])
    sink = opened(pinecone.open())
    failure = failure_of(sink.setup)
    pinecone.server.admin.clear()
    assert (failure.kind, failure.outcome_unknown) == (SINK, False)
    assert "this key may not create it" in failure.reason


def test_a_new_index_that_is_not_ready_in_time(canned: tuple[CannedServer, Sink]) -> None:
    """The wait ends within the limit of one call; the outbox waits for the rest."""
    server, sink = canned
    model = json.loads(server.by_path["/indexes/"].body)
    waiting = {**model, "status": {"ready": False, "state": "Initializing"}}
    listed = [{**waiting, "name": name} for name in sports.INDEXES]
    server.by_path["/indexes/"] = json_answer(waiting)
    server.by_path["/indexes"] = json_answer({"indexes": listed})
    sink._timeout = SHORT  # type: ignore[attr-defined]
    failure = failure_of(sink.setup)
    assert (failure.kind, failure.lock_conflict) == (SINK, True), failure.reason
    assert failure.reason.endswith("is being made: not ready yet")


def test_an_sdk_that_keeps_its_answers_elsewhere(
    pinecone: PineconeHarness, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its kinds of answers cannot be prepared: calls go one at a time, and work."""
    monkeypatch.setattr(vector_client, "ANSWERS", ("pinecone._internal.somewhere",))
    vector_client.prepare_answer_types.cache_clear()
    try:
        assert vector_client.moved() == ["pinecone._internal.somewhere"]
        sink = opened(pinecone.open())
        sink.setup()
        rows = [league(f"l{number}") for number in range(16)]
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda row: sink.upsert([row], MODEL), rows))
        assert [len(answer.outcomes) for answer in answers] == [1] * 16
        assert len(pinecone.stored(sports.LEAGUE)) == 16
    finally:
        vector_client.prepare_answer_types.cache_clear()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_answer_for_fewer_vectors_than_were_sent(
    canned: tuple[CannedServer, Sink], count: int
) -> None:
    """Any of them may have been taken: outcome_unknown, and none is reported as written."""
    server, sink = canned
    server.answer = json_answer({"upsertedCount": count})
    failure = failure_of(lambda: sink.upsert([league("a"), league("b")], MODEL))
    assert (failure.kind, failure.outcome_unknown) == (UNKNOWN, True)
    assert failure.reason == f"Pinecone took {count} of 2 vectors"


@pytest.mark.parametrize(
    "answer",
    [
        Canned(200, b"<html>Log in to the hotel's network</html>", {"content-type": "text/html"}),
        Canned(200, b"{nope", {"content-type": "application/json"}),
        json_answer(None),
        json_answer([]),
        json_answer({}),
        json_answer({"upsertedCount": "one"}),
        Canned(302, b"", {"location": "/elsewhere"}),
        Canned(200, b"not gzip", {"content-encoding": "gzip"}),
    ],
    ids=["html", "json", "null", "list", "empty", "text", "redirect", "gzip"],
)
@pytest.mark.parametrize("plane", ["index", "control"])
def test_an_answer_in_no_known_form(
    canned: tuple[CannedServer, Sink], answer: Canned, plane: str
) -> None:
    """Proxies and half-compatible servers: nothing but SinkFailure leaves, and no record dies."""
    server, sink = canned
    server.answer = answer
    if plane == "control":
        server.by_path["/indexes/"] = answer
    assert failure_of(lambda: sink.upsert([league()], MODEL)).kind is not ITEM


# --- the embedder alone -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "whose"),
    [("wrong_count", UNKNOWN), ("wrong_dimension", SINK), ("nan", UNKNOWN)],
)
def test_spoiled_embeddings_are_never_kept(
    embedding: EmbeddingHarness, kind: Any, whose: ErrorKind
) -> None:
    """Refused before they reach the store, all of an answer together."""
    embedding.server.admin.set_faults([FaultRule("openai.embeddings", kind)])
    rows = [league("a", description="A."), league("b", description="B.")]
    sink = embedding.shared()
    assert failure_of(lambda: sink.upsert(rows, embedding.model)).kind is whose
    assert embedding.store.vectors == {}


@pytest.mark.parametrize("code", ["insufficient_quota", "rate_limit_exceeded"])
def test_an_empty_account_is_named(embedding: EmbeddingHarness, code: str) -> None:
    """Both are 429: what people read tells them apart."""
    rule = FaultRule("openai.embeddings", "status", status=429, code=code)
    embedding.server.admin.set_faults([rule])
    failure = failure_of(lambda: embedding.shared().upsert([league()], embedding.model))
    assert failure.kind is SINK
    assert code in failure.reason


def test_a_model_that_the_embedder_does_not_have(embedding: EmbeddingHarness) -> None:
    """The sink's fault: every text would get the same answer."""
    other = replace(embedding.model, name="no-such-model")
    failure = failure_of(lambda: embedding.shared().upsert([league()], other))
    assert failure.kind is SINK
    assert "no-such-model" in failure.reason


def test_a_text_that_only_the_provider_finds_too_long_is_the_records_fault(
    embedding: EmbeddingHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit of a model that altsync has no tokenizer for."""
    monkeypatch.setattr("altsync.tokens.INPUT_LIMITS", {})
    long = league(description="word " * 9000)
    failure = failure_of(lambda: embedding.shared().upsert([long], embedding.model))
    assert failure.kind is ITEM


def test_a_text_over_the_models_limit_costs_no_request(embedding: EmbeddingHarness) -> None:
    """It gets its verdict at once, and the other texts of its call are embedded."""
    long, short = league("long", description="word " * 9000), league("short")
    answer = embedding.shared().upsert([long, short], embedding.model)
    refused, written = answer.outcomes
    assert isinstance(refused, Failed)
    assert refused.final
    assert refused.kind is ITEM
    assert "9,0" in refused.reason
    assert "8,192" in refused.reason
    assert written == Written(short.id, short.version)
    assert embedding.shared().upsert([long], embedding.model).calls == 0
    assert embedding.server.admin.stats().requests["openai.embeddings"] == 1
