"""Connect to PostgreSQL.

``transaction`` opens and commits. A function that gets a connection as an argument never commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import psycopg
import structlog
from psycopg import Connection
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_loads
from psycopg_pool import ConnectionPool, PoolTimeout

from altsync.addresses import without_schema
from altsync.arrays import FlatListDumper
from altsync.errors import SchemaError
from altsync.exits import Exit
from altsync.sentences import describe
from altsync.silence import ServerSilent, WatchedConnection

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = structlog.get_logger(__name__)

Conn = Connection[TupleRow]

#: Seconds to wait for PostgreSQL to accept a connection.
CONNECT_TIMEOUT = 5

#: Seconds after which the pool stops retrying one connection. Its pauses double: with a longer
#: time, a server that is back would wait for as long as it was away.
RECONNECT_TIMEOUT = 5.0

#: Seconds after which a waiting caller checks why there is no connection. A refused login stays
#: refused, so it is raised without further waiting.
REFUSED_AFTER = 0.3

#: Connections that one process keeps at most: one per worker thread, and a few for the relay.
POOL_SIZE = 16

#: Errors of a login that stay the same however long one waits.
_REFUSED = frozenset({Exit.DENIED, Exit.SETTINGS})

#: Settings of the client's kernel for a lost peer. By default it would retransmit for 15 minutes
#: and wait for data without end. A URL overrides each of them.
#: https://www.postgresql.org/docs/current/libpq-connect.html
TCP = {
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}

#: The same for the server, so that locks of a lost client end with its session.
SESSION = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "3",
    "tcp_keepalives_count": "3",
}

#: Parameters that altsync's statements and psycopg's readers rely on. They override those of the
#: role, the database and the server. A transaction pooler keeps these four for each client.
FORM = {
    "DateStyle": "ISO, YMD",
    "TimeZone": "UTC",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
}

#: The same for a connection without a transaction pooler.
OWN_FORM = {
    **FORM,
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "default_transaction_isolation": "read committed",
}


def is_connection_lost(error: Exception) -> bool:
    """Return whether an error is of the connection to PostgreSQL, and not of a statement.

    Such errors have no code, or one of the classes 08 and 57P:
    https://www.postgresql.org/docs/current/errcodes-appendix.html
    """
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and (
        error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))
    )


class Outage:
    """A log of PostgreSQL's outages: one event at the start, one at the end. Thread-safe."""

    def __init__(self, failed: str = "database.failed", ended: str = "database.recovered") -> None:
        self._events = failed, ended
        self._kinds: set[str] = set()

    def failed(self, error: psycopg.Error, **more: Any) -> None:
        """Log an error. Until ``ended``, the same kind again is logged at DEBUG."""
        kind = type(error).__name__
        text = f"{kind}: {describe(error).text}"
        # Two missing rights are two kinds: each needs a GRANT of its own.
        known = text if isinstance(error, psycopg.errors.InsufficientPrivilege) else kind
        write = log.debug if known in self._kinds else log.warning
        self._kinds.add(known)
        write(self._events[0], error=text, **more)

    def ended(self) -> None:
        """Log that PostgreSQL works again, if an error was logged."""
        if self._kinds:
            self._kinds.clear()
            log.info(self._events[1])


@cache
def _adapters() -> AdaptersMap:
    """Return the converters between Python's values and PostgreSQL's."""
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(list, FlatListDumper)
    set_json_loads(orjson.loads, adapters)
    return adapters


def connect_options(url: str, name: str) -> tuple[str, dict[str, Any]]:
    """Return a URL that libpq accepts, and psycopg's arguments for it.

    Options of the URL override those of altsync.
    """
    conninfo, schema = without_schema(url)
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
    """Open a connection outside the pool, for LISTEN and temporary tables. The caller closes it.

    ``pooled``: as for ``Database``.
    """
    conninfo, options = connect_options(url, name)
    if pooled:
        options["prepare_threshold"] = None
    conn = WatchedConnection.connect(conninfo, autocommit=True, context=_adapters(), **options)
    _set_up(conn, {} if pooled else SESSION, FORM if pooled else OWN_FORM)
    conn.autocommit = autocommit
    return conn


def _set_up(conn: Conn, settings: Mapping[str, str], form: Mapping[str, str]) -> None:
    """Set parameters of a session. ``options`` of the URL override ``settings``, not ``form``."""
    given = conn.info.get_parameters().get("options", "")
    wanted = {name: value for name, value in settings.items() if name not in given} | dict(form)
    conn.execute(
        "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) s(name, value)",
        (list(wanted), list(wanted.values())),
    )


class Database:
    """A pool of connections. Build it after a fork, never before.

    ``pooled``: the URL leads through a transaction pooler. A statement prepared on one connection
    would be executed on another, so none is prepared, and only the parameters of ``FORM`` are set.
    ``statement_timeout``: seconds after which the server cancels a statement.
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
        # The check costs a round trip, and finds connections that a restart of the server closed.
        self._pool = ConnectionPool(
            conninfo,
            connection_class=WatchedConnection,
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

    def _take(self) -> WatchedConnection:
        """Take a connection from the pool. Raises the error of a refused login without waiting."""
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
        """Return the error behind a timeout of the pool, whose own message leaves it out."""
        assert self._problem is not None
        return type(self._problem)(str(self._problem))

    @contextmanager
    def autocommit(self) -> Iterator[Conn]:
        """Yield a connection on which every statement is a transaction of its own."""
        try:
            conn = self._take()
            try:
                with conn:
                    check_encoding(conn)
                    yield conn
            finally:
                self._pool.putconn(conn)
        except ServerSilent:
            # Idle connections lead to the same server.
            self._pool.drain()
            raise

    @contextmanager
    def transaction(self) -> Iterator[Conn]:
        """Yield a connection in a transaction, which is committed, or rolled back on an error."""
        with self.autocommit() as conn, conn.transaction():
            yield conn

    @contextmanager
    def snapshot(self) -> Iterator[Conn]:
        """Yield a connection in a read-only transaction with one snapshot. Keep it short."""
        with self.autocommit() as conn, conn.transaction():
            conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield conn

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


def engine(url: str) -> Engine:
    """Return a SQLAlchemy engine on the same database, for migrations and SQLModel readers."""
    from sqlalchemy import create_engine, pool

    def connect() -> Conn:
        # SQLAlchemy parses URLs by rules of its own, and refuses several hosts.
        conninfo, options = connect_options(url, "altsync-sqlmodel")
        return psycopg.connect(conninfo, **options)

    return create_engine("postgresql+psycopg://", creator=connect, poolclass=pool.NullPool)


def check_encoding(conn: Conn) -> None:
    """Raise ``SchemaError`` for a database that cannot hold every text."""
    encoding = conn.info.parameter_status("server_encoding")
    if encoding not in (None, "UTF8"):
        raise SchemaError(
            f"the encoding of the database is {encoding}, and altsync needs UTF8: create one by "
            "CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0, and name it in DATABASE_URL"
        )
