"""What all processes share of a sink: who may claim, who probes, how many wake-ups go out."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from altsync import db
from altsync.circuit import breaker
from altsync.circuit.breaker import (
    Gate,
    SinkHealth,
    abandon_probe,
    close_breaker,
    may_wake,
    open_breaker,
    register_sinks,
    set_enabled,
    sink_health,
    wanted_model,
)
from altsync.operations import BreakerState
from tests.conftest import DIMENSIONS, MODEL, TOPOLOGY
from tests.integration.world import LEASE, World

#: Seconds before one more wake-up goes to workers that do not answer.
PATIENCE = 10.0


def test_a_closed_breaker_admits_everybody(world: World) -> None:
    """With the model that all processes want."""
    assert _gate(world) == Gate(True, False, 0, MODEL, DIMENSIONS)
    assert _gate(world).admitted


def test_a_sink_that_nobody_registered_admits_nobody(world: World) -> None:
    """There is nothing to share yet."""
    assert not breaker.gate(world.conn, "elsewhere", uuid4(), LEASE).admitted


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_a_paused_or_disabled_sink_admits_nobody(world: World, state: str) -> None:
    """Not even a probe, however long it waits."""
    world.conn.execute("UPDATE sink_state SET state = %s", (state,))
    world.pass_time(10_000)
    assert not _gate(world).admitted


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_failures_do_not_open_what_a_person_closed(world: World, state: str) -> None:
    """A call that was under way comes back after the sink was paused."""
    world.conn.execute("UPDATE sink_state SET state = %s", (state,))
    _open(world)
    assert _health(world).state == state


def test_an_open_breaker_admits_nobody_before_its_time(world: World) -> None:
    """Then one probes, and nobody beside it."""
    _open(world, delay=30)
    assert not _gate(world).admitted
    world.pass_time(29)
    assert not _gate(world).admitted
    world.pass_time(1)
    gates = [_gate(world) for _ in range(3)]
    assert [(gate.admitted, gate.probing) for gate in gates] == [
        (True, True),
        (False, False),
        (False, False),
    ]


def test_an_open_breaker_says_why_and_since_when(world: World) -> None:
    """The time is that of the first failure; the reason is the latest."""
    _open(world, reason="no route")
    first = _health(world)
    _open(world, reason="wrong key")
    later = _health(world)
    assert (first.state, first.reason) == (BreakerState.OPEN, "no route")
    assert (later.since, later.reason) == (first.since, "wrong key")


def test_only_one_becomes_the_probe(world: World) -> None:
    """Of eight that ask at the same moment."""
    _open(world, delay=0)

    def ask(_: int) -> bool:
        with db.connect(world.url) as conn:
            return breaker.gate(conn, "neo4j", uuid4(), LEASE).admitted

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(ask, range(8))) == 1


def test_a_probe_that_vanished_is_replaced(world: World) -> None:
    """Its right ends with the lease."""
    _open(world, delay=0)
    _gate(world)
    world.pass_time(LEASE - 1)
    assert not _gate(world).admitted
    world.pass_time(1)
    assert _gate(world).probing


def test_a_probe_that_was_answered_closes_the_breaker(world: World) -> None:
    """Everything is as it was."""
    token = _probing(world)
    assert close_breaker(world.conn, "neo4j", token)
    health = _health(world)
    assert (health.state, health.reason, health.open_until) == (BreakerState.CLOSED, None, None)
    assert _gate(world) == Gate(True, False, 0, MODEL, DIMENSIONS)


def test_only_the_probe_closes_the_breaker(world: World) -> None:
    """A success from before the outage proves nothing."""
    _probing(world)
    assert not close_breaker(world.conn, "neo4j", uuid4())
    assert _health(world).state is BreakerState.PROBING


def test_a_probe_that_failed_opens_it_again(world: World) -> None:
    """For longer: the errors are counted."""
    token = _probing(world)
    open_breaker(world.conn, "neo4j", token, "still down", 60)
    assert not _gate(world).admitted
    world.pass_time(60)
    gate = _gate(world)
    assert (gate.probing, gate.consecutive_errors) == (True, 2)


def test_a_probe_with_nothing_to_probe_leaves_it_to_the_next(world: World) -> None:
    """Which may ask at once; the errors stay counted."""
    token = _probing(world)
    abandon_probe(world.conn, "neo4j", uuid4())
    assert _health(world).state is BreakerState.PROBING
    abandon_probe(world.conn, "neo4j", token)
    assert _gate(world).probing


def test_a_late_failure_does_not_disturb_the_probe(world: World) -> None:
    """A call from before the outage that fails now neither opens nor counts."""
    token = _probing(world)
    _open(world, delay=1000, reason="late")
    health = _health(world)
    assert (health.state, health.reason) == (BreakerState.PROBING, "down")
    assert close_breaker(world.conn, "neo4j", token)


def test_failures_of_calls_under_way_together_count_as_one(world: World) -> None:
    """Four workers that meet one outage do not make it four times as long."""
    for _ in range(4):
        _open(world, delay=0)
    assert _gate(world).consecutive_errors == 1


def test_the_longest_wait_counts(world: World) -> None:
    """Who was told to wait longer is right; a shorter one does not cut it."""
    _open(world, delay=120)
    _open(world, delay=1)
    world.pass_time(100)
    assert not _gate(world).admitted
    world.pass_time(20)
    assert _gate(world).probing


def test_a_breaker_of_one_sink_is_none_of_another(world: World) -> None:
    """A dead graph does not hold up the index."""
    _open(world)
    assert not _gate(world).admitted
    assert breaker.gate(world.conn, "pinecone", uuid4(), LEASE).admitted


def test_a_long_reason_is_cut(world: World) -> None:
    """The row keeps the beginning."""
    _open(world, reason="x" * 100_000)
    assert len(_health(world).reason or "") == 2000


def test_a_reason_that_no_database_stores(world: World) -> None:
    """What a sink says may hold anything; the breaker opens all the same."""
    _open(world, reason="bad gateway \x00 \ud800")
    assert _health(world).state is BreakerState.OPEN


def test_asking_tells_the_relay_that_somebody_listens(world: World) -> None:
    """Wake-ups under way are answered, even by who is not admitted."""
    _wake(world, wanted=3)
    _wake(world, wanted=3)
    _open(world)
    _gate(world)
    health = _health(world)
    assert (health.unanswered_wakes, health.last_claim_at is not None) == (0, True)


def test_asking_writes_at_most_once_a_second(world: World) -> None:
    """Many small batches do not fight for one row."""
    _gate(world)
    first = _health(world).last_claim_at
    _gate(world)
    assert _health(world).last_claim_at == first
    world.pass_time(2)
    _gate(world)
    assert (_health(world).last_claim_at or first) != first


def test_registering_again_changes_nothing(world: World) -> None:
    """The first process says the wanted model, and every other one reads it."""
    _open(world)
    register_sinks(world.conn, TOPOLOGY, "another-model", 7)
    assert wanted_model(world.conn) == (MODEL, DIMENSIONS)
    assert _health(world).state is BreakerState.OPEN


def test_no_model_is_wanted_before_anybody_said_so(world: World) -> None:
    """A database without its sinks."""
    world.conn.execute("DELETE FROM sink_state")
    assert wanted_model(world.conn) is None


def test_switching_a_sink_off_and_on(world: World) -> None:
    """With the reason; on again, it is as it was."""
    set_enabled(world.conn, "neo4j", "NEO4J_URI is not set")
    health = _health(world)
    assert (health.state, health.reason) == (BreakerState.DISABLED, "NEO4J_URI is not set")
    set_enabled(world.conn, "neo4j", None)
    assert (_health(world).state, _health(world).reason) == (BreakerState.CLOSED, None)


@pytest.mark.parametrize("state", ["open", "probing", "paused"])
def test_a_configured_sink_keeps_its_state(world: World, state: str) -> None:
    """Starting a process neither closes a breaker nor ends a pause."""
    world.conn.execute("UPDATE sink_state SET state = %s", (state,))
    set_enabled(world.conn, "neo4j", None)
    assert _health(world).state == state


def test_a_sink_switched_on_after_an_outage_starts_anew(world: World) -> None:
    """What was counted and waited for before it was switched off is over."""
    _open(world, delay=1000)
    set_enabled(world.conn, "neo4j", "NEO4J_URI is not set")
    set_enabled(world.conn, "neo4j", None)
    assert _gate(world).admitted


def test_wake_ups_are_bounded(world: World) -> None:
    """As many as are wanted go unanswered, then one for each patience."""
    assert [_wake(world, wanted=3) for _ in range(5)] == [True, True, True, False, False]
    world.pass_time(PATIENCE - 1)
    assert not _wake(world, wanted=3)
    world.pass_time(2)
    assert [_wake(world, wanted=3) for _ in range(3)] == [True, False, False]


def test_an_answer_makes_room_for_more(world: World) -> None:
    """A worker that took one took them all, as far as the relay can know."""
    assert [_wake(world, wanted=2) for _ in range(3)] == [True, True, False]
    _gate(world)
    assert [_wake(world, wanted=2) for _ in range(3)] == [True, True, False]


def test_wake_ups_are_bounded_over_all_relays(world: World) -> None:
    """Two relays at once send no more than one."""

    def relay(_: int) -> int:
        with db.connect(world.url) as conn:
            return sum(may_wake(conn, "neo4j", 4, PATIENCE) for _ in range(10))

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(relay, range(2))) == 4


@pytest.mark.parametrize("state", ["paused", "disabled"])
def test_nobody_is_woken_for_a_sink_that_is_off(world: World, state: str) -> None:
    """Whatever waits for it."""
    world.conn.execute("UPDATE sink_state SET state = %s", (state,))
    assert not _wake(world)


def test_one_is_woken_when_an_open_breaker_is_due(world: World) -> None:
    """Not before: nobody would be admitted."""
    _open(world, delay=30)
    assert not _wake(world)
    world.pass_time(30)
    assert _wake(world)


def test_nobody_is_woken_while_one_probes(world: World) -> None:
    """Unless it has vanished."""
    _probing(world)
    assert not _wake(world)
    world.pass_time(LEASE)
    assert _wake(world)


def _gate(world: World, token: UUID | None = None) -> Gate:
    return breaker.gate(world.conn, "neo4j", token or uuid4(), LEASE)


def _open(world: World, *, delay: float = 30.0, reason: str = "down") -> None:
    open_breaker(world.conn, "neo4j", uuid4(), reason, delay)


def _probing(world: World) -> UUID:
    token = uuid4()
    _open(world, delay=0)
    assert _gate(world, token).probing
    return token


def _health(world: World) -> SinkHealth:
    return sink_health(world.conn)["neo4j"]


def _wake(world: World, *, wanted: int = 1) -> bool:
    return may_wake(world.conn, "neo4j", wanted, PATIENCE)
