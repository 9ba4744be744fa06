"""Connections to PostgreSQL.

``transaction`` opens and commits; a function that is given a connection never commits.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote
from uuid import UUID

import orjson
import psycopg
import structlog
from psycopg import Connection
from psycopg.abc import Buffer, PQGen
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow
from psycopg.types.array import ListDumper
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool, PoolTimeout

from altsync import __version__
from altsync.config import split_schema
from altsync.errors import SchemaError
from altsync.exits import Exit
from altsync.sentences import describe

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection as SqlConnection
    from sqlalchemy import Engine

log = structlog.get_logger(__name__)

Conn = Connection[TupleRow]

_T = TypeVar("_T")

#: What COPY would read as something else, and how it is said in a value.
#: https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"
_ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_NULL = r"\N"

#: Seconds to wait for PostgreSQL to accept a connection before saying so.
CONNECT_TIMEOUT = 5

#: Seconds of a statement without a byte from PostgreSQL, after which a second connection asks
#: whether the server still works on it.
SILENCE = 5.0

#: Seconds that an answer may be late after the server said that it has given it.
LATE_ANSWER = 1.0

#: Seconds after which the pool gives up on one connection and begins anew. Its pauses double, so
#: a longer time would let a server that is back wait for as long as it was away.
RECONNECT_TIMEOUT = 5.0

#: What the kernel does about a peer that is gone: without it, it sends for 15 minutes and listens
#: without end. A URL overrides each of them. https://www.postgresql.org/docs/current/libpq-connect.html
TCP = {
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

#: The same for the server: the locks of a client whose machine is gone end with its session.
SESSION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
}

#: What altsync's statements and psycopg's readers rely on, whatever a role, database or server is
#: set to. A transaction pooler keeps these four for each client.
FORM = {
    "DateStyle": "ISO, YMD",
    "TimeZone": "UTC",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
}

#: The same for a connection of altsync's own.
OWN_FORM = {
    **FORM,
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "default_transaction_isolation": "read committed",
}

#: Seconds after which a caller that waits for a connection asks why there is none: a refused login
#: stays refused, so it is an error at once.
REFUSED_AFTER = 0.3

#: Connections one process keeps at most: one per worker thread, and the relay's few.
POOL_SIZE = 16


class ServerSilent(psycopg.OperationalError):
    """PostgreSQL has stopped answering on a connection, which is closed."""


class _Connection(Connection[TupleRow]):
    """A connection that notices when PostgreSQL falls silent.

    TCP notices a peer that acknowledges nothing. A balancer, a tunnel or a stopped server may
    acknowledge and never answer. So a statement without any answer for ``SILENCE`` seconds is
    looked for by a second connection. A statement that the server works on may take its time.
    """

    _address: tuple[str, dict[str, Any]]
    _opened_at: float

    @classmethod
    def connect(  # type: ignore[override]  # psycopg's arguments are handed on as they are
        cls,
        conninfo: str = "",
        *,
        note: Callable[[psycopg.Error | None], None] = lambda problem: None,
        **kwargs: Any,
    ) -> Self:
        """Connect, and ``note`` why not, or None. Raises ``psycopg.OperationalError``."""
        try:
            conn = super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            note(error)
            raise
        note(None)
        own = ("autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory")
        conn._address = conninfo, {k: v for k, v in kwargs.items() if k not in own}
        conn._opened_at = time.monotonic()
        return conn

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Consume a generator of psycopg. Raises ``ServerSilent``.

        An error of a missing right carries the role, for its ``GRANT``.
        """
        try:
            return super().wait(self._watch(gen), *args, **kwargs)
        except psycopg.errors.InsufficientPrivilege as error:
            _of_role(error, self.info.user)
            raise
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            # PostgreSQL finds no table in a schema that the role may not use.
            hidden = _Probe.hidden_schema(self)
            if hidden is None:
                raise
            raise _of_role(_denied_schema(hidden), self.info.user) from error

    def _watch(self, gen: PQGen[_T]) -> PQGen[_T]:
        try:
            state = next(gen)
            deadline = time.monotonic() + SILENCE
            while True:
                ready = yield state
                if ready:
                    deadline = time.monotonic() + SILENCE
                elif time.monotonic() >= deadline:
                    self._look_for_statement()
                    deadline = time.monotonic() + SILENCE
                state = gen.send(ready)
        except StopIteration as end:
            result: _T = end.value
            return result

    def _look_for_statement(self) -> None:
        """Return when the server works on the statement of this connection.

        Raises ``ServerSilent``. A connection that listens has no statement, and may be silent.
        """
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return
        problem = _Probe.ask(self, time.monotonic() - self._opened_at)
        if problem is None or select.select([self.pgconn.socket], [], [], LATE_ANSWER)[0]:
            return
        self.pgconn.finish()
        raise ServerSilent(f"PostgreSQL has not answered for {SILENCE:g} s: {problem}")


class _Probe(Connection[TupleRow]):
    """A connection that asks one question. Each of its steps has ``CONNECT_TIMEOUT`` seconds."""

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Consume a generator of psycopg. Raises ``psycopg.OperationalError`` when it is late."""
        return super().wait(gen, *args, **{**kwargs, "timeout": CONNECT_TIMEOUT})

    @classmethod
    def ask(cls, conn: _Connection, age: float) -> str | None:
        """Return why PostgreSQL does not work on a connection's statement; None when it does."""
        conninfo, options = conn._address
        try:
            with cls.connect(conninfo, autocommit=True, **options) as probe:
                row = probe.execute(
                    """
                    SELECT pg_backend_pid(), EXISTS (
                      SELECT 1 FROM pg_stat_activity
                      WHERE pid = %s AND state IS DISTINCT FROM 'idle'
                        AND backend_start < now() - make_interval(secs => %s))
                    """,
                    (conn.pgconn.backend_pid, max(0.0, age - 1.0)),
                ).fetchone()
                assert row is not None
                # A pooler makes up process numbers: its answer alone must do.
                if row[1] or row[0] != probe.pgconn.backend_pid:
                    return None
                return "the server does not work on this statement (a failover?)"
        except psycopg.errors.TooManyConnections:
            return None
        except psycopg.Error as error:
            return " ".join(str(error).split()) or type(error).__name__

    @classmethod
    def hidden_schema(cls, conn: _Connection) -> str | None:
        """Return the schema of altsync's tables when the role may not use it.

        None as well when PostgreSQL does not answer: the first error counts then.
        """
        conninfo, options = conn._address
        try:
            with cls.connect(conninfo, autocommit=True, **options) as probe:
                return _hidden_schema(probe)
        except psycopg.Error:
            return None


def _hidden_schema(conn: Conn) -> str | None:
    """Return the schema of the search path that holds altsync's tables and may not be used."""
    row = conn.execute(
        """
        SELECT n.nspname
        FROM regexp_split_to_table(current_setting('search_path'), ',') part,
             replace(btrim(part, ' "'), '$user', current_user::text) AS wanted,
             pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
        WHERE n.nspname = wanted AND c.relname = 'alembic_version'
          AND NOT has_schema_privilege(n.oid, 'USAGE')
        """
    ).fetchone()
    return row[0] if row else None


def _denied_schema(name: str) -> psycopg.errors.InsufficientPrivilege:
    return psycopg.errors.InsufficientPrivilege(f"permission denied for schema {name}")


def _of_role(
    error: psycopg.errors.InsufficientPrivilege, role: str
) -> psycopg.errors.InsufficientPrivilege:
    """Note the role of a connection on an error: its sentence names it."""
    error.__dict__["altsync_role"] = role
    return error


def is_connection_lost(error: Exception) -> bool:
    """Return whether an error is about the connection to PostgreSQL, and not about a statement.

    Classes 08 and 57P of https://www.postgresql.org/docs/current/errcodes-appendix.html, or none.
    """
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
    )


class Outage:
    """Logs once that PostgreSQL fails, and once that it works again. Threads may share it."""

    def __init__(self, failed: str = "database.failed", ended: str = "database.recovered") -> None:
        self._events = failed, ended
        self._kinds: set[str] = set()

    def failed(self, error: psycopg.Error, **more: Any) -> None:
        """Log an error. The same kind again is logged at DEBUG, until ``ended``."""
        kind = type(error).__name__
        said = f"{kind}: {describe(error).text}"
        # Each right that is missing is an error of its own: the next GRANT is another one.
        known = said if isinstance(error, psycopg.errors.InsufficientPrivilege) else kind
        say = log.debug if known in self._kinds else log.warning
        self._kinds.add(known)
        say(self._events[0], error=said, **more)

    def ended(self) -> None:
        """Log that PostgreSQL works again, if it had failed."""
        if self._kinds:
            self._kinds.clear()
            log.info(self._events[1])


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
    """Return how connections send and read Python values."""
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(list, _FlatListDumper)
    set_json_loads(orjson.loads, adapters)
    return adapters


def connect_options(url: str, name: str) -> tuple[str, dict[str, Any]]:
    """Return a URL that libpq takes, and psycopg's arguments for it.

    What the URL says itself goes before altsync's own choice.
    """
    conninfo, schema = split_schema(url)
    given = conninfo_to_dict(conninfo)
    options: dict[str, Any] = {"connect_timeout": CONNECT_TIMEOUT, "application_name": name, **TCP}
    options = {key: value for key, value in options.items() if key not in given}
    if schema:
        search_path = f"-c search_path={quote(schema, safe='_')}"
        options["options"] = f"{given.get('options') or ''} {search_path}".strip()
    return conninfo, options


def connect(
    url: str, *, name: str = "altsync", autocommit: bool = True, pooled: bool = False
) -> Conn:
    """Open a connection of its own, for LISTEN and temporary tables. The caller closes it.

    ``pooled``: as for ``Database``.
    """
    conninfo, options = connect_options(url, name)
    if pooled:
        options["prepare_threshold"] = None
    conn = _Connection.connect(conninfo, autocommit=True, context=_adapters(), **options)
    _set_up(conn, {} if pooled else SESSION, FORM if pooled else OWN_FORM)
    conn.autocommit = autocommit
    return conn


def _set_up(conn: Conn, settings: Mapping[str, str], form: Mapping[str, str]) -> None:
    """Set parameters of a session. ``options`` of a URL goes before, but for the form."""
    said = conn.info.get_parameters().get("options", "")
    wanted = {name: value for name, value in settings.items() if name not in said} | dict(form)
    conn.execute(
        "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) s(name, value)",
        (list(wanted), list(wanted.values())),
    )


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


#: Kinds of errors of a login that no waiting changes.
_REFUSED = frozenset({Exit.DENIED, Exit.SETTINGS})


class Database:
    """A pool of connections. Build it after a fork, never before.

    ``pooled``: the URL leads through a transaction pooler, where statements prepared on one
    connection are asked for on another; none are prepared then, and no parameter of a session is
    set. ``statement_timeout``: seconds after which the server ends a statement.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "altsync",
        size: int = POOL_SIZE,
        pooled: bool = False,
        statement_timeout: float | None = None,
    ) -> None:
        self._problem: psycopg.Error | None = None
        conninfo, options = connect_options(url, name)
        if pooled:
            options["prepare_threshold"] = None
        settings = dict(SESSION)
        if statement_timeout is not None:
            settings["statement_timeout"] = f"{statement_timeout * 1000:.0f}ms"
        # The check costs a round trip and finds connections that a server restart has cut.
        self._pool = ConnectionPool(
            conninfo,
            connection_class=_Connection,
            min_size=0,
            max_size=size,
            open=True,
            kwargs={**options, "autocommit": True, "context": _adapters(), "note": self._note},
            configure=lambda conn: _set_up(
                conn, {} if pooled else settings, FORM if pooled else OWN_FORM
            ),
            check=self._check,
            timeout=CONNECT_TIMEOUT * 2,
            reconnect_timeout=RECONNECT_TIMEOUT,
            name=name,
        )

    def _check(self, conn: Conn) -> None:
        try:
            ConnectionPool.check_connection(conn)
        except ServerSilent:
            self._pool.drain()
            raise

    def _note(self, problem: psycopg.Error | None) -> None:
        self._problem = problem

    def _take(self) -> _Connection:
        """Take a connection of the pool. Raises what refuses the login, at once."""
        try:
            return self._pool.getconn(REFUSED_AFTER)
        except PoolTimeout as error:
            if self._problem is not None and describe(self._problem).exit in _REFUSED:
                raise self._cause() from error
        try:
            return self._pool.getconn()
        except PoolTimeout as error:
            if self._problem is None:
                raise
            raise self._cause() from error

    def _cause(self) -> psycopg.Error:
        """Return why there is no connection: the pool's own sentence does not say it."""
        assert self._problem is not None
        return type(self._problem)(str(self._problem))

    @contextmanager
    def _connection(self) -> Iterator[Conn]:
        try:
            conn = self._take()
            try:
                with conn:
                    check_encoding(conn)
                    yield conn
            finally:
                self._pool.putconn(conn)
        except ServerSilent:
            # Idle connections are as old, and lead to the same server.
            self._pool.drain()
            raise

    @contextmanager
    def autocommit(self) -> Iterator[Conn]:
        """A connection on which every statement stands for itself."""
        with self._connection() as conn:
            yield conn

    @contextmanager
    def transaction(self) -> Iterator[Conn]:
        """A connection inside a transaction: committed at the end, or rolled back."""
        with self._connection() as conn, conn.transaction():
            yield conn

    @contextmanager
    def snapshot(self) -> Iterator[Conn]:
        """A connection inside a transaction that reads one state of the database, and writes none.

        Keep it short: vacuum removes no row version that it may still read.
        """
        with self._connection() as conn, conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield conn

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


def engine(url: str) -> Engine:
    """A SQLAlchemy engine on the same database, for migrations and SQLModel readers."""
    from sqlalchemy import create_engine, pool

    def connect() -> Conn:
        # SQLAlchemy would read the URL by rules of its own, and refuse several hosts.
        conninfo, options = connect_options(url, "altsync-sqlmodel")
        return psycopg.connect(conninfo, **options)

    return create_engine("postgresql+psycopg://", creator=connect, poolclass=pool.NullPool)


def migrations_folder() -> Path:
    """Return where the migrations are: in the installed package, or beside the sources.

    Raises ``FileNotFoundError`` when neither holds them.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "migrations", package.parents[1] / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise FileNotFoundError("no migrations in the package or beside the sources")


def migrate(
    url: str, revision: str = "head", follow: Callable[[SqlConnection], None] | None = None
) -> None:
    """Bring the schema to ``revision``. Two at once are safe: the second one waits.

    ``follow`` is called with the same connection afterwards, before another process may migrate.

    Raises psycopg's own errors, and ``SchemaError`` for a database whose revision this release
    does not know, or whose encoding is not UTF-8.
    """
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    with connect(url, name="altsync-migrate") as conn:
        check_encoding(conn)
        current = schema_revision(conn)
        if current is not None and not _is_known(current):
            raise SchemaError(_from_another_release(conn, current))
    try:
        _migrate(url, revision, follow)
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise
    except CommandError as error:
        raise SchemaError(f"the schema cannot be migrated: {error}") from None


#: Seconds between two looks whether another process still migrates.
MIGRATION_POLL = 0.2


def _migrate(url: str, revision: str, follow: Callable[[SqlConnection], None] | None) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import text

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with engine(url).connect() as connection:
        # Polled: a session that waits for a lock holds a snapshot, and an index that is built
        # concurrently waits for every snapshot, this one included.
        wanted = text("SELECT pg_try_advisory_lock(hashtext('altsync.migrate'))")
        while not connection.execute(wanted).scalar():
            connection.commit()
            time.sleep(MIGRATION_POLL)
        connection.commit()
        config.attributes["connection"] = connection
        if revision in ("head", "heads") or not revision.startswith("-"):
            command.upgrade(config, revision)
        else:
            command.downgrade(config, revision)
        # Another release that finds a revision it does not know says which one is needed.
        comment = f"altsync {__version__}"
        if connection.scalar(text(_COMMENT)) != comment:
            connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{comment}'"))
        connection.commit()
        if follow is not None:
            follow(connection)
            connection.commit()


def schema_head() -> str | None:
    """Return the revision that this release wants. Raises ``FileNotFoundError``."""
    return _scripts().get_current_head()


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(migrations_folder()))


@cache
def own_revision() -> str:
    """Return the revision of the schema that this release works on, without Alembic's import.

    The files of the migrations are numbered in their order. Raises ``FileNotFoundError``.
    """
    files = (migrations_folder() / "versions").glob("[0-9]*_*.py")
    return max(file.name.partition("_")[0] for file in files)


def schema_revision(conn: Conn) -> str | None:
    """Return the revision that the database is at, or None before the first migration.

    Raises ``InsufficientPrivilege`` when the role may not see it.
    """
    if conn.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        hidden = _hidden_schema(conn)
        if hidden is not None:
            raise _of_role(_denied_schema(hidden), conn.info.user)
        return None
    row = conn.execute("SELECT version_num FROM alembic_version").fetchone()
    return row[0] if row else None


def check_schema(conn: Conn) -> str:
    """Return the schema's revision. Raises ``SchemaError`` unless it is that of this release."""
    check_encoding(conn)
    current, head = schema_revision(conn), schema_head()
    if current == head and current is not None:
        return current
    if current is not None and not _is_known(current):
        raise SchemaError(_from_another_release(conn, current))
    raise SchemaError(
        f"the schema is at {current or 'nothing'}, not at {head}: run altsync migrate"
    )


#: The release that migrated the database last.
_COMMENT = "SELECT obj_description(to_regclass('alembic_version'), 'pg_class')"


def _is_known(revision: str) -> bool:
    return revision in {one.revision for one in _scripts().walk_revisions()}


def _from_another_release(conn: Conn, current: str) -> str:
    row = conn.execute(_COMMENT).fetchone()
    release = str(row[0]) if row and str(row[0]).startswith("altsync ") else "a newer altsync"
    return (
        f"the database was migrated by {release}, to revision {current}; this is altsync "
        f"{__version__}, which knows {schema_head()} as the last one: install {release}"
    )


#: The sequence that versions come from.
_VERSIONS = "entity_version"


def missing_rights(conn: Conn, tables: Sequence[str]) -> list[psycopg.errors.InsufficientPrivilege]:
    """Return an error for each kind of right that seeding and delivery would miss."""
    row = conn.execute(
        """
        SELECT ARRAY(
          SELECT name FROM unnest(%(tables)s::text[]) name
          WHERE NOT (has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT')
                 AND has_table_privilege(name, 'UPDATE') AND has_table_privilege(name, 'DELETE'))
          ORDER BY name),
          has_sequence_privilege(%(versions)s, 'USAGE')
          AND has_sequence_privilege(%(versions)s, 'SELECT')
        """,
        {"tables": list(tables), "versions": _VERSIONS},
    ).fetchone()
    assert row is not None
    denied, may_count = row
    said = [f"table {', '.join(denied)}"] if denied else []
    said += [] if may_count else [f"sequence {_VERSIONS}"]
    errors = [psycopg.errors.InsufficientPrivilege(f"permission denied for {one}") for one in said]
    return [_of_role(error, conn.info.user) for error in errors]


def check_encoding(conn: Conn) -> None:
    """Raise ``SchemaError`` for a database that cannot hold every text."""
    encoding = conn.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        raise SchemaError(
            f"the encoding of the database is {encoding}, and altsync needs UTF8: create one by "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in DATABASE_URL"
        )
