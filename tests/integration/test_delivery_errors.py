"""Delivery to sinks that fail: whose fault it is, what it costs, and who dies of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from altsync.circuit.sinks import SinkHealth, sink_health
from altsync.contract import EMBEDDING, Failed, RecordOutcome
from altsync.db import Database
from altsync.delivery import Batch
from altsync.entities import Content, Model, Row
from altsync.errors import SinkFailure
from altsync.operations import BreakerState, ErrorKind, Settlement
from tests.integration.database_fixture import (
    CONFIRM_AFTER,
    DatabaseFixture,
    archetype,
    deliver,
    delivery,
    embed,
    embedding_sink,
    example,
    league,
    leagues,
)
from tests.integration.fakes import Call, FakeEmbedder, FakeGraph, FakeIndex, FakeSink

NFL = league("nfl")

DOWN = SinkFailure(ErrorKind.SINK, "no connection")
HANGS = SinkFailure(ErrorKind.SINK, "did not answer in time", outcome_unknown=True, timed_out=True)


def refuses(*keys: str, kind: ErrorKind = ErrorKind.ITEM) -> Callable[[Call], None]:
    """A script: every call that holds one of the keys is refused as a whole."""

    def script(call: Call) -> None:
        if set(keys) & set(call.keys):
            raise SinkFailure(kind, "bad record")

    return script


def hangs_on(*keys: str) -> Callable[[Call], None]:
    """A script: every call that holds one of the keys is never answered."""

    def script(call: Call) -> None:
        if set(keys) & set(call.keys):
            raise HANGS

    return script


def raises(error: Exception) -> Callable[[Call], None]:
    """A script: every call fails."""

    def script(call: Call) -> None:
        raise error

    return script


def first(count: int, script: Callable[[Call], None]) -> Callable[[Call], None]:
    """A script for so many calls; then the sink works."""
    left = [count]

    def limited(call: Call) -> None:
        if left[0]:
            left[0] -= 1
            script(call)

    return limited


# --- bad records -----------------------------------------------------------------------------


def test_one_bad_record_of_five_hundred(pg: DatabaseFixture, database: Database) -> None:
    """Halved down to it: 499 are synced at once, for at most 18 more calls."""
    pg.save(*leagues(500))
    graph = FakeGraph()
    graph.before = refuses("l123")
    batch = deliver(database, graph)
    assert batch.settlement == Settlement(synced=499, retried=1)
    assert batch.calls == len(graph.calls) <= 1 + 18
    bad = pg.live("neo4j", "l123")
    assert (bad.attempts, bad.error_kind, bad.last_error) == (1, "item", "bad record")


def test_the_bad_record_dies_after_its_attempts(pg: DatabaseFixture, database: Database) -> None:
    """With the reason, and without any other record."""
    pg.save(*leagues(20))
    graph = FakeGraph()
    graph.before = refuses("l007")
    _deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": 19, "dead": 1}
    dead = pg.last("neo4j", "l007")
    assert (dead.attempts, dead.error_kind, dead.last_error) == (5, "item", "bad record")
    assert pg.statuses(league("l007"))["neo4j"] == "failed"
    assert _health(pg).state is BreakerState.CLOSED


def test_several_bad_records(pg: DatabaseFixture, database: Database) -> None:
    """Each is found."""
    pg.save(*leagues(64))
    graph = FakeGraph()
    graph.before = refuses("l000", "l031", "l063")
    batch = deliver(database, graph)
    assert batch.settlement == Settlement(synced=61, retried=3)


def test_a_bad_record_that_is_corrected_starts_afresh(
    pg: DatabaseFixture, database: Database
) -> None:
    """The edit is delivered at once, and closes what died."""
    graph = _graph_with_another(pg, database)
    pg.save(NFL)
    graph.before = refuses("nfl")
    _deliver_for_long(pg, database, graph)
    graph.before = lambda call: None
    pg.save(league("nfl", tier="TIER1"))
    deliver(database, graph)
    assert pg.counts("neo4j") == {"superseded": 1, "synced": 2}


def test_retries_wait_longer_and_longer(pg: DatabaseFixture, database: Database) -> None:
    """With full jitter: at most twice as long each time, up to the cap."""
    graph = _graph_with_another(pg, database)
    pg.save(NFL)
    graph.before = refuses("nfl")
    for attempt in range(1, 5):
        deliver(database, graph, backoff=10.0, backoff_cap=60.0)
        op = pg.live("neo4j", "nfl")
        assert op.attempts == attempt
        assert op.wait <= min(60.0, 10.0 * 2**attempt)
        pg.advance_time(1000)


def test_the_lease_holds_while_halving(pg: DatabaseFixture, database: Database) -> None:
    """It is extended before each further call."""
    pg.save(*leagues(16))
    graph = FakeGraph()
    waits: list[float] = []

    def spend(call: Call) -> None:
        waits.append(min(op.wait for op in pg.ops("neo4j")))
        pg.conn.execute("UPDATE sync_operation SET available_at = now() + interval '1 s'")
        refuses("l005")(call)

    graph.before = spend
    batch = deliver(database, graph)
    assert batch.settlement == Settlement(synced=15, retried=1)
    assert len(waits) == 9
    assert min(waits) > 20


def test_halving_stops_when_the_lease_is_lost(pg: DatabaseFixture, database: Database) -> None:
    """Another worker holds the rows by now."""
    pg.save(*leagues(16))
    graph = FakeGraph()

    def script(call: Call) -> None:
        if len(graph.calls) == 3:
            pg.expire_leases()
            pg.claim("neo4j")
        refuses("l005")(call)

    graph.before = script
    batch = deliver(database, graph)
    assert len(graph.calls) == 3
    assert batch.settlement.lost > 0


def test_a_refused_delete_is_halved_too(pg: DatabaseFixture, database: Database) -> None:
    """One row that cannot be deleted does not keep the others."""
    pg.save(*leagues(8))
    pg.delete(*leagues(8))
    graph = FakeGraph()
    graph.before = refuses("l003")
    assert deliver(database, graph).settlement == Settlement(synced=7, retried=1)


def test_a_sink_may_report_records_one_by_one(pg: DatabaseFixture, database: Database) -> None:
    """Failed outcomes need no halving, and each is settled by its own kind."""
    pg.save(*leagues(4))
    graph = FakeGraph()

    def answer(call: Call, outcomes: tuple[RecordOutcome, ...]) -> tuple[RecordOutcome, ...]:
        good, bad, throttled, fine = outcomes
        return (
            good,
            Failed(bad.id, ErrorKind.ITEM, "too long"),
            Failed(throttled.id, ErrorKind.SINK, "throttled", retry_after=50.0),
            fine,
        )

    graph.answer = answer
    assert deliver(database, graph).settlement == Settlement(synced=2, retried=2)
    assert len(graph.calls) == 1
    item, sink = pg.live("neo4j", "l001"), pg.live("neo4j", "l002")
    assert (item.attempts, item.error_kind) == (1, "item")
    assert (sink.attempts, sink.error_kind, 40 < sink.wait <= 50) == (0, "sink", True)


# --- unknown errors --------------------------------------------------------------------------


def test_an_unknown_exception_is_kept_in_the_row(pg: DatabaseFixture, database: Database) -> None:
    """A defect of ours or of a driver: told, counted, and the batch is halved around it."""
    pg.save(*leagues(8))
    graph = FakeGraph()

    def script(call: Call) -> None:
        if "l005" in call.keys:
            raise ZeroDivisionError("by zero")

    graph.before = script
    assert deliver(database, graph).settlement == Settlement(synced=7, retried=1)
    op = pg.live("neo4j", "l005")
    assert (op.error_kind, op.last_error, op.attempts, op.outcome_unknown) == (
        "unknown",
        "ZeroDivisionError: by zero",
        1,
        True,
    )
    _deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": 7, "dead": 1}


@pytest.mark.parametrize("step", ["setup", "split"])
def test_an_unknown_exception_outside_a_call_is_kept_in_the_rows(
    pg: DatabaseFixture, database: Database, step: str
) -> None:
    """Not left to the lease, as no message would say why nothing arrives."""
    pg.save(NFL)

    class Broken(FakeGraph):
        def setup(self) -> None:
            if step == "setup":
                raise ZeroDivisionError("by zero")

        def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
            if step == "split":
                raise ZeroDivisionError("by zero")
            return super().split(rows, model)

    assert deliver(database, Broken()).settlement == Settlement(retried=1)
    assert "by zero" in (pg.live("neo4j", "nfl").last_error or "")


def test_an_error_text_that_no_database_stores(pg: DatabaseFixture, database: Database) -> None:
    """A sink's answer may quote anything: its batch is settled all the same."""
    pg.save(*leagues(4))
    graph = FakeGraph()

    def script(call: Call) -> None:
        if "l001" in call.keys:
            raise SinkFailure(ErrorKind.ITEM, "unexpected '\x00' in the body")

    graph.before = script
    assert deliver(database, graph).settlement == Settlement(synced=3, retried=1)


# --- the sink is down ------------------------------------------------------------------------


def test_an_outage_costs_no_attempt(pg: DatabaseFixture, database: Database) -> None:
    """The breaker opens, no call goes out, and everything arrives when the sink is back."""
    pg.save(*leagues(10))
    graph = FakeGraph()
    graph.before = raises(DOWN)
    assert deliver(database, graph).settlement == Settlement(retried=10)
    health = _health(pg)
    assert (health.state, health.reason) == (BreakerState.OPEN, "no connection")
    assert {(op.attempts, op.error_kind) for op in pg.ops("neo4j")} == {(0, "sink")}
    assert deliver(database, graph) == Batch()
    assert len(graph.calls) == 1

    graph.before = lambda call: None
    pg.advance_time(100)
    assert deliver(database, graph).settlement == Settlement(synced=1)
    assert _health(pg).state is BreakerState.CLOSED
    assert deliver(database, graph).settlement == Settlement(synced=9)


def test_a_long_outage_kills_nothing(pg: DatabaseFixture, database: Database) -> None:
    """Probe after probe, one row each: attempts stay, waits grow up to the cap."""
    pg.save(*leagues(5))
    graph = FakeGraph()
    graph.before = raises(DOWN)
    waits = []
    for _ in range(25):
        deliver(database, graph, breaker_cap=30.0)
        waits.append(
            pg.scalar(
                "SELECT EXTRACT(epoch FROM open_until - now())::float8 FROM sink_state "
                "WHERE sink = 'neo4j'"
            )
        )
        pg.advance_time(31)
    assert len(graph.calls) == 25
    assert {len(call.rows) for call in graph.calls[1:]} == {1}
    assert max(waits) <= 30
    assert min(waits[10:]) >= 14
    assert {(op.status, op.attempts) for op in pg.ops("neo4j")} == {("pending", 0)}


def test_an_outage_is_given_up_after_two_calls(pg: DatabaseFixture, database: Database) -> None:
    """The rest of a batch is not tried, and gets its attempts back, too."""
    pg.save(*leagues(10))
    graph = FakeGraph()
    graph.size = 2
    graph.before = raises(DOWN)
    assert deliver(database, graph).settlement == Settlement(retried=10)
    assert len(graph.calls) == 2
    assert {op.attempts for op in pg.ops("neo4j")} == {0}


def test_one_failed_call_between_others_opens_nothing(
    pg: DatabaseFixture, database: Database
) -> None:
    """The sink is up after all: only the rows of that call are retried."""
    pg.save(*leagues(10))
    graph = FakeGraph()
    graph.size = 2
    graph.before = refuses("l004", kind=ErrorKind.SINK)
    assert deliver(database, graph).settlement == Settlement(synced=8, retried=2)
    assert _health(pg).state is BreakerState.CLOSED
    assert sorted(op.entity_key for op in pg.ops("neo4j") if op.live) == ["l004", "l005"]


def test_a_failed_call_is_not_repeated_at_once(pg: DatabaseFixture, database: Database) -> None:
    """Its rows wait, though the breaker is closed: else they are sent again and again."""
    pg.save(*leagues(4))
    graph = FakeGraph()
    graph.size = 2
    graph.before = refuses("l000", kind=ErrorKind.SINK)
    deliver(database, graph, backoff=1000.0, backoff_cap=1000.0)
    assert pg.live("neo4j", "l000").wait > 0


def test_the_sink_says_how_long_to_wait(pg: DatabaseFixture, database: Database) -> None:
    """Retry-After is the time, for all workers together; it goes on no further."""
    pg.save(*leagues(10))
    graph = FakeGraph()
    graph.size = 2
    throttled = SinkFailure(ErrorKind.SINK, "slow down", retry_after=120.0)
    graph.before = raises(throttled)
    assert deliver(database, graph, breaker_cap=30.0).settlement == Settlement(retried=10)
    assert len(graph.calls) == 1
    assert {100 < op.wait <= 120 for op in pg.ops("neo4j")} == {True}
    pg.advance_time(118)
    assert deliver(database, graph) == Batch()
    graph.before = lambda call: None
    pg.advance_time(3)
    delivery(database, graph).drain(10)
    assert pg.counts("neo4j") == {"synced": 10}
    assert {op.attempts for op in pg.ops("neo4j")} == {1}


def test_throttled_on_half_the_calls(pg: DatabaseFixture, database: Database) -> None:
    """With 429 and Retry-After: no call before its time, and no attempt is spent."""
    pg.save(*leagues(100))
    graph = FakeGraph()
    dice = random.Random(20)

    def script(call: Call) -> None:
        if dice.random() < 0.5:
            raise SinkFailure(ErrorKind.SINK, "slow down", retry_after=2.0)

    graph.before = script
    for _ in range(200):
        refused = deliver(database, graph, batch_size=20).settlement.retried
        if refused:
            pg.advance_time(1.5)
            assert deliver(database, graph) == Batch()
            pg.advance_time(1)
    assert pg.counts("neo4j") == {"synced": 100}
    assert {op.attempts for op in pg.ops("neo4j")} == {1}
    assert len(graph.calls) < 60


def test_a_dead_sink_does_not_hold_up_another(pg: DatabaseFixture, database: Database) -> None:
    """Each has its own breaker and its own operations."""
    pg.save(*leagues(3))
    graph, embedder = FakeGraph(), FakeEmbedder()
    graph.before = raises(DOWN)
    deliver(database, graph)
    embed(database, embedder)
    index = FakeIndex()
    deliver(database, index)
    assert pg.counts("pinecone") == {"synced": 3}
    assert pg.counts("neo4j") == {"pending": 3}


def test_a_wrong_key_of_the_embedder_makes_nothing_dead(
    pg: DatabaseFixture, database: Database
) -> None:
    """The graph is up to date, the vectors wait, and the status says why."""
    pg.save(*leagues(3))

    def refuse(texts: Sequence[str]) -> None:
        raise SinkFailure(ErrorKind.SINK, "the embedder answered 401 invalid_api_key")

    embedder = FakeEmbedder(before=refuse)
    for _ in range(20):
        deliver(database, embedding_sink(database, embedder))
        pg.advance_time(60)
    deliver(database, FakeGraph())
    assert pg.counts(EMBEDDING) == {"pending": 3}
    assert pg.counts("neo4j") == {"synced": 3}
    assert "401" in (sink_health(pg.conn)[EMBEDDING].reason or "")
    embedder.before = lambda texts: None
    pg.advance_time(60)
    embed(database, embedder)
    assert pg.counts(EMBEDDING) == {"synced": 3}


def test_a_sink_that_cannot_be_set_up(pg: DatabaseFixture, database: Database) -> None:
    """Is down, as any other; it is set up when it is back."""
    pg.save(NFL)

    class Away(FakeGraph):
        def setup(self) -> None:
            super().setup()
            if self.set_up < 3:
                raise DOWN

    graph = Away()
    worker = delivery(database, graph)
    for _ in range(3):
        worker.deliver_batch()
        pg.advance_time(60)
    assert (graph.set_up, len(graph.calls)) == (3, 1)
    assert pg.last("neo4j", "nfl").status == "synced"


def test_a_probe_that_finds_a_bad_record_closes_the_breaker(
    pg: DatabaseFixture, database: Database
) -> None:
    """The sink takes another record, written as a control."""
    graph = _graph_with_another(pg, database)
    pg.save(NFL)
    graph.before = raises(DOWN)
    deliver(database, graph)
    pg.advance_time(60)
    graph.before = refuses("nfl")
    deliver(database, graph)
    assert _health(pg).state is BreakerState.CLOSED


def test_a_probe_without_anything_to_call_for_leaves_the_breaker(
    pg: DatabaseFixture, database: Database
) -> None:
    """A row that is gone says nothing about the sink: the next one probes."""
    pg.save(NFL, archetype("racing"))
    graph = FakeGraph()
    graph.before = raises(DOWN)
    deliver(database, graph)
    pg.conn.execute("DELETE FROM league")
    pg.conn.execute("UPDATE sync_operation SET timeout_count = 1 WHERE entity_key = 'racing'")
    pg.advance_time(60)
    assert deliver(database, graph).settlement == Settlement(superseded=1)
    assert _health(pg).state is BreakerState.OPEN
    graph.before = lambda call: None
    assert deliver(database, graph).settlement == Settlement(synced=1)
    assert _health(pg).state is BreakerState.CLOSED


# --- records that hang the sink --------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [5, 500])
def test_a_record_that_always_hangs_is_told_from_an_outage(
    pg: DatabaseFixture, database: Database, batch_size: int
) -> None:
    """Alone it hangs while the others pass: it dies, and they are synced."""
    pg.save(*leagues(20))
    graph = FakeGraph()
    graph.before = hangs_on("l007")
    _deliver_for_long(pg, database, graph, batch_size=batch_size)
    assert pg.counts("neo4j") == {"synced": 19, "dead": 1}
    dead = pg.last("neo4j", "l007")
    assert (dead.error_kind, dead.last_error) == ("item", "did not answer in time")
    hung = [call for call in graph.calls if "l007" in call.keys]
    assert len(hung) <= 20
    pg.advance_time(100)
    assert _health(pg).state is BreakerState.CLOSED


def test_two_records_that_always_hang(pg: DatabaseFixture, database: Database) -> None:
    """Both become dead, and no other."""
    pg.save(*leagues(20))
    graph = FakeGraph()
    graph.before = hangs_on("l003", "l012")
    _deliver_for_long(pg, database, graph, rounds=400)
    assert pg.counts("neo4j") == {"synced": 18, "dead": 2}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_outage_of_silence_kills_nothing(
    pg: DatabaseFixture, database: Database, count: int
) -> None:
    """However long no answer comes, and however few wait."""
    pg.save(*leagues(count))
    graph = FakeGraph()
    graph.before = raises(HANGS)
    for _ in range(25):
        deliver(database, graph)
        pg.advance_time(100)
    assert pg.counts("neo4j") == {"pending": count}
    graph.before = lambda call: None
    _deliver_for_long(pg, database, graph)
    assert pg.counts("neo4j") == {"synced": count}


def test_an_outage_that_flickers_kills_nothing(pg: DatabaseFixture, database: Database) -> None:
    """One answer in the middle of it does not turn the rest into bad records."""
    pg.save(*leagues(3))
    graph = FakeGraph()
    graph.before = raises(HANGS)
    for _ in range(12):
        deliver(database, graph)
        pg.advance_time(100)
    graph.before = lambda call: None
    assert deliver(database, graph).settlement == Settlement(synced=1)
    graph.before = raises(HANGS)
    for _ in range(25):
        deliver(database, graph)
        pg.advance_time(100)
    assert pg.counts("neo4j") == {"synced": 1, "pending": 2}


def test_a_lone_record_that_hangs_is_given_up_when_others_have_passed(
    pg: DatabaseFixture, database: Database
) -> None:
    """As long as it is alone it may be an outage."""
    pg.save(NFL)
    graph = FakeGraph()
    graph.before = hangs_on("nfl")
    for _ in range(10):
        deliver(database, graph)
        pg.advance_time(100)
    assert pg.counts("neo4j") == {"pending": 1}
    for number in range(15):
        pg.save(league(f"other{number}"))
        _deliver_for_long(pg, database, graph, rounds=4)
    assert pg.last("neo4j", "nfl").status == "dead"
    assert pg.counts("neo4j") == {"synced": 15, "dead": 1}


# --- writes whose outcome is not known -------------------------------------------------------


def test_a_write_of_unknown_outcome_is_confirmed(pg: DatabaseFixture, database: Database) -> None:
    """Timed out after it was applied: written again, and once more after the horizon."""
    index = _vectors(pg, database, NFL)
    index.after = first(1, raises(HANGS))
    deliver(database, index)
    assert pg.live("pinecone", "nfl").outcome_unknown
    pg.advance_time(60)
    deliver(database, index)
    confirming = pg.live("pinecone", "nfl")
    assert confirming.origin == "confirm"
    assert CONFIRM_AFTER - 10 < confirming.wait <= CONFIRM_AFTER
    assert pg.statuses(NFL)["pinecone"] == "synced"
    pg.advance_time(CONFIRM_AFTER)
    deliver(database, index)
    assert pg.counts("pinecone") == {"synced": 2}
    assert len(index.calls) == 3


def test_a_late_write_is_overwritten_by_the_confirming_write(
    pg: DatabaseFixture, database: Database
) -> None:
    """The older vector is applied after the newer one; the confirming write corrects it."""
    index = _vectors(pg, database, NFL)
    index.before = first(1, raises(HANGS))
    deliver(database, index)
    late = index.calls[0].rows[0]
    newer = league("nfl", tier="TIER1")
    pg.save(newer)
    pg.advance_time(10)
    delivery(database, index).drain(10)
    pg.advance_time(10)
    index.apply(late, Model("", 0))
    assert {held.version for held in index.held.values()} == {late.version}
    pg.advance_time(CONFIRM_AFTER)
    delivery(database, index).drain(10)
    assert {held.version for held in index.held.values()} == {pg.version(newer)}
    assert pg.statuses(newer)["pinecone"] == "synced"


def test_a_guarded_sink_is_not_asked_twice(pg: DatabaseFixture, database: Database) -> None:
    """It refuses the late write by itself."""
    pg.save(NFL)
    graph = FakeGraph()
    graph.after = first(1, raises(HANGS))
    deliver(database, graph)
    pg.advance_time(60)
    deliver(database, graph)
    assert pg.counts("neo4j") == {"synced": 1}


def test_each_record_of_a_late_call_is_confirmed(pg: DatabaseFixture, database: Database) -> None:
    """It was halved, and the halves were written: the whole may come after them."""
    index = _vectors(pg, database, *leagues(2))
    outcome_unknown = SinkFailure(ErrorKind.UNKNOWN, "broken pipe", outcome_unknown=True)
    index.before = first(1, raises(outcome_unknown))
    assert deliver(database, index).settlement == Settlement(synced=2)
    assert [len(call.rows) for call in index.calls] == [2, 1, 1]
    confirming = [op for op in pg.ops("pinecone") if op.live]
    assert [op.origin for op in confirming] == ["confirm", "confirm"]


def test_the_unknown_outcome_of_a_last_attempt_outlives_it(
    pg: DatabaseFixture, database: Database
) -> None:
    """The dead write may be applied after the next one, which is therefore confirmed."""
    index = _vectors(pg, database, league("other"))
    delivery(database, index).drain(10)
    pg.save(NFL)
    embed(database)
    outcome_unknown = SinkFailure(ErrorKind.UNKNOWN, "broken pipe", outcome_unknown=True)
    index.before = first(1, raises(outcome_unknown))
    assert deliver(database, index, max_attempts=1).settlement == Settlement(dead=1)
    pg.save(league("nfl", tier="TIER1"))
    assert deliver(database, index).settlement == Settlement(synced=1)
    assert pg.live("pinecone", "nfl").origin == "confirm"


def test_a_late_write_to_a_place_that_was_left(pg: DatabaseFixture, database: Database) -> None:
    """The vector had moved on by then: the confirming write removes it there, too."""
    index = _vectors(pg, database, example("ask", "triage"))
    index.before = first(1, raises(HANGS))
    deliver(database, index)
    late = index.calls[0].rows[0]
    pg.save(example("ask", "support"))
    pg.advance_time(10)
    delivery(database, index).drain(10)
    index.land(late)
    pg.advance_time(CONFIRM_AFTER)
    delivery(database, index).drain(10)
    assert [space for _, space, _ in index.held] == ["support"]


def test_a_late_write_of_what_was_given_up_on_to_a_place_that_was_left(
    pg: DatabaseFixture, database: Database
) -> None:
    """Both at once."""
    index = _vectors(pg, database, example("other", "support"))
    delivery(database, index).drain(10)
    pg.save(example("ask", "triage"))
    embed(database)
    outcome_unknown = SinkFailure(ErrorKind.UNKNOWN, "broken pipe", outcome_unknown=True)
    index.before = first(1, raises(outcome_unknown))
    assert deliver(database, index, max_attempts=1).settlement == Settlement(dead=1)
    late = index.calls[0].rows[0]
    pg.save(example("ask", "support"))
    delivery(database, index).drain(10)
    index.land(late)
    pg.advance_time(CONFIRM_AFTER)
    delivery(database, index).drain(10)
    assert {(space, key) for _, space, key in index.held} == {
        ("support", "ask"),
        ("support", "other"),
    }


def test_a_write_after_a_lost_lease_is_confirmed(pg: DatabaseFixture, database: Database) -> None:
    """Its last worker may have written, and that write may still be applied."""
    index = _vectors(pg, database, NFL)
    pg.claim("pinecone")
    pg.expire_leases()
    deliver(database, index)
    assert pg.live("pinecone", "nfl").origin == "confirm"


def test_a_delete_of_unknown_outcome_is_confirmed(pg: DatabaseFixture, database: Database) -> None:
    """A late upsert does not bring it back for long."""
    index = _vectors(pg, database, NFL)
    index.before = first(1, raises(HANGS))
    deliver(database, index)
    late = index.calls[0].rows[0]
    pg.delete(NFL)
    pg.advance_time(10)
    delivery(database, index).drain(10)
    index.apply(late, Model("", 0))
    assert index.held != {}
    pg.advance_time(CONFIRM_AFTER)
    delivery(database, index).drain(10)
    assert index.held == {}


def test_what_is_known_already_says_nothing_of_the_embedder(
    pg: DatabaseFixture, database: Database
) -> None:
    """Texts that need no call go on through an outage, and are no evidence against others."""
    embedder = FakeEmbedder()
    sink = embedding_sink(database, embedder)
    pg.save(league("known"))
    embed(database, embedder)
    pg.save(league("new", description="New."))

    def hang(texts: Sequence[str]) -> None:
        raise HANGS

    embedder.before = hang
    for _ in range(25):
        deliver(database, sink)
        pg.conn.execute("UPDATE league SET embedding_model = NULL WHERE league_tag = 'known'")
        pg.save(league("known", tier=str(_)))
        pg.advance_time(100)
    assert pg.last(EMBEDDING, "new").status == "pending"
    assert {op.status for op in pg.ops(EMBEDDING, "known")} <= {"synced", "pending"}


def test_a_fault_of_the_embedder_costs_no_vector(pg: DatabaseFixture, database: Database) -> None:
    """A stored answer is not requested again, whatever happens to the batch."""
    pg.save(*leagues(3))
    embedder = FakeEmbedder()
    sink = embedding_sink(database, embedder)

    def fail(point: str) -> None:
        if point == "called":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        delivery(database, sink, fail).deliver_batch()
    pg.expire_leases()
    embed(database, embedder)
    assert set(embedder.paid.values()) == {1}
    assert pg.counts(EMBEDDING) == {"synced": 3}


def _deliver_for_long(
    pg: DatabaseFixture,
    database: Database,
    sink: FakeSink,
    *,
    rounds: int = 120,
    batch_size: int = 500,
) -> None:
    """Batch after batch, with enough time in between for every retry and breaker."""
    for _ in range(rounds):
        deliver(database, sink, batch_size=batch_size)
        if not any(op.live for op in pg.ops(sink.traits.name)):
            return
        pg.advance_time(1000)


def _vectors(pg: DatabaseFixture, database: Database, *contents: Content) -> FakeIndex:
    pg.save(*contents)
    embed(database)
    return FakeIndex()


def _health(pg: DatabaseFixture) -> SinkHealth:
    return sink_health(pg.conn)["neo4j"]


def _graph_with_another(pg: DatabaseFixture, database: Database) -> FakeGraph:
    """A graph that holds one league already, which a control may write once more."""
    graph = FakeGraph()
    pg.save(league("other"))
    deliver(database, graph)
    return graph
