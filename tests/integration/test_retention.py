"""The relay removes finished history by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from altsync import retention
from altsync.app import Application
from altsync.config import Settings
from altsync.costs.ledger import Bill
from altsync.db import Database
from altsync.operations import Settlement
from altsync.outbox.batches import record_batch
from altsync.outbox.retention import claim_pruning
from altsync.retention import REST, Retention
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import DatabaseFixture, leagues

DAYS = 30


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Return the time, in seconds."""
        return self.now


@pytest.fixture
def old(pg: DatabaseFixture) -> Iterator[DatabaseFixture]:
    """Three finished operations of 40 days ago, one of each that must stay, and two batches."""
    pg.save(*leagues(4))
    for entity, status in (("l000", "synced"), ("l001", "superseded"), ("l002", "dead")):
        pg.conn.execute(
            "UPDATE sync_operation SET status = %s, finished_at = now(), last_error = 'no', "
            "error_kind = 'item' WHERE entity_key = %s",
            (status, entity),
        )
    for _ in range(2):
        record_batch(
            pg.conn, "neo4j", "w", 1, Settlement(synced=1), calls=1, bill=Bill(), seconds=1
        )
    pg.conn.execute("UPDATE delivery_batch SET finished_at = now() - interval '40 days'")
    for column in ("created_at", "finished_at"):
        pg.conn.execute(f"UPDATE sync_operation SET {column} = {column} - interval '40 days'")
    record_batch(pg.conn, "neo4j", "w", 1, Settlement(synced=1), calls=1, bill=Bill(), seconds=1)
    yield pg


def left(pg: DatabaseFixture) -> tuple[list[str], int]:
    """Which statuses are left of operations, and how many records of batches."""
    statuses = pg.conn.execute("SELECT DISTINCT status FROM sync_operation ORDER BY 1")
    return [row[0] for row in statuses], int(str(pg.scalar("SELECT count(*) FROM delivery_batch")))


def test_the_relay_removes_what_is_older_than_its_days(old: DatabaseFixture) -> None:
    """Pending and dead operations stay, however old they are."""
    settings = Settings(database_url=SecretStr(old.url), altsync_retention_days=DAYS)
    with closing(Application(settings)) as app, capture_logs() as log:
        app.relay(lambda sink: None).poll([])
    assert left(old) == (["dead", "pending"], 1)
    pruned = [entry for entry in log if entry["event"] == "history.pruned"]
    assert [(entry["operations"], entry["batches"]) for entry in pruned] == [(4, 2)]


def test_without_days_the_relay_removes_nothing(old: DatabaseFixture) -> None:
    settings = Settings(database_url=SecretStr(old.url), altsync_retention_days=0)
    with closing(Application(settings)) as app:
        app.relay(lambda sink: None).poll([])
    assert left(old) == (["dead", "pending", "superseded", "synced"], 3)


def test_what_is_younger_stays(old: DatabaseFixture, database: Database) -> None:
    Retention(database, TOPOLOGY, 41).step()
    assert left(old) == (["dead", "pending", "superseded", "synced"], 3)


def test_a_step_ends_in_time_and_the_next_one_goes_on(
    old: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wake-ups wait for one step, not for a whole pass."""
    monkeypatch.setattr("altsync.outbox.retention.RANGE", 2)
    monkeypatch.setattr(retention, "STEP", 0.0)
    clock = Clock()
    history = Retention(database, TOPOLOGY, DAYS, clock)
    counts = []
    for _ in range(8):
        history.step()
        counts.append(old.scalar("SELECT count(*) FROM sync_operation"))
    assert len(set(counts)) > 1
    assert counts[-1] == 4
    assert left(old) == (["dead", "pending"], 1)


def test_a_pass_is_followed_by_a_rest(old: DatabaseFixture, database: Database) -> None:
    clock = Clock()
    history = Retention(database, TOPOLOGY, DAYS, clock)
    history.step()
    old.conn.execute("UPDATE delivery_batch SET finished_at = now() - interval '40 days'")
    history.step()
    assert left(old)[1] == 1
    clock.now += REST
    history.step()
    assert left(old)[1] == 0


def test_of_two_relays_one_removes(old: DatabaseFixture, database: Database) -> None:
    """The other one tries again at its next housekeeping."""
    history = Retention(database, TOPOLOGY, DAYS)
    with database.transaction() as conn:
        assert claim_pruning(conn)
        history.step()
        assert left(old) == (["dead", "pending", "superseded", "synced"], 3)
    history.step()
    assert left(old) == (["dead", "pending"], 1)
