"""Connections to PostgreSQL.

``transaction`` opens and commits; whoever is handed a connection never commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import UUID

import orjson
import psycopg
from psycopg import Connection
from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap
from psycopg.rows import TupleRow
from psycopg.types.array import ListDumper
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool

from altsync.config import split_schema
from altsync.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Engine

Conn = Connection[TupleRow]

#: What COPY would read as something else, and how it is said in a value.
#: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"
_ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_NULL = r"\N"

#: Seconds to wait for PostgreSQL to accept a connection before saying so.
CONNECT_TIMEOUT = 5

#: Connections one process keeps at most: one per worker thread, and the relay's few.
POOL_SIZE = 16


class _FlatListDumper(ListDumper):
    """Arrays of texts, ids, whole numbers, flags and nulls made at one go.

    psycopg dumps them element by element, which took as long as the statements that get them.
    """

    def dump(self, obj: list[Any]) -> Buffer | None:
        """The array as PostgreSQL reads it."""
        kinds = set(map(type, obj))
        if kinds == {str}:
            if "\x00" in "".join(obj):
                return super().dump(obj)  # which refuses it
            return array_of_texts(obj).encode()
        if kinds == {UUID}:
            return ("{" + ",".join([item.hex for item in obj]) + "}").encode()
        if kinds == {int}:
            return ("{" + ",".join(map(str, obj)) + "}").encode()
        if kinds == {bool}:
            return ("{" + ",".join(["t" if item else "f" for item in obj]) + "}").encode()
        if kinds == {NoneType}:
            return ("{" + ",".join(["NULL"] * len(obj)) + "}").encode()
        return super().dump(obj)


def array_of_texts(items: Sequence[str]) -> str:
    """An array as PostgreSQL reads it."""
    text = "".join(items)
    if '"' in text or "\\" in text:
        items = [item.replace("\\", "\\\\").replace('"', '\\"') for item in items]
    return '{"' + '","'.join(items) + '"}' if items else "{}"


@cache
def _adapters() -> AdaptersMap:
    """How connections send and read Python values."""
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(list, _FlatListDumper)
    set_json_loads(orjson.loads, adapters)
    return adapters


def connect_options(url: str, name: str) -> tuple[str, dict[str, Any]]:
    """A URL that libpq takes, and psycopg's arguments for it."""
    conninfo, schema = split_schema(url)
    options: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, "application_name": name}
    if schema:
        options["options"] = f"-c search_path={quote(schema, safe='_')}"
    return conninfo, options


def connect(url: str, *, name: str = "altsync", autocommit: bool = True) -> Conn:
    """A connection of its own, for LISTEN and temporary tables. The caller closes it."""
    conninfo, options = connect_options(url, name)
    return psycopg.connect(conninfo, autocommit=autocommit, context=_adapters(), **options)


def copy_rows(
    conn: Conn, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """COPY rows into columns of a table. Names come from closed sets of the source."""
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for row in rows:
            copy.write_row(row)


def copy_line(values: Sequence[str | None]) -> bytes:
    """A row as COPY reads it. Each value is what PostgreSQL reads as one of its column's type.

    A few times as fast as psycopg's, and no connection is needed: another thread may do it.
    """
    line = "\t".join([_NULL if value is None else value for value in values])
    # Few lines hold any of these but between their values, and for NULL.
    if (
        line.count("\\") != values.count(None)
        or line.count("\t") != len(values) - 1
        or "\n" in line
        or "\r" in line
    ):
        line = "\t".join([_NULL if v is None else v.translate(_ESCAPED) for v in values])
    return f"{line}\n".encode()


def copy_lines(conn: Conn, table: str, columns: Sequence[str], lines: Iterable[bytes]) -> None:
    """COPY lines into columns of a table. Names come from closed sets of the source."""
    statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN (ENCODING 'UTF8')"
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        copy.write(b"".join(lines))


def fill(conn: Conn, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """COPY rows into a temporary table in place of what it holds.

    Not ON COMMIT DELETE ROWS: every commit would empty every such table, also those that its
    batch has not filled.
    """
    conn.execute(f"TRUNCATE {table}")
    copy_rows(conn, table, columns, rows)


def fill_lines(conn: Conn, table: str, columns: Sequence[str], lines: Iterable[bytes]) -> None:
    """The same with lines."""
    conn.execute(f"TRUNCATE {table}")
    copy_lines(conn, table, columns, lines)


class Database:
    """A pool of connections. Build it after a fork, never before.

    ``pooled``: the URL leads through a transaction pooler, where statements prepared on one
    connection are asked for on another; none are prepared then.
    """

    def __init__(
        self, url: str, *, name: str = "altsync", size: int = POOL_SIZE, pooled: bool = False
    ) -> None:
        conninfo, options = connect_options(url, name)
        if pooled:
            options["prepare_threshold"] = None
        # The check costs a round trip and finds connections that a server restart has cut.
        self._pool = ConnectionPool(
            conninfo,
            min_size=0,
            max_size=size,
            open=True,
            kwargs={**options, "autocommit": True, "context": _adapters()},
            check=ConnectionPool.check_connection,
            timeout=CONNECT_TIMEOUT * 2,
            name=name,
        )

    @contextmanager
    def autocommit(self) -> Iterator[Conn]:
        """A connection on which every statement stands for itself."""
        with self._pool.connection() as conn:
            yield conn

    @contextmanager
    def transaction(self) -> Iterator[Conn]:
        """A connection inside a transaction: committed at the end, or rolled back."""
        with self._pool.connection() as conn, conn.transaction():
            yield conn

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


def engine(url: str) -> Engine:
    """A SQLAlchemy engine on the same database, for migrations and SQLModel readers."""
    from sqlalchemy import create_engine, pool

    conninfo, options = connect_options(url, "altsync-sqlmodel")
    return create_engine(
        conninfo.replace("postgresql://", "postgresql+psycopg://", 1).replace(
            "postgres://", "postgresql+psycopg://", 1
        ),
        connect_args=options,
        poolclass=pool.NullPool,
    )


def migrations_folder() -> Path:
    """Where the migrations are: beside the sources, or in the working folder.

    Raises ``FileNotFoundError`` when neither holds them.
    """
    for root in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (root / "migrations" / "env.py").is_file():
            return root / "migrations"
    raise FileNotFoundError("no migrations/ folder beside the sources or in this folder")


def migrate(url: str, revision: str = "head") -> None:
    """Bring the schema to ``revision``. Two at once are safe: the second one waits.

    Raises psycopg's own errors, and ``ConfigurationError`` for a database whose revision this
    release does not know.
    """
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    try:
        _migrate(url, revision)
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise
    except CommandError as error:
        raise ConfigurationError(
            f"the schema cannot be migrated: {error}. Was the database migrated by a newer release?"
        ) from None


def _migrate(url: str, revision: str) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import text

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with engine(url).connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(hashtext('altsync.migrate'))"))
        connection.commit()
        config.attributes["connection"] = connection
        if revision in ("head", "heads") or not revision.startswith("-"):
            command.upgrade(config, revision)
        else:
            command.downgrade(config, revision)
        connection.commit()


def schema_head() -> str | None:
    """The revision that this release wants. Raises ``FileNotFoundError`` without migrations."""
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(migrations_folder())).get_current_head()


def schema_revision(conn: Conn) -> str | None:
    """The revision that the database is at, or None before the first migration."""
    if conn.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        return None
    row = conn.execute("SELECT version_num FROM alembic_version").fetchone()
    return row[0] if row else None
