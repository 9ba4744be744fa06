"""Addresses of more than one host: PostgreSQL's in libpq's form, Redis' by its Sentinels."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import psycopg.sql
import pytest
import redis
import redis.sentinel
from celery import Celery
from redis.sentinel import MasterNotFoundError
from typer.testing import CliRunner

from altsync import db, redaction, revisions, schema
from altsync.cli import app as cli
from altsync.config import Settings, read_settings
from altsync.db import Database
from altsync.local.services import broker
from altsync.local.services.postgres import start_postgres
from tests.contract.doubles import closed_port
from tests.integration.database_fixture import TIMEOUT, eventually

MASTER = "altsync-test"


def several(url: str, other: str, query: str) -> str:
    """A URL of two hosts, of which ``other`` is the first."""
    parts = urlsplit(url)
    login, _, host = parts.netloc.rpartition("@")
    return f"postgresql://{login}{'@' if login else ''}{other},{host}{parts.path}?{query}"


def test_migrate_goes_to_the_host_that_lives(empty_database_url: str) -> None:
    dead = f"127.0.0.1:{closed_port()}"
    url = several(empty_database_url, dead, "target_session_attrs=read-write")
    schema.migrate(url)
    pool = Database(url)
    with pool.autocommit() as conn:
        assert revisions.schema_revision(conn) == revisions.schema_head()
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
        schema.migrate(url)
        with db.connect(url) as conn:
            assert conn.info.port == urlsplit(empty_database_url).port
    finally:
        standby.stop()


@contextmanager
def sentinels(folder: Path, password: str = "") -> Iterator[tuple[str, str]]:
    """A Redis of its own behind a Sentinel: the broker's address, of a dead Sentinel first."""
    server = broker.start_redis(folder / "redis")
    if "fakeredis" in server.flavour:
        server.stop()
        pytest.skip("Sentinel is a part of Redis itself")
    port = closed_port()
    own = folder / "sentinel"
    own.mkdir()
    (own / "sentinel.conf").write_text(
        f"bind 127.0.0.1\nport {port}\ndir {own}\n"
        f"sentinel monitor {MASTER} 127.0.0.1 {server.port} 1\n"
        f"sentinel auth-pass {MASTER} {server.secret}\n"
        + (f"requirepass {password}\n" if password else "")
    )
    command = [server.command()[0], str(own / "sentinel.conf"), "--sentinel"]
    with (own / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    watcher: Any = redis.sentinel.Sentinel(  # type: ignore[no-untyped-call]
        [("127.0.0.1", port)], sentinel_kwargs={"socket_timeout": 2, "password": password or None}
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
        process.wait(TIMEOUT)
        server.stop()


@pytest.fixture
def sentinel(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A Redis behind a Sentinel that asks for no password."""
    with sentinels(tmp_path) as found:
        yield found


def use_app_of(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Celery:
    """Let ``doctor`` ask by an app of these settings: a process has one."""
    monkeypatch.setenv("REDIS_URL", "memory://")
    workers = importlib.import_module("altsync.workers.app")
    app: Celery = workers.create(settings)
    monkeypatch.setattr(workers, "app", app)
    monkeypatch.delenv("REDIS_URL")
    return app


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
    broker = importlib.import_module("altsync.workers.broker")
    monkeypatch.setattr(workers, "app", app)
    broker.check_broker(settings.broker_url, TIMEOUT)
    app.close()

    monkeypatch.setenv("ALTSYNC_BROKER_URL", by_sentinel)
    monkeypatch.setenv("DATABASE_URL", database_url)
    said = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)
    (found,) = [one for one in said if one["name"] == "Redis"]
    assert (found["health"], found["detail"]) == ("ok", "sentinel broker answers")


def doctor_says(monkeypatch: pytest.MonkeyPatch, name: str, **settings: str) -> tuple[str, str]:
    """How a service is and what ``altsync doctor`` says of it."""
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    said = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)
    (found,) = (one for one in said if one["name"] == name)
    return found["health"], found["detail"]


def test_doctor_names_the_host_that_answers(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = f"127.0.0.1:{closed_port()}"
    url = several(database_url, dead, "target_session_attrs=read-write")
    parts = urlsplit(database_url)
    health, detail = doctor_says(monkeypatch, "PostgreSQL", DATABASE_URL=url)
    assert health == "ok"
    assert detail.endswith(f"at 127.0.0.1:{parts.port}{parts.path}")
    assert doctor_says(monkeypatch, "Schema", DATABASE_URL=url)[0] == "ok"
    url = several(f"postgresql://u@{dead}/altsync", dead, "target_session_attrs=read-write")
    health, detail = doctor_says(monkeypatch, "PostgreSQL", DATABASE_URL=url)
    assert health == "failed"
    assert detail.startswith("no connection to PostgreSQL: ")


#: Wrong addresses of a Redis by what is wrong, and what is said.
WRONG = {
    "redis://:wrong@{host}/0": "Redis refuses the login: correct the user or password of REDIS_URL",
    "redis://{host}/0": "Redis refuses the login: correct the user or password of REDIS_URL",
    "redis://bob:{secret}@{host}/0": "Redis refuses the login: ",
    "redis://:{secret}@{host}/99": "Redis has no database of this number: ",
    "redis://:{secret}@{sentinel}/0": "a Sentinel answers at the redis:// address: use sentinel://",
    "sentinel://:wrong@{sentinel}": "Redis refuses the login: ",
    "sentinel://:{secret}@{dead}": f"no Sentinel that answers names a master '{MASTER}' ",
    "sentinel://:{secret}@{host}": "the Sentinels refuse the login: ",
}


@pytest.mark.parametrize("address", WRONG)
def test_doctor_says_what_is_wrong_about_a_redis(
    sentinel: tuple[str, str], monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    by_sentinel, redis_url = sentinel
    redis_parts = urlsplit(redis_url)
    url = address.format(
        host=f"127.0.0.1:{redis_parts.port}",
        secret=redis_parts.password,
        sentinel=f"127.0.0.1:{by_sentinel.rpartition(':')[2]}",
        dead=f"127.0.0.1:{closed_port()}",
    )
    monkeypatch.setattr(redaction, "_secrets", set())
    settings = {"ALTSYNC_BROKER_URL": url, "ALTSYNC_SENTINEL_MASTER": MASTER}
    use_app_of(monkeypatch, read_settings(**{k.lower(): v for k, v in settings.items()}))
    health, detail = doctor_says(monkeypatch, "Redis", **settings)
    assert health == "failed"
    assert detail.startswith(WRONG[address])
    assert str(redis_parts.password) not in detail


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "the Sentinels refuse the login: correct ALTSYNC_SENTINEL_PASSWORD"),
        ({"ALTSYNC_SENTINEL_PASSWORD": "wrong"}, "the Sentinels refuse the login: "),
        (
            {"ALTSYNC_SENTINEL_PASSWORD": "secret", "ALTSYNC_SENTINEL_MASTER": "another"},
            "no Sentinel that answers names a master 'another' that is up: ",
        ),
        ({"ALTSYNC_SENTINEL_PASSWORD": "secret"}, "sentinel broker answers"),
    ],
)
def test_doctor_says_what_is_wrong_about_sentinels(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    said: str,
) -> None:
    with sentinels(tmp_path, "secret") as (by_sentinel, _):
        settings = {
            "ALTSYNC_BROKER_URL": by_sentinel,
            "ALTSYNC_SENTINEL_MASTER": MASTER,
            **settings,
        }
        use_app_of(monkeypatch, read_settings(**{k.lower(): v for k, v in settings.items()}))
        health, detail = doctor_says(monkeypatch, "Redis", **settings)
    assert detail.startswith(said)
    assert health == ("ok" if said == "sentinel broker answers" else "failed")
    assert "redis.client" not in detail
