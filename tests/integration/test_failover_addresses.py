"""Addresses of more than one host: PostgreSQL's in libpq's form, Redis' by its Sentinels."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import psycopg.sql
import pytest
import redis
import redis.sentinel
from redis.sentinel import MasterNotFoundError
from typer.testing import CliRunner

from altsync import db
from altsync.cli import app as cli
from altsync.config import read_settings
from altsync.db import Database
from altsync.local.services import broker
from altsync.local.services.postgres import start_postgres
from tests.contract.doubles import closed_port
from tests.integration.world import PATIENCE, eventually

MASTER = "altsync-test"


def several(url: str, other: str, query: str) -> str:
    """A URL of two hosts, of which ``other`` is the first."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    return f"postgresql://{login}{'@' if login else ''}{other},{host}{parts.path}?{query}"


def test_migrate_goes_to_the_host_that_lives(empty_database_url: str) -> None:
    dead = f"127.0.0.1:{closed_port()}"
    url = several(empty_database_url, dead, "target_session_attrs=read-write")
    db.migrate(url)
    pool = Database(url)
    with pool.autocommit() as conn:
        assert db.schema_revision(conn) == db.schema_head()
    pool.close()
    with db.engine(url).connect() as connection:
        assert connection.exec_driver_sql("SELECT 1").scalar() == 1


def test_a_host_that_is_read_only_is_passed_over(empty_database_url: str, tmp_path: Path) -> None:
    standby = start_postgres(tmp_path / "standby")
    try:
        login, _, first = urlsplit(standby.url).netloc.rpartition("@")
        # One address has one login: both servers know the same.
        password = urlsplit(empty_database_url).password
        with psycopg.connect(standby.superuser_url, autocommit=True) as conn:
            role = psycopg.sql.Identifier(login.partition(":")[0])
            statement = psycopg.sql.SQL("ALTER ROLE {} PASSWORD {}")
            conn.execute(statement.format(role, psycopg.sql.Literal(password)))
            conn.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            conn.execute("SELECT pg_reload_conf()")
        url = several(empty_database_url, first, "target_session_attrs=read-write")
        db.migrate(url)
        with db.connect(url) as conn:
            assert conn.info.port == urlsplit(empty_database_url).port
    finally:
        standby.stop()


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A Redis of its own behind a Sentinel: the broker's address, of a dead Sentinel first."""
    server = broker.start_redis(tmp_path / "redis")
    if "fakeredis" in server.flavour:
        server.stop()
        pytest.skip("Sentinel is a part of Redis itself")
    port = closed_port()
    folder = tmp_path / "sentinel"
    folder.mkdir()
    (folder / "sentinel.conf").write_text(
        f"bind 127.0.0.1\nport {port}\ndir {folder}\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {server.port} 1\n"
        f"sentinel auth-pass {MASTER} {server.secret}\n"
    )
    command = [server.command()[0], str(folder / "sentinel.conf"), "--sentinel"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    watcher: Any = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]
        [("127.0.0.1", port)], socket_timeout=2
    )

    def knows_the_master() -> bool:
        try:
            return bool(watcher.discover_master(MASTER))
        except (redis.RedisError, MasterNotFoundError):
            return False

    try:
        eventually(knows_the_master)
        login = f"sentinel://:{server.secret}@127.0.0.1"
        yield f"{login}:{closed_port()};{login}:{port}", server.url
    finally:
        process.terminate()
        process.wait(PATIENCE)
        server.stop()


def test_wake_ups_go_by_sentinel(
    sentinel: tuple[str, str], monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    """The relay counts and sends, a worker takes, doctor asks; Redis itself has the messages."""
    by_sentinel, redis_url = sentinel
    monkeypatch.setenv("REDIS_URL", "memory://")
    workers = importlib.import_module("altsync.workers.app")
    settings = read_settings(altsync_broker_url=by_sentinel, altsync_sentinel_master=MASTER)
    app = workers.create(settings)
    wake = workers.waker(app, 2)
    for _ in range(5):
        wake("neo4j")
    assert workers.waiting(app, "neo4j") == 2
    with redis.Redis.from_url(redis_url) as direct:
        assert direct.llen("neo4j") == 2
    with app.connection_for_read() as connection, connection.channel() as channel:
        taken = channel.basic_get("neo4j", no_ack=True)
        assert json.loads(taken.body)[0] == ["neo4j"]
    asking = importlib.import_module("altsync.workers.broker")
    monkeypatch.setattr(workers, "app", app)
    asking.ask(settings.broker_url, PATIENCE)
    app.close()

    monkeypatch.setenv("ALTSYNC_BROKER_URL", by_sentinel)
    monkeypatch.setenv("DATABASE_URL", database_url)
    said = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)
    (found,) = [one for one in said if one["name"] == "Redis"]
    assert (found["health"], found["detail"]) == ("ok", "sentinel broker answers")
