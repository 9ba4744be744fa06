"""The shared state of a sink: claims, probes, and the number of wake-ups."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from altsync import db
from altsync.circuit import breaker
from altsync.circuit.breaker import Gate, abandon_probe, close_breaker, may_wake, open_breaker
from altsync.circuit.pause import pause
from altsync.circuit.sinks import SinkHealth, register_sinks, set_enabled, sink_health, wanted_model
from altsync.operations import BreakerState
from tests.conftest import DIMENSIONS, MODEL, TOPOLOGY
from tests.integration.database_fixture import LEASE, DatabaseFixture

#: Seconds before one more wake-up goes to workers that do not answer.
TIMEOUT = 10.0


def test_a_closed_breaker_admits_everybody(pg: DatabaseFixture) -> None:
    """With the model that all processes want."""
    assert _gate(pg) == Gate(True, False, 0, MODEL, DIMENSIONS)
    assert _gate(pg).admitted


def test_an_unregistered_sink_admits_no_worker(pg: DatabaseFixture) -> None:
    """There is nothing to share yet."""
    assert not breaker.gate(pg.conn, "elsewhere", uuid4(), LEASE).admitted


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_a_paused_or_disabled_sink_admits_no_worker(pg: DatabaseFixture, state: str) -> None:
    """Not even a probe, however long it waits."""
    _set_state(pg, state)
    pg.advance_time(10_000)
    assert not _gate(pg).admitted


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_failures_do_not_open_what_a_person_closed(pg: DatabaseFixture, state: str) -> None:
    """A call that was under way comes back after the sink was paused."""
    _set_state(pg, state)
    _open(pg)
    assert _health(pg).state == state


def test_an_open_breaker_admits_no_worker_before_its_time(pg: DatabaseFixture) -> None:
    """Then one worker probes, and no other."""
    _open(pg, delay=30)
    assert not _gate(pg).admitted
    pg.advance_time(29)
    assert not _gate(pg).admitted
    pg.advance_time(1)
    gates = [_gate(pg) for _ in range(3)]
    assert [(gate.admitted, gate.probing) for gate in gates] == [
        (True, True),
        (False, False),
        (False, False),
    ]


def test_an_open_breaker_says_why_and_since_when(pg: DatabaseFixture) -> None:
    """The time is that of the first failure; the reason is the latest."""
    _open(pg, reason="no route")
    first = _health(pg)
    _open(pg, reason="wrong key")
    later = _health(pg)
    assert (first.state, first.reason) == (BreakerState.OPEN, "no route")
    assert (later.since, later.reason) == (first.since, "wrong key")


def test_only_one_becomes_the_probe(pg: DatabaseFixture) -> None:
    """Of eight that ask at the same moment."""
    _open(pg, delay=0)

    def ask(_: int) -> bool:
        with db.connect(pg.url) as conn:
            return breaker.gate(conn, "neo4j", uuid4(), LEASE).admitted

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 1


def test_a_probe_that_vanished_is_replaced(pg: DatabaseFixture) -> None:
    """Its right ends with the lease."""
    _open(pg, delay=0)
    _gate(pg)
    pg.advance_time(LEASE - 1)
    assert not _gate(pg).admitted
    pg.advance_time(1)
    assert _gate(pg).probing


def test_a_probe_that_was_answered_closes_the_breaker(pg: DatabaseFixture) -> None:
    """Everything is as it was."""
    token = _probing(pg)
    assert close_breaker(pg.conn, "neo4j", token)
    health = _health(pg)
    assert (health.state, health.reason, health.open_until) == (BreakerState.CLOSED, None, None)
    assert _gate(pg) == Gate(True, False, 0, MODEL, DIMENSIONS)


def test_only_the_probe_closes_the_breaker(pg: DatabaseFixture) -> None:
    """A success from before the outage proves nothing."""
    _probing(pg)
    assert not close_breaker(pg.conn, "neo4j", uuid4())
    assert _health(pg).state is BreakerState.PROBING


def test_a_probe_that_failed_opens_it_again(pg: DatabaseFixture) -> None:
    """For longer: the errors are counted."""
    token = _probing(pg)
    open_breaker(pg.conn, "neo4j", token, "still down", 60)
    assert not _gate(pg).admitted
    pg.advance_time(60)
    gate = _gate(pg)
    assert (gate.probing, gate.consecutive_errors) == (True, 2)


def test_a_probe_with_nothing_to_probe_leaves_it_to_the_next(pg: DatabaseFixture) -> None:
    """Which may ask at once; the errors stay counted."""
    token = _probing(pg)
    abandon_probe(pg.conn, "neo4j", uuid4())
    assert _health(pg).state is BreakerState.PROBING
    abandon_probe(pg.conn, "neo4j", token)
    assert _gate(pg).probing


def test_a_late_failure_does_not_disturb_the_probe(pg: DatabaseFixture) -> None:
    """A call from before the outage that fails now neither opens nor counts."""
    token = _probing(pg)
    _open(pg, delay=1000, reason="late")
    health = _health(pg)
    assert (health.state, health.reason) == (BreakerState.PROBING, "down")
    assert close_breaker(pg.conn, "neo4j", token)


def test_failures_of_calls_under_way_together_count_as_one(pg: DatabaseFixture) -> None:
    """Four workers that meet one outage do not make it four times as long."""
    for _ in range(4):
        _open(pg, delay=0)
    assert _gate(pg).consecutive_errors == 1


def test_the_longest_wait_counts(pg: DatabaseFixture) -> None:
    """The longest wait holds; a shorter one does not end it."""
    _open(pg, delay=120)
    _open(pg, delay=1)
    pg.advance_time(100)
    assert not _gate(pg).admitted
    pg.advance_time(20)
    assert _gate(pg).probing


def test_a_breaker_of_one_sink_is_none_of_another(pg: DatabaseFixture) -> None:
    """A dead graph does not hold up the index."""
    _open(pg)
    assert not _gate(pg).admitted
    assert breaker.gate(pg.conn, "pinecone", uuid4(), LEASE).admitted


def test_a_long_reason_is_cut(pg: DatabaseFixture) -> None:
    """The row keeps the beginning."""
    _open(pg, reason="x" * 100_000)
    assert len(_health(pg).reason or "") == 2000


def test_a_reason_that_no_database_stores(pg: DatabaseFixture) -> None:
    """A sink's error may hold any character; the breaker opens all the same."""
    _open(pg, reason="bad gateway \x00 \ud800")
    assert _health(pg).state is BreakerState.OPEN


def test_a_gate_shows_the_relay_that_a_worker_answers(pg: DatabaseFixture) -> None:
    """Wake-ups under way are answered, even by who is not admitted."""
    _wake(pg, wanted=3)
    _wake(pg, wanted=3)
    _open(pg)
    _gate(pg)
    health = _health(pg)
    assert (health.unanswered_wakes, health.last_claim_at is not None) == (0, True)


def test_a_gate_writes_at_most_once_a_second(pg: DatabaseFixture) -> None:
    """Many small batches do not fight for one row."""
    _gate(pg)
    first = _health(pg).last_claim_at
    _gate(pg)
    assert _health(pg).last_claim_at == first
    pg.advance_time(2)
    _gate(pg)
    assert (_health(pg).last_claim_at or first) != first


def test_registering_again_changes_nothing(pg: DatabaseFixture) -> None:
    """The first process says the wanted model, and every other one reads it."""
    _open(pg)
    register_sinks(pg.conn, TOPOLOGY, "another-model", 7)
    assert wanted_model(pg.conn) == (MODEL, DIMENSIONS)
    assert _health(pg).state is BreakerState.OPEN


def test_no_model_is_wanted_before_anybody_said_so(pg: DatabaseFixture) -> None:
    """A database without its sinks."""
    pg.conn.execute("DELETE FROM sink_state")
    assert wanted_model(pg.conn) is None


def test_switching_a_sink_off_and_on(pg: DatabaseFixture) -> None:
    """With the reason; on again, it is as it was."""
    set_enabled(pg.conn, "neo4j", "NEO4J_URI is not set")
    health = _health(pg)
    assert (health.state, health.reason) == (BreakerState.DISABLED, "NEO4J_URI is not set")
    set_enabled(pg.conn, "neo4j", None)
    assert (_health(pg).state, _health(pg).reason) == (BreakerState.CLOSED, None)


@pytest.mark.parametrize("state", ["open", "probing", "paused"])
def test_a_configured_sink_keeps_its_state(pg: DatabaseFixture, state: str) -> None:
    """Starting a process neither closes a breaker nor ends a pause."""
    _set_state(pg, state)
    set_enabled(pg.conn, "neo4j", None)
    assert _health(pg).state == state


def test_a_sink_switched_on_after_an_outage_starts_anew(pg: DatabaseFixture) -> None:
    """The errors and waits of before it was switched off are over."""
    _open(pg, delay=1000)
    set_enabled(pg.conn, "neo4j", "NEO4J_URI is not set")
    set_enabled(pg.conn, "neo4j", None)
    assert _gate(pg).admitted


def test_wake_ups_are_bounded(pg: DatabaseFixture) -> None:
    """As many as are wanted go unanswered, then one for each ``resend_after``."""
    assert [_wake(pg, wanted=3) for _ in range(5)] == [True, True, True, False, False]
    pg.advance_time(TIMEOUT - 1)
    assert not _wake(pg, wanted=3)
    pg.advance_time(2)
    assert [_wake(pg, wanted=3) for _ in range(3)] == [True, False, False]


def test_an_answer_makes_room_for_more(pg: DatabaseFixture) -> None:
    """A worker that took one took them all, as far as the relay can know."""
    assert [_wake(pg, wanted=2) for _ in range(3)] == [True, True, False]
    _gate(pg)
    assert [_wake(pg, wanted=2) for _ in range(3)] == [True, True, False]


def test_wake_ups_are_bounded_over_all_relays(pg: DatabaseFixture) -> None:
    """Two relays at once send no more than one."""

    def relay(_: int) -> int:
        with db.connect(pg.url) as conn:
            return sum(may_wake(conn, "neo4j", 4, TIMEOUT) for _ in range(10))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(relay, range(2))) == 4


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_no_worker_is_woken_for_a_sink_that_is_off(pg: DatabaseFixture, state: str) -> None:
    """Whatever waits for it."""
    _set_state(pg, state)
    assert not _wake(pg)


def test_one_is_woken_when_an_open_breaker_is_due(pg: DatabaseFixture) -> None:
    """Not before: no worker would be admitted."""
    _open(pg, delay=30)
    assert not _wake(pg)
    pg.advance_time(30)
    assert _wake(pg)


def test_no_worker_is_woken_while_one_probes(pg: DatabaseFixture) -> None:
    """Unless it has vanished."""
    _probing(pg)
    assert not _wake(pg)
    pg.advance_time(LEASE)
    assert _wake(pg)


def _gate(pg: DatabaseFixture, token: UUID | None = None) -> Gate:
    return breaker.gate(pg.conn, "neo4j", token or uuid4(), LEASE)


def _set_state(pg: DatabaseFixture, state: str) -> None:
    if state == "paused":
        pause(pg.conn, "neo4j", "by hand")
    else:
        pg.conn.execute("UPDATE sink_state SET state = %s", (state,))


def _open(pg: DatabaseFixture, *, delay: float = 30.0, reason: str = "down") -> None:
    open_breaker(pg.conn, "neo4j", uuid4(), reason, delay)


def _probing(pg: DatabaseFixture) -> UUID:
    token = uuid4()
    _open(pg, delay=0)
    assert _gate(pg, token).probing
    return token


def _health(pg: DatabaseFixture) -> SinkHealth:
    return sink_health(pg.conn)["neo4j"]


def _wake(pg: DatabaseFixture, *, wanted: int = 1) -> bool:
    return may_wake(pg.conn, "neo4j", wanted, TIMEOUT)
