"""Sinks that ask to wait for a day, or for nonsense; and an operator who does not wait."""

from __future__ import annotations

import math

import pytest

from altsync.circuit.breaker import may_wake
from altsync.circuit.pause import pause, probe_now, resume
from altsync.circuit.sinks import sink_health
from altsync.contract import Failed, RecordOutcome
from altsync.db import Database
from altsync.delivery import Batch
from altsync.errors import LONGEST_WAIT, SinkFailure, seconds_of
from altsync.operations import BreakerState, ErrorKind
from tests.integration.database_fixture import DatabaseFixture, deliver, delivery, leagues
from tests.integration.fakes import Call, FakeGraph


@pytest.mark.parametrize(
    "wait", [86400.0, 1e15, 1e308, math.inf, -math.inf, math.nan, -5.0, 0.0, 2_000_000.0]
)
def test_no_wait_shuts_a_sink_for_longer_than_minutes(
    pg: DatabaseFixture, database: Database, wait: float
) -> None:
    graph = FakeGraph()

    def script(call: Call) -> None:
        raise SinkFailure(ErrorKind.SINK, "slow down", retry_after=wait)

    graph.before = script
    pg.save(*leagues(3))
    assert deliver(database, graph).settlement.retried == 3
    pg.advance_time(LONGEST_WAIT)
    graph.before = lambda call: None
    delivery(database, graph).drain(10)
    assert pg.counts("neo4j") == {"synced": 3}


@pytest.mark.parametrize("wait", [86400.0, 1e15, math.inf, math.nan, -5.0])
def test_a_wait_of_a_single_record_is_bounded_as_well(
    pg: DatabaseFixture, database: Database, wait: float
) -> None:
    graph = FakeGraph()

    def answer(call: Call, outcomes: tuple[RecordOutcome, ...]) -> tuple[RecordOutcome, ...]:
        return tuple(Failed(o.id, ErrorKind.SINK, "later", retry_after=wait) for o in outcomes)

    graph.answer = answer
    pg.save(*leagues(2))
    assert deliver(database, graph).settlement.retried == 2
    assert max(op.wait for op in pg.ops("neo4j")) <= LONGEST_WAIT


@pytest.mark.parametrize("how", ["resume", "pause and resume", "probe_now"])
def test_an_operator_has_an_open_breaker_probed_at_once(
    pg: DatabaseFixture, database: Database, how: str
) -> None:
    graph = FakeGraph()

    def script(call: Call) -> None:
        raise SinkFailure(ErrorKind.SINK, "slow down", retry_after=86400.0)

    graph.before = script
    pg.save(*leagues(3))
    deliver(database, graph)
    graph.before = lambda call: None
    assert deliver(database, graph) == Batch()
    if how == "pause and resume":
        pause(pg.conn, "neo4j", "to look")
    if how == "probe_now":
        assert probe_now(pg.conn, "neo4j")
    else:
        resume(pg.conn, "neo4j")
    assert may_wake(pg.conn, "neo4j", 1, 10.0)
    delivery(database, graph).drain(10)
    assert pg.counts("neo4j") == {"synced": 3}
    assert sink_health(pg.conn)["neo4j"].state is BreakerState.CLOSED


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("17", 17.0),
        (" 17 ", 17.0),
        ("86400", LONGEST_WAIT),
        ("1e15", None),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("", None),
        (None, None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
    ],
)
def test_a_retry_after_header_is_seconds_or_ignored(
    header: str | None, seconds: float | None
) -> None:
    assert seconds_of(header) == seconds
