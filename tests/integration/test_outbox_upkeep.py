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
from tests.integration.database_fixture import (
    EMBEDDER,
    GRAPH,
    INDEX,
    DatabaseFixture,
    archetype,
    deliver,
    embed,
    example,
    id_of,
    league,
    leagues,
)
from tests.integration.fakes import FakeIndex

NFL = league("nfl")

#: Seconds that a deleted row stays.
GRACE = 3600.0


def test_failures_are_grouped_by_reason(pg: DatabaseFixture) -> None:
    """The most frequent first, with a few examples, and since when."""
    pg.save(*leagues(8), example("ask"))
    _dead_letter(pg, GRAPH, "too long", keys=[f"l{n:03}" for n in range(7)])
    _dead_letter(pg, EMBEDDER, "refused", keys=["ask"])
    first, second = failures(pg.conn)
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
    assert [group.sink for group in failures(pg.conn, Selection(sink=EMBEDDING))] == [EMBEDDING]
    assert failures(pg.conn, Selection(sink="pinecone")) == []


def test_dead_operations_are_found_by_sink_and_entity(pg: DatabaseFixture) -> None:
    """Or all of them, up to a limit."""
    pg.save(*leagues(3))
    _dead_letter(pg, GRAPH)
    _dead_letter(pg, EMBEDDER)
    assert len(dead_ids(pg.conn)) == 6
    assert len(dead_ids(pg.conn, Selection(sink="neo4j"))) == 3
    assert len(dead_ids(pg.conn, limit=2)) == 2
    found = dead_ids(pg.conn, Selection(sink="neo4j", entity="l001"))
    assert [(kind, entity) for _, kind, entity in found] == [(sports.LEAGUE, id_of(league("l001")))]
    assert dead_ids(pg.conn, Selection(entity="unknown")) == []


def test_the_dead_are_retried_at_the_current_version(pg: DatabaseFixture) -> None:
    """As new operations; the old ones stay as history."""
    pg.save(NFL)
    _dead_letter(pg, GRAPH)
    assert pg.statuses(NFL)["neo4j"] == "failed"
    assert _retry(pg) == 1
    old, new = pg.ops("neo4j")
    assert (old.status, old.last_error) == ("superseded", "bad")
    assert (new.status, new.origin, new.attempts, new.version) == (
        "pending",
        "retry",
        0,
        pg.version(NFL),
    )
    assert pg.statuses(NFL)["neo4j"] == "pending"
    assert _retry(pg) == 0


def test_a_retry_joins_what_is_under_way(pg: DatabaseFixture) -> None:
    """There is a live operation already: it gets a rerun request."""
    pg.save(NFL)
    _dead_letter(pg, GRAPH)
    pg.save(league("nfl", tier="TIER1"))
    pg.claim("neo4j")
    assert _retry(pg) == 1
    assert pg.live("neo4j", "nfl").rerun_requested
    assert pg.counts("neo4j") == {"superseded": 1, "in_progress": 1}


def test_one_entity_that_died_often_is_retried_once(pg: DatabaseFixture) -> None:
    """The earlier ones are superseded by the latest, which is closed."""
    pg.save(NFL)
    for tier in ("1", "2", "3"):
        _dead_letter(pg, GRAPH)
        pg.save(league("nfl", tier=tier))
    pg.conn.execute("DELETE FROM sync_operation WHERE status = 'pending'")
    assert pg.counts("neo4j") == {"dead": 1, "superseded": 2}
    assert _retry(pg) == 1
    assert pg.counts("neo4j") == {"superseded": 3, "pending": 1}


def test_a_dead_vector_without_embedding_starts_with_it(
    pg: DatabaseFixture, database: Database
) -> None:
    """The index cannot be written before; its operation is born when the embedding settles."""
    pg.save(NFL)
    embed(database)
    _dead_letter(pg, INDEX)
    pg.save(league("nfl", description="Newer."))
    pg.conn.execute("DELETE FROM sync_operation WHERE sink = %s", (EMBEDDING,))
    assert _retry(pg) == 1
    assert pg.live(EMBEDDING, "nfl").origin == "retry"
    assert pg.counts("pinecone") == {"superseded": 1}
    embed(database)
    assert pg.live("pinecone", "nfl").version == pg.version(NFL)


def test_a_dead_vector_with_its_embedding_is_retried_itself(
    pg: DatabaseFixture, database: Database
) -> None:
    """Nothing is paid again."""
    pg.save(NFL)
    embed(database)
    _dead_letter(pg, INDEX)
    _retry(pg)
    assert pg.live("pinecone", "nfl").origin == "retry"
    assert pg.counts(EMBEDDING) == {"synced": 1}


def test_a_retry_keeps_the_unknown_outcome(pg: DatabaseFixture, database: Database) -> None:
    """The dead write may still be applied: a confirming write follows the retry."""
    pg.save(NFL)
    embed(database)
    pg.claim("pinecone")
    pg.expire_leases()
    _dead_letter(pg, INDEX)
    _retry(pg)
    _confirm(pg, INDEX)
    assert pg.live("pinecone", "nfl").origin == "confirm"


def test_a_dead_delete_is_retried_as_a_delete(pg: DatabaseFixture) -> None:
    """Also in the index, where no embedding is needed for it."""
    pg.save(NFL)
    pg.delete(NFL)
    _dead_letter(pg, GRAPH)
    _dead_letter(pg, INDEX)
    assert _retry(pg) == 2
    assert [pg.live(sink, "nfl").action for sink in ("neo4j", "pinecone")] == ["delete"] * 2


def test_the_dead_of_every_type_are_retried_together(pg: DatabaseFixture) -> None:
    """In one transaction, in the order of locks."""
    pg.save(NFL, archetype("racing"), example("ask"))
    _dead_letter(pg, GRAPH)
    assert _retry(pg) == 3
    assert pg.counts("neo4j") == {"superseded": 3, "pending": 3}


def test_a_retry_wakes_the_relay(pg: DatabaseFixture) -> None:
    """Once per sink, when it commits."""
    pg.save(NFL)
    _dead_letter(pg, GRAPH)
    pg.conn.execute(f"LISTEN {CHANNEL}")
    _retry(pg)
    heard = [n.payload for n in pg.conn.notifies(timeout=0.2)]
    assert sorted(heard) == sorted(TOPOLOGY.names)


def test_a_backfill_asks_for_what_is_not_confirmed(pg: DatabaseFixture) -> None:
    """Behind everything else."""
    pg.save(*leagues(4))
    _confirm(pg, GRAPH)
    pg.conn.execute(
        "UPDATE league SET neo4j_sync_status = 'failed' WHERE league_tag IN ('l001', 'l002')"
    )
    assert _backfill(pg, GRAPH) == 2
    live = [op for op in pg.ops("neo4j") if op.live]
    assert sorted(op.entity_key for op in live) == ["l001", "l002"]
    assert {(op.origin, op.priority) for op in live} == {("backfill", LOW_PRIORITY)}
    assert pg.statuses(league("l001"))["neo4j"] == "pending"
    assert pg.statuses(league("l000"))["neo4j"] == "synced"


def test_a_forced_backfill_asks_for_everything(pg: DatabaseFixture) -> None:
    """After a field was added, say; what waits is pending, not synced."""
    pg.save(*leagues(4))
    _confirm(pg, GRAPH)
    assert _backfill(pg, GRAPH) == 0
    assert _backfill(pg, GRAPH, force=True) == 4
    assert {pg.statuses(content)["neo4j"] for content in leagues(4)} == {"pending"}
    assert {op.version for op in pg.ops("neo4j") if op.live} == {
        pg.version(content) for content in leagues(4)
    }


def test_a_backfill_goes_page_by_page(pg: DatabaseFixture) -> None:
    """Each in a transaction of its own; every entity once, none twice."""
    pg.save(*leagues(25))
    _confirm(pg, GRAPH)
    after, sizes = None, []
    while True:
        with pg.conn.transaction():
            count, after = backfill_page(
                pg.conn, GRAPH, sports.LEAGUE, after=after, force=True, limit=10
            )
        if after is None:
            break
        sizes.append(count)
    assert sizes == [10, 10, 5]
    assert pg.counts("neo4j") == {"synced": 25, "pending": 25}


def test_a_page_without_anything_to_do_does_not_end_the_backfill(pg: DatabaseFixture) -> None:
    """The next page is told although this one was confirmed."""
    pg.save(*leagues(20))
    _confirm(pg, GRAPH)
    last = max(leagues(20), key=id_of)
    pg.conn.execute("UPDATE league SET neo4j_sync_status = 'failed' WHERE id = %s", (id_of(last),))
    assert _backfill(pg, GRAPH, limit=7) == 1
    assert pg.live("neo4j", last.league_tag)


def test_a_backfill_of_the_index_embeds_first(pg: DatabaseFixture, database: Database) -> None:
    """An entity without a vector goes to the embedder; one with a vector, to the index."""
    pg.save(league("old"))
    embed(database)
    deliver(database, FakeIndex())
    pg.save(league("new"))
    pg.conn.execute("DELETE FROM sync_operation")
    assert _backfill(pg, INDEX, force=True) == 2
    assert [(op.entity_key, op.sink) for op in sorted(pg.ops(), key=lambda o: o.sink)] == [
        ("new", EMBEDDING),
        ("old", "pinecone"),
    ]
    assert pg.statuses(league("new"))[EMBEDDING] == "pending"
    assert pg.statuses(league("old"))["pinecone"] == "pending"


def test_a_backfill_leaves_out_what_is_deleted(pg: DatabaseFixture) -> None:
    """Its removal is an operation already."""
    pg.save(*leagues(2))
    pg.delete(league("l001"))
    pg.conn.execute("DELETE FROM sync_operation")
    assert _backfill(pg, GRAPH, force=True) == 1


def test_a_backfill_joins_what_is_under_way(pg: DatabaseFixture) -> None:
    """An operation that waits keeps its priority; a leased one gets a rerun request."""
    pg.save(*leagues(2))
    pg.claim("neo4j", limit=1)
    _backfill(pg, GRAPH, force=True)
    ops = pg.ops("neo4j")
    assert sorted((op.status, op.rerun_requested, op.priority) for op in ops) == [
        ("in_progress", True, 0),
        ("pending", False, 0),
    ]


def test_an_empty_type_is_backfilled_at_once(pg: DatabaseFixture) -> None:
    """There is no page."""
    with pg.conn.transaction():
        page = backfill_page(pg.conn, GRAPH, sports.FEW_SHOT_EXAMPLE, after=None, force=True)
    assert page == (0, None)


def test_a_backfill_of_a_sink_without_a_status_asks_for_everything(pg: DatabaseFixture) -> None:
    """A new sink has no column on the entities: nothing says that it was confirmed."""
    pg.save(*leagues(3))
    assert _backfill(pg, SinkTraits("archive", guarded=True)) == 3
    assert pg.counts("archive") == {"pending": 3}


def test_deleted_entities_are_purged_after_their_grace(pg: DatabaseFixture) -> None:
    """When every sink has confirmed."""
    pg.save(*leagues(2))
    pg.delete(league("l001"))
    for sink in (GRAPH, INDEX, EMBEDDER):
        _confirm(pg, sink)
    assert _purge(pg) == 0
    pg.advance_time(GRACE + 1)
    assert _purge(pg) == 1
    assert pg.scalar("SELECT string_agg(league_tag, ' ') FROM league") == "l000"


@pytest.mark.parametrize("status", ["live", "dead"])
def test_what_a_sink_has_not_confirmed_is_not_purged(pg: DatabaseFixture, status: str) -> None:
    """Neither while its removal waits, nor when it was given up on."""
    pg.save(NFL)
    pg.delete(NFL)
    for sink in (INDEX, EMBEDDER):
        _confirm(pg, sink)
    if status == "dead":
        _dead_letter(pg, GRAPH)
    pg.advance_time(GRACE + 1)
    assert _purge(pg) == 0
    if status == "dead":
        _retry(pg)
    _confirm(pg, GRAPH)
    assert _purge(pg) == 1


def test_a_purged_entity_that_comes_back_is_the_same_one(pg: DatabaseFixture) -> None:
    """With the same id and a higher version: an old delete cannot reach it."""
    pg.save(NFL)
    before = pg.version(NFL)
    pg.delete(NFL)
    deleted = pg.version(NFL)
    for sink in (GRAPH, INDEX, EMBEDDER):
        _confirm(pg, sink)
    pg.advance_time(GRACE + 1)
    _purge(pg)
    pg.save(NFL)
    assert before < deleted < pg.version(NFL)
    assert pg.row(NFL)["id"] == id_of(NFL)


def test_a_purge_takes_what_belongs_to_a_league_with_it(pg: DatabaseFixture) -> None:
    """Documents and contracts of a league that is gone."""
    pg.save(NFL)
    pg.conn.execute(
        "INSERT INTO document (id, seed_id, league_id, title, content_hash) "
        "VALUES (gen_random_uuid(), 'd1', %s, 'Rules', 'h')",
        (id_of(NFL),),
    )
    pg.delete(NFL)
    pg.conn.execute("DELETE FROM sync_operation")
    pg.advance_time(GRACE + 1)
    _purge(pg)
    assert pg.scalar("SELECT count(*) FROM document") == 0


def _dead_letter(
    pg: DatabaseFixture, sink: SinkTraits, reason: str = "bad", keys: Sequence[str] | None = None
) -> None:
    token, operations = pg.claim(sink.name)
    chosen = [op for op in operations if keys is None or op.entity_key in keys]
    assert chosen
    pg.settle(sink, token, [Dead(op, op.version, ErrorKind.ITEM, reason) for op in chosen])
    release(pg.conn, [op.id for op in operations if op not in chosen], token)


def _confirm(pg: DatabaseFixture, sink: SinkTraits) -> None:
    token, operations = pg.claim(sink.name)
    pg.settle(sink, token, [Synced(op, op.version, op.entity_key, "x") for op in operations])


def _retry(pg: DatabaseFixture) -> int:
    with pg.conn.transaction():
        return retry_dead(pg.conn, dead_ids(pg.conn), TOPOLOGY)


def _backfill(
    pg: DatabaseFixture, sink: SinkTraits, *, force: bool = False, limit: int = 5000
) -> int:
    total, after = 0, None
    while True:
        with pg.conn.transaction():
            count, after = backfill_page(
                pg.conn, sink, sports.LEAGUE, after=after, force=force, limit=limit
            )
        total += count
        if after is None:
            return total


def _purge(pg: DatabaseFixture) -> int:
    with pg.conn.transaction():
        return purge_deleted(pg.conn, GRACE)
