"""The clock of PostgreSQL is set back, so that every time written before lies in the future."""

from __future__ import annotations

from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from altsync.circuit.breaker import gate, may_wake, open_breaker
from altsync.circuit.budget import reserve
from altsync.circuit.clock import Bounds, set_back
from altsync.circuit.sinks import sink_health
from altsync.config import Settings
from altsync.db import Conn, Database
from altsync.delivery.policy import Policy
from altsync.entities import EntityType
from altsync.policies import longest_retry
from altsync.relay import Relay, RelayPolicy
from altsync.similarity.sql import vector_states
from altsync.status.collect import IDLE_SECONDS
from altsync.status.sql import idle_sinks
from altsync.verify.schedule import Schedule
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import DatabaseFixture, deliver, league, leagues
from tests.integration.fakes import FakeGraph

#: How far the clock was set back.
JUMPS = ["1 hour", "10 years"]

LEASE, RETRY, CONFIRM_AFTER = 30.0, 300.0, 40.0


def no_connection() -> Conn:
    """Stand for the connection that listens: a look needs none."""
    raise AssertionError


def housekeeping(database: Database) -> list[str]:
    """Run the relay's housekeeping once; returns the sinks that were woken."""
    woken: list[str] = []
    relay = Relay(
        database,
        no_connection,
        woken.append,
        TOPOLOGY,
        TOPOLOGY.names,
        RelayPolicy(confirm_after=CONFIRM_AFTER),
    )
    relay.poll(TOPOLOGY.names)
    relay.poll(TOPOLOGY.names)
    return woken


def move(pg: DatabaseFixture, jump: str, *columns: str, table: str = "sync_operation") -> None:
    """Move times into the future, as a clock that is set back does."""
    for column in columns:
        pg.conn.execute(f"UPDATE {table} SET {column} = now() + %s::interval", (jump,))


def ahead(pg: DatabaseFixture, sql: str) -> float:
    """Seconds from now until a time in the database."""
    row = pg.conn.execute(f"SELECT EXTRACT(epoch FROM ({sql}) - now())::float8").fetchone()
    assert row is not None
    return float(row[0])


@pytest.mark.parametrize("jump", JUMPS)
def test_a_lease_ends_within_one_lease(pg: DatabaseFixture, database: Database, jump: str) -> None:
    pg.save(league("nfl"))
    pg.claim("neo4j", lease=LEASE)
    move(pg, jump, "available_at")
    with capture_logs() as log:
        housekeeping(database)
    assert 0 < ahead(pg, "SELECT available_at FROM sync_operation WHERE sink = 'neo4j'") <= LEASE
    said = [entry for entry in log if entry["event"] == "clock.times_set_back"]
    assert [entry["operations"] for entry in said] == [2]


@pytest.mark.parametrize("jump", JUMPS)
def test_a_retry_is_due_and_is_delivered(
    pg: DatabaseFixture, database: Database, jump: str
) -> None:
    """The second look wakes a worker, which delivers."""
    pg.save(*leagues(3))
    move(pg, jump, "available_at")
    assert deliver(database, FakeGraph()).claimed == 0
    assert "neo4j" in housekeeping(database)
    assert deliver(database, FakeGraph()).settlement.synced == 3


def test_a_confirming_write_keeps_its_whole_wait(pg: DatabaseFixture, database: Database) -> None:
    """The write that it confirms may be of a second ago."""
    pg.save(league("nfl"))
    pg.conn.execute("UPDATE sync_operation SET origin = 'confirm'")
    move(pg, "1 day", "available_at")
    housekeeping(database)
    assert (
        CONFIRM_AFTER - 10
        < ahead(pg, "SELECT max(available_at) FROM sync_operation")
        <= CONFIRM_AFTER
    )


def test_waits_within_their_bounds_are_left_alone(pg: DatabaseFixture, database: Database) -> None:
    pg.save(*leagues(2))
    pg.claim("neo4j", lease=LEASE)
    move(pg, "290 s", "available_at")
    pg.conn.execute(
        "UPDATE sync_operation SET available_at = now() + interval '29 s' "
        "WHERE status = 'in_progress'"
    )
    move(pg, "290 s", "open_until", table="sink_state")
    before = pg.conn.execute("SELECT available_at FROM sync_operation ORDER BY id").fetchall()
    with capture_logs() as log:
        housekeeping(database)
    after = pg.conn.execute("SELECT available_at FROM sync_operation ORDER BY id").fetchall()
    assert before == after
    assert "clock.times_set_back" not in [entry["event"] for entry in log]


def test_more_than_one_page_is_set_back(pg: DatabaseFixture) -> None:
    pg.save(*leagues(7))
    move(pg, "1 day", "available_at")
    bounds = Bounds(LEASE, RETRY, CONFIRM_AFTER)
    counts = []
    while found := set_back(pg.conn, ["neo4j"], bounds, limit=3):
        counts.append(found.operations)
    assert counts == [3, 3, 1]


@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.parametrize("state", ["open", "probing"])
def test_a_breaker_is_probed_without_any_housekeeping(
    pg: DatabaseFixture, database: Database, state: str, jump: str
) -> None:
    pg.save(league("nfl"))
    pg.conn.execute("UPDATE sink_state SET state = %s, reason = 'down'", (state,))
    move(pg, jump, "open_until", "probe_until", table="sink_state")
    assert may_wake(pg.conn, "neo4j", 1, 10.0)
    assert deliver(database, FakeGraph()).settlement.synced == 1
    assert sink_health(pg.conn)["neo4j"].state == "closed"


def test_a_probe_that_fails_opens_the_breaker_for_its_own_delay_alone(pg: DatabaseFixture) -> None:
    """Neither for the rest of the jump, nor for no time at all."""
    pg.save(league("nfl"))
    pg.conn.execute("UPDATE sink_state SET state = 'open', reason = 'down'")
    move(pg, "1 day", "open_until", table="sink_state")
    token = uuid4()
    assert gate(pg.conn, "neo4j", token, LEASE).probing
    open_breaker(pg.conn, "neo4j", token, "still down", 20.0)
    left = ahead(pg, "SELECT open_until FROM sink_state WHERE sink = 'neo4j'")
    assert 0 < left <= 20.0
    assert not gate(pg.conn, "neo4j", uuid4(), LEASE).admitted


def test_no_delay_is_longer_than_the_gate_believes(pg: DatabaseFixture) -> None:
    """Or a breaker that opens for a day would be probed all day."""
    pg.save(league("nfl"))
    open_breaker(pg.conn, "neo4j", uuid4(), "for a day", 86_400.0)
    assert not gate(pg.conn, "neo4j", uuid4(), LEASE).admitted
    assert ahead(pg, "SELECT open_until FROM sink_state WHERE sink = 'neo4j'") <= RETRY


@pytest.mark.parametrize("jump", JUMPS)
def test_a_relay_wakes_workers_whatever_its_last_wake_up_says(
    pg: DatabaseFixture, jump: str
) -> None:
    """Redis lost every wake-up just before the clock was set back."""
    pg.save(league("nfl"))
    pg.conn.execute("UPDATE sink_state SET unanswered_wakes = 4")
    move(pg, jump, "last_wake_at", table="sink_state")
    assert may_wake(pg.conn, "neo4j", 4, 10.0)
    assert not may_wake(pg.conn, "neo4j", 4, 10.0)


def test_a_claim_to_come_hides_no_silence(pg: DatabaseFixture) -> None:
    """Status says that nothing claims, and a claim of now is noted."""
    pg.save(league("nfl"))
    pg.conn.execute("UPDATE sync_operation SET available_at = now() - interval '40 s'")
    move(pg, "1 day", "last_claim_at", "last_wake_at", table="sink_state")
    idle = idle_sinks(pg.conn, IDLE_SECONDS)
    assert idle["neo4j"].seconds == pytest.approx(40, abs=20)
    assert idle["neo4j"].relay_silent
    gate(pg.conn, "neo4j", uuid4(), LEASE)
    assert ahead(pg, "SELECT last_claim_at FROM sink_state WHERE sink = 'neo4j'") <= 0


def test_the_shared_state_of_sinks_is_set_back(pg: DatabaseFixture, database: Database) -> None:
    columns = ["open_until", "probe_until", "requests_until", "tokens_until", "since"]
    columns += ["last_claim_at", "last_wake_at", "paused_since"]
    move(pg, "1 day", *columns, table="sink_state")
    with capture_logs() as log:
        housekeeping(database)
    for column in columns:
        latest = pg.conn.execute(f"SELECT max({column}) <= now() FROM sink_state").fetchone()
        assert latest in [(True,), (None,)], column
    said = [entry for entry in log if entry["event"] == "clock.times_set_back"]
    assert [entry["sinks"] for entry in said] == [len(TOPOLOGY.names)]


@pytest.mark.parametrize("column", ["requests_until", "tokens_until"])
def test_a_budget_that_is_spent_for_a_day_is_taken_for_unspent(
    pg: DatabaseFixture, column: str
) -> None:
    move(pg, "1 day", column, table="sink_state")
    granted, wait = reserve(
        pg.conn, "embedding", requests=1.0, tokens=1.0, max_wait=10.0, longest=300.0
    )
    assert granted
    assert wait == 0.0
    assert ahead(pg, f"SELECT {column} FROM sink_state WHERE sink = 'embedding'") < 10.0


@pytest.mark.parametrize("entity_type", list(sports.TYPES))
def test_the_grace_of_a_deletion_begins_now(
    pg: DatabaseFixture, database: Database, entity_type: EntityType
) -> None:
    pg.save(*leagues(2))
    pg.conn.execute(
        f"UPDATE {entity_type} SET deleted_at = now() + interval '1 day'",
    )
    with capture_logs() as log:
        housekeeping(database)
    late = pg.conn.execute(
        f"SELECT count(*) FROM {entity_type} WHERE deleted_at > now()"
    ).fetchone()
    assert late == (0,)
    if entity_type is sports.LEAGUE:
        assert [e["deletions"] for e in log if e["event"] == "clock.times_set_back"] == [2]


def test_stores_are_compared_though_the_last_comparison_is_to_come(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.conn.execute(
        "INSERT INTO verify_run (seconds, consistent, result, finished_at) "
        "VALUES (1, true, '{}', now() + interval '1 day')"
    )
    schedule = Schedule(database, lambda: pg.conn, 3600.0, lambda wait: None)  # type: ignore[arg-type,return-value]
    assert schedule._remaining() == 0.0


def test_a_vector_confirmed_in_the_future_is_not_late_for_ever(pg: DatabaseFixture) -> None:
    """Neither a search for neighbours nor a comparison waits for the rest of the jump."""
    pg.save(league("nfl"))
    pg.conn.execute("UPDATE league SET pinecone_synced_at = now() + interval '1 day'")
    ids = [row[0] for row in pg.conn.execute("SELECT id FROM league")]
    ((_, age),) = vector_states(pg.conn, sports.LEAGUE, ids, "pinecone").values()
    assert age is not None
    assert age > 3600


def test_bounds_follow_the_settings() -> None:
    """No wait that a setting allows is cut short."""
    settings = Settings(altsync_backoff_cap_seconds=5000)
    assert longest_retry(settings) == 5000
    assert Policy(breaker_cap=900.0).longest_open == 900.0
