"""A database, role or server that is set up in another way: altsync sets what it relies on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg_pool import ConnectionPool
from typer.testing import CliRunner

from altsync import db
from altsync.cli import app
from altsync.db import Database
from altsync.errors import SchemaError
from altsync.local.services.postgres import Postgres
from altsync.sentences import Exit, describe
from tests.contract.doubles import closed_port
from tests.integration.few_rights import role_that_lacks

#: Settings that a database may have, and those of a session of altsync.
FORMS = {
    "DateStyle": ("German", "ISO, YMD"),
    "IntervalStyle": ("sql_standard", "postgres"),
    "TimeZone": ("Asia/Kathmandu", "UTC"),
    "client_encoding": ("LATIN1", "UTF8"),
    "standard_conforming_strings": ("off", "on"),
    "bytea_output": ("escape", "hex"),
    "extra_float_digits": ("-10", "1"),
    "default_transaction_isolation": ("serializable", "read committed"),
}


@pytest.fixture(autouse=True)
def _own_form(database_url: str) -> Iterator[None]:
    """Other tests use the same database."""
    yield
    with psycopg.connect(database_url, autocommit=True) as conn:
        for name in FORMS:
            conn.execute(
                sql.SQL("ALTER DATABASE {} RESET {}").format(
                    sql.Identifier(conn.info.dbname), sql.Identifier(name)
                )
            )


@pytest.mark.parametrize("name", FORMS)
def test_a_database_of_another_form_is_read_as_any(database_url: str, name: str) -> None:
    given, wanted = FORMS[name]
    with psycopg.connect(database_url, autocommit=True) as conn:
        database = sql.Identifier(conn.info.dbname)
        conn.execute(
            sql.SQL("ALTER DATABASE {} SET {} TO {}").format(
                database, sql.Identifier(name), sql.Literal(given)
            )
        )
    pool = Database(database_url)
    with db.connect(database_url) as own, pool.autocommit() as pooled:
        for conn in (own, pooled):
            assert conn.execute("SELECT current_setting(%s)", (name,)).fetchone() == (wanted,)
            row = conn.execute(
                "SELECT '2026-11-30 01:02:03+00'::timestamptz, '26 hours'::interval, "
                "'\\xff00'::bytea, 'café', 0.1::float8 + 0.2"
            ).fetchone()
            assert row == (
                datetime(2026, 11, 30, 1, 2, 3, tzinfo=UTC),
                timedelta(hours=26),
                b"\xff\x00",
                "café",
                0.1 + 0.2,
            )
    pool.close()


def test_a_pooler_keeps_the_form_that_it_can(database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute(
            sql.SQL("ALTER DATABASE {} SET DateStyle TO 'German'").format(
                sql.Identifier(conn.info.dbname)
            )
        )
    pool = Database(database_url, pooled=True)
    with pool.autocommit() as conn:
        assert conn.execute("SHOW DateStyle").fetchone() == ("ISO, YMD",)
    pool.close()


@pytest.fixture(params=["LATIN1", "SQL_ASCII", "EUC_JP"])
def other_encoding(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """A database of another encoding: its URL and the encoding."""
    name = f"e{uuid4().hex[:8]}"
    with psycopg.connect(postgres.url, autocommit=True) as conn:
        conn.execute(
            f"CREATE DATABASE {name} ENCODING '{request.param}' "
            "LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
        yield postgres.url.rpartition("/")[0] + f"/{name}", request.param
    with psycopg.connect(postgres.superuser_url, autocommit=True) as conn:
        conn.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_another_encoding_is_refused_with_what_to_do(
    other_encoding: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, encoding = other_encoding
    monkeypatch.setenv("DATABASE_URL", url)
    for command, code in (("migrate", Exit.SCHEMA), ("status", Exit.SCHEMA), ("doctor", 1)):
        result = CliRunner().invoke(app, [command])
        assert result.exit_code == code, result.output
        said = " ".join(result.output.split())
        assert f"the encoding of the database is {encoding}, and altsync needs UTF8" in said
        assert "ENCODING 'UTF8' TEMPLATE template0" in said
    pool = Database(url)
    with pytest.raises(SchemaError), pool.transaction():
        pass
    pool.close()


@pytest.mark.parametrize("wrong", ["password", "role", "database", "right"])
def test_a_refused_login_is_an_error_without_the_pools_wait(
    database_url: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """Every later try is refused as well; a server that is away is waited for."""
    asked: list[float | None] = []
    getconn = ConnectionPool.getconn

    def noted(pool: ConnectionPool, timeout: float | None = None) -> Any:
        asked.append(timeout)
        return getconn(pool, timeout)

    monkeypatch.setattr(ConnectionPool, "getconn", noted)
    parts = urlsplit(database_url)
    host = f"{parts.hostname}:{parts.port}"
    urls = {
        "password": f"postgresql://{parts.username}:no@{host}{parts.path}",
        "role": f"postgresql://unknown:no@{host}{parts.path}",
        "database": f"postgresql://{parts.username}:{parts.password}@{host}/not_there",
    }
    with ExitStack() as stack:
        if wrong == "right":
            role = stack.enter_context(role_that_lacks(postgres, database_url, "the database"))
            urls["right"] = role.url
        with closing(Database(urls[wrong])) as refused:
            with pytest.raises(psycopg.OperationalError) as caught, refused.autocommit():
                pass
            assert describe(caught.value).exit in (Exit.DENIED, Exit.SETTINGS)
        assert len(asked) == 1
    asked.clear()
    monkeypatch.setattr(db, "CONNECT_TIMEOUT", 0.5)
    away = Database(f"postgresql://someone:x@127.0.0.1:{closed_port()}/db")
    with closing(away), pytest.raises(psycopg.OperationalError), away.autocommit():
        pass
    assert len(asked) == 2
