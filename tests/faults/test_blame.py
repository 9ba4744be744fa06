"""A record is charged only after others have passed, else its destination is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import pytest

from altsync.circuit.sinks import SinkHealth, register_sinks, sink_health
from altsync.contract import EMBEDDING, Answer, SinkTraits, Topology
from altsync.db import Database
from altsync.delivery import Delivery, Policy
from altsync.entities import EntityType, Model, Row
from altsync.errors import SinkFailure
from altsync.operations import BreakerState, ErrorKind
from tests import sports
from tests.conftest import DIMENSIONS, MODEL, TOPOLOGY
from tests.integration.database_fixture import (
    DatabaseFixture,
    archetype,
    deliver,
    delivery,
    embed,
    embedding_sink,
    league,
    leagues,
)
from tests.integration.fakes import Call, FakeEmbedder, FakeGraph, FakeIndex, FakeSink, WideIndex

#: Calls after which a batch of 200 stops trying: halves down to one record, and two others.
HANDFUL = 14

REFUSALS = [
    SinkFailure(ErrorKind.ITEM, "400: unknown deployment"),
    SinkFailure(ErrorKind.UNKNOWN, "ValueError: an HTML page", outcome_unknown=True),
    SinkFailure(ErrorKind.SINK, "404: no such index"),
    SinkFailure(ErrorKind.SINK, "500: broken", outcome_unknown=True, timed_out=True),
]


def health(pg: DatabaseFixture, sink: str) -> SinkHealth:
    """The shared state of a sink."""
    return sink_health(pg.conn)[sink]


def fails(failure: SinkFailure, *types: EntityType) -> Callable[[Call], None]:
    """A script: calls with records of these types fail; without types all of them."""

    def script(call: Call) -> None:
        if not types or call.rows[0].entity_type in types:
            raise failure

    return script


def refuses(*keys: str) -> Callable[[Call], None]:
    """A script: every call that holds one of the keys is refused as a whole."""

    def script(call: Call) -> None:
        if set(keys) & set(call.keys):
            raise SinkFailure(ErrorKind.ITEM, "bad record")

    return script


def deliver_for_long(
    pg: DatabaseFixture, database: Database, sink: FakeSink, rounds: int = 60
) -> None:
    """Drain again and again, with time for every retry and breaker in between."""
    for _ in range(rounds):
        delivery(database, sink).drain(10)
        if not any(op.live for op in pg.ops(sink.traits.name)):
            return
        pg.advance_time(1000)


@pytest.mark.parametrize("failure", REFUSALS, ids=lambda one: one.reason[:3])
@pytest.mark.parametrize("count", [1, 2, 3, 200])
def test_a_sink_that_refuses_everything_spends_no_attempt(
    pg: DatabaseFixture, database: Database, failure: SinkFailure, count: int
) -> None:
    graph = FakeGraph()
    graph.before = fails(failure)
    pg.save(*leagues(count))
    batch = deliver(database, graph)
    assert batch.calls == len(graph.calls) <= HANDFUL
    assert health(pg, "neo4j").state is BreakerState.OPEN
    assert failure.reason in (health(pg, "neo4j").reason or "")
    first = len(graph.calls)
    for _ in range(20):
        pg.advance_time(1000)
        delivery(database, graph).drain(10)
    assert len(graph.calls) - first <= 20
    assert {(op.status, op.attempts) for op in pg.ops("neo4j")} == {("pending", 0)}
    graph.before = lambda call: None
    deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": count}


@pytest.mark.parametrize("failure", REFUSALS, ids=lambda one: one.reason[:3])
def test_a_sink_that_begins_to_refuse_everything_spends_no_attempt(
    pg: DatabaseFixture, database: Database, failure: SinkFailure
) -> None:
    """It holds records already: the control write is refused as well."""
    graph = FakeGraph()
    pg.save(*leagues(20))
    deliver(database, graph)
    pg.save(*[league(f"l{n:03}", tier="TIER1") for n in range(10)], league("new"))
    graph.before = fails(failure)
    for _ in range(20):
        delivery(database, graph).drain(10)
        pg.advance_time(1000)
    assert pg.counts("neo4j") == {"synced": 20, "pending": 11}
    assert {op.attempts for op in pg.ops("neo4j") if op.live} == {0}
    assert len(graph.calls) <= 1 + HANDFUL + 2 * 20
    graph.before = lambda call: None
    deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": 31}


@pytest.mark.parametrize("failure", REFUSALS, ids=lambda one: one.reason[:3])
@pytest.mark.parametrize("broken", [sports.SPORT_ARCHETYPE, sports.LEAGUE])
def test_one_refusing_type_neither_dies_nor_stops_the_other(
    pg: DatabaseFixture, database: Database, failure: SinkFailure, broken: EntityType
) -> None:
    graph = FakeGraph()
    graph.before = fails(failure, broken)
    pg.save(*leagues(60), *(archetype(f"a{number:02}") for number in range(60)))
    for _ in range(20):
        delivery(database, graph).drain(10)
        pg.advance_time(1000)
    by_type = {(op.entity_type == broken, op.status, op.attempts) for op in pg.ops("neo4j")}
    assert by_type == {(True, "pending", 0), (False, "synced", 1)}
    assert str(broken) in (health(pg, "neo4j").reason or "") or (
        health(pg, "neo4j").state is BreakerState.OPEN
    )
    refused = [call for call in graph.calls if call.rows[0].entity_type is broken]
    assert len(refused) <= HANDFUL + 2 * 20
    # Later records of the healthy type do not wait for the broken one.
    healthy = league("later") if broken is not sports.LEAGUE else archetype("later")
    pg.save(healthy)
    pg.advance_time(1000)
    delivery(database, graph).drain(10)
    assert pg.last("neo4j", "later").status == "synced"
    graph.before = lambda call: None
    deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": 121}
    assert not health(pg, "neo4j").reason


def test_refused_deletions_are_not_charged_because_upserts_pass(
    pg: DatabaseFixture, database: Database
) -> None:
    graph = FakeGraph()
    pg.save(*leagues(40))
    deliver(database, graph)
    pg.delete(*leagues(10))

    def script(call: Call) -> None:
        if call.action == "delete":
            raise SinkFailure(ErrorKind.ITEM, "EntityNotFound")

    graph.before = script
    for number in range(20):
        pg.save(league(f"new{number}"))
        delivery(database, graph).drain(10)
        pg.advance_time(1000)
    assert "dead" not in pg.counts("neo4j")
    graph.before = lambda call: None
    deliver_for_long(pg, database, graph)
    assert {op.status for op in pg.ops("neo4j")} == {"synced"}


def test_a_lone_bad_record_in_an_idle_system_ends(pg: DatabaseFixture, database: Database) -> None:
    """A record that the sink holds is written once more, and passes: one call for each try."""
    graph = FakeGraph()
    pg.save(*leagues(3))
    deliver(database, graph)
    pg.save(league("bad"))
    graph.before = refuses("bad")
    deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": 3, "dead": 1}
    assert len(graph.calls) == 1 + 2 * 5
    assert health(pg, "neo4j").state is BreakerState.CLOSED
    assert {
        status for key in ("l000", "l001", "l002") for status in [pg.statuses(league(key))["neo4j"]]
    } == {"synced"}


def test_many_bad_records_among_good_ones_all_end(pg: DatabaseFixture, database: Database) -> None:
    bad = [f"l{number:03}" for number in range(12)]
    graph = FakeGraph()
    graph.before = refuses(*bad)
    pg.save(*leagues(100))
    deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": 88, "dead": 12}


def test_an_index_that_refuses_everything_gets_few_calls_at_once(
    pg: DatabaseFixture, database: Database
) -> None:
    index = WideIndex(size=25)
    index.before = fails(SinkFailure(ErrorKind.ITEM, "400: dimension 1536, not 3072"))
    pg.save(*leagues(200))
    embed(database)
    assert deliver(database, index).calls <= HANDFUL
    assert health(pg, "pinecone").state is BreakerState.OPEN
    assert {(op.status, op.attempts) for op in pg.ops("pinecone")} == {("pending", 0)}


def test_an_index_that_begins_to_refuse_amid_a_batch_charges_no_record(
    pg: DatabaseFixture, database: Database
) -> None:
    """The first calls of the batch passed: that is no evidence for what came after them."""
    index = WideIndex(size=25)
    pg.save(*leagues(200))
    embed(database)

    def script(call: Call) -> None:
        if len(index.calls) > 3:
            raise SinkFailure(ErrorKind.ITEM, "400: revoked")

    index.before = script
    for _ in range(20):
        delivery(database, index).drain(10)
        pg.advance_time(1000)
    counts = pg.counts("pinecone")
    assert counts.keys() == {"synced", "pending"}
    assert counts["synced"] <= 75
    assert len(index.calls) <= 3 + 8 + 2 * HANDFUL + 3 * 20


def test_a_control_write_of_an_unguarded_sink_leaves_nothing_behind(
    pg: DatabaseFixture, database: Database
) -> None:
    index = FakeIndex()
    pg.save(*leagues(3))
    embed(database)
    deliver(database, index)
    pg.save(league("bad"))
    embed(database)
    index.before = refuses("bad")
    deliver_for_long(pg, database, index)
    assert pg.counts("pinecone") == {"synced": 3, "dead": 1}


def test_a_control_write_that_may_still_land_is_written_once_more(
    pg: DatabaseFixture, database: Database
) -> None:
    index = FakeIndex()
    pg.save(league("held"))
    embed(database)
    deliver(database, index)
    pg.save(league("bad"))
    embed(database)

    def script(call: Call) -> None:
        if call.keys == ["held"]:
            raise SinkFailure(ErrorKind.SINK, "no answer", outcome_unknown=True, timed_out=True)
        raise SinkFailure(ErrorKind.ITEM, "bad record")

    index.before = script
    deliver(database, index)
    held = pg.live("pinecone", "held")
    assert (held.attempts, held.outcome_unknown) == (0, True)
    assert pg.live("pinecone", "bad").attempts == 0


@pytest.mark.parametrize("count", [1, 2, 200])
@pytest.mark.parametrize("kind", [ErrorKind.ITEM, ErrorKind.UNKNOWN, ErrorKind.SINK])
def test_an_embedder_that_refuses_everything_spends_no_attempt(
    pg: DatabaseFixture, database: Database, count: int, kind: ErrorKind
) -> None:
    requests: list[Sequence[str]] = []

    def refuse(texts: Sequence[str]) -> None:
        requests.append(texts)
        raise SinkFailure(kind, f"400: request {len(requests)}")

    embedder = FakeEmbedder(before=refuse)
    pg.save(*leagues(count))
    sink = embedding_sink(database, embedder)
    deliver(database, sink)
    assert len(requests) <= HANDFUL
    assert health(pg, EMBEDDING).state is BreakerState.OPEN
    assert "400" in (health(pg, EMBEDDING).reason or "")
    for _ in range(10):
        pg.advance_time(1000)
        delivery(database, sink).drain(10)
    assert len(requests) <= HANDFUL + 2 * 10
    assert {(op.status, op.attempts) for op in pg.ops(EMBEDDING)} == {("pending", 0)}


def test_a_text_that_the_embedder_refuses_ends(pg: DatabaseFixture, database: Database) -> None:
    """A text of one word passes, so the record's own is at fault."""

    def refuse(texts: Sequence[str]) -> None:
        if any("Bad" in text for text in texts):
            raise SinkFailure(ErrorKind.ITEM, "400: content filter")

    embedder = FakeEmbedder(before=refuse)
    pg.save(league("bad", description="Bad."))
    sink = embedding_sink(database, embedder)
    for _ in range(10):
        delivery(database, sink).drain(10)
        pg.advance_time(1000)
    assert pg.last(EMBEDDING, "bad").status == "dead"
    assert len(embedder.requests) <= 5


def test_an_embedder_that_refuses_one_of_two_types_spends_no_attempt(
    pg: DatabaseFixture, database: Database
) -> None:
    requests: list[Sequence[str]] = []

    def refuse(texts: Sequence[str]) -> None:
        requests.append(texts)
        if any("The l" in text for text in texts):
            raise SinkFailure(ErrorKind.ITEM, "422: not these")

    embedder = FakeEmbedder(before=refuse)
    pg.save(*leagues(60), *(archetype(f"a{number}") for number in range(5)))
    sink = embedding_sink(database, embedder)
    for _ in range(10):
        delivery(database, sink).drain(10)
        pg.advance_time(1000)
    ops = pg.ops(EMBEDDING)
    assert {(op.entity_type, op.status) for op in ops} == {
        ("league", "pending"),
        ("sport_archetype", "synced"),
    }
    assert {op.attempts for op in ops if op.live} == {0}
    assert len(requests) <= HANDFUL + 3 * 10


class CannotBeSetUp(FakeGraph):
    """A graph whose constraints cannot be made."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def setup(self) -> None:
        super().setup()
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        SinkFailure(ErrorKind.ITEM, "400: no such region"),
        SinkFailure(ErrorKind.UNKNOWN, "what was that"),
        SinkFailure(ErrorKind.SINK, "403: plan"),
        ZeroDivisionError("by zero"),
    ],
    ids=lambda one: type(one).__name__ + str(one)[:3],
)
def test_what_cannot_be_set_up_is_the_sinks(
    pg: DatabaseFixture, database: Database, error: Exception
) -> None:
    graph = CannotBeSetUp(error)
    pg.save(*leagues(60))
    for _ in range(10):
        delivery(database, graph).drain(10)
        pg.advance_time(1000)
    assert graph.calls == []
    assert graph.set_up <= 10
    assert {(op.status, op.attempts) for op in pg.ops("neo4j")} == {("pending", 0)}
    assert str(error) in (health(pg, "neo4j").reason or "")


def test_a_type_that_cannot_be_set_up_does_not_stop_the_others(
    pg: DatabaseFixture, database: Database
) -> None:
    graph = CannotBeSetUp(
        SinkFailure(ErrorKind.SINK, "dimension 3072", only={sports.SPORT_ARCHETYPE})
    )
    pg.save(*leagues(5), archetype("racing"))
    for _ in range(5):
        delivery(database, graph).drain(10)
        pg.advance_time(1000)
    assert pg.counts("neo4j") == {"synced": 5, "pending": 1}
    assert pg.live("neo4j", "racing").last_error == "dimension 3072"


class Plugin(FakeGraph):
    """A third-party sink, whose split has a defect over one record."""

    traits: ClassVar[SinkTraits] = SinkTraits("neo4j", guarded=True, edges=True)

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        if any(row.key == "l007" for row in rows):
            raise ZeroDivisionError("by zero")
        return super().split(rows, model)

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        return super().upsert(rows, model)


def test_a_defect_over_one_record_outside_a_call_ends_with_that_record(
    pg: DatabaseFixture, database: Database
) -> None:
    graph = Plugin()
    pg.save(*leagues(20))
    deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": 19, "dead": 1}


@pytest.mark.parametrize("failure", REFUSALS[:3], ids=lambda one: one.reason[:3])
@pytest.mark.parametrize("kept", [0, 3])
def test_a_lone_bad_record_of_a_new_type_waits_with_its_name_and_a_way_out(
    pg: DatabaseFixture, database: Database, failure: SinkFailure, kept: int
) -> None:
    """Nothing of its type is there as evidence: one call a look, the sink's words, its name."""
    graph = FakeGraph()
    pg.save(*leagues(kept))
    delivery(database, graph).drain(10)
    held = len(graph.calls)
    pg.save(archetype("bad"))

    def script(call: Call) -> None:
        if any(row.key == "bad" and row.content == archetype("bad") for row in call.rows):
            raise failure

    graph.before = script
    for _ in range(20):
        delivery(database, graph).drain(10)
        pg.advance_time(1000)
    waits = pg.live("neo4j", "bad")
    assert (waits.status, waits.attempts) == ("pending", 0)
    assert len(graph.calls) - held <= 20
    said = health(pg, "neo4j").reason or ""
    assert failure.reason in said
    if failure.kind is not ErrorKind.SINK:
        assert "sport_archetype bad" in said
        assert "correct its seed line" in said
    pg.save(archetype("bad", display_name="Good"))
    deliver_for_long(pg, database, graph)
    assert pg.last("neo4j", "bad").status == "synced"
    assert not health(pg, "neo4j").reason


def test_a_lone_bad_record_of_a_new_type_ends_when_others_pass(
    pg: DatabaseFixture, database: Database
) -> None:
    graph = FakeGraph()
    graph.before = refuses("bad")
    pg.save(league("bad"))
    delivery(database, graph).drain(10)
    pg.advance_time(1000)
    assert health(pg, "neo4j").state is BreakerState.OPEN
    pg.save(league("later"))
    deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": 1, "dead": 1}
    assert health(pg, "neo4j").state is BreakerState.CLOSED
    assert not health(pg, "neo4j").reason


class Files(FakeGraph):
    """Another program's sink: entities keep no status of it, so none is written once more."""

    traits: ClassVar[SinkTraits] = SinkTraits("files")


def deliver_files(pg: DatabaseFixture, database: Database, files: Files, rounds: int) -> None:
    """Drain the sink of ``Files`` again and again, with time for every retry in between."""
    topology = Topology((*TOPOLOGY.sinks, Files.traits))
    for _ in range(rounds):
        Delivery(database, files, topology, Policy(), worker="tests").drain(10)
        pg.advance_time(1000)


def test_a_bad_record_of_a_sink_without_a_status_ends_as_others_pass(
    pg: DatabaseFixture, database: Database
) -> None:
    """Each one that passes after it failed is evidence for one attempt, in whatever batch."""
    topology = Topology((*TOPOLOGY.sinks, Files.traits))
    pg.topology = topology
    register_sinks(pg.conn, topology, MODEL, DIMENSIONS)
    files = Files()
    files.before = refuses("bad")
    pg.save(league("bad"))
    deliver_files(pg, database, files, 5)
    assert (pg.live("files", "bad").attempts, len(files.calls)) == (0, 5)
    for number in range(5):
        pg.save(league(f"later{number}"))
        deliver_files(pg, database, files, 3)
    assert pg.last("files", "bad").status == "dead"
    deliver_files(pg, database, files, 2)
    assert pg.counts("files") == {"synced": 5, "dead": 1}
    assert health(pg, "files").state is BreakerState.CLOSED


def test_a_sink_without_a_status_that_begins_to_refuse_spends_no_attempt(
    pg: DatabaseFixture, database: Database
) -> None:
    """Records that passed before the first failure are no evidence against the failed one."""
    topology = Topology((*TOPOLOGY.sinks, Files.traits))
    pg.topology = topology
    register_sinks(pg.conn, topology, MODEL, DIMENSIONS)
    files = Files()
    pg.save(*leagues(5))
    deliver_files(pg, database, files, 1)
    files.before = fails(SinkFailure(ErrorKind.ITEM, "400: no"))
    pg.save(*(league(f"new{number}") for number in range(40)))
    deliver_files(pg, database, files, 10)
    assert {op.attempts for op in pg.ops("files") if op.live} == {0}
    assert pg.counts("files") == {"synced": 5, "pending": 40}
    assert len(files.calls) <= 1 + HANDFUL + 2 * 10
