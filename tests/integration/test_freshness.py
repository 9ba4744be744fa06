"""Changes are counted by their age when a sink confirms them; background work is not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from altsync.db import Database
from altsync.freshness import Freshness, bucket_of
from altsync.operations import ErrorKind, Retry, Synced
from altsync.outbox.freshness import freshness, prune_freshness
from altsync.outbox.upkeep import backfill_page
from altsync.status.sql import backlog_and_late
from altsync.store.reads import clock
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import (
    GRAPH,
    INDEX,
    DatabaseFixture,
    deliver,
    embed,
    league,
    leagues,
)
from tests.integration.fakes import FakeGraph, FakeIndex

NFL = league("nfl")

#: Objectives in seconds.
OBJECTIVES = {"neo4j": 5.0, "pinecone": 30.0}


def fresh(pg: DatabaseFixture, sink: str) -> Freshness:
    """The freshness of a sink."""
    _, late = backlog_and_late(pg.conn, list(OBJECTIVES.values()))
    return freshness(pg.conn, OBJECTIVES, 0.99, late)[sink]


def age(pg: DatabaseFixture, seconds: float, sink: str | None = None) -> None:
    """Let live changes be older by so many seconds."""
    pg.conn.execute(
        "UPDATE sync_operation SET changed_at = changed_at - make_interval(secs => %s) "
        "WHERE finished_at IS NULL AND sink = COALESCE(%s, sink)",
        (seconds, sink),
    )


def changed(pg: DatabaseFixture, sink: str) -> Sequence[bool]:
    """Return for each operation of a sink whether it has the time of a change."""
    rows = pg.conn.execute(
        "SELECT changed_at IS NOT NULL FROM sync_operation WHERE sink = %s ORDER BY id", (sink,)
    )
    return [row[0] for row in rows]


def test_each_change_is_counted_once(pg: DatabaseFixture, database: Database) -> None:
    pg.save(*leagues(3))
    age(pg, 20)
    deliver(database, FakeGraph())
    found = fresh(pg, "neo4j")
    assert (found.changes, found.share, found.overdue) == (3, 0.0, 0)
    assert found.p50 is not None
    assert bucket_of(found.p50) == bucket_of(20.1)
    deliver(database, FakeGraph())
    assert fresh(pg, "neo4j").changes == 3


def test_a_vector_is_as_old_as_the_change_of_its_text(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(NFL)
    age(pg, 50)
    embed(database)
    deliver(database, FakeIndex())
    found = fresh(pg, "pinecone")
    assert (found.changes, found.share) == (1, 0.0)
    assert found.p99 is not None
    assert found.p99 >= 50


def test_an_entity_that_changes_while_it_waits_counts_from_its_first_change(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(NFL)
    age(pg, 20)
    pg.save(league("nfl", tier="2"))
    deliver(database, FakeGraph())
    found = fresh(pg, "neo4j")
    assert (found.changes, found.share) == (1, 0.0)


def test_a_change_during_the_write_counts_by_itself(pg: DatabaseFixture) -> None:
    """The first change is as old as its own commit, and so is the second."""
    pg.save(NFL)
    age(pg, 20)
    token, (op,) = pg.claim("neo4j")
    pg.save(league("nfl", tier="2"))
    settled = pg.settle(GRAPH, token, [Synced(op, op.version)])
    token, (again,) = pg.claim("neo4j")
    later = pg.settle(GRAPH, token, [Synced(again, again.version)])
    assert [round(one) for one in (*settled.ages, *later.ages)] == [20, 0]


def test_a_failed_write_keeps_the_time_of_the_first_change(pg: DatabaseFixture) -> None:
    pg.save(NFL)
    age(pg, 20)
    token, (op,) = pg.claim("neo4j")
    pg.save(league("nfl", tier="2"))
    pg.settle(GRAPH, token, [Retry(op, ErrorKind.UNKNOWN, "no answer", 0.0)])
    token, (again,) = pg.claim("neo4j")
    settled = pg.settle(GRAPH, token, [Synced(again, again.version)])
    assert [round(one) for one in settled.ages] == [20]


def test_a_change_that_waits_too_long_counts_as_late(pg: DatabaseFixture) -> None:
    """No write is confirmed in an outage; the budget burns all the same."""
    pg.save(*leagues(2))
    age(pg, 6)
    found = fresh(pg, "neo4j")
    assert (found.overdue, found.share, found.alerting) == (2, 0.0, True)
    assert fresh(pg, "pinecone").overdue == 0
    age(pg, 30)
    assert fresh(pg, "pinecone").overdue == 2, "they wait for their embedding"


def test_background_work_is_not_counted(pg: DatabaseFixture, database: Database) -> None:
    pg.save(NFL)
    deliver(database, FakeGraph())
    backfill_page(pg.conn, GRAPH, sports.LEAGUE, after=None, force=True)
    assert changed(pg, "neo4j") == [True, False]
    deliver(database, FakeGraph())
    assert fresh(pg, "neo4j").changes == 1


def test_a_confirming_write_is_not_counted(pg: DatabaseFixture, database: Database) -> None:
    pg.save(NFL)
    embed(database)
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Synced(op, op.version, outcome_unknown=True)])
    assert changed(pg, "pinecone") == [True, False]


def test_only_the_last_hours_are_read(pg: DatabaseFixture, database: Database) -> None:
    pg.save(NFL)
    deliver(database, FakeGraph())
    pg.conn.execute("UPDATE freshness SET minute = minute - interval '2 hours'")
    found = fresh(pg, "neo4j")
    assert (found.changes, found.share) == (0, None)
    assert found.burn == pytest.approx({"5m": 0, "30m": 0, "1h": 0, "6h": 0})
    assert prune_freshness(pg.conn, clock(pg.conn)) > 0
    assert set(freshness(pg.conn, {}, 0.99, {})) <= set(TOPOLOGY.names)
