"""By hand and by the clock: failures, retries, backfill, purge."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from altsync.contract import EMBEDDING, SinkTraits
from altsync.db import Database
from altsync.operations import Dead, ErrorKind, Synced
from altsync.outbox.claim import release
from altsync.outbox.enqueue import CHANNEL, LOW_PRIORITY
from altsync.outbox.upkeep import backfill_page, purge_deleted
from altsync.retry import Selection, dead_ids, failures, retry_dead
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.fakes import FakeIndex
from tests.integration.world import (
    EMBEDDER,
    GRAPH,
    INDEX,
    World,
    archetype,
    deliver,
    embed,
    example,
    id_of,
    league,
    leagues,
)

NFL = league("nfl")

#: Seconds that a deleted row stays.
GRACE = 3600.0


def test_failures_are_grouped_by_reason(world: World) -> None:
    """The most frequent first, with a few examples, and since when."""
    world.save(*leagues(8), example("ask"))
    _bury(world, GRAPH, "too long", keys=[f"l{n:03}" for n in range(7)])
    _bury(world, EMBEDDER, "refused", keys=["ask"])
    first, second = failures(world.conn)
    assert (first.sink, first.error_kind, first.reason, first.count) == (
        "neo4j",
        "item",
        "too long",
        7,
    )
    assert len(first.sample_keys) == 5
    assert set(first.sample_keys) < {f"league l{n:03}" for n in range(7)}
    assert first.oldest <= first.newest
    assert (second.sink, second.sample_keys) == (EMBEDDING, ("few_shot_example ask",))
    assert [group.sink for group in failures(world.conn, Selection(sink=EMBEDDING))] == [EMBEDDING]
    assert failures(world.conn, Selection(sink="pinecone")) == []


def test_dead_operations_are_found_by_sink_and_entity(world: World) -> None:
    """Or all of them, up to a limit."""
    world.save(*leagues(3))
    _bury(world, GRAPH)
    _bury(world, EMBEDDER)
    assert len(dead_ids(world.conn)) == 6
    assert len(dead_ids(world.conn, Selection(sink="neo4j"))) == 3
    assert len(dead_ids(world.conn, limit=2)) == 2
    found = dead_ids(world.conn, Selection(sink="neo4j", entity="l001"))
    assert [(kind, entity) for _, kind, entity in found] == [(sports.LEAGUE, id_of(league("l001")))]
    assert dead_ids(world.conn, Selection(entity="nobody")) == []


def test_the_dead_are_retried_at_the_current_version(world: World) -> None:
    """As new operations; the old ones stay as history."""
    world.save(NFL)
    _bury(world, GRAPH)
    assert world.statuses(NFL)["neo4j"] == "failed"
    assert _retry(world) == 1
    old, new = world.ops("neo4j")
    assert (old.status, old.last_error) == ("superseded", "bad")
    assert (new.status, new.origin, new.attempts, new.version) == (
        "pending",
        "retry",
        0,
        world.version(NFL),
    )
    assert world.statuses(NFL)["neo4j"] == "pending"
    assert _retry(world) == 0


def test_a_retry_joins_what_is_under_way(world: World) -> None:
    """There is a live operation already: it is asked again."""
    world.save(NFL)
    _bury(world, GRAPH)
    world.save(league("nfl", tier="TIER1"))
    world.claim("neo4j")
    assert _retry(world) == 1
    assert world.live("neo4j", "nfl").rerun_requested
    assert world.counts("neo4j") == {"superseded": 1, "in_progress": 1}


def test_one_entity_that_died_often_is_retried_once(world: World) -> None:
    """The earlier ones are superseded by the latest, which is closed."""
    world.save(NFL)
    for tier in ("1", "2", "3"):
        _bury(world, GRAPH)
        world.save(league("nfl", tier=tier))
    world.conn.execute("DELETE FROM sync_operation WHERE status = 'pending'")
    assert world.counts("neo4j") == {"dead": 1, "superseded": 2}
    assert _retry(world) == 1
    assert world.counts("neo4j") == {"superseded": 3, "pending": 1}


def test_a_dead_vector_without_embedding_starts_with_it(world: World, database: Database) -> None:
    """The index cannot be written before; its operation is born when the embedding settles."""
    world.save(NFL)
    embed(database)
    _bury(world, INDEX)
    world.save(league("nfl", description="Newer."))
    world.conn.execute("DELETE FROM sync_operation WHERE sink = %s", (EMBEDDING,))
    assert _retry(world) == 1
    assert world.live(EMBEDDING, "nfl").origin == "retry"
    assert world.counts("pinecone") == {"superseded": 1}
    embed(database)
    assert world.live("pinecone", "nfl").version == world.version(NFL)


def test_a_dead_vector_with_its_embedding_is_retried_itself(
    world: World, database: Database
) -> None:
    """Nothing is paid again."""
    world.save(NFL)
    embed(database)
    _bury(world, INDEX)
    _retry(world)
    assert world.live("pinecone", "nfl").origin == "retry"
    assert world.counts(EMBEDDING) == {"synced": 1}


def test_a_retry_keeps_the_doubt(world: World, database: Database) -> None:
    """What was given up on may still land: after the retry it is written once more."""
    world.save(NFL)
    embed(database)
    world.claim("pinecone")
    world.end_leases()
    _bury(world, INDEX)
    _retry(world)
    _confirm(world, INDEX)
    assert world.live("pinecone", "nfl").origin == "confirm"


def test_a_dead_delete_is_retried_as_a_delete(world: World) -> None:
    """Also in the index, where no embedding is needed for it."""
    world.save(NFL)
    world.delete(NFL)
    _bury(world, GRAPH)
    _bury(world, INDEX)
    assert _retry(world) == 2
    assert [world.live(sink, "nfl").action for sink in ("neo4j", "pinecone")] == ["delete"] * 2


def test_the_dead_of_every_type_are_retried_together(world: World) -> None:
    """In one transaction, in the order of locks."""
    world.save(NFL, archetype("racing"), example("ask"))
    _bury(world, GRAPH)
    assert _retry(world) == 3
    assert world.counts("neo4j") == {"superseded": 3, "pending": 3}


def test_a_retry_wakes_the_relay(world: World) -> None:
    """Once per sink, when it commits."""
    world.save(NFL)
    _bury(world, GRAPH)
    world.conn.execute(f"LISTEN {CHANNEL}")
    _retry(world)
    heard = [n.payload for n in world.conn.notifies(timeout=0.2)]
    assert sorted(heard) == sorted(TOPOLOGY.names)


def test_a_backfill_asks_for_what_is_not_confirmed(world: World) -> None:
    """Behind everything else."""
    world.save(*leagues(4))
    _confirm(world, GRAPH)
    world.conn.execute(
        "UPDATE league SET neo4j_sync_status = 'failed' WHERE league_tag IN ('l001', 'l002')"
    )
    assert _backfill(world, GRAPH) == 2
    live = [op for op in world.ops("neo4j") if op.live]
    assert sorted(op.entity_key for op in live) == ["l001", "l002"]
    assert {(op.origin, op.priority) for op in live} == {("backfill", LOW_PRIORITY)}
    assert world.statuses(league("l001"))["neo4j"] == "pending"
    assert world.statuses(league("l000"))["neo4j"] == "synced"


def test_a_forced_backfill_asks_for_everything(world: World) -> None:
    """After a field was added, say; what waits is pending, not synced."""
    world.save(*leagues(4))
    _confirm(world, GRAPH)
    assert _backfill(world, GRAPH) == 0
    assert _backfill(world, GRAPH, force=True) == 4
    assert {world.statuses(content)["neo4j"] for content in leagues(4)} == {"pending"}
    assert {op.version for op in world.ops("neo4j") if op.live} == {
        world.version(content) for content in leagues(4)
    }


def test_a_backfill_goes_page_by_page(world: World) -> None:
    """Each in a transaction of its own; every entity once, none twice."""
    world.save(*leagues(25))
    _confirm(world, GRAPH)
    after, sizes = None, []
    while True:
        with world.conn.transaction():
            count, after = backfill_page(
                world.conn, GRAPH, sports.LEAGUE, after=after, force=True, limit=10
            )
        if after is None:
            break
        sizes.append(count)
    assert sizes == [10, 10, 5]
    assert world.counts("neo4j") == {"synced": 25, "pending": 25}


def test_a_page_without_anything_to_do_does_not_end_the_backfill(world: World) -> None:
    """The next page is told although this one was confirmed."""
    world.save(*leagues(20))
    _confirm(world, GRAPH)
    last = max(leagues(20), key=id_of)
    world.conn.execute(
        "UPDATE league SET neo4j_sync_status = 'failed' WHERE id = %s", (id_of(last),)
    )
    assert _backfill(world, GRAPH, limit=7) == 1
    assert world.live("neo4j", last.league_tag)


def test_a_backfill_of_the_index_embeds_first(world: World, database: Database) -> None:
    """What has no vector yet goes to the embedder; what has one, straight to the index."""
    world.save(league("old"))
    embed(database)
    deliver(database, FakeIndex())
    world.save(league("new"))
    world.conn.execute("DELETE FROM sync_operation")
    assert _backfill(world, INDEX, force=True) == 2
    assert [(op.entity_key, op.sink) for op in sorted(world.ops(), key=lambda o: o.sink)] == [
        ("new", EMBEDDING),
        ("old", "pinecone"),
    ]
    assert world.statuses(league("new"))[EMBEDDING] == "pending"
    assert world.statuses(league("old"))["pinecone"] == "pending"


def test_a_backfill_leaves_out_what_is_deleted(world: World) -> None:
    """Its removal is an operation already."""
    world.save(*leagues(2))
    world.delete(league("l001"))
    world.conn.execute("DELETE FROM sync_operation")
    assert _backfill(world, GRAPH, force=True) == 1


def test_a_backfill_joins_what_is_under_way(world: World) -> None:
    """An operation that waits keeps its priority; a leased one is asked again."""
    world.save(*leagues(2))
    world.claim("neo4j", limit=1)
    _backfill(world, GRAPH, force=True)
    ops = world.ops("neo4j")
    assert sorted((op.status, op.rerun_requested, op.priority) for op in ops) == [
        ("in_progress", True, 0),
        ("pending", False, 0),
    ]


def test_an_empty_type_is_backfilled_at_once(world: World) -> None:
    """There is no page."""
    with world.conn.transaction():
        page = backfill_page(world.conn, GRAPH, sports.FEW_SHOT_EXAMPLE, after=None, force=True)
    assert page == (0, None)


def test_a_backfill_of_a_sink_without_a_status_asks_for_everything(world: World) -> None:
    """A new sink has no column on the entities: nothing says that it was confirmed."""
    world.save(*leagues(3))
    assert _backfill(world, SinkTraits("archive", guarded=True)) == 3
    assert world.counts("archive") == {"pending": 3}


def test_deleted_entities_are_purged_after_their_grace(world: World) -> None:
    """When every sink has confirmed."""
    world.save(*leagues(2))
    world.delete(league("l001"))
    for sink in (GRAPH, INDEX, EMBEDDER):
        _confirm(world, sink)
    assert _purge(world) == 0
    world.pass_time(GRACE + 1)
    assert _purge(world) == 1
    assert world.scalar("SELECT string_agg(league_tag, ' ') FROM league") == "l000"


@pytest.mark.parametrize("status", ["live", "dead"])
def test_what_a_sink_has_not_confirmed_is_not_purged(world: World, status: str) -> None:
    """Neither while its removal waits, nor when it was given up on."""
    world.save(NFL)
    world.delete(NFL)
    for sink in (INDEX, EMBEDDER):
        _confirm(world, sink)
    if status == "dead":
        _bury(world, GRAPH)
    world.pass_time(GRACE + 1)
    assert _purge(world) == 0
    if status == "dead":
        _retry(world)
    _confirm(world, GRAPH)
    assert _purge(world) == 1


def test_a_purged_entity_that_comes_back_is_the_same_one(world: World) -> None:
    """With the same id and a higher version: an old delete cannot reach it."""
    world.save(NFL)
    before = world.version(NFL)
    world.delete(NFL)
    deleted = world.version(NFL)
    for sink in (GRAPH, INDEX, EMBEDDER):
        _confirm(world, sink)
    world.pass_time(GRACE + 1)
    _purge(world)
    world.save(NFL)
    assert before < deleted < world.version(NFL)
    assert world.row(NFL)["id"] == id_of(NFL)


def test_a_purge_takes_what_belongs_to_a_league_with_it(world: World) -> None:
    """Documents and contracts of a league that is gone."""
    world.save(NFL)
    world.conn.execute(
        "INSERT INTO document (id, seed_id, league_id, title, content_hash) "
        "VALUES (gen_random_uuid(), 'd1', %s, 'Rules', 'h')",
        (id_of(NFL),),
    )
    world.delete(NFL)
    world.conn.execute("DELETE FROM sync_operation")
    world.pass_time(GRACE + 1)
    _purge(world)
    assert world.scalar("SELECT count(*) FROM document") == 0


def _bury(
    world: World, sink: SinkTraits, reason: str = "bad", keys: Sequence[str] | None = None
) -> None:
    token, operations = world.claim(sink.name)
    chosen = [op for op in operations if keys is None or op.entity_key in keys]
    assert chosen
    world.settle(sink, token, [Dead(op, op.version, ErrorKind.ITEM, reason) for op in chosen])
    release(world.conn, [op.id for op in operations if op not in chosen], token)


def _confirm(world: World, sink: SinkTraits) -> None:
    token, operations = world.claim(sink.name)
    world.settle(sink, token, [Synced(op, op.version, op.entity_key, "x") for op in operations])


def _retry(world: World) -> int:
    with world.conn.transaction():
        return retry_dead(world.conn, dead_ids(world.conn), TOPOLOGY)


def _backfill(world: World, sink: SinkTraits, *, force: bool = False, limit: int = 5000) -> int:
    total, after = 0, None
    while True:
        with world.conn.transaction():
            count, after = backfill_page(
                world.conn, sink, sports.LEAGUE, after=after, force=force, limit=limit
            )
        total += count
        if after is None:
            return total


def _purge(world: World) -> int:
    with world.conn.transaction():
        return purge_deleted(world.conn, GRACE)
