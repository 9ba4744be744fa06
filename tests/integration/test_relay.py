"""The relay: when and how often it wakes workers, and its housekeeping."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from altsync import db
from altsync.circuit.pause import pause
from altsync.db import Conn, Database
from altsync.outbox.claim import exhausted
from altsync.relay import Relay, RelayPolicy
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import (
    TIMEOUT,
    DatabaseFixture,
    dead_letter_exhausted,
    deliver,
    embed,
    eventually,
    league,
    leagues,
)
from tests.integration.fakes import FakeGraph, FakeIndex

NFL = league("nfl")

#: A poll so slow that it cannot be what woke anybody.
NEVER = 3600.0


class Bell:
    """A ``wake`` that can be waited for."""

    def __init__(self) -> None:
        self.rung: list[str] = []

    def __call__(self, sink: str) -> None:
        """Wake a worker of the sink."""
        self.rung.append(sink)

    def wait_for(self, sink: str) -> None:
        """Until the sink has been woken."""
        eventually(lambda: sink in self.rung)


@contextmanager
def running(relay: Relay, url: str) -> Iterator[None]:
    """The relay in a thread of its own, listening."""
    thread = threading.Thread(target=relay.run)
    thread.start()
    with db.connect(url) as conn:
        eventually(lambda: _listening(conn) > 0)
    try:
        yield
    finally:
        relay.stop()
        with db.connect(url) as conn:
            conn.execute("SELECT pg_notify('altsync', '')")  # it looks up at once
        thread.join(TIMEOUT)
        assert not thread.is_alive()


def test_a_notification_wakes_a_worker(pg: DatabaseFixture, database: Database) -> None:
    """Right after the commit, without waiting for the poll."""
    bell = Bell()
    relay = relay_of(pg, database, bell, poll=NEVER)
    with running(relay, pg.url):
        pg.save(NFL)
        bell.wait_for("neo4j")
        bell.wait_for("embedding")
    assert "pinecone" not in bell.rung


def test_what_was_there_before_is_found_at_the_start(
    pg: DatabaseFixture, database: Database
) -> None:
    """No notification was heard of it."""
    pg.save(NFL)
    bell = Bell()
    with running(relay_of(pg, database, bell, poll=NEVER), pg.url):
        bell.wait_for("neo4j")


def test_a_lost_notification_costs_nothing(pg: DatabaseFixture, database: Database) -> None:
    """The poll finds operations without a notification."""
    pg.save(NFL)
    pg.conn.execute("UPDATE sync_operation SET available_at = now() + interval '4 min'")
    bell = Bell()
    with running(relay_of(pg, database, bell, poll=0.02), pg.url):
        assert bell.rung == []
        pg.conn.execute("UPDATE sync_operation SET available_at = now()")
        bell.wait_for("neo4j")


def test_a_busy_sink_does_not_keep_the_relay_from_the_others(
    pg: DatabaseFixture, database: Database
) -> None:
    """One that is told of all the time: the poll looks at the rest all the same."""
    pg.save(NFL)
    pg.conn.execute("UPDATE sync_operation SET available_at = now() + interval '4 min'")
    bell = Bell()

    def told_and_woken(sink: str) -> bool:
        pg.conn.execute("UPDATE sync_operation SET available_at = now() WHERE sink = %s", (sink,))
        pg.conn.execute("SELECT pg_notify('altsync', 'neo4j')")
        return sink in bell.rung

    with running(relay_of(pg, database, bell, poll=0.1), pg.url):
        eventually(lambda: told_and_woken("neo4j"))
        eventually(lambda: told_and_woken("embedding"), timeout=5.0)


def test_a_retry_is_woken_for_when_it_is_due(pg: DatabaseFixture, database: Database) -> None:
    """The relay knows when that is, and does not sleep longer."""
    pg.save(NFL)
    pg.conn.execute("UPDATE sync_operation SET available_at = now() + interval '0.3 s'")
    bell = Bell()
    with running(relay_of(pg, database, bell, poll=NEVER), pg.url):
        bell.wait_for("neo4j")


def test_an_ended_lease_is_woken_for(pg: DatabaseFixture, database: Database) -> None:
    """It is simply due again."""
    pg.save(NFL)
    pg.claim("neo4j", lease=0.3)
    bell = Bell()
    with running(relay_of(pg, database, bell, poll=NEVER, enabled=["neo4j"]), pg.url):
        bell.wait_for("neo4j")


def test_a_relay_that_is_cut_off_comes_back(pg: DatabaseFixture, database: Database) -> None:
    """PostgreSQL ended its session: it connects again and hears what comes next."""
    bell = Bell()
    sessions: list[Conn] = []

    def listen() -> Conn:
        sessions.append(db.connect(pg.url, name="altsync-relay"))
        return sessions[-1]

    relay = relay_of(pg, database, bell, poll=NEVER, listen=listen)
    with capture_logs() as log, running(relay, pg.url):
        for number in range(2):
            eventually(lambda: _count(log, "relay.started") == number + 1)  # noqa: B023
            pg.conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'altsync-relay'"
            )
            eventually(lambda: len(sessions) == number + 2)  # noqa: B023
        eventually(lambda: _count(log, "relay.started") == 3)
        pg.save(NFL)
        bell.wait_for("neo4j")
    events = [entry["event"] for entry in log]
    assert events.count("relay.disconnected") == 2
    assert events.count("relay.started") == 3
    assert events[-1] == "relay.stopped"


def test_a_relay_waits_for_a_database_that_is_away(pg: DatabaseFixture, database: Database) -> None:
    """It does not die of it, and warns once."""
    bell = Bell()
    tries: list[int] = []

    def listen() -> Conn:
        tries.append(1)
        if len(tries) < 3:
            raise psycopg.OperationalError("connection refused")
        return db.connect(pg.url, name="altsync-relay")

    pg.save(NFL)
    relay = relay_of(pg, database, bell, poll=NEVER, listen=listen)
    with capture_logs() as log, running(relay, pg.url):
        bell.wait_for("neo4j")
    assert len(tries) == 3
    assert [(entry["event"], entry["log_level"]) for entry in log[:4]] == [
        ("relay.disconnected", "warning"),
        ("relay.disconnected", "debug"),
        ("relay.recovered", "info"),
        ("relay.started", "info"),
    ]


def test_a_relay_announces_itself_each_time_it_listens(
    pg: DatabaseFixture, database: Database
) -> None:
    """The shared state says which sinks are switched on."""
    announced: list[int] = []
    relay = Relay(
        database,
        lambda: db.connect(pg.url, name="altsync-relay"),
        lambda sink: None,
        TOPOLOGY,
        TOPOLOGY.names,
        RelayPolicy(poll=NEVER),
        announce=lambda: announced.append(_listening(pg.conn)),
    )
    with running(relay, pg.url):
        eventually(lambda: announced == [1])


def test_a_broker_that_is_down_is_one_warning(pg: DatabaseFixture, database: Database) -> None:
    """Seeding never notices; when it is back, the work is found and that is said."""
    calls: list[str] = []

    def wake(sink: str) -> None:
        calls.append(sink)
        if len(calls) in (1, 2, 4):
            raise ConnectionError("broker away")

    pg.save(NFL)
    relay = relay_of(pg, database, wake, enabled=["neo4j"])
    with capture_logs() as log:
        for _ in range(5):
            relay.poll(["neo4j"])
            pg.advance_time(11)
    assert calls == ["neo4j"] * 5
    told = [(entry["event"], entry["log_level"]) for entry in log]
    assert told == [
        ("wake.failed", "warning"),
        ("wake.failed", "debug"),
        ("wake.recovered", "info"),
        ("wake.failed", "warning"),
        ("wake.recovered", "info"),
    ]
    assert log[0]["error"] == "the system refused: ConnectionError: broker away"


def test_as_many_are_woken_as_there_are_batches(pg: DatabaseFixture, database: Database) -> None:
    """Up to the limit."""
    pg.save(*leagues(25))
    bell = Bell()
    relay_of(pg, database, bell, batch_size=10, wake_limit=8).poll(["neo4j"])
    assert bell.rung == ["neo4j"] * 3
    bell = Bell()
    relay_of(pg, database, bell, batch_size=1, wake_limit=4).poll(["embedding"])
    assert bell.rung == ["embedding"] * 4


def test_no_queue_is_flooded(pg: DatabaseFixture, database: Database) -> None:
    """Without a worker one more goes out after each timeout, however often it polls."""
    pg.save(*leagues(25))
    bell = Bell()
    relay = relay_of(pg, database, bell, batch_size=10, wake_limit=2)
    for _ in range(50):
        relay.poll(["neo4j"])
    assert len(bell.rung) == 2
    for _ in range(5):
        pg.advance_time(11)
        for _ in range(10):
            relay.poll(["neo4j"])
    assert len(bell.rung) == 7


def test_two_relays_wake_no_more_than_one(pg: DatabaseFixture, database: Database) -> None:
    """They share the count."""
    pg.save(*leagues(25))
    bell = Bell()
    relays = [relay_of(pg, database, bell, batch_size=10, wake_limit=2) for _ in range(2)]
    for relay in relays * 5:
        relay.poll(["neo4j"])
    assert len(bell.rung) == 2


def test_workers_that_answer_are_woken_again(pg: DatabaseFixture, database: Database) -> None:
    """A claim is the answer; what is left is woken for."""
    pg.save(*leagues(3))
    bell = Bell()
    relay = relay_of(pg, database, bell, batch_size=1, wake_limit=1)
    graph = FakeGraph()
    for _ in range(3):
        relay.poll(["neo4j"])
        deliver(database, graph, batch_size=1)
        pg.advance_time(2)
    relay.poll(["neo4j"])
    assert bell.rung == ["neo4j"] * 3
    assert pg.counts("neo4j") == {"synced": 3}


def test_no_worker_is_woken_for_nothing(pg: DatabaseFixture, database: Database) -> None:
    """Nor for a sink that is not switched on here."""
    bell = Bell()
    relay = relay_of(pg, database, bell, enabled=["neo4j"], poll=0.02)
    with running(relay, pg.url):
        pg.conn.execute("SELECT pg_notify('altsync', 'pinecone')")
        pg.save(NFL)
        bell.wait_for("neo4j")
    assert set(bell.rung) == {"neo4j"}


@pytest.mark.parametrize("state", ["open", "paused", "disabled"])
def test_a_sink_that_admits_no_worker_gets_no_wake_up(
    pg: DatabaseFixture, database: Database, state: str
) -> None:
    """Until its breaker is due."""
    pg.save(NFL)
    if state == "paused":
        pause(pg.conn, "neo4j", "by hand")
    else:
        pg.conn.execute(
            "UPDATE sink_state SET state = %s, open_until = now() + interval '1 minute'", (state,)
        )
    bell = Bell()
    relay = relay_of(pg, database, bell)
    relay.poll(["neo4j"])
    assert bell.rung == []
    pg.advance_time(61)
    relay.poll(["neo4j"])
    assert bell.rung == (["neo4j"] if state == "open" else [])


def test_a_look_says_when_to_look_again(pg: DatabaseFixture, database: Database) -> None:
    """No later than the poll, no later than what falls due, and never at once."""
    relay = relay_of(pg, database, Bell(), poll=60.0)
    assert relay.poll(["neo4j"]) == 60.0
    pg.save(NFL)
    pg.conn.execute("UPDATE sync_operation SET available_at = now() + interval '20 s'")
    assert 10 < relay.poll(["neo4j"]) <= 20
    pg.conn.execute("UPDATE sync_operation SET available_at = now() + interval '1 h'")
    assert relay.poll(["neo4j"]) == 60.0
    pg.conn.execute("UPDATE sync_operation SET available_at = clock_timestamp()")
    assert relay.poll(["neo4j"]) > 0


def test_exhausted_operations_become_dead_letters(pg: DatabaseFixture, database: Database) -> None:
    """With the reason, in every sink; those that still have a lease are not."""
    pg.save(*leagues(3))
    for sink in ("neo4j", "embedding"):
        pg.claim(sink)
    pg.conn.execute("UPDATE sync_operation SET attempts = 10")
    pg.conn.execute(
        "UPDATE sync_operation SET available_at = now() "
        "WHERE entity_key IN ('l000', 'l001') AND sink = 'neo4j' OR sink = 'embedding'"
    )
    relay = relay_of(pg, database, Bell())
    with capture_logs() as log:
        relay.poll([])
    assert pg.counts("neo4j") == {"dead": 2, "in_progress": 1}
    assert pg.counts("embedding") == {"dead": 3}
    dead = pg.last("neo4j", "l000")
    assert (dead.error_kind, dead.last_error) == (
        "lost",
        "10 workers in a row vanished while they had it",
    )
    assert pg.statuses(league("l000"))["neo4j"] == "failed"
    assert pg.statuses(league("l002"))["neo4j"] == "pending"
    moved = [entry for entry in log if entry["event"] == "operations.dead_lettered"]
    assert sorted(entry["count"] for entry in moved) == [2, 3]


def test_a_dead_letter_of_a_vanished_worker_is_of_unknown_outcome(
    pg: DatabaseFixture, database: Database
) -> None:
    """Its write may be applied after the next one, so a confirming write follows that."""
    pg.save(NFL)
    embed(database)
    pg.claim("pinecone")
    pg.conn.execute("UPDATE sync_operation SET attempts = 10 WHERE sink = 'pinecone'")
    pg.expire_leases()
    dead_letter_exhausted(pg, database)
    assert pg.last("pinecone", "nfl").error_kind == "lost"
    pg.save(league("nfl", tier="TIER1"))
    deliver(database, FakeIndex())
    assert pg.live("pinecone", "nfl").origin == "confirm"


def test_an_operation_that_another_worker_holds_becomes_no_dead_letter(
    pg: DatabaseFixture, database: Database
) -> None:
    """The lease's token is the fence for the relay as for anybody else."""
    pg.save(NFL)
    pg.claim("neo4j")
    pg.conn.execute("UPDATE sync_operation SET attempts = 10, available_at = now()")
    found = exhausted(pg.conn, 10)
    pg.claim("neo4j", max_attempts=20)
    assert len(found) == 1
    relay_of(pg, database, Bell()).poll([])
    assert pg.live("neo4j", "nfl").status == "in_progress"


def test_exhausted_operations_of_an_unknown_sink_are_left(
    pg: DatabaseFixture, database: Database
) -> None:
    """A relay with fewer sinks does not know how to settle them."""
    pg.save(NFL)
    pg.conn.execute("UPDATE sync_operation SET sink = 'archive' WHERE sink = 'neo4j'")
    pg.claim("archive")
    pg.conn.execute("UPDATE sync_operation SET attempts = 10, available_at = now()")
    relay_of(pg, database, Bell()).poll([])
    assert pg.counts("archive") == {"in_progress": 1}


def test_a_house_is_kept_once_a_minute(pg: DatabaseFixture, database: Database) -> None:
    """Deleted entities are purged after their grace; what else there is to do, is done."""
    pg.save(NFL)
    pg.delete(NFL)
    pg.conn.execute("DELETE FROM sync_operation")
    pg.advance_time(101)
    done: list[str] = []
    relay = Relay(
        database,
        lambda: pg.conn,
        Bell(),
        TOPOLOGY,
        [],
        RelayPolicy(purge_grace=100.0),
        housekeeping=[lambda: done.append("kept")],
    )
    for _ in range(5):
        relay.poll([])
    assert done == ["kept"]
    assert pg.scalar("SELECT count(*) FROM league") == 0


def test_a_relay_is_not_idle_in_a_transaction(pg: DatabaseFixture, database: Database) -> None:
    """Listening in one would fill the queue of notifications until commits fail."""
    with running(relay_of(pg, database, Bell(), poll=NEVER), pg.url):
        states = pg.conn.execute(
            "SELECT state FROM pg_stat_activity WHERE application_name = 'altsync-relay'"
        ).fetchall()
    assert states == [("idle",)]


def test_a_relay_stops_soon(pg: DatabaseFixture, database: Database) -> None:
    """Within its poll, from another thread or a signal."""
    relay = relay_of(pg, database, Bell(), poll=0.02)
    thread = threading.Thread(target=relay.run)
    thread.start()
    eventually(lambda: _listening(pg.conn) > 0)
    relay.stop()
    thread.join(TIMEOUT)
    assert not thread.is_alive()


def relay_of(
    pg: DatabaseFixture,
    database: Database,
    wake: Callable[[str], None],
    *,
    enabled: list[str] | None = None,
    listen: Callable[[], Conn] | None = None,
    **policy: Any,
) -> Relay:
    """A relay of these tests' sinks."""
    return Relay(
        database,
        listen or (lambda: db.connect(pg.url, name="altsync-relay")),
        wake,
        TOPOLOGY,
        TOPOLOGY.names if enabled is None else enabled,
        RelayPolicy(**policy),
    )


def _count(log: Sequence[Mapping[str, Any]], event: str) -> int:
    return sum(entry["event"] == event for entry in log)


def _listening(conn: Conn) -> int:
    """Sessions of relays that are waiting for a notification."""
    row = conn.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'altsync-relay' "
        "AND datname = current_database() AND query LIKE 'LISTEN%'"
    ).fetchone()
    assert row is not None
    return int(row[0])
