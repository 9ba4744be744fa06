"""Writing down what became of a batch: every verdict, fenced by the lease."""

from __future__ import annotations

from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest

from altsync.contract import SinkTraits
from altsync.db import Database
from altsync.operations import Dead, ErrorKind, Operation, Retry, Settlement, Superseded, Synced
from altsync.outbox.enqueue import LOW_PRIORITY, MERGE_INTO_LIVE
from tests.integration.database_fixture import (
    CONFIRM_AFTER,
    GRAPH,
    INDEX,
    DatabaseFixture,
    Op,
    archetype,
    embed,
    example,
    league,
    leagues,
)

NFL = league("nfl")


def test_what_was_written_is_synced(pg: DatabaseFixture) -> None:
    """The operation is history, and the entity says where it is."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    settlement = pg.settle(GRAPH, token, [Synced(op, op.version, "node:nfl")])
    assert settlement == Settlement(synced=1)
    done = pg.last("neo4j", "nfl")
    assert (done.status, done.lease_token, done.last_error) == ("synced", None, None)
    row = pg.row(NFL)
    assert (row["neo4j_sync_status"], row["neo4j_node_id"]) == ("synced", "node:nfl")
    assert row["neo4j_synced_at"] is not None
    assert row["pinecone_sync_status"] == "pending"


def test_a_vector_remembers_its_namespace(pg: DatabaseFixture, database: Database) -> None:
    """The namespace is stored, so that the vector can be removed from it."""
    pg.save(example("ask"))
    embed(database)
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Synced(op, op.version, "ask", "triage")])
    row = pg.row(example("ask"))
    assert (row["pinecone_sync_status"], row["pinecone_id"], row["pinecone_namespace"]) == (
        "synced",
        "ask",
        "triage",
    )


def test_a_confirmed_delete_clears_ids_and_namespace(
    pg: DatabaseFixture, database: Database
) -> None:
    """Nothing of it is left in any sink, and its row says so."""
    pg.save(example("ask"))
    embed(database)
    for sink, namespace in ((GRAPH, None), (INDEX, "triage")):
        _sync(pg, sink, namespace)
    pg.delete(example("ask"))
    for sink in (GRAPH, INDEX):
        token, (op,) = pg.claim(sink.name)
        pg.settle(sink, token, [Synced(op, op.version)])
    row = pg.row(example("ask"))
    assert (row["neo4j_node_id"], row["pinecone_id"], row["pinecone_namespace"]) == (None,) * 3
    assert set(pg.statuses(example("ask")).values()) == {"synced"}


def test_what_is_not_wanted_any_more_is_superseded(pg: DatabaseFixture) -> None:
    """It ends without changing the entity."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    settlement = pg.settle(GRAPH, token, [Superseded(op, "the row is gone")])
    assert settlement == Settlement(superseded=1)
    done = pg.last("neo4j", "nfl")
    assert (done.status, done.last_error, done.error_kind) == (
        "superseded",
        "the row is gone",
        None,
    )
    assert pg.statuses(NFL)["neo4j"] == "pending"


def test_a_dead_operation_says_why(pg: DatabaseFixture) -> None:
    """It stays, with the reason, and the entity is marked as failed."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    settlement = pg.settle(GRAPH, token, [Dead(op, op.version, ErrorKind.ITEM, "too long")])
    assert settlement == Settlement(dead=1)
    done = pg.last("neo4j", "nfl")
    assert (done.status, done.error_kind, done.last_error) == ("dead", "item", "too long")
    assert pg.statuses(NFL)["neo4j"] == "failed"


def test_a_retry_is_due_after_its_delay(pg: DatabaseFixture) -> None:
    """The attempt is spent, the reason kept, the lease ended."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    settlement = pg.settle(GRAPH, token, [Retry(op, ErrorKind.ITEM, "refused", 20.0)])
    assert settlement == Settlement(retried=1)
    op_now = pg.live("neo4j", "nfl")
    assert (op_now.status, op_now.attempts, op_now.timeout_count) == ("pending", 1, 0)
    assert (op_now.last_error, op_now.error_kind, op_now.outcome_unknown) == (
        "refused",
        "item",
        False,
    )
    assert 10 < op_now.wait <= 20


def test_a_fault_of_the_sink_gives_the_attempt_back(pg: DatabaseFixture) -> None:
    """An outage costs the record nothing but time."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    verdict = Retry(
        op, ErrorKind.SINK, "down", 20.0, give_back=True, outcome_unknown=True, timed_out=True
    )
    pg.settle(GRAPH, token, [verdict])
    op_now = pg.live("neo4j", "nfl")
    assert (op_now.attempts, op_now.timeout_count, op_now.outcome_unknown) == (0, 1, True)
    assert 10 < op_now.wait <= 20


def test_a_retry_after_a_rerun_request_is_due_now(pg: DatabaseFixture) -> None:
    """The row that failed is no longer the current one: it starts afresh."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    pg.save(league("nfl", tier="TIER1"))
    pg.settle(GRAPH, token, [Retry(op, ErrorKind.ITEM, "refused", 20.0)])
    op_now = pg.live("neo4j", "nfl")
    assert (op_now.attempts, op_now.wait <= 0, op_now.rerun_requested) == (0, True, False)


def test_an_outage_is_waited_for_even_after_a_rerun_request(pg: DatabaseFixture) -> None:
    """A newer row does not bring the sink back."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    pg.save(league("nfl", tier="TIER1"))
    pg.settle(GRAPH, token, [Retry(op, ErrorKind.SINK, "down", 20.0, give_back=True)])
    op_now = pg.live("neo4j", "nfl")
    assert (op_now.attempts, op_now.wait > 10) == (0, True)


def test_a_rerun_request_is_followed_up(pg: DatabaseFixture) -> None:
    """The worker may have read the row before the change: another operation carries it."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    pg.save(league("nfl", tier="TIER1"))
    newer = pg.version(NFL)
    pg.settle(GRAPH, token, [Synced(op, op.version, "node:nfl")])
    first, second = pg.ops("neo4j")
    assert (first.status, first.version) == ("synced", op.version)
    assert (second.status, second.version, second.origin, second.attempts) == (
        "pending",
        newer,
        "seed",
        0,
    )
    assert second.wait <= 0
    assert pg.statuses(NFL)["neo4j"] == "pending"


def test_a_follow_up_at_the_same_version_is_not_dropped(pg: DatabaseFixture) -> None:
    """Comparing versions is not enough: the embedding asks again at the version it was."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    _ask_again(pg, op)
    pg.settle(GRAPH, token, [Superseded(op, "waits for its embedding")])
    assert pg.live("neo4j", "nfl").version == op.version


def test_what_is_wanted_newer_than_written_is_followed_up(pg: DatabaseFixture) -> None:
    """Even without a rerun request while it was leased."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    pg.settle(GRAPH, token, [Synced(op, op.version - 1, "node:nfl")])
    first, second = pg.ops("neo4j")
    assert (first.status, first.version) == ("synced", op.version - 1)
    assert (second.status, second.version) == ("pending", op.version)
    assert pg.statuses(NFL)["neo4j"] == "pending"


def test_history_says_what_was_written(pg: DatabaseFixture) -> None:
    """More than was asked for, when the row had moved on before it was read."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    pg.conn.execute("UPDATE league SET version = version + 5")
    pg.settle(GRAPH, token, [Synced(op, op.version + 5, "node:nfl")])
    (done,) = pg.ops("neo4j")
    assert (done.status, done.version) == ("synced", op.version + 5)
    assert pg.statuses(NFL)["neo4j"] == "synced"


def test_a_dead_letter_with_a_rerun_request_is_followed_up(pg: DatabaseFixture) -> None:
    """The corrected row gets its chance, and is not marked by the old one's death."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    pg.save(league("nfl", tier="TIER1"))
    pg.settle(GRAPH, token, [Dead(op, op.version, ErrorKind.ITEM, "too long")])
    assert [o.status for o in pg.ops("neo4j")] == ["dead", "pending"]
    assert pg.statuses(NFL)["neo4j"] == "pending"


def test_an_unknown_write_to_an_unguarded_sink_is_confirmed(
    pg: DatabaseFixture, database: Database
) -> None:
    """Written once more after everything that may still be under way has landed."""
    op = _outcome_unknown(pg, database)
    confirming = pg.live("pinecone", "nfl")
    assert (confirming.origin, confirming.version) == ("confirm", op.version)
    assert not confirming.outcome_unknown
    assert CONFIRM_AFTER - 10 < confirming.wait <= CONFIRM_AFTER
    assert pg.statuses(NFL)["pinecone"] == "synced"


def test_a_confirming_write_is_not_confirmed(pg: DatabaseFixture, database: Database) -> None:
    """One repeat is enough: it came after the horizon."""
    _outcome_unknown(pg, database)
    pg.advance_time(CONFIRM_AFTER)
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    assert pg.counts("pinecone") == {"synced": 2}


def test_a_guarded_sink_needs_no_confirming_write(pg: DatabaseFixture) -> None:
    """It refuses the late write by itself."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    outcome_unknown = Retry(
        op, ErrorKind.SINK, "timed out", 0, give_back=True, outcome_unknown=True
    )
    pg.settle(GRAPH, token, [outcome_unknown])
    token, (op,) = pg.claim("neo4j")
    assert op.outcome_unknown
    pg.settle(GRAPH, token, [Synced(op, op.version, "node:nfl")])
    assert pg.counts("neo4j") == {"synced": 1}


def test_an_unknown_outcome_outlives_the_wait_for_an_embedding(
    pg: DatabaseFixture, database: Database
) -> None:
    """The success after the wait gets a confirming write, and the one after that gets none."""
    pg.save(NFL)
    embed(database)
    pg.claim("pinecone")
    pg.expire_leases()
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Superseded(op, "waits for its embedding", waits=True)])
    assert not [op for op in pg.ops("pinecone") if op.live]
    pg.save(league("nfl", tier="TIER1"))
    _sync(pg, INDEX, "default")
    assert pg.live("pinecone", "nfl").origin == "confirm"
    pg.advance_time(1000)
    _sync(pg, INDEX, "default")
    assert not [op for op in pg.ops("pinecone") if op.live]


def test_namespaces_outlive_the_wait_for_an_embedding(
    pg: DatabaseFixture, database: Database
) -> None:
    """The confirming write after the next success leaves them, though every outcome is known."""
    pg.save(NFL)
    embed(database)
    token, (op,) = pg.claim("pinecone")
    pg.conn.execute("UPDATE sync_operation SET namespaces = '{former}' WHERE sink = 'pinecone'")
    pg.settle(INDEX, token, [Superseded(op, "waits for its embedding", waits=True)])
    pg.save(league("nfl", tier="TIER1"))
    _sync(pg, INDEX, "default")
    pg.advance_time(1000)
    (op,) = pg.claim("pinecone")[1]
    assert op.namespaces == ("former",)


def test_a_follow_up_inherits_the_unknown_outcome(pg: DatabaseFixture, database: Database) -> None:
    """And is confirmed itself, instead of the operation before it."""
    pg.save(NFL)
    embed(database)
    pg.claim("pinecone")
    pg.expire_leases()
    token, (op,) = pg.claim("pinecone")
    pg.save(league("nfl", tier="TIER1"))
    pg.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    follow_up = pg.live("pinecone", "nfl")
    assert (follow_up.outcome_unknown, follow_up.origin, follow_up.wait <= 0) == (
        True,
        "seed",
        True,
    )


def test_a_dead_letter_is_not_confirmed(pg: DatabaseFixture, database: Database) -> None:
    """It was given up on."""
    pg.save(NFL)
    embed(database)
    pg.claim("pinecone")
    pg.expire_leases()
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Dead(op, op.version, ErrorKind.ITEM, "refused")])
    assert pg.counts("pinecone") == {"dead": 1}


def test_the_unknown_outcome_of_a_dead_letter_outlives_it(
    pg: DatabaseFixture, database: Database
) -> None:
    """The dead write may be applied after the next one, which is therefore confirmed."""
    pg.save(NFL)
    embed(database)
    pg.claim("pinecone")
    pg.expire_leases()
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Dead(op, op.version, ErrorKind.UNKNOWN, "timed out")])
    pg.save(league("nfl", tier="TIER1"))
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    assert [o.status for o in pg.ops("pinecone")] == ["superseded", "synced", "pending"]
    assert pg.live("pinecone", "nfl").origin == "confirm"


def test_a_success_closes_the_dead(pg: DatabaseFixture) -> None:
    """The write that passed closes the dead letter; those of other sinks stay."""
    pg.save(NFL, league("nba"))
    for sink in ("neo4j", "embedding"):
        token, operations = pg.claim(sink)
        pg.settle(GRAPH, token, [Dead(op, op.version, ErrorKind.ITEM, "bad") for op in operations])
    pg.save(league("nfl", description="Repaired."))
    _sync(pg, GRAPH)
    assert [op.status for op in pg.ops("neo4j", "nfl")] == ["superseded", "synced"]
    assert [op.status for op in pg.ops("neo4j", "nba")] == ["dead"]
    assert [op.status for op in pg.ops("embedding", "nfl")] == ["dead", "pending"]


def test_statuses_flip_only_at_the_version_that_was_written(pg: DatabaseFixture) -> None:
    """A newer row stays pending when an older one is settled."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    pg.conn.execute("UPDATE league SET version = nextval('entity_version')")
    pg.settle(GRAPH, token, [Synced(op, op.version, "node:nfl")])
    assert pg.statuses(NFL)["neo4j"] == "pending"


def test_the_graph_is_compared_by_its_own_version(pg: DatabaseFixture) -> None:
    """A changed edge is a change for the graph, and none for the index."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    pg.conn.execute("UPDATE league SET edges_version = nextval('entity_version')")
    pg.settle(GRAPH, token, [Synced(op, op.version, "node:nfl")])
    assert pg.statuses(NFL)["neo4j"] == "pending"


def test_a_late_settle_changes_nothing(pg: DatabaseFixture) -> None:
    """A worker that slept past its lease is told so: each kind of verdict counts as lost."""
    pg.save(*leagues(4))
    stale, operations = pg.claim("neo4j")
    pg.expire_leases()
    fresh, _ = pg.claim("neo4j", max_attempts=99, limit=1000)
    before = pg.ops(), [pg.row(content) for content in leagues(4)]
    a, b, c, d = operations
    settlement = pg.settle(
        GRAPH,
        stale,
        [
            Synced(a, a.version, "node:late"),
            Superseded(b, "late"),
            Dead(c, c.version, ErrorKind.ITEM, "late"),
            Retry(d, ErrorKind.ITEM, "late", 100.0),
        ],
    )
    assert settlement == Settlement(lost=4)
    after = pg.ops(), [pg.row(content) for content in leagues(4)]
    assert [_without_wait(op) for op in after[0]] == [_without_wait(op) for op in before[0]]
    assert after[1] == before[1]
    assert {op.lease_token for op in pg.ops("neo4j")} == {fresh}


def test_losing_one_lease_does_not_lose_the_others(pg: DatabaseFixture) -> None:
    """The operations that are still held are settled."""
    pg.save(*leagues(3))
    token, operations = pg.claim("neo4j")
    pg.conn.execute("UPDATE sync_operation SET available_at = now() WHERE entity_key = 'l001'")
    pg.claim("neo4j")
    verdicts = [Synced(op, op.version, f"node:{op.entity_key}") for op in operations]
    assert pg.settle(GRAPH, token, verdicts) == Settlement(synced=2, lost=1)
    assert [pg.statuses(content)["neo4j"] for content in leagues(3)] == [
        "synced",
        "pending",
        "synced",
    ]


def test_settling_twice_settles_once(pg: DatabaseFixture) -> None:
    """The lease ends with the first."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    verdicts = [Synced(op, op.version, "node:nfl")]
    assert pg.settle(GRAPH, token, verdicts) == Settlement(synced=1)
    assert pg.settle(GRAPH, token, verdicts) == Settlement(lost=1)


def test_a_settle_that_is_rolled_back_leaves_the_lease(pg: DatabaseFixture) -> None:
    """All of it or nothing."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    with pytest.raises(ZeroDivisionError), pg.conn.transaction():
        pg.settle(GRAPH, token, [Synced(op, op.version, "node:nfl")])
        raise ZeroDivisionError
    assert pg.live("neo4j", "nfl").lease_token == token
    assert pg.statuses(NFL)["neo4j"] == "pending"


def test_a_mixed_batch(pg: DatabaseFixture) -> None:
    """Every verdict, every type of entity, in one transaction."""
    pg.save(NFL, league("nba"), league("mlb"), archetype("racing"), example("ask"))
    token, operations = pg.claim("neo4j")
    by_key = {op.entity_key: op for op in operations}
    settlement = pg.settle(
        GRAPH,
        token,
        [
            Synced(by_key["nfl"], by_key["nfl"].version, "node:nfl"),
            Dead(by_key["nba"], by_key["nba"].version, ErrorKind.ITEM, "bad"),
            Retry(by_key["mlb"], ErrorKind.UNKNOWN, "odd", 5.0),
            Synced(by_key["racing"], by_key["racing"].version, "node:racing"),
            Superseded(by_key["ask"], "the row is gone"),
        ],
    )
    assert settlement == Settlement(synced=2, superseded=1, dead=1, retried=1)
    saved = (NFL, league("nba"), league("mlb"), archetype("racing"), example("ask"))
    statuses = [pg.statuses(content)["neo4j"] for content in saved]
    assert statuses == ["synced", "failed", "pending", "synced", "pending"]


def test_a_long_reason_is_cut(pg: DatabaseFixture) -> None:
    """A row is no place for a whole response body."""
    pg.save(*leagues(2))
    token, (a, b) = pg.claim("neo4j")
    reason = "x" * 100_000
    pg.settle(
        GRAPH,
        token,
        [Dead(a, a.version, ErrorKind.ITEM, reason), Retry(b, ErrorKind.ITEM, reason, 1)],
    )
    assert {len(op.last_error or "") for op in pg.ops("neo4j")} == {2000}


def test_an_error_text_that_no_database_stores(pg: DatabaseFixture) -> None:
    """A sink's error may hold any character; the batch is settled all the same."""
    pg.save(*leagues(2))
    token, (a, b) = pg.claim("neo4j")
    reason = "bad value '\x00' or \ud800"
    settlement = pg.settle(
        GRAPH,
        token,
        [Dead(a, a.version, ErrorKind.ITEM, reason), Retry(b, ErrorKind.ITEM, reason, 1)],
    )
    assert settlement == Settlement(dead=1, retried=1)
    assert all((op.last_error or "").startswith("bad value") for op in pg.ops("neo4j"))


def test_a_follow_up_keeps_the_priority(pg: DatabaseFixture) -> None:
    """A backfill that is enqueued again stays behind all other work."""
    pg.save(NFL)
    pg.conn.execute("UPDATE sync_operation SET priority = %s", (LOW_PRIORITY,))
    token, (op,) = pg.claim("neo4j")
    _ask_again(pg, op, priority=LOW_PRIORITY)
    pg.settle(GRAPH, token, [Synced(op, op.version, "node:nfl")])
    assert pg.live("neo4j", "nfl").priority == LOW_PRIORITY


def test_a_purged_entity_settles_all_the_same(pg: DatabaseFixture) -> None:
    """The operation ends, whatever became of its row."""
    pg.save(NFL)
    token, (op,) = pg.claim("neo4j")
    pg.conn.execute("DELETE FROM league")
    assert pg.settle(GRAPH, token, [Superseded(op, "the row is gone")]).superseded == 1


def test_an_operation_cannot_die_without_a_reason(pg: DatabaseFixture) -> None:
    """The table refuses it."""
    pg.save(NFL)
    with pytest.raises(psycopg.errors.CheckViolation):
        pg.conn.execute("UPDATE sync_operation SET status = 'dead', finished_at = now()")


def test_no_settlement_with_an_unknown_token(pg: DatabaseFixture) -> None:
    """A pending operation has no lease to settle."""
    pg.save(NFL)
    _, (op,) = pg.claim("neo4j")
    assert pg.settle(GRAPH, uuid4(), [Synced(op, op.version)]) == Settlement(lost=1)


def _sync(pg: DatabaseFixture, sink: SinkTraits, namespace: str | None = None) -> None:
    token, operations = pg.claim(sink.name)
    assert operations
    verdicts = [Synced(op, op.version, f"id:{op.entity_key}", namespace) for op in operations]
    pg.settle(sink, token, verdicts)


def _outcome_unknown(pg: DatabaseFixture, database: Database) -> Operation:
    """Let ``nfl`` be written to the index after a try whose outcome is not known."""
    pg.save(NFL)
    embed(database)
    token, (op,) = pg.claim("pinecone")
    verdict = Retry(op, ErrorKind.SINK, "timed out", 0, give_back=True, outcome_unknown=True)
    pg.settle(INDEX, token, [verdict])
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Synced(op, op.version, "nfl", "default")])
    return op


def _ask_again(pg: DatabaseFixture, op: Operation, priority: int = 0) -> None:
    pg.conn.execute(
        f"""
        INSERT INTO sync_operation AS o
          (entity_type, entity_id, entity_key, sink, action, version, origin, priority)
        VALUES (%s, %s, %s, 'neo4j', 'upsert', %s, 'backfill', %s) {MERGE_INTO_LIVE}
        """,
        (op.entity_type, op.entity_id, op.entity_key, op.version, priority),
    )


def _without_wait(op: Op) -> Op:
    return replace(op, wait=0.0)
