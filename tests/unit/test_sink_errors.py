"""The kind of each error of a driver: the record's fault, the sink's, or unknown."""

from __future__ import annotations

import neo4j.exceptions
import pinecone
import pytest

from altsync.operations import ErrorKind
from altsync.sinks.neo4j import client as graph
from altsync.sinks.pinecone import client as vectors

ITEM, SINK, UNKNOWN = ErrorKind.ITEM, ErrorKind.SINK, ErrorKind.UNKNOWN


def from_server(code: str) -> neo4j.exceptions.Neo4jError:
    """The error that the driver makes of a code; it files some codes under other classes."""
    return neo4j.exceptions.Neo4jError._hydrate_neo4j(code=code, message="this is why")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        # The record's own.
        ("Neo.ClientError.Statement.TypeError", ITEM),
        ("Neo.ClientError.Statement.ArgumentError", ITEM),
        # Two transactions met on one key or lock.
        ("Neo.ClientError.Schema.ConstraintValidationFailed", UNKNOWN),
        ("Neo.TransientError.Transaction.DeadlockDetected", UNKNOWN),
        ("Neo.TransientError.Transaction.LockAcquisitionTimeout", UNKNOWN),
        # Overload is not answered with more calls; a server that broke is the sink's.
        ("Neo.TransientError.General.MemoryPoolOutOfMemoryError", SINK),
        ("Neo.TransientError.General.TransactionMemoryLimit", SINK),
        ("Neo.TransientError.General.OutOfMemoryError", SINK),
        ("Neo.TransientError.General.StackOverFlowError", SINK),
        ("Neo.TransientError.Request.NoThreadsAvailable", SINK),
        ("Neo.TransientError.Transaction.MaximumTransactionLimitReached", SINK),
        ("Neo.TransientError.Transaction.BookmarkTimeout", SINK),
        ("Neo.TransientError.Transaction.LeaseExpired", SINK),
        ("Neo.TransientError.Cluster.ReplicationFailure", SINK),
        ("Neo.TransientError.NoOneHas.HeardOfThis", SINK),
        ("Neo.DatabaseError.General.UnknownError", SINK),
        ("Neo.DatabaseError.Transaction.TransactionCommitFailed", SINK),
        ("Neo.DatabaseError.Statement.ExecutionFailed", SINK),
        # A server that does not know the statement refuses it for every record.
        ("Neo.ClientError.Statement.SyntaxError", SINK),
        ("Neo.ClientError.Procedure.ProcedureNotFound", SINK),
        # Every record would get the same answer.
        ("Neo.ClientError.Security.Unauthorized", SINK),
        ("Neo.ClientError.Security.AuthenticationRateLimit", SINK),
        ("Neo.ClientError.Security.CredentialsExpired", SINK),
        ("Neo.ClientError.Security.TokenExpired", SINK),
        ("Neo.ClientError.Security.AuthorizationExpired", SINK),
        ("Neo.ClientError.Security.Forbidden", SINK),
        ("Neo.ClientError.Database.DatabaseNotFound", SINK),
        ("Neo.TransientError.General.DatabaseUnavailable", SINK),
        ("Neo.ClientError.General.ForbiddenOnReadOnlyDatabase", SINK),
        ("Neo.ClientError.Cluster.NotALeader", SINK),
        ("Neo.ClientError.Transaction.TransactionTimedOut", SINK),
        ("Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration", SINK),
        ("Neo.TransientError.Transaction.Terminated", SINK),
        ("Neo.TransientError.Transaction.LockClientStopped", SINK),
    ],
)
def test_codes_of_neo4j(code: str, kind: ErrorKind) -> None:
    """A wrong password, a missing right or a slow server makes no dead letter."""
    failure = graph.translate(from_server(code))
    assert failure.kind is kind
    assert "this is why" in failure.reason


@pytest.mark.parametrize(
    "code",
    [
        "Neo.ClientError.Transaction.TransactionTimedOut",
        "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration",
        "Neo.TransientError.General.MemoryPoolOutOfMemoryError",
        "Neo.DatabaseError.Transaction.TransactionCommitFailed",
    ],
)
def test_a_statement_that_ran_out_of_time_is_marked_as_timed_out(code: str) -> None:
    """One record may hang the server each time: it must be told from an outage."""
    assert graph.translate(from_server(code)).timed_out


@pytest.mark.parametrize(
    ("code", "again"),
    [
        ("Neo.ClientError.Schema.ConstraintValidationFailed", True),
        ("Neo.TransientError.Transaction.DeadlockDetected", True),
        ("Neo.TransientError.Transaction.LockAcquisitionTimeout", True),
        ("Neo.ClientError.Statement.TypeError", False),
        ("Neo.ClientError.Security.Unauthorized", False),
        ("Neo.DatabaseError.General.UnknownError", False),
    ],
)
def test_writers_that_met_may_simply_try_again(code: str, again: bool) -> None:
    """Two that wanted one key or lock: the same call passes when the other is done."""
    assert graph.translate(from_server(code)).lock_conflict is again


@pytest.mark.parametrize(
    "error",
    [
        neo4j.exceptions.ServiceUnavailable("gone"),
        neo4j.exceptions.SessionExpired("gone"),
        neo4j.exceptions.IncompleteCommit("gone"),
        neo4j.exceptions.ConnectionAcquisitionTimeoutError("none is free"),
    ],
)
def test_a_lost_connection_to_neo4j_leaves_the_outcome_unknown(
    error: neo4j.exceptions.DriverError,
) -> None:
    """It may have been applied before the connection was lost."""
    failure = graph.translate(error)
    assert (failure.kind, failure.outcome_unknown) == (SINK, True)


def refused(status: int, **headers: str) -> pinecone.ApiError:
    """An answer of Pinecone's without a class of its own."""
    return pinecone.ApiError(
        message="this is why",
        status_code=status,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


@pytest.mark.parametrize(
    ("error", "kind", "outcome_unknown", "timed_out"),
    [
        (refused(400), ITEM, False, False),
        (refused(413), ITEM, False, False),
        (refused(422), ITEM, False, False),
        (refused(401), SINK, False, False),
        (refused(402), SINK, False, False),
        (refused(404), SINK, False, False),
        (pinecone.PineconeTimeoutError("late"), SINK, True, True),
        (pinecone.PineconeConnectionError("gone"), SINK, True, False),
        (pinecone.RateLimitError(message="slow down", status_code=429), SINK, False, False),
        (pinecone.ServiceError(message="broken", status_code=503), SINK, True, True),
        (pinecone.PineconeValueError("not ASCII"), ITEM, False, False),
        (pinecone.PineconeTypeError("no list"), ITEM, False, False),
        (pinecone.ResponseParsingError("no JSON"), UNKNOWN, True, False),
    ],
    ids=lambda value: f"{type(value).__name__}" if isinstance(value, Exception) else None,
)
def test_errors_of_pinecone(
    error: pinecone.PineconeError, kind: ErrorKind, outcome_unknown: bool, timed_out: bool
) -> None:
    """The outcome is unknown when the write may have been applied."""
    failure = vectors.translate(error)
    assert (failure.kind, failure.outcome_unknown, failure.timed_out) == (
        kind,
        outcome_unknown,
        timed_out,
    )


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry_After": "2.5"}, 2.5),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "tomorrow"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "-1"}, None),
        ({"retry_after": "86400"}, 300.0),
        ({"retry_after": "1e15"}, None),
        ({"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({}, None),
    ],
)
def test_pinecones_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    """In seconds, whatever the case of its name; what PostgreSQL cannot add is left out."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    throttled = pinecone.RateLimitError(message="slow down", status_code=429, headers=named)
    broken = pinecone.ServiceError(message="broken", status_code=503, headers=named)
    assert vectors.translate(throttled).retry_after == seconds
    assert vectors.translate(broken).retry_after == seconds


def test_a_constraint_that_refuses_a_record_is_named_with_what_to_do() -> None:
    """Neo4j names the label, the property and the value."""
    said = (
        "Node(7) already exists with label `League` and property `league_name` = 'Premier League'"
    )
    error = neo4j.exceptions.Neo4jError._hydrate_neo4j(
        code="Neo.ClientError.Schema.ConstraintValidationFailed", message=said
    )
    failure = graph.translate(error)
    assert failure.lock_conflict
    assert failure.reason == (
        f"a constraint of the graph refuses the record: {said}. Delete the other node or change "
        "its value; a constraint that altsync did not make can be dropped (SHOW CONSTRAINTS lists "
        "them)"
    )
