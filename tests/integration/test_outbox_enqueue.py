"""Enqueue: one live operation per sink and entity, whatever is enqueued meanwhile."""

from __future__ import annotations

import psycopg
import pytest

from altsync.contract import EMBEDDING
from altsync.db import Database
from altsync.operations import ErrorKind, Retry, Synced
from altsync.outbox.enqueue import CHANNEL, LOW_PRIORITY, MERGE_INTO_LIVE
from altsync.outbox.upkeep import backfill_page
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import (
    GRAPH,
    INDEX,
    LEASE,
    DatabaseFixture,
    archetype,
    embed,
    example,
    id_of,
    league,
    leagues,
)


def test_a_change_and_its_operations_commit_together(pg: DatabaseFixture) -> None:
    """A new entity has one operation per sink that does not wait for its embedding."""
    changes = pg.save(league("nfl"), archetype("racing"), example("ask"))
    assert (changes.created, changes.operations) == (3, 6)
    assert [(op.entity_key, op.sink, op.status, op.action, op.origin) for op in pg.ops()] == [
        ("racing", "embedding", "pending", "upsert", "seed"),
        ("racing", "neo4j", "pending", "upsert", "seed"),
        ("nfl", "embedding", "pending", "upsert", "seed"),
        ("nfl", "neo4j", "pending", "upsert", "seed"),
        ("ask", "embedding", "pending", "upsert", "seed"),
        ("ask", "neo4j", "pending", "upsert", "seed"),
    ]
    assert {op.version for op in pg.ops(key="nfl")} == {pg.version(league("nfl"))}


def test_an_entity_that_is_rolled_back_leaves_no_operation(pg: DatabaseFixture) -> None:
    """Neither of the two is there without the other."""
    with pytest.raises(ZeroDivisionError), pg.conn.transaction():
        pg.save(league("nfl"))
        raise ZeroDivisionError
    assert pg.ops() == []
    assert pg.scalar("SELECT count(*) FROM league") == 0


def test_many_changes_are_one_operation(pg: DatabaseFixture) -> None:
    """Whatever is changed before a worker comes, there is one live row that wants the latest."""
    for tier in ("TIER1", "TIER2", "TIER3"):
        pg.save(league("nfl", tier=tier))
    pg.delete(league("nfl"))
    op = pg.live("neo4j", "nfl")
    assert [o.id for o in pg.ops("neo4j")] == [op.id]
    assert (op.version, op.action) == (pg.version(league("nfl")), "delete")


def test_an_unchanged_entity_asks_for_nothing(pg: DatabaseFixture) -> None:
    """Seeding the same again writes no row and no operation."""
    pg.save(league("nfl"))
    before = pg.version(league("nfl")), pg.ops()
    changes = pg.save(league("nfl"))
    assert (changes.created, changes.updated, changes.operations) == (0, 0, 0)
    assert (pg.version(league("nfl")), [op.id for op in pg.ops()]) == (
        before[0],
        [op.id for op in before[1]],
    )


def test_the_database_refuses_a_second_live_operation(pg: DatabaseFixture) -> None:
    """The one rule is an index, not a habit."""
    pg.save(league("nfl"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        pg.conn.execute(
            """
            INSERT INTO sync_operation
              (entity_type, entity_id, entity_key, sink, action, version, origin)
            VALUES ('league', %s, 'nfl', 'neo4j', 'upsert', 1, 'seed')
            """,
            (id_of(league("nfl")),),
        )


def test_the_version_of_an_operation_never_goes_down(pg: DatabaseFixture) -> None:
    """Asked for an older version than it wants already, it keeps both version and action."""
    pg.save(league("nfl"))
    wanted = pg.live("neo4j", "nfl").version
    _enqueue(pg, version=wanted - 1, action="delete")
    op = pg.live("neo4j", "nfl")
    assert (op.version, op.action) == (wanted, "upsert")


def test_a_newer_version_starts_afresh(pg: DatabaseFixture) -> None:
    """A corrected row does not inherit attempts, timeout_count or backoff of the wrong one."""
    pg.save(league("nfl"))
    _fail(pg, delay=300.0, timed_out=True)
    failed = pg.live("neo4j", "nfl")
    assert (failed.attempts, failed.timeout_count, failed.wait > 200) == (1, 1, True)
    pg.save(league("nfl", tier="TIER1"))
    op = pg.live("neo4j", "nfl")
    assert (op.attempts, op.timeout_count, op.wait <= 0) == (0, 0, True)


def test_the_same_version_enqueued_again_is_due_but_keeps_its_attempts(pg: DatabaseFixture) -> None:
    """Enqueueing twice is no way around the limit of attempts."""
    pg.save(league("nfl"))
    _fail(pg, delay=300.0, timed_out=True)
    _enqueue(pg, version=pg.version(league("nfl")))
    op = pg.live("neo4j", "nfl")
    assert (op.attempts, op.timeout_count, op.wait <= 0) == (1, 1, True)


def test_a_due_operation_is_not_put_off(pg: DatabaseFixture) -> None:
    """A hot entity keeps its place in the queue, or it would never be delivered."""
    pg.save(league("nfl"))
    pg.advance_time(60)
    pg.save(league("nfl", tier="TIER1"))
    assert pg.live("neo4j", "nfl").wait < -50


def test_a_leased_operation_keeps_its_lease(pg: DatabaseFixture) -> None:
    """The worker goes on; the row gets a rerun request."""
    pg.save(league("nfl"))
    token, _ = pg.claim("neo4j")
    pg.save(league("nfl", tier="TIER1"))
    op = pg.live("neo4j", "nfl")
    assert (op.status, op.lease_token, op.attempts, op.rerun_requested) == (
        "in_progress",
        token,
        1,
        True,
    )
    assert LEASE - 10 < op.wait <= LEASE
    assert op.version == pg.version(league("nfl"))


def test_claiming_again_forgets_that_it_was_asked(pg: DatabaseFixture) -> None:
    """A worker that claims after the request also reads the row after it."""
    pg.save(league("nfl"))
    pg.claim("neo4j")
    pg.save(league("nfl", tier="TIER1"))
    pg.expire_leases()
    pg.claim("neo4j")
    assert not pg.live("neo4j", "nfl").rerun_requested


def test_a_change_merged_into_a_confirming_write_stays_unknown(
    pg: DatabaseFixture, database: Database
) -> None:
    """The late write may still be applied after the newer one."""
    pg.save(league("nfl"))
    embed(database)
    token, (op,) = pg.claim("pinecone")
    pg.settle(
        INDEX,
        token,
        [Retry(op, ErrorKind.SINK, "timed out", 0, give_back=True, outcome_unknown=True)],
    )
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    confirming = pg.live("pinecone", "nfl")
    assert (confirming.origin, confirming.outcome_unknown) == ("confirm", False)

    pg.save(league("nfl", tier="TIER1"))
    merged = pg.live("pinecone", "nfl")
    assert (merged.id, merged.origin, merged.outcome_unknown, merged.wait <= 0) == (
        confirming.id,
        "seed",
        True,
        True,
    )


def test_the_most_urgent_asker_sets_the_priority(pg: DatabaseFixture) -> None:
    """An edit pulls a backfilled operation forward, and a backfill does not push an edit back."""
    pg.save(*leagues(2))
    pg.conn.execute("UPDATE sync_operation SET priority = %s", (LOW_PRIORITY,))
    pg.save(league("l000", tier="TIER1"))
    assert pg.live("neo4j", "l000").priority == 0
    with pg.conn.transaction():
        backfill_page(pg.conn, GRAPH, sports.LEAGUE, after=None, force=True)
    assert pg.live("neo4j", "l000").priority == 0
    assert pg.live("neo4j", "l001").priority == LOW_PRIORITY


def test_an_embedded_row_goes_straight_to_the_index(
    pg: DatabaseFixture, database: Database
) -> None:
    """A change outside the text asks the vector sinks, and not the embedder."""
    pg.save(league("nfl"))
    embed(database)
    pg.save(league("nfl", tier="TIER1"))
    assert pg.counts(EMBEDDING) == {"synced": 1}
    assert pg.live("pinecone", "nfl").version == pg.version(league("nfl"))
    assert pg.statuses(league("nfl"))[EMBEDDING] == "synced"


def test_a_changed_text_goes_to_the_embedder_first(pg: DatabaseFixture, database: Database) -> None:
    """The index gets its operation when the new vector is there."""
    pg.save(league("nfl"))
    embed(database)
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    pg.save(league("nfl", description="Played with an oval ball."))
    assert pg.live(EMBEDDING, "nfl").version == pg.version(league("nfl"))
    assert pg.counts("pinecone") == {"synced": 1}
    assert pg.statuses(league("nfl")) == {
        EMBEDDING: "pending",
        "neo4j": "pending",
        "pinecone": "pending",
    }


def test_a_delete_asks_every_sink(pg: DatabaseFixture) -> None:
    """Vector sinks too, embedded or not: an earlier vector may be there."""
    pg.save(league("nfl"))
    changes = pg.delete(league("nfl"))
    assert (changes.deleted, changes.operations) == (1, 2)
    for sink in ("neo4j", "pinecone"):
        op = pg.live(sink, "nfl")
        assert (op.action, op.version) == ("delete", pg.version(league("nfl")))


def test_deleting_twice_asks_once(pg: DatabaseFixture) -> None:
    """A deleted row does not change any more."""
    pg.save(league("nfl"))
    pg.delete(league("nfl"))
    version = pg.version(league("nfl"))
    assert pg.delete(league("nfl")).deleted == 0
    assert pg.version(league("nfl")) == version


def test_the_graph_follows_its_own_version(pg: DatabaseFixture) -> None:
    """A changed edge raises the number for the graph alone."""
    pg.save(league("nfl"))
    pg.conn.execute("UPDATE league SET edges_version = nextval('entity_version')")
    row = pg.row(league("nfl"))
    assert row["graph_version"] > row["version"]
    pg.delete(league("nfl"))
    row = pg.row(league("nfl"))
    assert pg.live("neo4j", "nfl").version == row["graph_version"]
    assert pg.live("pinecone", "nfl").version == row["version"]


def test_a_batch_notifies_once_per_sink(pg: DatabaseFixture) -> None:
    """However many rows it changed: a notification holds a global lock while it commits."""
    pg.conn.execute(f"LISTEN {CHANNEL}")
    pg.save(*leagues(300))
    heard = [n.payload for n in pg.conn.notifies(timeout=0.5)]
    assert sorted(heard) == sorted(TOPOLOGY.names)
    pg.save(*leagues(300))
    assert list(pg.conn.notifies(timeout=0)) == []


def _enqueue(pg: DatabaseFixture, *, version: int, action: str = "upsert") -> None:
    pg.conn.execute(
        f"""
        INSERT INTO sync_operation AS o
          (entity_type, entity_id, entity_key, sink, action, version, origin)
        VALUES ('league', %s, 'nfl', 'neo4j', %s, %s, 'reconcile') {MERGE_INTO_LIVE}
        """,
        (id_of(league("nfl")), action, version),
    )


def _fail(pg: DatabaseFixture, *, delay: float, timed_out: bool = False) -> None:
    token, operations = pg.claim("neo4j")
    pg.settle(
        GRAPH,
        token,
        [Retry(op, ErrorKind.ITEM, "refused", delay, timed_out=timed_out) for op in operations],
    )
