"""Delivery of one sink: claim, read, write, settle."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from altsync.contract import EMBEDDING, AlreadyNewer, RecordOutcome
from altsync.db import Database
from altsync.delivery import Batch, Policy
from altsync.entities import Model, Row
from altsync.operations import Settlement
from tests import points, sports
from tests.conftest import DIMENSIONS, MODEL
from tests.integration.database_fixture import (
    TIMEOUT,
    DatabaseFixture,
    archetype,
    deliver,
    delivery,
    embed,
    embedding_sink,
    example,
    id_of,
    league,
    leagues,
)
from tests.integration.fakes import Call, FakeEmbedder, FakeGraph, FakeIndex

NFL = league("nfl")


def test_the_steps_come_in_order(pg: DatabaseFixture, database: Database) -> None:
    """Claim, read, write, settle; each is over before the next begins."""
    pg.save(NFL)
    graph = FakeGraph()
    seen: list[tuple[str, str, int]] = []

    def at(point: str) -> None:
        seen.append((point, pg.last("neo4j", "nfl").status, len(graph.calls)))

    batch = delivery(database, graph, at).deliver_batch()
    assert seen == [
        ("admitted", "pending", 0),
        ("claimed", "in_progress", 0),
        ("read", "in_progress", 0),
        ("namespaces_recorded", "in_progress", 0),
        ("cost_reserved", "in_progress", 0),
        ("called", "in_progress", 1),
        ("written", "in_progress", 1),
        ("settling", "in_progress", 1),
        ("settled", "synced", 1),
        ("breaker_updated", "synced", 1),
    ]
    assert batch == Batch(1, Settlement(synced=1), calls=1)


@pytest.mark.parametrize("point", points.DELIVERY)
def test_two_workers_need_no_more_batches_than_one(
    pg: DatabaseFixture, database: Database, point: str
) -> None:
    """Wherever one of them is, the other delivers all the rest, and waits for no lock of it."""
    pg.save(*leagues(40))
    impatient = Database(f"{pg.url}?options=-clock_timeout%3D2s")  # an error, if it waits
    graph = FakeGraph()
    other = delivery(impatient, graph, batch_size=10)
    drained: list[Any] = []
    at = _once(point, lambda: drained.append(other.drain(TIMEOUT)))
    rest = delivery(database, graph, at, batch_size=10).drain(TIMEOUT)
    impatient.close()
    batches = [drained[0].batches, rest.batches]
    assert batches == ([4, 0] if point == "admitted" else [3, 1])
    assert len(graph.calls) == sum(batches) == 4
    assert pg.counts("neo4j") == {"synced": 40}


def test_nothing_to_do_costs_no_call(pg: DatabaseFixture, database: Database) -> None:
    """And nothing is written about it."""
    graph = FakeGraph()
    assert deliver(database, graph) == Batch()
    assert graph.calls == []
    assert pg.scalar("SELECT count(*) FROM delivery_batch") == 0


def test_what_was_seeded_arrives(pg: DatabaseFixture, database: Database) -> None:
    """Every type, in its own call, with its content and version."""
    pg.save(NFL, archetype("racing"), example("ask"))
    graph = FakeGraph()
    deliver(database, graph)
    assert [(call.action, call.keys) for call in graph.calls] == [
        ("upsert", ["racing"]),
        ("upsert", ["nfl"]),
        ("upsert", ["ask"]),
    ]
    row = graph.calls[1].rows[0]
    assert (row.content, row.version) == (NFL, pg.version(NFL))
    assert graph.living().keys() == {
        (sports.SPORT_ARCHETYPE, "racing"),
        (sports.LEAGUE, "nfl"),
        (sports.FEW_SHOT_EXAMPLE, "ask"),
    }


def test_the_current_row_is_written_not_the_one_that_asked(
    pg: DatabaseFixture, database: Database
) -> None:
    """An operation is a hint: what changed between the claim and the read goes out, too."""
    pg.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()
    delivery(database, graph, _once("claimed", lambda: pg.save(newer))).drain(10)
    assert [call.rows[0].content for call in graph.calls] == [newer, newer]
    assert graph.held[sports.LEAGUE, "nfl"].version == pg.version(newer)
    assert pg.statuses(newer)["neo4j"] == "synced"


def test_a_change_after_the_read_is_followed_up(pg: DatabaseFixture, database: Database) -> None:
    """The older row is written, and the newer one right after it."""
    pg.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()
    delivery(database, graph, _once("read", lambda: pg.save(newer))).drain(10)
    assert [call.rows[0].content for call in graph.calls] == [NFL, newer]
    assert pg.statuses(newer)["neo4j"] == "synced"


def test_no_remote_call_inside_a_transaction(pg: DatabaseFixture, database: Database) -> None:
    """While a sink is called, no session of this process is in a transaction or waits.

    One call at a time, or the sessions of two of them could not be told apart.
    """
    states: list[tuple[str, str]] = []

    def look(call: Any) -> None:
        states.extend(
            (state, query)
            for state, query in pg.conn.execute(
                "SELECT state, query FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        )

    graph, index, embedder = FakeGraph(), FakeIndex(), FakeEmbedder()
    graph.before = graph.after = index.before = index.after = look
    embedder.before = embedder.after = look
    for one in (NFL, example("ask")):
        pg.save(one)
        deliver(database, graph)
        embed(database, embedder)
        deliver(database, index)
    pg.delete(NFL)
    deliver(database, graph)
    deliver(database, index)
    assert len(graph.calls) + len(index.calls) == 6
    assert states
    assert {state for state, _ in states} == {"idle"}


def test_a_batch_is_written_down(pg: DatabaseFixture, database: Database) -> None:
    """Its outcomes, calls and time, for throughput and cost."""
    pg.save(*leagues(5))
    embed(database)
    row = pg.conn.execute(
        "SELECT sink, worker, claimed, synced, remote_calls, tokens, seconds > 0 "
        "FROM delivery_batch"
    ).fetchall()
    assert row == [(EMBEDDING, "tests", 5, 5, 1, 5, True)]


def test_a_batch_goes_out_in_parts(pg: DatabaseFixture, database: Database) -> None:
    """As the sink cuts it; all parts settle together."""
    pg.save(*leagues(10))
    graph = FakeGraph()
    graph.size = 4
    batch = deliver(database, graph)
    assert [len(call.rows) for call in graph.calls] == [4, 4, 2]
    assert (batch.calls, batch.settlement) == (3, Settlement(synced=10))


def test_a_batch_is_no_larger_than_asked(pg: DatabaseFixture, database: Database) -> None:
    """The rest comes with the next one."""
    pg.save(*leagues(10))
    graph = FakeGraph()
    assert [deliver(database, graph, batch_size=4).claimed for _ in range(4)] == [4, 4, 2, 0]


def test_the_sink_is_set_up_once(pg: DatabaseFixture, database: Database) -> None:
    """Before the first call of a process, and only if there is one."""
    graph = FakeGraph()
    worker = delivery(database, graph)
    worker.deliver_batch()
    assert graph.set_up == 0
    for tier in ("1", "2", "3"):
        pg.save(league("nfl", tier=tier))
        worker.deliver_batch()
    assert (graph.set_up, len(graph.calls)) == (1, 3)


def test_the_lease_is_extended_before_each_further_call(
    pg: DatabaseFixture, database: Database
) -> None:
    """Many parts, or halves, take longer than one lease."""
    pg.save(*leagues(6))
    graph = FakeGraph()
    graph.size = 2
    waits: list[float] = []

    def spend(call: Call) -> None:
        waits.append(min(op.wait for op in pg.ops("neo4j")))
        pg.conn.execute("UPDATE sync_operation SET available_at = now() + interval '1 s'")

    graph.before = spend
    batch = deliver(database, graph)
    assert len(waits) == 3
    assert min(waits) > 20
    assert batch.settlement == Settlement(synced=6)


def test_a_lease_that_is_nearly_over_is_extended_before_the_first_call(
    pg: DatabaseFixture, database: Database
) -> None:
    """One call may take the whole timeout: it must fit in."""
    pg.save(NFL)
    graph = FakeGraph()
    waits: list[float] = []
    graph.before = lambda call: waits.append(pg.live("neo4j", "nfl").wait)
    worker = delivery(
        database,
        graph,
        _once("read", lambda: pg.conn.execute("UPDATE sync_operation SET available_at = now()")),
        lease=10.0,
        timeout=10.0,
    )
    worker.deliver_batch()
    assert 5 < waits[0] <= 10


def test_a_worker_that_lost_its_lease_stops(pg: DatabaseFixture, database: Database) -> None:
    """Between two calls of one batch: the rest belongs to another worker."""
    pg.save(*leagues(6))
    graph = FakeGraph()
    graph.size = 2

    def lose(call: Call) -> None:
        if len(graph.calls) == 2:
            pg.expire_leases()
            pg.claim("neo4j")

    graph.after = lose
    batch = deliver(database, graph)
    assert len(graph.calls) == 2
    assert batch.settlement.synced == 0
    assert batch.settlement.lost > 0
    assert {op.status for op in pg.ops("neo4j")} <= {"in_progress", "pending"}
    assert {pg.statuses(content)["neo4j"] for content in leagues(6)} == {"pending"}


def test_what_was_not_lost_is_settled_when_some_was(
    pg: DatabaseFixture, database: Database
) -> None:
    """The written rows that are still held are synced, the others go back unspent."""
    pg.save(*leagues(6))
    graph = FakeGraph()
    graph.size = 2

    def lose(call: Call) -> None:
        pg.conn.execute("UPDATE sync_operation SET available_at = now() WHERE entity_key = 'l005'")
        pg.claim("neo4j")

    graph.after = lose
    batch = deliver(database, graph)
    assert len(graph.calls) == 1
    assert batch.settlement == Settlement(synced=2, retried=3, lost=1)
    assert sorted((op.status, op.attempts) for op in pg.ops("neo4j")) == [
        ("in_progress", 2),
        ("pending", 0),
        ("pending", 0),
        ("pending", 0),
        ("synced", 1),
        ("synced", 1),
    ]


def test_a_late_settle_is_fenced(pg: DatabaseFixture, database: Database) -> None:
    """A worker that slept past its lease, after its write: the newest wins, and it is counted."""
    pg.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()

    def sleep() -> None:
        pg.save(newer)
        pg.expire_leases()
        assert deliver(database, graph).settlement.synced == 1

    batch = delivery(database, graph, _once("written", sleep)).deliver_batch()
    assert batch.settlement == Settlement(lost=1)
    assert graph.held[sports.LEAGUE, "nfl"].version == pg.version(newer)
    assert pg.statuses(newer)["neo4j"] == "synced"
    assert pg.scalar("SELECT sum(lost) FROM delivery_batch") == 1


def test_a_guarded_sink_refuses_a_sleepers_write(pg: DatabaseFixture, database: Database) -> None:
    """It slept before its write, and the sink refuses it as older: nothing becomes dead."""
    pg.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()

    def sleep(call: Call) -> None:
        graph.before = lambda call: None
        pg.save(newer)
        pg.expire_leases()
        assert deliver(database, graph).settlement.synced == 1

    graph.before = sleep
    assert deliver(database, graph).settlement == Settlement(lost=1)
    assert graph.held[sports.LEAGUE, "nfl"].version == pg.version(newer)
    assert pg.counts("neo4j").get("dead", 0) == 0


def test_deleted_rows_are_deleted(pg: DatabaseFixture, database: Database) -> None:
    """From the graph with a tombstone, from the index from where they were written."""
    pg.save(NFL, example("ask"))
    graph, index = FakeGraph(), FakeIndex()
    deliver(database, graph)
    embed(database)
    deliver(database, index)
    assert len(index.held) == 2

    pg.delete(NFL, example("ask"))
    deliver(database, graph)
    deliver(database, index)
    assert [(call.action, call.keys) for call in graph.calls[2:]] == [
        ("delete", ["ask"]),
        ("delete", ["nfl"]),
    ]
    assert graph.living() == {}
    assert index.held == {}
    assert set(pg.statuses(NFL).values()) == {"synced"}


def test_deletions_go_in_the_parts_that_the_sink_cuts(
    pg: DatabaseFixture, database: Database
) -> None:
    """A batch of deletions is no single transaction."""
    pg.save(*leagues(5))
    graph = FakeGraph()
    deliver(database, graph)
    pg.delete(*leagues(5))
    graph.size = 2
    deliver(database, graph)
    assert [len(call.rows) for call in graph.calls if call.action == "delete"] == [2, 2, 1]
    assert graph.living() == {}


def test_deletes_and_upserts_of_one_batch(pg: DatabaseFixture, database: Database) -> None:
    """Each goes its way."""
    pg.save(*leagues(4))
    pg.delete(league("l001"))
    graph = FakeGraph()
    batch = deliver(database, graph)
    assert [(call.action, call.keys) for call in graph.calls] == [
        ("upsert", ["l000", "l002", "l003"]),
        ("delete", ["l001"]),
    ]
    assert batch.settlement == Settlement(synced=4)


def test_an_entity_that_comes_back_after_its_deletion(
    pg: DatabaseFixture, database: Database
) -> None:
    """Its version is higher than its tombstone's."""
    graph = FakeGraph()
    pg.save(NFL)
    deliver(database, graph)
    pg.delete(NFL)
    deliver(database, graph)
    pg.save(NFL)
    deliver(database, graph)
    assert graph.living().keys() == {(sports.LEAGUE, "nfl")}
    assert pg.statuses(NFL)["neo4j"] == "synced"


def test_an_entity_that_was_purged_is_superseded(pg: DatabaseFixture, database: Database) -> None:
    """There is nothing to read, and nothing to call for."""
    pg.save(NFL)
    pg.conn.execute("DELETE FROM league")
    graph = FakeGraph()
    assert deliver(database, graph).settlement == Settlement(superseded=1)
    assert graph.calls == []
    assert pg.last("neo4j", "nfl").last_error == "the row is gone"


def test_a_vector_waits_for_its_embedding_and_is_delivered(
    pg: DatabaseFixture, database: Database
) -> None:
    """Claimed too early it ends without a call; the embedding asks again."""
    pg.save(NFL)
    embed(database)
    pg.save(league("nfl", description="Newer."))
    index = FakeIndex()
    deliver(database, index)
    assert index.calls == []
    op = pg.last("pinecone", "nfl")
    assert (op.status, op.last_error) == ("superseded", "waits for its embedding")
    embed(database)
    deliver(database, index)
    assert index.calls[0].rows[0].vector is not None
    assert pg.statuses(NFL)["pinecone"] == "synced"


def test_a_wake_up_at_the_same_version_is_not_lost(pg: DatabaseFixture, database: Database) -> None:
    """The embedding settles while the index's worker already holds an unembedded row."""
    pg.save(NFL)
    embed(database)
    pg.save(league("nfl", description="Newer."))
    index = FakeIndex()
    delivery(database, index, _once("read", lambda: embed(database))).drain(10)
    assert [op.status for op in pg.ops("pinecone")] == ["superseded", "synced"]
    assert [call.keys for call in index.calls] == [["nfl"]]
    assert pg.statuses(NFL)["pinecone"] == "synced"


def test_vectors_are_read_for_those_that_need_them(pg: DatabaseFixture, database: Database) -> None:
    """The graph does not carry them about."""
    pg.save(NFL)
    embed(database)
    graph, index = FakeGraph(), FakeIndex()
    deliver(database, graph)
    deliver(database, index)
    assert graph.calls[0].rows[0].vector is None
    assert len(index.calls[0].rows[0].vector or b"") == 4 * DIMENSIONS


def test_a_category_that_changes_leaves_its_namespace(
    pg: DatabaseFixture, database: Database
) -> None:
    """Written to the new one, removed from the old."""
    pg.save(example("ask", "triage"))
    embed(database)
    index = FakeIndex()
    deliver(database, index)
    pg.save(example("ask", "support"))
    deliver(database, index)
    assert index.held.keys() == {(sports.FEW_SHOT_EXAMPLE, "support", "ask")}
    assert pg.row(example("ask"))["pinecone_namespace"] == "support"


def test_a_category_that_changes_while_it_is_written_leaves_no_orphan(
    pg: DatabaseFixture, database: Database
) -> None:
    """The write to the old namespace is remembered although the row has moved on since."""
    pg.save(example("ask", "triage"))
    embed(database)
    index = FakeIndex()
    move = _once("read", lambda: pg.save(example("ask", "support")))
    delivery(database, index, move).drain(10)
    assert index.held.keys() == {(sports.FEW_SHOT_EXAMPLE, "support", "ask")}


def test_a_category_that_changes_after_a_crash_leaves_no_orphan(
    pg: DatabaseFixture, database: Database
) -> None:
    """The write to the old namespace was never settled, but it may have happened."""
    pg.save(example("ask", "triage"))
    embed(database)
    index = FakeIndex()
    with pytest.raises(KeyboardInterrupt):
        delivery(database, index, _once("written", _crash)).deliver_batch()
    pg.save(example("ask", "support"))
    pg.expire_leases()
    delivery(database, index).drain(10)
    assert index.held.keys() == {(sports.FEW_SHOT_EXAMPLE, "support", "ask")}


def test_a_sleeper_does_not_say_where_a_row_is(pg: DatabaseFixture, database: Database) -> None:
    """It lost its lease before it wrote: the place that the next worker noted stays."""
    pg.save(example("ask", "triage"))
    embed(database)
    index = FakeIndex()

    def sleep() -> None:
        pg.save(example("ask", "support"))
        pg.expire_leases()
        delivery(database, index).drain(10)

    delivery(database, index, _once("read", sleep)).deliver_batch()
    assert pg.row(example("ask"))["pinecone_namespace"] == "support"
    pg.save(example("ask", "routing"))
    pg.advance_time(1000)
    delivery(database, index).drain(10)
    assert index.held.keys() == {(sports.FEW_SHOT_EXAMPLE, "routing", "ask")}


def test_an_older_row_than_the_sinks_is_retried_when_it_moved_on(
    pg: DatabaseFixture, database: Database
) -> None:
    """Read before a change that another worker has delivered since: no anomaly, no attempt."""
    pg.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()

    def overtake() -> None:
        pg.save(newer)
        row = Row(
            sports.LEAGUE,
            id_of(NFL),
            "nfl",
            pg.version(newer),
            pg.version(newer),
            deleted=False,
            content=newer,
            content_hash="",
            text_hash="",
        )
        graph.apply(row, Model(MODEL, DIMENSIONS))

    batch = delivery(database, graph, _once("read", overtake)).deliver_batch()
    assert batch.settlement == Settlement(retried=1)
    op = pg.live("neo4j", "nfl")
    assert (op.attempts, op.wait <= 0) == (0, True)
    assert deliver(database, graph).settlement == Settlement(synced=1)


def test_a_sink_that_is_ahead_of_the_database_is_an_anomaly(
    pg: DatabaseFixture, database: Database
) -> None:
    """After a restore from a backup: reported at once, never taken for a success."""
    pg.save(NFL)
    graph = FakeGraph()
    deliver(database, graph)
    pg.conn.execute("UPDATE league SET version = version - 1000, content_hash = ''")
    pg.conn.execute(
        "INSERT INTO sync_operation "
        "(entity_type, entity_id, entity_key, sink, action, version, origin) "
        "SELECT 'league', id, league_tag, 'neo4j', 'upsert', version, 'reconcile' FROM league"
    )
    assert deliver(database, graph).settlement == Settlement(dead=1)
    op = pg.last("neo4j", "nfl")
    assert op.status == "dead"
    assert "ahead of PostgreSQL" in (op.last_error or "")
    assert pg.statuses(NFL)["neo4j"] == "failed"


def test_a_row_that_the_sink_refuses_as_older_is_not_asked_for_ever(
    pg: DatabaseFixture, database: Database
) -> None:
    """A sink that says so of the very version it was sent does not cause an endless loop."""
    pg.save(NFL)
    graph = FakeGraph()

    def refuse(call: Call, outcomes: tuple[RecordOutcome, ...]) -> tuple[RecordOutcome, ...]:
        return tuple(AlreadyNewer(row.id, row.graph_version) for row in call.rows)

    graph.answer = refuse
    for _ in range(30):
        deliver(database, graph)
        pg.advance_time(1000)
    assert len(graph.calls) <= 10
    assert pg.last("neo4j", "nfl").status == "dead"


def test_a_record_that_the_sink_does_not_report_is_not_sent_for_ever(
    pg: DatabaseFixture, database: Database
) -> None:
    """A defect of a sink: the record's attempts are spent, and the reason is true."""
    silent, *others = leagues(3)
    pg.save(silent, *others)
    graph = FakeGraph()
    graph.answer = lambda call, outcomes: tuple(o for o in outcomes if o.id != id_of(silent))
    for _ in range(30):
        deliver(database, graph)
        pg.advance_time(1000)
    assert pg.counts("neo4j") == {"synced": 2, "dead": 1}
    # Each attempt after the first is judged by a control write of another league.
    assert len(graph.calls) <= 2 * Policy().max_attempts
    assert "lease" not in (pg.last("neo4j", "l000").last_error or "")


def test_draining_ends_when_there_is_no_more(pg: DatabaseFixture, database: Database) -> None:
    """And says that it need not be called again."""
    pg.save(*leagues(10))
    graph = FakeGraph()
    assert not delivery(database, graph, batch_size=3).drain(60).has_more
    assert pg.counts("neo4j") == {"synced": 10}


def test_draining_for_its_time_asks_for_another_turn(
    pg: DatabaseFixture, database: Database
) -> None:
    """With more to do."""
    pg.save(*leagues(10))
    graph = FakeGraph()
    assert delivery(database, graph, batch_size=3).drain(0).has_more
    assert pg.counts("neo4j") == {"synced": 3, "pending": 7}


def test_a_worker_that_shall_stop_finishes_its_batch(
    pg: DatabaseFixture, database: Database
) -> None:
    """Nothing is claimed after that, and nothing is sent twice."""
    pg.save(*leagues(10))
    graph = FakeGraph()
    stopping = threading.Event()
    graph.before = lambda call: stopping.set()
    worker = delivery(database, graph, batch_size=4)
    assert not worker.drain(60, stopping.is_set).has_more
    assert pg.counts("neo4j") == {"synced": 4, "pending": 6}
    graph.before = lambda call: None
    delivery(database, graph).drain(60)
    assert sorted(key for call in graph.calls for key in call.keys) == [
        f"l{n:03}" for n in range(10)
    ]


def test_a_worker_that_shall_stop_right_after_its_claim(
    pg: DatabaseFixture, database: Database
) -> None:
    """Untried operations are released: due now, no attempt spent, no wait for a lease."""
    pg.save(*leagues(3))
    graph = FakeGraph()
    stopping = threading.Event()
    worker = delivery(database, graph, _once("claimed", stopping.set))
    assert not worker.drain(60, stopping.is_set).has_more
    assert graph.calls == []
    assert {(op.status, op.attempts, op.wait <= 0) for op in pg.ops("neo4j")} == {
        ("pending", 0, True)
    }


def test_a_worker_that_shall_stop_before_it_starts(pg: DatabaseFixture, database: Database) -> None:
    """Claims nothing."""
    pg.save(NFL)
    graph = FakeGraph()
    assert not delivery(database, graph).drain(60, lambda: True).has_more
    assert graph.calls == []


def test_workers_share_the_work(pg: DatabaseFixture, database: Database) -> None:
    """Four threads of one process and one sink: each row is written once."""
    pg.save(*leagues(200))
    graph = FakeGraph()
    worker = delivery(database, graph, batch_size=10)

    def work(_: int) -> None:
        while outbox_has_work(pg.url):
            worker.deliver_batch()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(key for call in graph.calls for key in call.keys) == [
        f"l{n:03}" for n in range(200)
    ]
    assert pg.counts("neo4j") == {"synced": 200}


def test_seeding_while_delivering_converges(pg: DatabaseFixture, database: Database) -> None:
    """Edits, deletes and re-creates under two workers per sink: all stores agree at rest."""
    contents = leagues(20)
    graph, index, embedder = FakeGraph(), FakeIndex(), FakeEmbedder()
    sinks = (graph, index, embedding_sink(database, embedder))
    stop = threading.Event()

    def work(sink: Any) -> None:
        while not stop.is_set():
            deliver(database, sink, batch_size=7)

    with ThreadPoolExecutor(6) as pool:
        tasks = [pool.submit(work, sink) for sink in sinks * 2]
        for number in range(12):
            pg.save(*(league(c.league_tag, description=f"{number % 3}") for c in contents))
            pg.delete(*contents[number % 4 :: 4])
        pg.save(*contents[:15])
        stop.set()
        for task in tasks:
            task.result()
    pg.delete(*contents[15:])
    _drain(database, sinks)
    wanted = {content.league_tag: pg.version(content) for content in contents[:15]}
    assert {key: held.version for (_, key), held in graph.living().items()} == wanted
    assert {key: held.version for (_, _, key), held in index.held.items()} == wanted
    assert sum(embedder.paid.values()) <= 2 * len(embedder.paid)


def _drain(database: Database, sinks: Sequence[Any]) -> None:
    for _ in range(2):
        for sink in reversed(sinks):
            delivery(database, sink).drain(10)


def outbox_has_work(url: str) -> bool:
    """Return whether anything waits for the graph."""
    pg = DatabaseFixture(url)
    try:
        return bool(
            pg.scalar(
                "SELECT count(*) FROM sync_operation WHERE sink = 'neo4j' AND status = 'pending'"
            )
        )
    finally:
        pg.close()


def _once(point: str, what: Any) -> Any:
    """Do something at a named point, the first time that it is reached."""
    done: list[str] = []

    def at(reached: str) -> None:
        if reached == point and not done:
            done.append(point)
            what()

    return at


def _crash() -> None:
    raise KeyboardInterrupt
