"""Connections to the PostgreSQL of pgvector: each call within one timeout, errors translated."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import psycopg
from psycopg.errors import (
    UndefinedObject,
    UndefinedTable,
)

from altsync.db import Conn, connect, is_connection_lost
from altsync.deadline import SharedClient
from altsync.entities import EntityType
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.sentences import describe
from altsync.sinks.pgvector import SINK
from altsync.sinks.pgvector.statements import LIMIT_TRANSACTION

T = TypeVar("T")

P = ParamSpec("P")
C = TypeVar("C", bound="Client")

#: Seconds after which an idle connection is tested before it is used.
FRESH_SECONDS = 5.0

NOT_IN_TIME = "the PostgreSQL of pgvector did not answer in time"

_SINK = partial(SinkFailure, ErrorKind.SINK)

#: Prefixes of PostgreSQL's codes, and the failure of each. The first that fits counts.
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_CODE: tuple[tuple[tuple[str, ...], Callable[[str], SinkFailure]], ...] = (
    # Two writers conflicted: the same call succeeds after the other.
    (("40", "55P03", "23505"), partial(SinkFailure, ErrorKind.UNKNOWN, lock_conflict=True)),
    (("57014",), partial(_SINK, outcome_unknown=True, timed_out=True)),
    (("53300",), partial(_SINK, throttled=True)),
    (("53",), partial(_SINK, timed_out=True)),
    (("08", "57", "58"), partial(_SINK, outcome_unknown=True)),
    # A value or its size: an error of the record.
    (("22", "23", "54"), partial(SinkFailure, ErrorKind.ITEM)),
    # Login, rights, a missing table, a standby: every record would get the same answer.
    (("0A", "25", "28", "3D", "3F", "42", "55"), _SINK),
    (("XX",), partial(_SINK, outcome_unknown=True, timed_out=True)),
)


def limited(method: Callable[Concatenate[C, P], T]) -> Callable[Concatenate[C, P], T]:
    """Run a method of the sink, with all its statements, within the timeout of one call."""

    @wraps(method)
    def call(self: C, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.within_limit(lambda: method(self, *args, **kwargs))

    return cast("Callable[Concatenate[C, P], T]", call)


class Connections:
    """Connections that calls borrow. Each is opened at its first use.

    Unlike a pool, it raises the error of a connection at once: the outbox repeats the call later.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[tuple[float, Conn]] = []
        self._lock = threading.Lock()
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[Conn]:
        """Yield a connection in a transaction, which is committed, or rolled back on an error."""
        conn = self._take()
        try:
            with conn.transaction():
                yield conn
        finally:
            self._give_back(conn)

    def _take(self) -> Conn:
        while True:
            with self._lock:
                since, conn = self._idle.pop() if self._idle else (0.0, None)
            if conn is None:
                # The URL may lead through a transaction pooler: no statement is prepared, and
                # parameters are set for each transaction.
                return connect(self._url, name="altsync-pgvector", pooled=True)
            try:
                if time.monotonic() - since > FRESH_SECONDS:
                    conn.execute("SELECT 1")
            except psycopg.Error:
                conn.close()
            else:
                return conn

    def _give_back(self, conn: Conn) -> None:
        with self._lock:
            if not self._closed and not conn.closed:
                self._idle.append((time.monotonic(), conn))
                return
        conn.close()

    def close(self) -> None:
        """Close the idle connections now, and each other one when its call ends."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, conn in idle:
            conn.close()


class Client:
    """Connections that every call of a sink goes through."""

    _shared: SharedClient[Connections]
    _own: threading.local
    _timeout: float
    _extension: Any
    _ready: set[EntityType]

    def within_limit(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Run ``work`` within the timeout. Raises ``SinkFailure`` when it takes longer.

        A nested call runs within the limit of the outer call.
        """
        if getattr(self._own, "connections", None) is not None:
            return work()

        def run(connections: Connections) -> T:
            self._own.connections = connections  # no other call uses this thread
            return work()

        try:
            return self._shared.call(seconds or self._timeout, run)
        except TimeoutError:
            raise SinkFailure(
                ErrorKind.SINK, NOT_IN_TIME, outcome_unknown=True, timed_out=True
            ) from None

    @contextmanager
    def _transaction(
        self, kind: EntityType | None = None, *, seconds: float | None = None
    ) -> Iterator[Conn]:
        """Open a transaction with limits; translate every error to ``SinkFailure``."""
        limit = {"timeout": f"{(seconds or self._timeout) * 1000:.0f}ms"}
        try:
            with self._own.connections.transaction() as conn:
                conn.execute(LIMIT_TRANSACTION, limit)
                yield conn
        except (UndefinedTable, UndefinedObject) as error:
            # The table or the extension was dropped: look for both again.
            self._ready.clear()
            self._extension = None
            raise translate(error) from error
        except psycopg.Error as error:
            raise translate(error) from error

    def close(self) -> None:
        """Close the connections."""
        self._shared.close()


def translate(error: psycopg.Error) -> SinkFailure:
    """Translate an error of PostgreSQL."""
    text = describe(error).text.replace("DATABASE_URL", SINK.setting)
    reason = f"pgvector: {text}"
    code = error.sqlstate
    if code is None:
        lost = is_connection_lost(error)
        # Without a code, the connection failed or broke, or the login was refused.
        return SinkFailure(
            ErrorKind.SINK if lost else ErrorKind.UNKNOWN,
            reason,
            outcome_unknown=not _is_login_refused(text),
        )
    for prefixes, failure in _BY_CODE:
        if code.startswith(prefixes):
            return failure(reason)
    return SinkFailure(ErrorKind.UNKNOWN, reason, outcome_unknown=True)


def _is_login_refused(text: str) -> bool:
    return any(sign in text for sign in ("authentication", "does not exist", "password", "pg_hba"))
