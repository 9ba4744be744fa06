"""PostgreSQL falls silent: no answer and no reset, while kernels go on acknowledging."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing

import psycopg
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from altsync import copying, db, silence
from altsync.app import Application
from altsync.config import Settings
from altsync.db import Database
from tests.faults.proxies import relayed
from tests.integration.database_fixture import DatabaseFixture, eventually, league
from tests.integration.test_relay import Bell, relay_of, running
from tests.proxy import Proxy

#: Seconds without an answer in these tests, in place of ``silence.SILENCE``.
SHORT = 0.3


@pytest.fixture(autouse=True)
def _short_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(silence, "SILENCE", SHORT)
    monkeypatch.setattr(silence, "LATE_ANSWER", 0.1)
    monkeypatch.setattr(db, "CONNECT_TIMEOUT", 2)
    monkeypatch.setattr(silence, "PROBE_TIMEOUT", 2)


@pytest.fixture
def way(database_url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy in front of the database, and the URL that leads through it."""
    with relayed(database_url) as found:
        yield found


def fall_silent(proxy: Proxy) -> None:
    """Answer nothing any more, on old connections for good, and take new ones without a word."""
    proxy.half_open = True
    proxy.silence()


def come_back(proxy: Proxy) -> None:
    """Serve new connections. Earlier ones stay silent, as after a failover."""
    proxy.half_open = False


def test_a_statement_without_an_answer_ends(way: tuple[Proxy, str]) -> None:
    proxy, url = way
    with db.connect(url) as conn:
        fall_silent(proxy)
        with pytest.raises(silence.ServerSilent, match="has not answered for"):
            conn.execute("SELECT 1")
        assert conn.closed


def test_a_statement_that_the_server_does_not_work_on_ends(way: tuple[Proxy, str]) -> None:
    """The address leads to a server that answers others, as after a failover of an address."""
    proxy, url = way
    with db.connect(url) as conn:
        proxy.silence()
        with pytest.raises(silence.ServerSilent, match="does not work on this statement"):
            conn.execute("SELECT 1")
        assert conn.closed


def test_a_long_statement_is_waited_for(way: tuple[Proxy, str]) -> None:
    """The server says that it works on it."""
    _, url = way
    with db.connect(url) as conn:
        assert conn.execute("SELECT 1 FROM pg_sleep(1.5)").fetchone() == (1,)


def test_a_statement_that_waits_for_a_lock_is_waited_for(way: tuple[Proxy, str]) -> None:
    _, url = way
    with db.connect(url) as holder, db.connect(url) as waiting:
        holder.execute("SELECT pg_advisory_lock(7)")
        done = threading.Event()

        def wait() -> None:
            waiting.execute("SELECT pg_advisory_lock(7)")
            done.set()

        thread = threading.Thread(target=wait)
        thread.start()
        assert not done.wait(SHORT * 4)
        holder.execute("SELECT pg_advisory_unlock(7)")
        thread.join()
        assert done.is_set()


def test_a_copy_without_an_answer_ends(way: tuple[Proxy, str]) -> None:
    proxy, url = way
    with db.connect(url) as conn:
        conn.execute("CREATE TEMPORARY TABLE t (n int)")
        fall_silent(proxy)
        with pytest.raises(silence.ServerSilent):
            copying.copy_rows(conn, "t", ["n"], [(n,) for n in range(10)])


def test_a_transaction_without_an_answer_ends(way: tuple[Proxy, str]) -> None:
    proxy, url = way
    with db.connect(url) as conn, pytest.raises(silence.ServerSilent), conn.transaction():
        conn.execute("SELECT 1")
        fall_silent(proxy)
        conn.execute("SELECT 2")


def test_a_connection_that_listens_may_be_silent(way: tuple[Proxy, str]) -> None:
    _, url = way
    with db.connect(url) as conn:
        conn.execute("LISTEN altsync")
        assert list(conn.notifies(timeout=SHORT * 3)) == []
        conn.execute("SELECT 1")


def test_a_pool_of_silent_connections_is_renewed_as_a_whole(way: tuple[Proxy, str]) -> None:
    """Eight idle connections lead to the server that is gone: one is found out, all go."""
    proxy, url = way
    database = Database(url)
    with closing(database):
        with ExitStack() as stack:
            for conn in [stack.enter_context(database.autocommit()) for _ in range(8)]:
                conn.execute("SELECT 1")
        fall_silent(proxy)
        with pytest.raises(psycopg.OperationalError), database.autocommit():
            pass
        come_back(proxy)
        assert _tries_until_answered(database) == 1


def _tries_until_answered(database: Database) -> int:
    for number in range(1, 10):
        try:
            with database.autocommit() as conn:
                conn.execute("SELECT 1")
        except psycopg.OperationalError:
            continue
        return number
    raise AssertionError("never answered")


def test_a_relay_that_hears_nothing_any_more_comes_back(
    way: tuple[Proxy, str], pg: DatabaseFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection that listens is silent, and its pool's; both are said once."""
    monkeypatch.setattr("altsync.relay.HEARTBEAT", 0.2)
    proxy, url = way
    database = Database(url)
    bell = Bell()
    relay = relay_of(
        pg, database, bell, poll=3600.0, listen=lambda: db.connect(url, name="altsync-relay")
    )
    with closing(database), capture_logs() as log:

        def said(event: str) -> list[str]:
            return [entry["log_level"] for entry in log if entry["event"] == event]

        with running(relay, pg.url):
            eventually(lambda: said("relay.started") == ["info"])
            fall_silent(proxy)
            eventually(lambda: len(said("relay.disconnected")) > 1)
            pg.save(league("nfl"))
            come_back(proxy)
            bell.wait_for("neo4j")
            eventually(lambda: said("relay.recovered") == ["info"])
        kinds = [entry["error"].split(":")[0] for entry in log if entry["log_level"] == "warning"]
        assert len(kinds) == len(set(kinds))


def test_a_server_finds_clients_that_are_gone(database_url: str) -> None:
    """The locks of a machine that fell silent end with its session."""
    with db.connect(database_url.replace("localhost", "127.0.0.1")) as conn:
        row = conn.execute("SELECT current_setting('tcp_keepalives_idle')::int").fetchone()
    assert row is not None
    assert row[0] in (0, 10)  # 0: a Unix socket


def test_a_url_goes_before_the_timeouts_of_altsync() -> None:
    _, own = db.connect_options("postgresql://h/d", "altsync")
    assert own["tcp_user_timeout"] == 15_000
    assert own["keepalives_idle"] == 10
    url = "postgresql://h/d?tcp_user_timeout=1&keepalives_idle=2&connect_timeout=3"
    _, given = db.connect_options(url, "altsync")
    assert not given.keys() & {"tcp_user_timeout", "keepalives_idle", "connect_timeout"}


def _statement_timeout(app: Application) -> int:
    with closing(app), app.database.autocommit() as conn:
        row = conn.execute(
            "SELECT setting::int FROM pg_settings WHERE name = 'statement_timeout'"
        ).fetchone()
    assert row is not None
    return int(row[0])


def test_no_statement_of_a_worker_outlives_its_lease(database_url: str) -> None:
    """A command holds no lease, and its statements may take their time; a URL overrides both."""
    settings = Settings(database_url=SecretStr(database_url), altsync_lease_seconds=20)
    assert _statement_timeout(Application(settings, serving=True)) == 16_000
    assert _statement_timeout(Application(settings)) == 0
    url = SecretStr(f"{database_url}?options=-cstatement_timeout%3D7s")
    own = Settings(database_url=url)
    assert _statement_timeout(Application(own, serving=True)) == 7_000
