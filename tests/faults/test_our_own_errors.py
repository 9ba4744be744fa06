"""Errors of altsync or of PostgreSQL between claiming and settling: no worker has vanished."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest
from psycopg_pool import PoolTimeout

from altsync.circuit.sinks import sink_health
from altsync.db import Database
from altsync.delivery import Batch
from altsync.errors import SinkFailure
from altsync.local.services.postgres import Postgres
from altsync.operations import BreakerState, ErrorKind
from altsync.revisions import own_revision
from altsync.silence import ServerSilent
from tests.integration.database_fixture import (
    DatabaseFixture,
    dead_letter_exhausted,
    deliver,
    delivery,
    embed,
    leagues,
)
from tests.integration.fakes import Call, FakeGraph, FakeIndex
from tests.integration.few_rights import role_that_lacks

#: Statements that break what a worker does after its claim, and those that put it right.
BROKEN = {
    "reading": (
        "ALTER TABLE league RENAME COLUMN league_name TO title",
        "ALTER TABLE league RENAME COLUMN title TO league_name",
    ),
    "settling": (
        "ALTER TABLE league RENAME COLUMN neo4j_node_id TO node",
        "ALTER TABLE league RENAME COLUMN node TO neo4j_node_id",
    ),
    "constraint": (
        "ALTER TABLE league ADD CONSTRAINT broken CHECK (neo4j_sync_status = 'pending')",
        "ALTER TABLE league DROP CONSTRAINT broken",
    ),
}

#: Statements that take a right that a worker needs after its claim.
REVOKED = {
    "to read rows": "REVOKE SELECT ON league FROM {role}",
    "to settle": "REVOKE UPDATE ON league FROM {role}",
}


def fails_at(point: str, error: Exception) -> Callable[[str], None]:
    """A worker's hook that raises an error at one of its points."""

    def fail(reached: str) -> None:
        if reached == point:
            raise error

    return fail


@pytest.mark.parametrize("broken", BROKEN)
def test_an_error_of_postgresql_gives_the_claim_back_and_opens_the_breaker(
    pg: DatabaseFixture, database: Database, broken: str
) -> None:
    """Twelve times: more than the vanished workers after which an operation is given up on."""
    breaks, repairs = BROKEN[broken]
    pg.save(*leagues(5))
    graph = FakeGraph()
    pg.conn.execute(breaks)
    try:
        for _ in range(12):
            with pytest.raises(psycopg.Error):
                deliver(database, graph)
            assert {(op.status, op.attempts) for op in pg.ops("neo4j")} == {("pending", 0)}
            assert deliver(database, graph) == Batch()
            dead_letter_exhausted(pg, database)
            pg.advance_time(1000)
    finally:
        pg.conn.execute(repairs)
    health = sink_health(pg.conn)["neo4j"]
    assert health.state is BreakerState.OPEN
    assert {"reading": "UndefinedColumn", "settling": "UndefinedColumn"}.get(
        broken, "CheckViolation"
    ) in (health.reason or "")
    delivery(database, graph).drain(10)
    assert pg.counts("neo4j") == {"synced": 5}
    assert sink_health(pg.conn)["neo4j"].state is BreakerState.CLOSED


@pytest.mark.parametrize("revoked", REVOKED)
def test_a_right_that_is_missing_gives_the_claim_back_and_opens_the_breaker_with_its_grant(
    pg: DatabaseFixture, postgres: Postgres, database: Database, revoked: str
) -> None:
    """Twelve times: more than the vanished workers after which an operation is given up on."""
    pg.save(*leagues(5))
    graph = FakeGraph()
    with (
        role_that_lacks(postgres, pg.url, "nothing") as role,
        closing(Database(role.url)) as limited,
    ):
        role.grant(REVOKED[revoked])
        for _ in range(12):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                deliver(limited, graph)
            assert {(op.status, op.attempts) for op in pg.ops("neo4j")} == {("pending", 0)}
            assert deliver(limited, graph) == Batch()
            dead_letter_exhausted(pg, database)
            pg.advance_time(1000)
        health = sink_health(pg.conn)["neo4j"]
        assert health.state is BreakerState.OPEN
        assert health.reason == (
            "InsufficientPrivilege: permission denied for table league: GRANT SELECT, INSERT, "
            f'UPDATE, DELETE ON league TO "{role.name}"'
        )
        role.grant("GRANT SELECT, UPDATE ON league TO {role}")
        delivery(limited, graph).drain(10)
        assert pg.counts("neo4j") == {"synced": 5}
        assert sink_health(pg.conn)["neo4j"].state is BreakerState.CLOSED


def test_a_right_to_the_outbox_that_is_lost_after_the_claim_leaves_it_to_the_lease(
    pg: DatabaseFixture, postgres: Postgres
) -> None:
    """Nothing can be given back then, and nothing is given up on."""
    pg.save(*leagues(5))
    graph = FakeGraph()
    with (
        role_that_lacks(postgres, pg.url, "nothing") as role,
        closing(Database(role.url)) as database,
    ):

        def revoke(reached: str) -> None:
            if reached == "claimed":
                role.grant("REVOKE UPDATE ON sync_operation FROM {role}")

        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            delivery(database, graph, revoke).deliver_batch()
        for _ in range(12):
            pg.advance_time(1000)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                deliver(database, graph)
        assert pg.counts("neo4j") == {"in_progress": 5}
        role.grant("GRANT UPDATE ON sync_operation TO {role}")
        delivery(database, graph).drain(10)
        assert pg.counts("neo4j") == {"synced": 5}


@pytest.mark.parametrize(
    "point", ["claimed", "read", "namespaces_recorded", "called", "settling", "breaker_updated"]
)
def test_a_defect_at_any_step_gives_the_claim_back(
    pg: DatabaseFixture, database: Database, point: str
) -> None:
    pg.save(*leagues(5))
    graph = FakeGraph()
    defect = fails_at(point, ZeroDivisionError("by zero"))
    for _ in range(12):
        with pytest.raises(ZeroDivisionError):
            delivery(database, graph, defect).deliver_batch()
        live = [op for op in pg.ops("neo4j") if op.live]
        assert {(op.status, op.attempts) for op in live} <= {("pending", 0)}
        assert "by zero" in (sink_health(pg.conn)["neo4j"].reason or "")
        pg.advance_time(1000)
        if not live:
            break
    delivery(database, graph).drain(10)
    assert pg.counts("neo4j") == {"synced": 5}


@pytest.mark.parametrize(
    "error",
    [
        PoolTimeout("couldn't get a connection after 10.00 sec"),
        ServerSilent("no answer"),
        psycopg.OperationalError("server closed the connection unexpectedly"),
        psycopg.InterfaceError("the connection is closed"),
        psycopg.errors.AdminShutdown("terminating connection"),
        psycopg.errors.ConnectionFailure("lost"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_lost_connection_gives_the_claim_back_and_opens_no_breaker(
    pg: DatabaseFixture, database: Database, error: Exception
) -> None:
    """PostgreSQL is back when the claim is released: the sink waits for nothing."""
    pg.save(*leagues(5))
    graph = FakeGraph()
    with pytest.raises(type(error)):
        delivery(database, graph, fails_at("read", error)).deliver_batch()
    assert {(op.status, op.attempts) for op in pg.ops("neo4j")} == {("pending", 0)}
    assert sink_health(pg.conn)["neo4j"].state is BreakerState.CLOSED
    assert deliver(database, graph).settlement.synced == 5


def test_a_call_without_an_answer_stays_unknown_when_its_settlement_fails(
    pg: DatabaseFixture, database: Database
) -> None:
    """A write that may still be applied is confirmed, although the reason was not saved."""
    index = FakeIndex()
    pg.save(*leagues(1))
    embed(database)

    def silent(call: Call) -> None:
        raise SinkFailure(ErrorKind.SINK, "no answer", outcome_unknown=True, timed_out=True)

    index.before = silent
    with pytest.raises(ZeroDivisionError):
        delivery(database, index, fails_at("settling", ZeroDivisionError())).deliver_batch()
    assert pg.live("pinecone", "l000").outcome_unknown


def test_a_worker_of_another_release_claims_and_ends_nothing(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(*leagues(2))
    graph = FakeGraph()
    pg.claim("neo4j", limit=1)
    pg.conn.execute("UPDATE sync_operation SET attempts = 10 WHERE status = 'in_progress'")
    pg.expire_leases()
    pg.conn.execute("UPDATE alembic_version SET version_num = '9999'")
    try:
        assert deliver(database, graph) == Batch()
        dead_letter_exhausted(pg, database)
        assert "dead" not in pg.counts("neo4j")
        assert sink_health(pg.conn)["neo4j"].state is BreakerState.CLOSED
    finally:
        pg.conn.execute("UPDATE alembic_version SET version_num = %s", (own_revision(),))
    dead_letter_exhausted(pg, database)
    assert pg.counts("neo4j") == {"pending": 1, "dead": 1}
