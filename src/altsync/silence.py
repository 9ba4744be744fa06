"""Detect a PostgreSQL that stops answering on a connection that TCP still holds open."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Any, Self, TypeVar

import psycopg
from psycopg import Connection
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from psycopg.rows import TupleRow

from altsync import rights

_T = TypeVar("_T")

#: Seconds of a statement without a byte from PostgreSQL, after which a second connection asks
#: whether the server still works on it.
SILENCE = 5.0

#: Seconds that an answer may still need after the server has finished the statement.
LATE_ANSWER = 1.0

#: Seconds for each step of the second connection.
PROBE_TIMEOUT = 5


class ServerSilent(psycopg.OperationalError):
    """PostgreSQL has stopped answering on a connection, which is closed."""


class WatchedConnection(Connection[TupleRow]):
    """A connection that detects a server that acknowledges packets and never answers.

    TCP detects only a peer that acknowledges nothing; a balancer, a tunnel or a stopped server
    may acknowledge and stay silent. After ``SILENCE`` seconds a second connection looks for the
    statement in ``pg_stat_activity``. A statement that the server works on may take its time.
    """

    _address: tuple[str, dict[str, Any]]
    _opened_at: float

    @classmethod
    def connect(  # type: ignore[override]  # psycopg's arguments are passed on unchanged
        cls,
        conninfo: str = "",
        *,
        note: Callable[[psycopg.Error | None], None] = lambda problem: None,
        **kwargs: Any,
    ) -> Self:
        """Connect, and call ``note`` with the error, or with None. Raises ``psycopg.Error``."""
        try:
            conn = super().connect(conninfo, **kwargs)
        except psycopg.Error as error:
            note(error)
            raise
        note(None)
        not_probed = ("autocommit", "prepare_threshold", "context", "row_factory", "cursor_factory")
        conn._address = conninfo, {k: v for k, v in kwargs.items() if k not in not_probed}
        conn._opened_at = time.monotonic()
        return conn

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Run a generator of psycopg. Raises ``ServerSilent``.

        An error of a missing right carries the role, for its ``GRANT``.
        """
        try:
            return super().wait(self._watch(gen), *args, **kwargs)
        except psycopg.errors.InsufficientPrivilege as error:
            rights.with_role(error, self.info.user)
            raise
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            # PostgreSQL finds no table in a schema that the role may not use.
            hidden = _Probe.hidden_schema(self)
            if hidden is None:
                raise
            raise rights.denied(f"schema {hidden}", self.info.user) from error

    def _watch(self, gen: PQGen[_T]) -> PQGen[_T]:
        try:
            state = next(gen)
            deadline = time.monotonic() + SILENCE
            while True:
                ready = yield state
                if ready:
                    deadline = time.monotonic() + SILENCE
                elif time.monotonic() >= deadline:
                    self._check_statement()
                    deadline = time.monotonic() + SILENCE
                state = gen.send(ready)
        except StopIteration as end:
            result: _T = end.value
            return result

    def _check_statement(self) -> None:
        """Raise ``ServerSilent`` unless the server works on this connection's statement.

        A connection that listens has no statement, and may be silent.
        """
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return
        problem = _Probe.ask(self, time.monotonic() - self._opened_at)
        if problem is None or select.select([self.pgconn.socket], [], [], LATE_ANSWER)[0]:
            return
        self.pgconn.finish()
        raise ServerSilent(f"PostgreSQL has not answered for {SILENCE:g} s: {problem}")


class _Probe(Connection[TupleRow]):
    """A second connection for one query. Each step has ``PROBE_TIMEOUT`` seconds."""

    def wait(self, gen: PQGen[_T], *args: Any, **kwargs: Any) -> _T:
        """Run a generator of psycopg. Raises ``psycopg.OperationalError`` after the timeout."""
        return super().wait(gen, *args, **{**kwargs, "timeout": PROBE_TIMEOUT})

    @classmethod
    def ask(cls, conn: WatchedConnection, age: float) -> str | None:
        """Return why PostgreSQL does not work on a connection's statement, or None if it does."""
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
                # A pooler invents process ids, so the statement's own id finds nothing.
                if row[1] or row[0] != probe.pgconn.backend_pid:
                    return None
                return "the server does not work on this statement (a failover?)"
        except psycopg.errors.TooManyConnections:
            return None
        except psycopg.Error as error:
            return " ".join(str(error).split()) or type(error).__name__

    @classmethod
    def hidden_schema(cls, conn: WatchedConnection) -> str | None:
        """Return the schema of altsync's tables when the role may not use it.

        Return None, too, when PostgreSQL does not answer: the first error is shown then.
        """
        conninfo, options = conn._address
        try:
            with cls.connect(conninfo, autocommit=True, **options) as probe:
                return rights.hidden_schema(probe)
        except psycopg.Error:
            return None
