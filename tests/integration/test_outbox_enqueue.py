"""Asking for work: one live operation per sink and entity, whatever is asked while it lives."""

from __future__ import annotations

import psycopg
import pytest

from altsync.contract import EMBEDDING
from altsync.db import Database
from altsync.operations import ErrorKind, Retry, Synced
from altsync.outbox.enqueue import CHANNEL, LOW_PRIORITY, ON_LIVE
from altsync.outbox.upkeep import backfill_page
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.world import (
    GRAPH,
    INDEX,
    LEASE,
    World,
    archetype,
    embed,
    example,
    id_of,
    league,
    leagues,
)


def test_a_change_and_its_operations_commit_together(world: World) -> None:
    """A new entity has one operation per sink that does not wait for its embedding."""
    changes = world.save(league("nfl"), archetype("racing"), example("ask"))
    assert (changes.created, changes.operations) == (3, 6)
    assert [(op.entity_key, op.sink, op.status, op.action, op.origin) for op in world.ops()] == [
        ("racing", "embedding", "pending", "upsert", "seed"),
        ("racing", "neo4j", "pending", "upsert", "seed"),
        ("nfl", "embedding", "pending", "upsert", "seed"),
        ("nfl", "neo4j", "pending", "upsert", "seed"),
        ("ask", "embedding", "pending", "upsert", "seed"),
        ("ask", "neo4j", "pending", "upsert", "seed"),
    ]
    assert {op.version for op in world.ops(key="nfl")} == {world.version(league("nfl"))}


def test_an_entity_that_is_rolled_back_leaves_no_operation(world: World) -> None:
    """Neither of the two is there without the other."""
    with pytest.raises(ZeroDivisionError), world.conn.transaction():
        world.save(league("nfl"))
        raise ZeroDivisionError
    assert world.ops() == []
    assert world.scalar("SELECT count(*) FROM league") == 0


def test_many_changes_are_one_operation(world: World) -> None:
    """Whatever is changed before a worker comes, there is one live row that wants the latest."""
    for tier in ("TIER1", "TIER2", "TIER3"):
        world.save(league("nfl", tier=tier))
    world.delete(league("nfl"))
    op = world.live("neo4j", "nfl")
    assert [o.id for o in world.ops("neo4j")] == [op.id]
    assert (op.version, op.action) == (world.version(league("nfl")), "delete")


def test_an_unchanged_entity_asks_for_nothing(world: World) -> None:
    """Seeding the same again writes no row and no operation."""
    world.save(league("nfl"))
    before = world.version(league("nfl")), world.ops()
    changes = world.save(league("nfl"))
    assert (changes.created, changes.updated, changes.operations) == (0, 0, 0)
    assert (world.version(league("nfl")), [op.id for op in world.ops()]) == (
        before[0],
        [op.id for op in before[1]],
    )


def test_the_database_refuses_a_second_live_operation(world: World) -> None:
    """The one rule is an index, not a habit."""
    world.save(league("nfl"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        world.conn.execute(
            """
            INSERT INTO sync_operation
              (entity_type, entity_id, entity_key, sink, action, version, origin)
            VALUES ('league', %s, 'nfl', 'neo4j', 'upsert', 1, 'seed')
            """,
            (id_of(league("nfl")),),
        )


def test_the_version_of_an_operation_never_goes_down(world: World) -> None:
    """Asked for an older version than it wants already, it keeps both version and action."""
    world.save(league("nfl"))
    wanted = world.live("neo4j", "nfl").version
    _enqueue(world, version=wanted - 1, action="delete")
    op = world.live("neo4j", "nfl")
    assert (op.version, op.action) == (wanted, "upsert")


def test_a_newer_version_starts_afresh(world: World) -> None:
    """A corrected row does not inherit attempts, timeout_count or backoff of the wrong one."""
    world.save(league("nfl"))
    _fail(world, delay=300.0, suspect=True)
    failed = world.live("neo4j", "nfl")
    assert (failed.attempts, failed.timeout_count, failed.wait > 200) == (1, 1, True)
    world.save(league("nfl", tier="TIER1"))
    op = world.live("neo4j", "nfl")
    assert (op.attempts, op.timeout_count, op.wait <= 0) == (0, 0, True)


def test_the_same_version_asked_again_is_due_but_keeps_its_attempts(world: World) -> None:
    """Asking twice is no way around the limit of attempts."""
    world.save(league("nfl"))
    _fail(world, delay=300.0, suspect=True)
    _enqueue(world, version=world.version(league("nfl")))
    op = world.live("neo4j", "nfl")
    assert (op.attempts, op.timeout_count, op.wait <= 0) == (1, 1, True)


def test_a_due_operation_is_not_put_off(world: World) -> None:
    """A hot entity keeps its place in the queue, or it would never be delivered."""
    world.save(league("nfl"))
    world.pass_time(60)
    world.save(league("nfl", tier="TIER1"))
    assert world.live("neo4j", "nfl").wait < -50


def test_a_leased_operation_keeps_its_lease(world: World) -> None:
    """The worker goes on; the row learns that it was asked again."""
    world.save(league("nfl"))
    token, _ = world.claim("neo4j")
    world.save(league("nfl", tier="TIER1"))
    op = world.live("neo4j", "nfl")
    assert (op.status, op.lease_token, op.attempts, op.rerun_requested) == (
        "in_progress",
        token,
        1,
        True,
    )
    assert LEASE - 10 < op.wait <= LEASE
    assert op.version == world.version(league("nfl"))


def test_claiming_again_forgets_that_it_was_asked(world: World) -> None:
    """Who claims after the asking reads the row after it, too."""
    world.save(league("nfl"))
    world.claim("neo4j")
    world.save(league("nfl", tier="TIER1"))
    world.end_leases()
    world.claim("neo4j")
    assert not world.live("neo4j", "nfl").rerun_requested


def test_a_change_merged_into_an_echo_stays_unsure(world: World, database: Database) -> None:
    """The late write that the echo was for may still come after the newer one."""
    world.save(league("nfl"))
    embed(database)
    token, (op,) = world.claim("pinecone")
    world.settle(
        INDEX,
        token,
        [Retry(op, ErrorKind.SINK, "timed out", 0, give_back=True, outcome_unknown=True)],
    )
    token, (op,) = world.claim("pinecone")
    world.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    echo = world.live("pinecone", "nfl")
    assert (echo.origin, echo.outcome_unknown) == ("confirm", False)

    world.save(league("nfl", tier="TIER1"))
    merged = world.live("pinecone", "nfl")
    assert (merged.id, merged.origin, merged.outcome_unknown, merged.wait <= 0) == (
        echo.id,
        "seed",
        True,
        True,
    )


def test_the_most_urgent_asker_sets_the_priority(world: World) -> None:
    """An edit pulls a backfilled operation forward, and a backfill does not push an edit back."""
    world.save(*leagues(2))
    world.conn.execute("UPDATE sync_operation SET priority = %s", (LOW_PRIORITY,))
    world.save(league("l000", tier="TIER1"))
    assert world.live("neo4j", "l000").priority == 0
    with world.conn.transaction():
        backfill_page(world.conn, GRAPH, sports.LEAGUE, after=None, force=True)
    assert world.live("neo4j", "l000").priority == 0
    assert world.live("neo4j", "l001").priority == LOW_PRIORITY


def test_an_embedded_row_goes_straight_to_the_index(world: World, database: Database) -> None:
    """A change outside the text asks the vector sinks, and not the embedder."""
    world.save(league("nfl"))
    embed(database)
    world.save(league("nfl", tier="TIER1"))
    assert world.counts(EMBEDDING) == {"synced": 1}
    assert world.live("pinecone", "nfl").version == world.version(league("nfl"))
    assert world.statuses(league("nfl"))[EMBEDDING] == "synced"


def test_a_changed_text_goes_to_the_embedder_first(world: World, database: Database) -> None:
    """The index gets its operation when the new vector is there."""
    world.save(league("nfl"))
    embed(database)
    token, (op,) = world.claim("pinecone")
    world.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    world.save(league("nfl", description="Played with an oval ball."))
    assert world.live(EMBEDDING, "nfl").version == world.version(league("nfl"))
    assert world.counts("pinecone") == {"synced": 1}
    assert world.statuses(league("nfl")) == {
        EMBEDDING: "pending",
        "neo4j": "pending",
        "pinecone": "pending",
    }


def test_a_delete_asks_every_sink(world: World) -> None:
    """Vector sinks too, embedded or not: an earlier vector may be there."""
    world.save(league("nfl"))
    changes = world.delete(league("nfl"))
    assert (changes.deleted, changes.operations) == (1, 2)
    for sink in ("neo4j", "pinecone"):
        op = world.live(sink, "nfl")
        assert (op.action, op.version) == ("delete", world.version(league("nfl")))


def test_deleting_twice_asks_once(world: World) -> None:
    """What is gone already does not change any more."""
    world.save(league("nfl"))
    world.delete(league("nfl"))
    version = world.version(league("nfl"))
    assert world.delete(league("nfl")).deleted == 0
    assert world.version(league("nfl")) == version


def test_the_graph_follows_its_own_version(world: World) -> None:
    """A changed edge raises the number for the graph alone."""
    world.save(league("nfl"))
    world.conn.execute("UPDATE league SET edges_version = nextval('entity_version')")
    row = world.row(league("nfl"))
    assert row["graph_version"] > row["version"]
    world.delete(league("nfl"))
    row = world.row(league("nfl"))
    assert world.live("neo4j", "nfl").version == row["graph_version"]
    assert world.live("pinecone", "nfl").version == row["version"]


def test_a_batch_notifies_once_per_sink(world: World) -> None:
    """However many rows it changed: a notification holds a global lock while it commits."""
    world.conn.execute(f"LISTEN {CHANNEL}")
    world.save(*leagues(300))
    heard = [n.payload for n in world.conn.notifies(timeout=0.5)]
    assert sorted(heard) == sorted(TOPOLOGY.names)
    world.save(*leagues(300))
    assert list(world.conn.notifies(timeout=0)) == []


def _enqueue(world: World, *, version: int, action: str = "upsert") -> None:
    world.conn.execute(
        f"""
        INSERT INTO sync_operation AS o
          (entity_type, entity_id, entity_key, sink, action, version, origin)
        VALUES ('league', %s, 'nfl', 'neo4j', %s, %s, 'reconcile') {ON_LIVE}
        """,
        (id_of(league("nfl")), action, version),
    )


def _fail(world: World, *, delay: float, suspect: bool = False) -> None:
    token, operations = world.claim("neo4j")
    world.settle(
        GRAPH,
        token,
        [Retry(op, ErrorKind.ITEM, "refused", delay, suspect=suspect) for op in operations],
    )
