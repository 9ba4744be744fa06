"""Dead letters: which are alike, which are meant, and giving up on them for good."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from altsync import db
from altsync.contract import SinkTraits
from altsync.db import Database
from altsync.entities import EntityType, Row
from altsync.errors import SinkFailure
from altsync.operations import Dead, ErrorKind, Synced
from altsync.outbox.claim import release
from altsync.outbox.retention import prune_range
from altsync.outbox.upkeep import backfill_page, purge_deleted
from altsync.retry import Selection, count_dead, dead_ids, discard_dead, failures, retry_dead
from altsync.status.sql import backlog
from altsync.store.reads import clock
from altsync.why.sql import operation_rows
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import (
    CONFIRM_AFTER,
    EMBEDDER,
    GRAPH,
    INDEX,
    DatabaseFixture,
    deliver,
    delivery,
    embed,
    example,
    league,
)
from tests.integration.fakes import Call, FakeGraph, FakeIndex

NFL = league("nfl")
WHY = "the graph has no room for it"
ME = "me@here"

#: Seconds that a deleted row stays.
GRACE = 3600.0

UUID_1 = "0b6fbd2a-7a77-4b5c-9d1e-3f7f2a5c9a10"
UUID_2 = "ffffffff-0000-4b5c-9d1e-3f7f2a5c9a10"


@pytest.mark.parametrize(
    ("one", "other", "shown"),
    [
        ("41230 bytes, at most 40960", "50001 bytes, at most 40960", "… bytes, at most …"),
        ("vectors[7] is wrong", "vectors[117] is wrong", "vectors[…] is wrong"),
        (f"node 4:{UUID_1}:12 is locked", f"node 4:{UUID_2}:7 is locked", "node …:…:… is locked"),
        ("trace deadbeef00112233", "trace 0123456789abcdef", "trace …"),
        ("0.125 is too far", "12.5 is too far", "… is too far"),
        ("'l000' exists", "'l001' exists", "'…' exists"),
        ('key "l000" exists', 'key "l001" exists', 'key "…" exists'),
    ],
)
def test_errors_that_differ_by_ids_and_numbers_are_one_group(
    pg: DatabaseFixture, one: str, other: str, shown: str
) -> None:
    """The group shows what they share, and the latest one in full."""
    _dead_letter(pg, GRAPH, {"l000": one, "l001": other})
    (group,) = failures(pg.conn)
    assert (group.count, group.reason, group.pattern) == (2, shown, shown)
    assert group.sample_reason in (one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pinecone: [400] no", "Pinecone: [403] no"),
        ("the embedder answered 401 no", "the embedder answered 404 no"),
        ("it is too long", "it is too short"),
        ("the field 'tier' is missing", "the field 'sport' is missing"),
    ],
)
def test_errors_that_mean_something_else_are_not(pg: DatabaseFixture, one: str, other: str) -> None:
    """Status codes say what went wrong, and so do words."""
    _dead_letter(pg, GRAPH, {"l000": one, "l001": other})
    assert {group.reason for group in failures(pg.conn)} == {one, other}


def test_a_group_of_equal_errors_shows_them_in_full(pg: DatabaseFixture) -> None:
    """Nothing is hidden where nothing differs."""
    _dead_letter(pg, GRAPH, {"l000": "41230 bytes", "l001": "41230 bytes"})
    (group,) = failures(pg.conn)
    assert (group.reason, group.pattern) == ("41230 bytes", "… bytes")


def test_one_error_of_two_sinks_or_kinds_is_no_group(pg: DatabaseFixture) -> None:
    """Sink and kind are part of what a group is."""
    _dead_letter(pg, GRAPH, {"l000": "no", "l001": "no"})
    _dead_letter(pg, EMBEDDER, {"l000": "no"})
    pg.conn.execute(
        "UPDATE sync_operation SET error_kind = 'lost' WHERE sink = 'neo4j' AND entity_key = 'l001'"
    )
    found = {(g.sink, g.error_kind): g.count for g in failures(pg.conn)}
    assert found == {("embedding", "item"): 1, ("neo4j", "item"): 1, ("neo4j", "lost"): 1}


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (Selection(), {"l000", "l001", "l002"}),
        (Selection(sink="neo4j"), {"l000", "l001", "l002"}),
        (Selection(sink="pinecone"), set()),
        (Selection(entity="l001"), {"l001"}),
        (Selection(entity_type=sports.LEAGUE), {"l000", "l001", "l002"}),
        (Selection(entity_type=sports.FEW_SHOT_EXAMPLE), set()),
        (Selection(error_kind=ErrorKind.ITEM), {"l000", "l001", "l002"}),
        (Selection(error_kind=ErrorKind.LOST), set()),
        (Selection(reason="bytes"), {"l000", "l001"}),
        (Selection(reason="410 bytes"), {"l000"}),
        (Selection(reason="… bytes"), {"l000", "l001"}),
        (Selection(reason="100%_"), set()),
        (Selection(pattern="… bytes"), {"l000", "l001"}),
        (Selection(pattern="bytes"), set()),
        (Selection(older_than=3600), {"l002"}),
        (Selection(newer_than=3600), {"l000", "l001"}),
        (Selection(older_than=60, newer_than=3600), set()),
        (Selection(reason="bytes", entity="l000"), {"l000"}),
        (Selection(reason="bytes", older_than=3600), set()),
    ],
)
def test_what_is_given_narrows_what_is_meant(
    pg: DatabaseFixture, which: Selection, expected: set[str]
) -> None:
    """The same for listing, counting and finding."""
    _dead_letter(pg, GRAPH, {"l000": "410 bytes", "l001": "77 bytes", "l002": "gone"})
    pg.conn.execute(
        "UPDATE sync_operation SET finished_at = now() - interval '2 hours' "
        "WHERE entity_key = 'l002' AND sink = 'neo4j'"
    )
    ids = {op_id for op_id, _, _ in dead_ids(pg.conn, which)}
    assert {op.entity_key for op in pg.ops() if op.id in ids} == expected
    assert count_dead(pg.conn, which) == len(expected)
    assert sum(group.count for group in failures(pg.conn, which)) == len(expected)


def test_what_is_discarded_is_kept_with_who_and_why(pg: DatabaseFixture) -> None:
    """Out of the failures, never to be retried, and the entity still counts as failed."""
    _dead_letter(pg, GRAPH, {"nfl": "too large"})
    assert _discard(pg) == 1
    assert failures(pg.conn) == []
    assert _retry(pg) == 0
    (op,) = operation_rows(pg.conn, sink="neo4j", status="discarded")
    assert (op.last_error, op.discarded_by, op.discarded_why) == ("too large", ME, WHY)
    assert op.discarded_at is not None
    assert op.finished_at is not None
    assert op.discarded_at >= op.finished_at
    assert pg.statuses(NFL)["neo4j"] == "failed"
    assert backlog(pg.conn)["neo4j"].discarded == 1
    assert backlog(pg.conn)["neo4j"].dead == 0
    assert _discard(pg) == 0


def test_a_later_change_is_enqueued_as_always(pg: DatabaseFixture, database: Database) -> None:
    """Its success makes the entity synced; what was discarded stays in the audit."""
    _dead_letter(pg, GRAPH, {"nfl": "too large"})
    _discard(pg)
    pg.save(league("nfl", tier="TIER1"))
    assert pg.statuses(NFL)["neo4j"] == "pending"
    deliver(database, FakeGraph())
    assert pg.statuses(NFL)["neo4j"] == "synced"
    assert pg.counts("neo4j") == {"discarded": 1, "synced": 1}


def test_a_change_under_way_is_not_disturbed(pg: DatabaseFixture) -> None:
    """Only what is dead is discarded: the live operation goes on, and the entity is pending."""
    _dead_letter(pg, GRAPH, {"nfl": "too large"})
    pg.save(league("nfl", tier="TIER1"))
    assert _discard(pg) == 1
    assert pg.live("neo4j", "nfl").status == "pending"
    assert pg.statuses(NFL)["neo4j"] == "pending"


def test_a_backfill_asks_for_what_was_discarded(pg: DatabaseFixture) -> None:
    """The sink has not confirmed it: that is the way back."""
    _dead_letter(pg, GRAPH, {"nfl": "too large"})
    _discard(pg)
    backfill_page(pg.conn, GRAPH, sports.LEAGUE, after=None, force=False)
    assert pg.live("neo4j", "nfl").origin == "backfill"
    assert pg.statuses(NFL)["neo4j"] == "pending"


def test_who_waited_for_a_discarded_embedding_waits_no_more(
    pg: DatabaseFixture, database: Database
) -> None:
    """The index failed with it, and stays so; a later change embeds, and both are synced."""
    _dead_letter(pg, EMBEDDER, {"nfl": "refused"})
    for step in (lambda: None, lambda: _discard(pg)):
        step()
        assert {s: pg.statuses(NFL)[s] for s in ("embedding", "pinecone")} == {
            "embedding": "failed",
            "pinecone": "failed",
        }
    pg.save(league("nfl", description="Shorter."))
    assert pg.statuses(NFL)["pinecone"] == "pending"
    embed(database)
    deliver(database, FakeIndex())
    assert set(pg.statuses(NFL).values()) == {"synced", "pending"}
    assert pg.statuses(NFL)["pinecone"] == "synced"


def test_a_vector_that_comes_after_all_makes_the_index_wait_for_it(
    pg: DatabaseFixture, database: Database
) -> None:
    """A live operation always means pending."""
    _dead_letter(pg, EMBEDDER, {"nfl": "refused"})
    _discard(pg)
    backfill_page(pg.conn, EMBEDDER, sports.LEAGUE, after=None, force=False)
    embed(database)
    assert pg.live("pinecone", "nfl").status == "pending"
    assert pg.statuses(NFL)["pinecone"] == "pending"


@pytest.mark.parametrize("given_up", ["discarded", "pruned"])
def test_who_still_asked_for_a_discarded_embedding_waits_no_more(
    pg: DatabaseFixture, database: Database, given_up: str
) -> None:
    """The index had an operation of its own when it was discarded: its end says so as well."""
    pg.save(NFL)
    embed(database)
    pg.save(league("nfl", tier="TIER1"))
    pg.save(league("nfl", description="Refused.", tier="TIER1"))
    _dead_letter(pg, EMBEDDER, {"nfl": "refused"})
    _discard(pg) if given_up == "discarded" else _prune(pg)
    assert pg.statuses(NFL)["pinecone"] == "pending"
    delivery(database, FakeIndex()).drain(10)
    assert pg.counts("pinecone") == {"superseded": 1}
    assert pg.statuses(NFL)["embedding"] == "failed"
    assert pg.statuses(NFL)["pinecone"] == "failed"


def test_who_waits_for_a_dead_embedding_failed_until_it_is_retried(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(NFL)
    embed(database)
    pg.save(league("nfl", tier="TIER1"))
    pg.save(league("nfl", description="Refused.", tier="TIER1"))
    _dead_letter(pg, EMBEDDER, {"nfl": "refused"})
    delivery(database, FakeIndex()).drain(10)
    assert pg.statuses(NFL)["pinecone"] == "failed"
    _retry(pg)
    assert {pg.statuses(NFL)[s] for s in ("embedding", "pinecone")} == {"pending"}
    embed(database)
    delivery(database, FakeIndex()).drain(10)
    assert {pg.statuses(NFL)[s] for s in ("embedding", "pinecone")} == {"synced"}


def test_a_confirming_write_ends_when_its_embedding_is_dead(
    pg: DatabaseFixture, database: Database
) -> None:
    """It knows where a late write may be. That is kept, and seen to when the vector comes."""
    index, late = _lost_between_two_places(pg, database)
    _dead_letter(pg, EMBEDDER, {"ask": "refused"})
    _drain(pg, database, index, rounds=3)
    assert not [op for op in pg.ops("pinecone") if op.live]
    index.land(late)
    _retry(pg)
    embed(database)
    _drain(pg, database, index, rounds=3)
    assert [space for _, space, _ in index.held] == ["support"]
    assert not [op for op in pg.ops("pinecone") if op.live]
    assert set(pg.statuses(example("ask")).values()) == {"synced", "pending"}


def test_a_confirming_write_behind_a_discarded_embedding_leaves_the_index_failed(
    pg: DatabaseFixture, database: Database
) -> None:
    """And a deletion still removes what landed late, wherever that was."""
    index, late = _lost_between_two_places(pg, database)
    _dead_letter(pg, EMBEDDER, {"ask": "refused"})
    _discard(pg)
    _drain(pg, database, index, rounds=3)
    assert pg.statuses(example("ask"))["pinecone"] == "failed"
    assert not [op for op in pg.ops("pinecone") if op.live]
    index.land(late)
    pg.delete(example("ask"))
    _drain(pg, database, index, rounds=3)
    assert index.held == {}
    assert not [op for op in pg.ops("pinecone") if op.live]


def test_an_unknown_outcome_is_confirmed_after_the_embedding(
    pg: DatabaseFixture, database: Database
) -> None:
    """The operation that the vector brings finds it, and a confirming write follows."""
    index, late = _lost_between_two_places(pg, database)
    _drain(pg, database, index, rounds=3)
    assert not [op for op in pg.ops("pinecone") if op.live]
    index.land(late)
    embed(database)
    _drain(pg, database, index, rounds=3)
    assert [space for _, space, _ in index.held] == ["support"]
    assert not [op for op in pg.ops("pinecone") if op.live]


def test_a_deleted_entity_goes_for_good_after_its_delete_was_discarded(pg: DatabaseFixture) -> None:
    """Nothing waits for the sink any more."""
    pg.save(NFL)
    pg.delete(NFL)
    for sink in (GRAPH, INDEX):
        _dead_letter(pg, sink, {"nfl": "gone away"})
    pg.conn.execute("DELETE FROM sync_operation WHERE sink = 'embedding'")
    pg.advance_time(GRACE + 1)
    assert purge_deleted(pg.conn, GRACE) == 0
    _discard(pg)
    assert purge_deleted(pg.conn, GRACE) == 1
    assert pg.find(NFL) is None


def test_an_unknown_outcome_outlives_the_discard(pg: DatabaseFixture, database: Database) -> None:
    """The discarded write may still be applied, so a confirming write follows the next success."""
    pg.save(NFL)
    embed(database)
    pg.claim("pinecone")
    pg.expire_leases()
    _dead_letter(pg, INDEX, {"nfl": "bad"})
    _discard(pg)
    pg.save(league("nfl", tier="TIER1"))
    _confirm(pg, INDEX)
    assert pg.live("pinecone", "nfl").origin == "confirm"
    pg.advance_time(1000)
    _confirm(pg, INDEX)
    assert not [op for op in pg.ops("pinecone") if op.live]
    pg.save(league("nfl", tier="TIER2"))
    _confirm(pg, INDEX)
    assert not [op for op in pg.ops("pinecone") if op.live]
    assert pg.counts("pinecone")["discarded"] == 1


def test_types_are_discarded_together(pg: DatabaseFixture) -> None:
    """In one transaction, in the order of locks."""
    pg.save(NFL, example("ask"))
    _dead_letter(pg, GRAPH, {"nfl": "no", "ask": "no"})
    assert _discard(pg) == 2
    assert pg.counts("neo4j") == {"discarded": 2}


def test_a_retry_leaves_the_embedding_of_a_deleted_entity_as_it_is(
    pg: DatabaseFixture, database: Database
) -> None:
    """Nothing is left to embed, so no operation would ever set it to synced."""
    pg.save(NFL)
    embed(database)
    _dead_letter(pg, INDEX, {"nfl": "no"})
    pg.save(league("nfl", description="Another."))
    pg.delete(NFL)
    assert pg.live("embedding", "nfl").status == "pending"
    assert _retry(pg) == 1
    assert pg.statuses(NFL)["embedding"] == "synced"
    embed(database)
    assert pg.statuses(NFL)["embedding"] == "synced"


def test_a_retried_embedding_of_a_deleted_entity_ends(
    pg: DatabaseFixture, database: Database
) -> None:
    """It is superseded, and the entity's status never says that it waits for it."""
    _dead_letter(pg, EMBEDDER, {"nfl": "refused"})
    pg.delete(NFL)
    assert _retry(pg) == 1
    embed(database)
    assert pg.counts("embedding") == {"superseded": 2}
    assert pg.statuses(NFL)["embedding"] == "synced"


def test_a_dead_embedding_of_a_deleted_entity_says_nothing_of_it(pg: DatabaseFixture) -> None:
    """Given up on twice, the second time after the delete: the operation is dead, no more."""
    _dead_letter(pg, EMBEDDER, {"nfl": "refused"})
    pg.delete(NFL)
    _retry(pg)
    _dead_letter(pg, EMBEDDER, {"nfl": "its worker vanished"})
    assert pg.counts("embedding") == {"superseded": 1, "dead": 1}
    assert pg.statuses(NFL)["embedding"] == "synced"


def test_a_retry_that_meets_a_change_keeps_its_unknown_outcome(
    pg: DatabaseFixture, database: Database
) -> None:
    """The change is written first; the dead write may be applied after it and is confirmed."""
    pg.save(NFL)
    embed(database)
    pg.claim("pinecone")
    pg.expire_leases()
    _dead_letter(pg, INDEX, {"nfl": "bad"})
    pg.save(league("nfl", tier="TIER1"))
    _retry(pg)
    _confirm(pg, INDEX)
    assert pg.live("pinecone", "nfl").origin == "confirm"


def test_a_retry_that_meets_a_leased_change_keeps_its_unknown_outcome(
    pg: DatabaseFixture, database: Database
) -> None:
    """It gets a rerun request, and the follow-up has the unknown outcome."""
    pg.save(NFL)
    embed(database)
    pg.claim("pinecone")
    pg.expire_leases()
    _dead_letter(pg, INDEX, {"nfl": "bad"})
    pg.save(league("nfl", tier="TIER1"))
    token, (op,) = pg.claim("pinecone")
    _retry(pg)
    pg.settle(INDEX, token, [Synced(op, op.version)])
    _confirm(pg, INDEX)
    assert pg.live("pinecone", "nfl").origin == "confirm"


def test_a_retry_that_meets_a_change_brings_its_places(
    pg: DatabaseFixture, database: Database
) -> None:
    """The dead write is applied in a former namespace, and removed there."""
    pg.save(example("ask", "triage"))
    embed(database)
    index, late = _give_up_on_a_write(pg, database)
    pg.save(example("ask", "support"))
    _retry(pg)
    _drain(pg, database, index, rounds=1)
    index.land(late)
    _drain(pg, database, index, rounds=2)
    assert [space for _, space, _ in index.held] == ["support"]


def test_a_retry_that_starts_with_the_embedding_keeps_its_unknown_outcome(
    pg: DatabaseFixture, database: Database
) -> None:
    """The vector comes first; what may land late, and where, is still known then."""
    pg.save(example("ask", "triage"))
    embed(database)
    index, late = _give_up_on_a_write(pg, database)
    pg.save(example("ask", "support", input_text="another"))
    _retry(pg)
    embed(database)
    _drain(pg, database, index, rounds=1)
    index.land(late)
    _drain(pg, database, index, rounds=2)
    assert [space for _, space, _ in index.held] == ["support"]


def test_a_retry_of_several_brings_the_places_of_all(
    pg: DatabaseFixture, database: Database
) -> None:
    """Two writes of one entity were given up on, each somewhere else."""
    pg.save(example("ask"))
    embed(database)
    for place in ("triage", "support"):
        _dead_letter(pg, INDEX, {"ask": "bad"})
        pg.conn.execute(
            "UPDATE sync_operation SET namespaces = namespaces || ARRAY[%s] WHERE status = 'dead'",
            (place,),
        )
        pg.save(example("ask", output_text=place))
        embed(database)
    pg.conn.execute("DELETE FROM sync_operation WHERE sink = 'pinecone' AND status = 'pending'")
    assert _retry(pg) == 1
    places = pg.scalar(
        "SELECT namespaces FROM sync_operation WHERE status = 'pending' AND sink = 'pinecone'"
    )
    assert sorted(places) == ["support", "triage"]


def test_an_entity_that_failed_three_times_is_one_failure(pg: DatabaseFixture) -> None:
    """The latest stays; a dry run, the run and every count speak of it alone."""
    for number in range(3):
        pg.save(*[league(key, description=f"text {number}") for key in ("l000", "l001")])
        _dead_letter(pg, GRAPH, {"l000": f"error {number}", "l001": f"error {number}"})
    (group,) = failures(pg.conn)
    assert (group.count, group.sample_reason) == (2, "error 2")
    assert count_dead(pg.conn) == len(dead_ids(pg.conn)) == 2
    assert backlog(pg.conn)["neo4j"].dead == 2
    assert pg.counts("neo4j") == {"dead": 2, "superseded": 4}
    assert _retry(pg) == 2
    assert failures(pg.conn) == []


def test_a_failure_keeps_the_unknown_outcomes_of_earlier_ones(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(league("l000"))
    embed(database)
    _dead_letter(pg, INDEX, {"l000": "timeout"})
    pg.conn.execute("UPDATE sync_operation SET outcome_unknown = true WHERE status = 'dead'")
    pg.save(league("l000", description="another"))
    embed(database)
    _dead_letter(pg, INDEX, {"l000": "refused"})
    rows = pg.conn.execute(
        "SELECT status, outcome_unknown FROM sync_operation WHERE sink = 'pinecone' ORDER BY id"
    ).fetchall()
    assert rows == [("superseded", False), ("dead", True)]


def test_a_group_of_a_former_release_is_found_by_its_name(pg: DatabaseFixture) -> None:
    """Its worker kept no group."""
    _dead_letter(pg, GRAPH, {"l000": "7 is bad", "l001": "8 is bad"})
    (group,) = failures(pg.conn)
    pg.conn.execute("UPDATE sync_operation SET error_group = NULL WHERE entity_key = 'l001'")
    assert failures(pg.conn) == [group]
    assert count_dead(pg.conn, Selection(group=group.group)) == 2
    assert count_dead(pg.conn, Selection(group="another")) == 0


def test_retry_and_discard_at_once_share_the_dead(pg: DatabaseFixture) -> None:
    """Each dead operation is taken by exactly one of them."""
    reasons = {f"l{n:03}": "no" for n in range(40)}
    _dead_letter(pg, GRAPH, reasons)
    dead = dead_ids(pg.conn)

    def retry() -> int:
        with db.connect(pg.url) as conn, conn.transaction():
            return retry_dead(conn, dead, TOPOLOGY)

    def discard() -> int:
        with db.connect(pg.url) as conn, conn.transaction():
            return discard_dead(conn, dead[::2], TOPOLOGY, by=ME, why=WHY)

    with ThreadPoolExecutor(2) as pool:
        retried, discarded = pool.submit(retry), pool.submit(discard)
        assert retried.result() + discarded.result() == 40
    counts = pg.counts("neo4j")
    assert counts.get("discarded", 0) == discarded.result()
    assert counts["superseded"] == counts["pending"] == retried.result()


def test_a_delivery_and_a_discard_do_not_wait_for_each_other(
    pg: DatabaseFixture, database: Database
) -> None:
    """Both lock the entities first; the second finds nothing left to do."""
    reasons = {f"l{n:03}": "no" for n in range(30)}
    _dead_letter(pg, GRAPH, reasons)
    pg.save(*(league(key, tier="TIER1") for key in reasons))
    with ThreadPoolExecutor(2) as pool:
        delivered = pool.submit(lambda: delivery(database, FakeGraph(), batch_size=7).drain(60))
        pool.submit(lambda: _discard_elsewhere(pg.url)).result()
        assert delivered.result().synced == 30
    assert {pg.statuses(league(key))["neo4j"] for key in reasons} == {"synced"}
    assert "dead" not in pg.counts("neo4j")


def _discard_elsewhere(url: str) -> int:
    with db.connect(url) as conn, conn.transaction():
        dead = dead_ids(conn)
        return discard_dead(conn, dead, TOPOLOGY, by=ME, why=WHY)


def _dead_letter(pg: DatabaseFixture, sink: SinkTraits, reasons: dict[str, str]) -> None:
    """Give up on operations of these keys; leagues that are not there are saved before."""
    missing: list[sports.League] = [league(key) for key in reasons if pg.ops(key=key) == []]
    if missing:
        pg.save(*missing)
    token, operations = pg.claim(sink.name)
    verdicts = [
        Dead(op, _version(pg, sink, op.entity_id, op.entity_type), ErrorKind.ITEM, reason)
        for op in operations
        if (reason := reasons.get(op.entity_key))
    ]
    pg.settle(sink, token, verdicts)
    release(pg.conn, [op.id for op in operations if op.entity_key not in reasons], token)


def _version(pg: DatabaseFixture, sink: SinkTraits, entity: object, kind: EntityType) -> int:
    column = "graph_version" if sink.edges else "version"
    return int(pg.scalar(f"SELECT {column} FROM {kind} WHERE id = %s", entity))


def _confirm(pg: DatabaseFixture, sink: SinkTraits) -> None:
    token, operations = pg.claim(sink.name)
    pg.settle(sink, token, [Synced(op, op.version) for op in operations])


def _failing_once(error: SinkFailure) -> FakeIndex:
    """An index whose first call fails."""
    index = FakeIndex()

    def fail(call: Call) -> None:
        if len(index.calls) == 1:
            raise error

    index.before = fail
    return index


def _give_up_on_a_write(pg: DatabaseFixture, database: Database) -> tuple[FakeIndex, Row]:
    """The only attempt at a vector may still land; the index, and what may."""
    index = _failing_once(SinkFailure(ErrorKind.UNKNOWN, "broken pipe", outcome_unknown=True))
    deliver(database, index)
    pg.advance_time(100)
    token, operations = pg.claim("pinecone")
    dead = [Dead(op, op.version, ErrorKind.UNKNOWN, "broken pipe", True) for op in operations]
    assert pg.settle(INDEX, token, dead).dead == 1
    pg.conn.execute("UPDATE sink_state SET state = 'closed', config = config - 'faults'")
    return index, index.calls[0].rows[0]


def _lost_between_two_places(pg: DatabaseFixture, database: Database) -> tuple[FakeIndex, Row]:
    """A write to one category may be late, and the example waits for its vector in another."""
    pg.save(example("ask", "triage"))
    embed(database)
    index = _failing_once(SinkFailure(ErrorKind.SINK, "no answer", outcome_unknown=True))
    deliver(database, index)
    pg.advance_time(10)
    pg.save(example("ask", "support", input_text="Refused."))
    _drain(pg, database, index, rounds=2)
    return index, index.calls[0].rows[0]


def _drain(pg: DatabaseFixture, database: Database, index: FakeIndex, *, rounds: int) -> None:
    """Deliver vectors, and what falls due later on."""
    for _ in range(rounds):
        delivery(database, index).drain(10)
        pg.advance_time(CONFIRM_AFTER + 1)


def _prune(pg: DatabaseFixture) -> None:
    with pg.conn.transaction():
        prune_range(pg.conn, TOPOLOGY, 0, clock(pg.conn) + timedelta(seconds=1), dead=True)


def _discard(pg: DatabaseFixture) -> int:
    with pg.conn.transaction():
        dead = dead_ids(pg.conn)
        return discard_dead(pg.conn, dead, TOPOLOGY, by=ME, why=WHY)


def _retry(pg: DatabaseFixture) -> int:
    with pg.conn.transaction():
        return retry_dead(pg.conn, dead_ids(pg.conn), TOPOLOGY)
