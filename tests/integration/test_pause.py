"""Pause a sink: no worker claims for it, whatever else happens, until it is resumed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest

from altsync import db
from altsync.app import Application
from altsync.circuit import breaker
from altsync.circuit.breaker import abandon_probe, close_breaker, open_breaker
from altsync.circuit.pause import pause, resume
from altsync.circuit.sinks import SinkHealth, register_sinks, set_enabled, sink_health, wanted_model
from altsync.db import Database
from altsync.operations import BreakerState, Synced
from altsync.outbox.enqueue import CHANNEL
from altsync.relay import Relay, RelayPolicy
from altsync.status.collect import collect
from altsync.why import explain as why_explain
from altsync.why.explanation import Explanation
from tests.conftest import TOPOLOGY
from tests.dashboard.site import settings_for
from tests.integration.database_fixture import (
    GRAPH,
    LEASE,
    DatabaseFixture,
    delivery,
    eventually,
    league,
    leagues,
)
from tests.integration.fakes import FakeGraph

WHY = "the graph is moved"

#: Seconds before one more wake-up goes to workers that do not answer.
TIMEOUT = 10.0


def test_no_worker_claims_for_a_paused_sink(pg: DatabaseFixture) -> None:
    """Not even who was admitted before; other sinks go on."""
    pg.save(*leagues(3))
    assert _admitted(pg)
    assert _pause(pg)
    assert not _admitted(pg)
    assert pg.claim("neo4j")[1] == []
    assert len(pg.claim("embedding")[1]) == 3


def test_a_pause_says_why_and_since_when(pg: DatabaseFixture) -> None:
    """A second one keeps since when and takes the newer reason."""
    _pause(pg)
    first = _health(pg)
    assert not pause(pg.conn, "neo4j", "it takes longer")
    second = _health(pg)
    assert (first.state, first.reason) == (BreakerState.PAUSED, WHY)
    assert (second.since, second.reason) == (first.since, "it takes longer")


def test_a_sink_that_was_ready_is_ready_again(pg: DatabaseFixture) -> None:
    """Once; a second resume finds nothing to do, and leaves no trace of the pause."""
    _pause(pg)
    assert resume(pg.conn, "neo4j")
    assert not resume(pg.conn, "neo4j")
    assert (_health(pg).state, _health(pg).reason) == (BreakerState.CLOSED, None)
    assert pg.scalar("SELECT config FROM sink_state WHERE sink = 'neo4j'") == {}
    assert _admitted(pg)


def test_resuming_what_is_not_paused_has_an_open_breaker_probed_at_once(
    pg: DatabaseFixture,
) -> None:
    """An open breaker is no pause; the operator need not wait for its time."""
    _open(pg, delay=300)
    before = _health(pg)
    assert not resume(pg.conn, "neo4j")
    after = _health(pg)
    assert (after.state, after.since, after.reason) == (
        BreakerState.OPEN,
        before.since,
        before.reason,
    )
    assert breaker.gate(pg.conn, "neo4j", uuid4(), LEASE).probing


def test_an_open_breaker_is_open_again_and_probed(pg: DatabaseFixture) -> None:
    """A sink that failed before the pause is tried with one operation after it."""
    _open(pg)
    before = _health(pg)
    _pause(pg)
    pg.advance_time(10_000)
    assert not _admitted(pg)
    resume(pg.conn, "neo4j")
    after = _health(pg)
    assert (after.state, after.since, after.reason) == (
        BreakerState.OPEN,
        before.since,
        before.reason,
    )
    gate = breaker.gate(pg.conn, "neo4j", uuid4(), LEASE)
    assert (gate.admitted, gate.probing, gate.consecutive_errors) == (True, True, 1)


def test_a_long_retry_after_ends_with_the_pause(pg: DatabaseFixture) -> None:
    """The operator says that it is time: the sink is probed at once."""
    _open(pg, delay=3600)
    _pause(pg)
    resume(pg.conn, "neo4j")
    assert breaker.gate(pg.conn, "neo4j", uuid4(), LEASE).probing


@pytest.mark.parametrize(
    "ends",
    [
        lambda pg, token: close_breaker(pg.conn, "neo4j", token),
        lambda pg, token: open_breaker(pg.conn, "neo4j", token, "still down", 0),
        lambda pg, token: abandon_probe(pg.conn, "neo4j", token),
    ],
    ids=["answered", "failed", "nothing to probe with"],
)
def test_a_probe_under_way_does_not_undo_a_pause(
    pg: DatabaseFixture, ends: Callable[[DatabaseFixture, UUID], object]
) -> None:
    """However it ends; after the pause another one probes."""
    _open(pg, delay=0)
    token = uuid4()
    assert breaker.gate(pg.conn, "neo4j", token, LEASE).probing
    _pause(pg)
    ends(pg, token)
    assert _health(pg).state is BreakerState.PAUSED
    assert not _admitted(pg)
    resume(pg.conn, "neo4j")
    assert breaker.gate(pg.conn, "neo4j", uuid4(), LEASE).probing


def test_pause_and_probe_at_the_same_moment(pg: DatabaseFixture) -> None:
    """Eight ask to probe while one pauses: it is paused, and no worker claims, in any order."""
    pg.save(*leagues(20))
    for _ in range(5):
        _open(pg, delay=0)
        with ThreadPoolExecutor(9) as pool:
            probes = [pool.submit(_ask_and_end, pg.url) for _ in range(8)]
            pool.submit(_pause_elsewhere, pg.url).result()
            assert {one.result() for one in probes} == {None}
        assert _health(pg).state is BreakerState.PAUSED
        assert pg.claim("neo4j")[1] == []
        assert resume(pg.conn, "neo4j")


def _ask_and_end(url: str) -> None:
    token = uuid4()
    with db.connect(url) as conn:
        if breaker.gate(conn, "neo4j", token, LEASE).probing:
            close_breaker(conn, "neo4j", token)


def _pause_elsewhere(url: str) -> None:
    with db.connect(url) as conn:
        pause(conn, "neo4j", WHY)


def test_one_of_two_pauses_is_the_first(pg: DatabaseFixture) -> None:
    """Two people at the same moment: one is told that it was paused already; so for resume."""

    def do(what: Callable[[db.Conn], bool]) -> bool:
        with db.connect(pg.url) as conn:
            return what(conn)

    with ThreadPoolExecutor(2) as pool:
        paused = pool.map(do, [lambda c: pause(c, "neo4j", WHY)] * 2)
        assert sorted(paused) == [False, True]
        resumed = pool.map(do, [lambda c: resume(c, "neo4j")] * 2)
        assert sorted(resumed) == [False, True]


def test_a_batch_in_flight_settles_and_no_other_begins(
    pg: DatabaseFixture, database: Database
) -> None:
    """Paused between claim and write: what is leased is written, the rest stays queued."""
    pg.save(*leagues(6))
    graph = FakeGraph()

    def at(point: str) -> None:
        if point == "claimed":
            _pause(pg)

    drained = delivery(database, graph, at=at, batch_size=2).drain(60)
    assert (drained.batches, drained.synced) == (1, 2)
    assert pg.counts("neo4j") == {"synced": 2, "pending": 4}
    assert pg.statuses(league("l000")).keys() == {"embedding", "neo4j", "pinecone"}
    resume(pg.conn, "neo4j")
    assert delivery(database, graph).drain(60).synced == 4
    assert pg.counts("neo4j") == {"synced": 6}


def test_a_lease_that_ends_during_a_pause_is_settled_or_taken_later(pg: DatabaseFixture) -> None:
    """The token still counts while no other worker has the operation."""
    pg.save(*leagues(1))
    token, (op,) = pg.claim("neo4j")
    _pause(pg)
    pg.expire_leases()
    assert pg.claim("neo4j")[1] == []
    assert pg.settle(GRAPH, token, [Synced(op, op.version)]).synced == 1


def test_the_relay_leaves_a_paused_sink_in_peace(pg: DatabaseFixture, database: Database) -> None:
    """No wake-ups, however long it waits; the others get theirs, and so does it when resumed."""
    pg.save(*leagues(3))
    woken: list[str] = []
    relay = Relay(
        database,
        lambda: db.connect(pg.url),
        woken.append,
        TOPOLOGY,
        ["neo4j", "embedding"],
        RelayPolicy(),
    )
    _pause(pg)
    for _ in range(3):
        relay.poll(["neo4j", "embedding"])
        pg.advance_time(TIMEOUT + 1)
    assert set(woken) == {"embedding"}
    resume(pg.conn, "neo4j")
    relay.poll(["neo4j"])
    assert woken[-1] == "neo4j"


def test_a_resume_calls_the_relay(pg: DatabaseFixture) -> None:
    """Waiting operations are picked up at once, not at the next poll."""
    _pause(pg)
    pg.conn.execute(f"LISTEN {CHANNEL}")
    resume(pg.conn, "neo4j")
    assert [n.payload for n in pg.conn.notifies(timeout=10, stop_after=1)] == ["neo4j"]


def test_a_relay_that_starts_does_not_undo_a_pause(pg: DatabaseFixture) -> None:
    """Neither with the sink switched on nor off; afterwards the sink is as the relay said."""
    _pause(pg)
    set_enabled(pg.conn, "neo4j", None)
    assert (_health(pg).state, _health(pg).reason) == (BreakerState.PAUSED, WHY)
    set_enabled(pg.conn, "neo4j", "NEO4J_URI is not set")
    set_enabled(pg.conn, "neo4j", "NEO4J_URI is not set")
    assert (_health(pg).state, _health(pg).reason) == (BreakerState.PAUSED, WHY)
    resume(pg.conn, "neo4j")
    assert (_health(pg).state, _health(pg).reason) == (
        BreakerState.DISABLED,
        "NEO4J_URI is not set",
    )
    _pause(pg)
    set_enabled(pg.conn, "neo4j", None)
    assert _health(pg).state is BreakerState.PAUSED
    resume(pg.conn, "neo4j")
    assert _health(pg).state is BreakerState.CLOSED


def test_a_sink_that_was_never_set_up_can_be_paused(pg: DatabaseFixture) -> None:
    """Before its first migration, say; registering keeps the pause and gives the model."""
    pg.conn.execute("DELETE FROM sink_state")
    pause(pg.conn, "embedding", WHY)
    register_sinks(pg.conn, TOPOLOGY, "a-model", 4)
    assert sink_health(pg.conn)["embedding"].state is BreakerState.PAUSED
    assert wanted_model(pg.conn) == ("a-model", 4)
    resume(pg.conn, "embedding")
    assert wanted_model(pg.conn) == ("a-model", 4)


def test_status_and_why_tell_of_a_pause(pg: DatabaseFixture) -> None:
    """Before they tell that a sink is switched off: a person must undo it."""
    pg.save(league("nfl"))
    _pause(pg)
    disabled: dict[str, str | None] = {"neo4j": "NEO4J_URI is not set"}
    standing = collect(pg.conn, TOPOLOGY, disabled).sinks["neo4j"]
    assert (standing.state, standing.reason) == (BreakerState.PAUSED, WHY)
    assert standing.since is not None
    app = Application(settings_for(pg.url))
    try:
        found = why_explain.explain(app, "nfl", app.settings.altsync_home)
    finally:
        app.close()
    assert isinstance(found, Explanation)
    (said,) = (reason for reason in found.reasons if reason.startswith("Neo4j"))
    assert "is paused since" in said
    assert f"({WHY}); altsync resume --sink neo4j" in said


def test_everything_queued_drains_after_a_pause(pg: DatabaseFixture, database: Database) -> None:
    """Changes and deletes that came in meanwhile, each at its latest version."""
    nfl, nba = league("nfl"), league("nba")
    pg.save(nfl, nba)
    graph = FakeGraph()
    delivery(database, graph).drain(60)
    _pause(pg)
    pg.save(league("nfl", tier="TIER1"))
    pg.save(league("nfl", tier="TIER2"))
    pg.delete(nba)
    assert delivery(database, graph).drain(60).claimed == 0
    resume(pg.conn, "neo4j")
    assert delivery(database, graph).drain(60).synced == 2
    assert pg.statuses(nfl)["neo4j"] == "synced"
    eventually(lambda: not [op for op in pg.ops("neo4j") if op.live])


def _pause(pg: DatabaseFixture) -> bool:
    return pause(pg.conn, "neo4j", WHY)


def _admitted(pg: DatabaseFixture) -> bool:
    return breaker.gate(pg.conn, "neo4j", uuid4(), LEASE).admitted


def _open(pg: DatabaseFixture, delay: float = 30) -> None:
    open_breaker(pg.conn, "neo4j", uuid4(), "down", delay)


def _health(pg: DatabaseFixture) -> SinkHealth:
    return sink_health(pg.conn)["neo4j"]
