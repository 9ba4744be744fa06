"""The connection to the graph: each call in one transaction, within one timeout."""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, LiteralString, TypeVar, cast

import neo4j
from neo4j import GraphDatabase, ManagedTransaction
from neo4j import exceptions as errors

from altsync.deadline import SharedClient
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.ownership import Guard, Ownership
from altsync.sinks.neo4j.statements import label_prefix, with_prefix

T = TypeVar("T")

#: Seconds after which an idle connection is tested before it is used.
LIVENESS_SECONDS = 20.0

#: Records per PULL: -1 is all. The driver's 1,000 cost another round trip for each further 1,000;
#: every statement bounds its records itself.
EVERY_RECORD = -1

#: Errors raised before anything was sent: there was no connection.
NOT_SENT = (errors.ConnectionAcquisitionTimeoutError,)

#: Shortest timeout of a statement, in seconds.
SHORTEST_TIMEOUT = 0.01

#: Seconds that a statement over all nodes of a type may take; 100,000 nodes take one or two.
AGGREGATE_SECONDS = 60.0

#: Code of a value that a constraint refuses: another node has it, or a concurrent writer sets it.
CONSTRAINT_VIOLATED = "Neo.ClientError.Schema.ConstraintValidationFailed"

#: Codes of a conflict of two transactions on a key or lock: the same call succeeds after the other.
#: https://neo4j.com/docs/status-codes/current/errors/all-errors/
CONFLICTS = (
    CONSTRAINT_VIOLATED,
    "Neo.TransientError.Transaction.DeadlockDetected",
    "Neo.TransientError.Transaction.LockAcquisitionTimeout",
    "Neo.TransientError.Transaction.ConstraintsChanged",
    "Neo.TransientError.Transaction.Outdated",
    "Neo.TransientError.Statement.EntityNotFound",
)

#: Share of a call's time in which it is repeated after a conflict or a dropped connection, and the
#: longest pause before it, in seconds.
REPEAT_SHARE, REPEAT_PAUSE = 0.25, 0.5

#: Codes that every record would get: rights, a missing database, a statement that the server does
#: not know, a server that shuts down or lacks memory or disk. They count as errors of the sink.
FOR_EVERY_RECORD = (
    "Neo.ClientError.Security.",
    "Neo.ClientError.Database.",
    "Neo.ClientError.Cluster.",
    "Neo.ClientError.General.",
    "Neo.ClientError.Procedure.",
    "Neo.ClientError.Routing.",
    "Neo.ClientError.Schema.",
    "Neo.ClientError.Request.",
    "Neo.ClientError.Statement.SyntaxError",
    "Neo.ClientError.Statement.AccessMode",
    "Neo.ClientError.Statement.NotSystemDatabaseError",
    "Neo.ClientError.Statement.RuntimeUnsupportedError",
    "Neo.ClientError.Statement.UnsupportedOperationError",
    "Neo.ClientError.Transaction.",
    "Neo.TransientError.General.DatabaseUnavailable",
    "Neo.TransientError.General.ForbiddenOnReadOnlyDatabase",
    "Neo.TransientError.Security.",
    "Neo.TransientError.Cluster.",
    "Neo.TransientError.Request.",
    "Neo.TransientError.Transaction.Bookmark",
    "Neo.TransientError.Transaction.Terminated",
    "Neo.TransientError.Transaction.LockClientStopped",
)

#: Codes of the above that one record may cause: a statement that ran too long.
TIMED_OUT = ("Neo.ClientError.Transaction.TransactionTimedOut",)


class _Prefixed:
    """A transaction that adds the prefix to the labels of every statement."""

    def __init__(self, tx: ManagedTransaction, prefix: str) -> None:
        self._tx = tx
        self._prefix = prefix

    def run(self, statement: str, parameters: Mapping[str, Any]) -> neo4j.Result:
        return self._tx.run(with_prefix(statement, self._prefix), dict(parameters))


class _Alone:
    """A session that commits every statement: one round trip each instead of three."""

    def __init__(self, session: neo4j.Session, seconds: float) -> None:
        self._session = session
        self._seconds = seconds

    def run(self, statement: LiteralString, parameters: Mapping[str, Any]) -> neo4j.Result:
        query = neo4j.Query(statement, timeout=self._seconds)
        return self._session.run(query, dict(parameters))


def prefixed(work: Callable[[ManagedTransaction], T], prefix: str) -> Callable[..., T]:
    """Return ``work`` with ``prefix`` before every label of its statements."""
    if not prefix:
        return work
    return lambda tx: work(cast(ManagedTransaction, _Prefixed(tx, prefix)))


class Client(ABC):
    """The driver that runs every statement of a sink."""

    _guard: Guard

    def __init__(
        self,
        uri: str,
        auth: tuple[str, str] | None,
        *,
        database: str | None,
        timeout: float,
        prefix: str = "",
    ) -> None:

        def connect() -> neo4j.Driver:
            return GraphDatabase.driver(
                uri,
                auth=auth,
                connection_timeout=min(timeout, 5.0),
                # Load balancers drop idle connections silently, so one is tested before it is
                # used. The rest of the time is for a new one.
                connection_acquisition_timeout=timeout / 3,
                liveness_check_timeout=LIVENESS_SECONDS,
                # Retries wait in PostgreSQL. The driver would repeat every transient error, so
                # that an overload is answered with more calls.
                max_transaction_retry_time=-1.0,
                notifications_min_severity="OFF",
                user_agent="altsync",
            )

        # The driver has no read timeout of its own.
        self._driver = SharedClient(connect, neo4j.Driver.close)
        self._database = database
        self._timeout = timeout
        self._prefix = label_prefix(prefix)
        self.belong_to(None)

    @abstractmethod
    def belong_to(self, ownership: Ownership | None) -> None:
        """Set the installation. Writes to the graph of another one are refused."""

    def _run(
        self,
        work: Callable[[ManagedTransaction], T],
        *,
        write: bool = True,
        guarded: bool = True,
        follower: bool = False,
        alone: bool = False,
        timeout: float | None = None,
    ) -> T:
        """Run ``work`` in one managed transaction within the timeout.

        ``alone``: each statement is a transaction of its own, and may be repeated. ``follower``: a
        follower of a cluster may answer, without the latest writes. ``guarded``: refuse a write
        when the graph is another installation's.
        """
        if write and guarded:
            self._guard.require()
        seconds = timeout or self._timeout
        work = prefixed(work, self._prefix)

        def once(driver: neo4j.Driver) -> T:
            with driver.session(database=self._database, fetch_size=EVERY_RECORD) as session:
                if alone:
                    return work(cast(ManagedTransaction, _Alone(session, seconds)))
                execute = session.execute_read if follower else session.execute_write
                # As Driver.execute_query does: BEGIN goes out with the first statement. The driver
                # has no other way to it.
                with getattr(session, "_pipelined_begin", nullcontext()):
                    return execute(neo4j.unit_of_work(timeout=seconds)(work))

        def call(driver: neo4j.Driver) -> T:
            until = time.monotonic() + seconds * REPEAT_SHARE
            while True:
                try:
                    return once(driver)
                except (errors.Neo4jError, errors.DriverError) as error:
                    if time.monotonic() >= until or not _may_repeat(error):
                        raise
                time.sleep(random.uniform(0, REPEAT_PAUSE))  # noqa: S311

        ends = time.monotonic() + seconds
        try:
            try:
                return self._driver.call(seconds, call, broken=NOT_SENT)
            except NOT_SENT:
                # All pooled connections were dropped. The new client opens its own.
                left = max(ends - time.monotonic(), SHORTEST_TIMEOUT)
                return self._driver.call(left, call, broken=NOT_SENT)
        except TimeoutError:
            raise SinkFailure(
                ErrorKind.SINK,
                f"Neo4j did not answer within {seconds:g} s",
                outcome_unknown=True,
                timed_out=True,
            ) from None
        except (errors.Neo4jError, errors.DriverError) as error:
            raise translate(error) from error

    def _aggregate(self, statement: str, **parameters: Any) -> list[neo4j.Record]:
        def work(tx: ManagedTransaction) -> list[neo4j.Record]:
            return list(query(tx, statement, **parameters))

        return self._run(work, write=False, timeout=max(self._timeout, AGGREGATE_SECONDS))

    def close(self) -> None:
        """Close the driver."""
        self._driver.close()


def _may_repeat(error: errors.Neo4jError | errors.DriverError) -> bool:
    """Return whether the same call may succeed now, after a conflict or a dropped connection."""
    if isinstance(error, errors.DriverError):
        return error.is_retryable()
    return (error.code or "").startswith(
        (*CONFLICTS, "Neo.ClientError.Security.AuthorizationExpired")
    )


def translate(error: errors.Neo4jError | errors.DriverError) -> SinkFailure:
    """Translate an error of the driver."""
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, errors.DriverError):
        return SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True)
    code = error.code or ""
    if code == CONSTRAINT_VIOLATED:
        reason = (
            f"a constraint of the graph refuses the record: {error.message}. Delete the other "
            "node or change its value; a constraint that altsync did not make can be dropped "
            "(SHOW CONSTRAINTS lists them)"
        )
    if code.startswith(CONFLICTS):
        return SinkFailure(ErrorKind.UNKNOWN, reason, lock_conflict=True)
    if code.startswith(TIMED_OUT):
        return SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True, timed_out=True)
    if code.startswith(FOR_EVERY_RECORD):
        return SinkFailure(ErrorKind.SINK, reason)
    if isinstance(error, errors.ClientError):
        return SinkFailure(ErrorKind.ITEM, reason)
    # Overload, lack of memory, or a defect of the server. ``timed_out``: a large transaction may
    # be the cause, so delivery repeats its records in smaller ones.
    return SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True, timed_out=True)


def agent(tx: ManagedTransaction) -> str:
    """Return the name and version of the server."""
    return str(query(tx, "RETURN 1").consume().server.agent)


def records(tx: ManagedTransaction, *, statement: str, **parameters: Any) -> list[neo4j.Record]:
    """Return all records of a statement."""
    return list(query(tx, statement, **parameters))


def execute(tx: ManagedTransaction, *, statement: str, **parameters: Any) -> None:
    """Run a statement that returns nothing."""
    query(tx, statement, **parameters).consume()


def query(tx: ManagedTransaction, statement: str, **parameters: Any) -> neo4j.Result:
    """Run a statement."""
    return tx.run(statement, parameters)
