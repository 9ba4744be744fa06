"""PostgreSQL refuses what it is asked for: read-only, full, shutting down. All is waited for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest
from psycopg import errors
from pydantic import SecretStr
from structlog.testing import capture_logs
from structlog.typing import EventDict

from altsync import db
from altsync.app import Application
from altsync.config import Settings
from altsync.db import Conn, Database
from tests.integration.database_fixture import DatabaseFixture, eventually, league
from tests.integration.test_relay import Bell, relay_of, running

REFUSALS = (
    errors.AdminShutdown,
    errors.CannotConnectNow,
    errors.CrashShutdown,
    errors.DiskFull,
    errors.InsufficientPrivilege,
    errors.IoError,
    errors.LockNotAvailable,
    errors.OutOfMemory,
    errors.QueryCanceled,
    errors.ReadOnlySqlTransaction,
    errors.TooManyConnections,
    errors.UndefinedTable,
)


@contextmanager
def read_only(pg: DatabaseFixture) -> Iterator[None]:
    """A database that takes no write, as a standby or a server whose disk is full."""
    name = pg.scalar("SELECT current_database()")
    pg.conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    cut_others(pg)
    try:
        yield
    finally:
        pg.conn.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
        cut_others(pg)


def cut_others(pg: DatabaseFixture) -> None:
    """End all sessions but the test's own."""
    pg.conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )


def levels(log: list[EventDict], event: str) -> list[str]:
    """Levels at which an event was logged."""
    return [entry["log_level"] for entry in log if entry["event"] == event]


def test_a_relay_waits_for_a_database_that_is_read_only(
    pg: DatabaseFixture, database: Database
) -> None:
    bell = Bell()
    relay = relay_of(pg, database, bell, poll=0.1)
    with capture_logs() as log, running(relay, pg.url):
        eventually(lambda: levels(log, "relay.started") == ["info"])
        with read_only(pg):
            pg.save(league("nfl"))
            eventually(lambda: "debug" in levels(log, "relay.disconnected"))
        bell.wait_for("neo4j")
        eventually(lambda: levels(log, "relay.started") == ["info", "info"])
        assert levels(log, "relay.recovered") == ["info"]
    warned = [e["error"].split(":")[0] for e in log if e["log_level"] == "warning"]
    assert "ReadOnlySqlTransaction" in warned
    assert len(warned) == len(set(warned))


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: one.__name__)
def test_a_relay_waits_whatever_postgresql_refuses(
    pg: DatabaseFixture, database: Database, refusal: type[psycopg.Error]
) -> None:
    tries: list[int] = []

    def listen() -> Conn:
        tries.append(1)
        if len(tries) < 3:
            raise refusal("refused")
        return db.connect(pg.url, name="altsync-relay")

    pg.save(league("nfl"))
    bell = Bell()
    with capture_logs() as log, running(relay_of(pg, database, bell, listen=listen), pg.url):
        bell.wait_for("neo4j")
    assert levels(log, "relay.disconnected") == ["warning", "debug"]


def test_a_worker_waits_for_a_database_that_is_read_only(pg: DatabaseFixture) -> None:
    """It claims nothing, ends its task, and says so once."""
    settings = Settings(
        database_url=SecretStr(pg.url),
        openai_api_key=SecretStr("key"),
        altsync_sinks="embedding",
    )
    pg.save(league("nfl"))
    with closing(Application(settings, serving=True)) as app, capture_logs() as log:
        with read_only(pg):
            for _ in range(3):
                assert app.deliver("embedding").claimed == 0
        assert levels(log, "database.failed") == ["warning", "debug", "debug"]
        pg.conn.execute("UPDATE sync_operation SET available_at = now() + interval '1 h'")
        assert app.deliver("embedding").claimed == 0
        assert levels(log, "database.recovered") == ["info"]


def test_what_fails_besides_the_database_does_not_end_the_relay(
    pg: DatabaseFixture, database: Database
) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    relay = relay_of(pg, database, Bell())
    relay._housekeeping = [broken]
    with capture_logs() as log:
        relay.poll([])
    assert levels(log, "housekeeping.failed") == ["error"]
