"""Delivery of one sink: claim, read, write, settle."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from altsync.contract import EMBEDDING, AlreadyNewer, Outcome
from altsync.db import Database
from altsync.delivery import Batch, Policy
from altsync.entities import Model, Row
from altsync.operations import Settlement
from tests import points, sports
from tests.conftest import DIMENSIONS, MODEL
from tests.integration.fakes import Call, FakeEmbedder, FakeGraph, FakeIndex
from tests.integration.world import (
    PATIENCE,
    World,
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

NFL = league("nfl")


def test_the_steps_come_in_order(world: World, database: Database) -> None:
    """Claim, read, write, settle; each is over before the next begins."""
    world.save(NFL)
    graph = FakeGraph()
    seen: list[tuple[str, str, int]] = []

    def at(point: str) -> None:
        seen.append((point, world.last("neo4j", "nfl").status, len(graph.calls)))

    batch = delivery(database, graph, at).deliver_batch()
    assert seen == [
        ("admitted", "pending", 0),
        ("claimed", "in_progress", 0),
        ("read", "in_progress", 0),
        ("placed", "in_progress", 0),
        ("called", "in_progress", 1),
        ("written", "in_progress", 1),
        ("settling", "in_progress", 1),
        ("settled", "synced", 1),
        ("told", "synced", 1),
    ]
    assert batch == Batch(1, Settlement(synced=1), calls=1, tokens=0)


@pytest.mark.parametrize("point", points.DELIVERY)
def test_two_workers_need_no_more_batches_than_one(
    world: World, database: Database, point: str
) -> None:
    """Wherever one of them is, the other delivers all the rest, and waits for no lock of it."""
    world.save(*leagues(40))
    impatient = Database(f"{world.url}?options=-clock_timeout%3D2s")  # an error, if it waits
    graph = FakeGraph()
    other = delivery(impatient, graph, batch_size=10)
    drained: list[Any] = []
    at = _once(point, lambda: drained.append(other.drain(PATIENCE)))
    rest = delivery(database, graph, at, batch_size=10).drain(PATIENCE)
    impatient.close()
    batches = [drained[0].batches, rest.batches]
    assert batches == ([4, 0] if point == "admitted" else [3, 1])
    assert len(graph.calls) == sum(batches) == 4
    assert world.counts("neo4j") == {"synced": 40}


def test_nothing_to_do_costs_no_call(world: World, database: Database) -> None:
    """And nothing is written about it."""
    graph = FakeGraph()
    assert deliver(database, graph) == Batch()
    assert graph.calls == []
    assert world.scalar("SELECT count(*) FROM delivery_batch") == 0


def test_what_was_seeded_arrives(world: World, database: Database) -> None:
    """Every type, in its own call, with its content and version."""
    world.save(NFL, archetype("racing"), example("ask"))
    graph = FakeGraph()
    deliver(database, graph)
    assert [(call.action, call.keys) for call in graph.calls] == [
        ("upsert", ["racing"]),
        ("upsert", ["nfl"]),
        ("upsert", ["ask"]),
    ]
    row = graph.calls[1].rows[0]
    assert (row.content, row.version) == (NFL, world.version(NFL))
    assert graph.living().keys() == {
        (sports.SPORT_ARCHETYPE, "racing"),
        (sports.LEAGUE, "nfl"),
        (sports.FEW_SHOT_EXAMPLE, "ask"),
    }


def test_the_current_row_is_written_not_the_one_that_asked(
    world: World, database: Database
) -> None:
    """An operation is a hint: what changed between the claim and the read goes out, too."""
    world.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()
    delivery(database, graph, _once("claimed", lambda: world.save(newer))).drain(10)
    assert [call.rows[0].content for call in graph.calls] == [newer, newer]
    assert graph.held[sports.LEAGUE, "nfl"].version == world.version(newer)
    assert world.statuses(newer)["neo4j"] == "synced"


def test_a_change_after_the_read_is_followed_up(world: World, database: Database) -> None:
    """The older row is written, and the newer one right after it."""
    world.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()
    delivery(database, graph, _once("read", lambda: world.save(newer))).drain(10)
    assert [call.rows[0].content for call in graph.calls] == [NFL, newer]
    assert world.statuses(newer)["neo4j"] == "synced"


def test_no_remote_call_inside_a_transaction(world: World, database: Database) -> None:
    """While a sink is called, no session of this process is in a transaction or waits.

    One call at a time, or the sessions of two of them could not be told apart.
    """
    states: list[tuple[str, str]] = []

    def look(call: Any) -> None:
        states.extend(
            (state, query)
            for state, query in world.conn.execute(
                "SELECT state, query FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
            )
        )

    graph, index, embedder = FakeGraph(), FakeIndex(), FakeEmbedder()
    graph.before = graph.after = index.before = index.after = look
    embedder.before = embedder.after = look
    for one in (NFL, example("ask")):
        world.save(one)
        deliver(database, graph)
        embed(database, embedder)
        deliver(database, index)
    world.delete(NFL)
    deliver(database, graph)
    deliver(database, index)
    assert len(graph.calls) + len(index.calls) == 6
    assert states
    assert {state for state, _ in states} == {"idle"}


def test_a_batch_is_written_down(world: World, database: Database) -> None:
    """What it came to, its calls and its time, for throughput and cost."""
    world.save(*leagues(5))
    embed(database)
    row = world.conn.execute(
        "SELECT sink, worker, claimed, synced, remote_calls, tokens, seconds > 0 "
        "FROM delivery_batch"
    ).fetchall()
    assert row == [(EMBEDDING, "tests", 5, 5, 1, 5, True)]


def test_a_batch_goes_out_in_parts(world: World, database: Database) -> None:
    """As the sink cuts it; all parts settle together."""
    world.save(*leagues(10))
    graph = FakeGraph()
    graph.size = 4
    batch = deliver(database, graph)
    assert [len(call.rows) for call in graph.calls] == [4, 4, 2]
    assert (batch.calls, batch.settlement) == (3, Settlement(synced=10))


def test_a_batch_is_no_larger_than_asked(world: World, database: Database) -> None:
    """What is left comes with the next one."""
    world.save(*leagues(10))
    graph = FakeGraph()
    assert [deliver(database, graph, batch_size=4).claimed for _ in range(4)] == [4, 4, 2, 0]


def test_the_sink_is_set_up_once(world: World, database: Database) -> None:
    """Before the first call of a process, and only if there is one."""
    graph = FakeGraph()
    worker = delivery(database, graph)
    worker.deliver_batch()
    assert graph.set_up == 0
    for tier in ("1", "2", "3"):
        world.save(league("nfl", tier=tier))
        worker.deliver_batch()
    assert (graph.set_up, len(graph.calls)) == (1, 3)


def test_the_lease_is_extended_before_each_further_call(world: World, database: Database) -> None:
    """Many parts, or halves, take longer than one lease."""
    world.save(*leagues(6))
    graph = FakeGraph()
    graph.size = 2
    waits: list[float] = []

    def spend(call: Call) -> None:
        waits.append(min(op.wait for op in world.ops("neo4j")))
        world.conn.execute("UPDATE sync_operation SET available_at = now() + interval '1 s'")

    graph.before = spend
    batch = deliver(database, graph)
    assert len(waits) == 3
    assert min(waits) > 20
    assert batch.settlement == Settlement(synced=6)


def test_a_lease_that_is_nearly_over_is_extended_before_the_first_call(
    world: World, database: Database
) -> None:
    """One call may take the whole timeout: it must fit in."""
    world.save(NFL)
    graph = FakeGraph()
    waits: list[float] = []
    graph.before = lambda call: waits.append(world.live("neo4j", "nfl").wait)
    worker = delivery(
        database,
        graph,
        _once("read", lambda: world.conn.execute("UPDATE sync_operation SET available_at = now()")),
        lease=10.0,
        timeout=10.0,
    )
    worker.deliver_batch()
    assert 5 < waits[0] <= 10


def test_a_worker_that_lost_its_lease_stops(world: World, database: Database) -> None:
    """Between two calls of one batch: what comes after is somebody else's."""
    world.save(*leagues(6))
    graph = FakeGraph()
    graph.size = 2

    def lose(call: Call) -> None:
        if len(graph.calls) == 2:
            world.end_leases()
            world.claim("neo4j")

    graph.after = lose
    batch = deliver(database, graph)
    assert len(graph.calls) == 2
    assert batch.settlement.synced == 0
    assert batch.settlement.lost > 0
    assert {op.status for op in world.ops("neo4j")} <= {"in_progress", "pending"}
    assert {world.statuses(content)["neo4j"] for content in leagues(6)} == {"pending"}


def test_what_was_not_lost_is_settled_when_some_was(world: World, database: Database) -> None:
    """The written rows that are still held are synced, the others go back unspent."""
    world.save(*leagues(6))
    graph = FakeGraph()
    graph.size = 2

    def lose(call: Call) -> None:
        world.conn.execute(
            "UPDATE sync_operation SET available_at = now() WHERE entity_key = 'l005'"
        )
        world.claim("neo4j")

    graph.after = lose
    batch = deliver(database, graph)
    assert len(graph.calls) == 1
    assert batch.settlement == Settlement(synced=2, retried=3, lost=1)
    assert sorted((op.status, op.attempts) for op in world.ops("neo4j")) == [
        ("in_progress", 2),
        ("pending", 0),
        ("pending", 0),
        ("pending", 0),
        ("synced", 1),
        ("synced", 1),
    ]


def test_a_late_settle_is_fenced(world: World, database: Database) -> None:
    """A worker that slept past its lease, after its write: the newest wins, and it is counted."""
    world.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()

    def sleep() -> None:
        world.save(newer)
        world.end_leases()
        assert deliver(database, graph).settlement.synced == 1

    batch = delivery(database, graph, _once("written", sleep)).deliver_batch()
    assert batch.settlement == Settlement(lost=1)
    assert graph.held[sports.LEAGUE, "nfl"].version == world.version(newer)
    assert world.statuses(newer)["neo4j"] == "synced"
    assert world.scalar("SELECT sum(lost) FROM delivery_batch") == 1


def test_a_guarded_sink_refuses_a_sleepers_write(world: World, database: Database) -> None:
    """It slept before its write, and the newer one is there: refused, and nothing is buried."""
    world.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()

    def sleep(call: Call) -> None:
        graph.before = lambda call: None
        world.save(newer)
        world.end_leases()
        assert deliver(database, graph).settlement.synced == 1

    graph.before = sleep
    assert deliver(database, graph).settlement == Settlement(lost=1)
    assert graph.held[sports.LEAGUE, "nfl"].version == world.version(newer)
    assert world.counts("neo4j").get("dead", 0) == 0


def test_deleted_rows_are_deleted(world: World, database: Database) -> None:
    """From the graph with a tombstone, from the index from where they were written."""
    world.save(NFL, example("ask"))
    graph, index = FakeGraph(), FakeIndex()
    deliver(database, graph)
    embed(database)
    deliver(database, index)
    assert len(index.held) == 2

    world.delete(NFL, example("ask"))
    deliver(database, graph)
    deliver(database, index)
    assert [(call.action, call.keys) for call in graph.calls[2:]] == [
        ("delete", ["ask"]),
        ("delete", ["nfl"]),
    ]
    assert graph.living() == {}
    assert index.held == {}
    assert set(world.statuses(NFL).values()) == {"synced"}


def test_deletions_go_in_the_parts_that_the_sink_cuts(world: World, database: Database) -> None:
    """A batch of deletions is no single transaction."""
    world.save(*leagues(5))
    graph = FakeGraph()
    deliver(database, graph)
    world.delete(*leagues(5))
    graph.size = 2
    deliver(database, graph)
    assert [len(call.rows) for call in graph.calls if call.action == "delete"] == [2, 2, 1]
    assert graph.living() == {}


def test_deletes_and_upserts_of_one_batch(world: World, database: Database) -> None:
    """Each goes its way."""
    world.save(*leagues(4))
    world.delete(league("l001"))
    graph = FakeGraph()
    batch = deliver(database, graph)
    assert [(call.action, call.keys) for call in graph.calls] == [
        ("upsert", ["l000", "l002", "l003"]),
        ("delete", ["l001"]),
    ]
    assert batch.settlement == Settlement(synced=4)


def test_an_entity_that_comes_back_after_its_deletion(world: World, database: Database) -> None:
    """Its version is higher than its tombstone's."""
    graph = FakeGraph()
    world.save(NFL)
    deliver(database, graph)
    world.delete(NFL)
    deliver(database, graph)
    world.save(NFL)
    deliver(database, graph)
    assert graph.living().keys() == {(sports.LEAGUE, "nfl")}
    assert world.statuses(NFL)["neo4j"] == "synced"


def test_an_entity_that_was_purged_is_superseded(world: World, database: Database) -> None:
    """There is nothing to read, and nothing to call for."""
    world.save(NFL)
    world.conn.execute("DELETE FROM league")
    graph = FakeGraph()
    assert deliver(database, graph).settlement == Settlement(superseded=1)
    assert graph.calls == []
    assert world.last("neo4j", "nfl").last_error == "the row is gone"


def test_a_vector_waits_for_its_embedding_and_is_delivered(
    world: World, database: Database
) -> None:
    """Claimed too early it ends without a call; the embedding asks again."""
    world.save(NFL)
    embed(database)
    world.save(league("nfl", description="Newer."))
    index = FakeIndex()
    deliver(database, index)
    assert index.calls == []
    op = world.last("pinecone", "nfl")
    assert (op.status, op.last_error) == ("superseded", "waits for its embedding")
    embed(database)
    deliver(database, index)
    assert index.calls[0].rows[0].vector is not None
    assert world.statuses(NFL)["pinecone"] == "synced"


def test_a_wake_up_at_the_same_version_is_not_lost(world: World, database: Database) -> None:
    """The embedding settles while the index's worker already holds an unembedded row."""
    world.save(NFL)
    embed(database)
    world.save(league("nfl", description="Newer."))
    index = FakeIndex()
    delivery(database, index, _once("read", lambda: embed(database))).drain(10)
    assert [op.status for op in world.ops("pinecone")] == ["superseded", "synced"]
    assert [call.keys for call in index.calls] == [["nfl"]]
    assert world.statuses(NFL)["pinecone"] == "synced"


def test_vectors_are_read_for_those_that_need_them(world: World, database: Database) -> None:
    """The graph does not carry them about."""
    world.save(NFL)
    embed(database)
    graph, index = FakeGraph(), FakeIndex()
    deliver(database, graph)
    deliver(database, index)
    assert graph.calls[0].rows[0].vector is None
    assert len(index.calls[0].rows[0].vector or b"") == 4 * DIMENSIONS


def test_a_category_that_changes_leaves_its_namespace(world: World, database: Database) -> None:
    """Written to the new one, removed from the old."""
    world.save(example("ask", "triage"))
    embed(database)
    index = FakeIndex()
    deliver(database, index)
    world.save(example("ask", "support"))
    deliver(database, index)
    assert index.held.keys() == {(sports.FEW_SHOT_EXAMPLE, "support", "ask")}
    assert world.row(example("ask"))["pinecone_namespace"] == "support"


def test_a_category_that_changes_while_it_is_written_leaves_no_ghost(
    world: World, database: Database
) -> None:
    """The write to the old namespace is remembered although the row has moved on since."""
    world.save(example("ask", "triage"))
    embed(database)
    index = FakeIndex()
    move = _once("read", lambda: world.save(example("ask", "support")))
    delivery(database, index, move).drain(10)
    assert index.held.keys() == {(sports.FEW_SHOT_EXAMPLE, "support", "ask")}


def test_a_category_that_changes_after_a_crash_leaves_no_ghost(
    world: World, database: Database
) -> None:
    """The write to the old namespace was never settled, but it may have happened."""
    world.save(example("ask", "triage"))
    embed(database)
    index = FakeIndex()
    with pytest.raises(KeyboardInterrupt):
        delivery(database, index, _once("written", _crash)).deliver_batch()
    world.save(example("ask", "support"))
    world.end_leases()
    delivery(database, index).drain(10)
    assert index.held.keys() == {(sports.FEW_SHOT_EXAMPLE, "support", "ask")}


def test_a_sleeper_does_not_say_where_a_row_is(world: World, database: Database) -> None:
    """It lost its lease before it wrote: the place that the next worker noted stays."""
    world.save(example("ask", "triage"))
    embed(database)
    index = FakeIndex()

    def sleep() -> None:
        world.save(example("ask", "support"))
        world.end_leases()
        delivery(database, index).drain(10)

    delivery(database, index, _once("read", sleep)).deliver_batch()
    assert world.row(example("ask"))["pinecone_namespace"] == "support"
    world.save(example("ask", "routing"))
    world.pass_time(1000)
    delivery(database, index).drain(10)
    assert index.held.keys() == {(sports.FEW_SHOT_EXAMPLE, "routing", "ask")}


def test_an_older_row_than_the_sinks_is_retried_when_it_moved_on(
    world: World, database: Database
) -> None:
    """Read before a change that another worker has delivered since: no anomaly, no attempt."""
    world.save(NFL)
    newer = league("nfl", tier="TIER1")
    graph = FakeGraph()

    def overtake() -> None:
        world.save(newer)
        row = Row(
            sports.LEAGUE,
            id_of(NFL),
            "nfl",
            world.version(newer),
            world.version(newer),
            deleted=False,
            content=newer,
            content_hash="",
            text_hash="",
        )
        graph.apply(row, Model(MODEL, DIMENSIONS))

    batch = delivery(database, graph, _once("read", overtake)).deliver_batch()
    assert batch.settlement == Settlement(retried=1)
    op = world.live("neo4j", "nfl")
    assert (op.attempts, op.wait <= 0) == (0, True)
    assert deliver(database, graph).settlement == Settlement(synced=1)


def test_a_sink_that_is_ahead_of_the_database_is_an_anomaly(
    world: World, database: Database
) -> None:
    """After a restore from a backup: reported at once, never taken for a success."""
    world.save(NFL)
    graph = FakeGraph()
    deliver(database, graph)
    world.conn.execute("UPDATE league SET version = version - 1000, content_hash = ''")
    world.conn.execute(
        "INSERT INTO sync_operation "
        "(entity_type, entity_id, entity_key, sink, action, version, origin) "
        "SELECT 'league', id, league_tag, 'neo4j', 'upsert', version, 'reconcile' FROM league"
    )
    assert deliver(database, graph).settlement == Settlement(dead=1)
    op = world.last("neo4j", "nfl")
    assert op.status == "dead"
    assert "ahead of PostgreSQL" in (op.last_error or "")
    assert world.statuses(NFL)["neo4j"] == "failed"


def test_a_row_that_the_sink_refuses_as_older_is_not_asked_for_ever(
    world: World, database: Database
) -> None:
    """A sink that says so of the very version it was sent does not cause an endless loop."""
    world.save(NFL)
    graph = FakeGraph()

    def refuse(call: Call, outcomes: tuple[Outcome, ...]) -> tuple[Outcome, ...]:
        return tuple(AlreadyNewer(row.id, row.graph_version) for row in call.rows)

    graph.answer = refuse
    for _ in range(30):
        deliver(database, graph)
        world.pass_time(1000)
    assert len(graph.calls) <= 10
    assert world.last("neo4j", "nfl").status == "dead"


def test_a_record_that_the_sink_does_not_report_is_not_sent_for_ever(
    world: World, database: Database
) -> None:
    """A defect of a sink: the record's attempts are spent, and the reason is true."""
    silent, *others = leagues(3)
    world.save(silent, *others)
    graph = FakeGraph()
    graph.answer = lambda call, outcomes: tuple(o for o in outcomes if o.id != id_of(silent))
    for _ in range(30):
        deliver(database, graph)
        world.pass_time(1000)
    assert world.counts("neo4j") == {"synced": 2, "dead": 1}
    # Each attempt after the first is judged by a control write of another league.
    assert len(graph.calls) <= 2 * Policy().max_attempts
    assert "lease" not in (world.last("neo4j", "l000").last_error or "")


def test_draining_ends_when_there_is_no_more(world: World, database: Database) -> None:
    """And says that it need not be called again."""
    world.save(*leagues(10))
    graph = FakeGraph()
    assert not delivery(database, graph, batch_size=3).drain(60).more
    assert world.counts("neo4j") == {"synced": 10}


def test_draining_for_its_time_asks_for_another_turn(world: World, database: Database) -> None:
    """With more to do."""
    world.save(*leagues(10))
    graph = FakeGraph()
    assert delivery(database, graph, batch_size=3).drain(0).more
    assert world.counts("neo4j") == {"synced": 3, "pending": 7}


def test_a_worker_that_shall_stop_finishes_its_batch(world: World, database: Database) -> None:
    """Nothing is claimed after that, and nothing is sent twice."""
    world.save(*leagues(10))
    graph = FakeGraph()
    stopping = threading.Event()
    graph.before = lambda call: stopping.set()
    worker = delivery(database, graph, batch_size=4)
    assert not worker.drain(60, stopping.is_set).more
    assert world.counts("neo4j") == {"synced": 4, "pending": 6}
    graph.before = lambda call: None
    delivery(database, graph).drain(60)
    assert sorted(key for call in graph.calls for key in call.keys) == [
        f"l{n:03}" for n in range(10)
    ]


def test_a_worker_that_shall_stop_right_after_its_claim(world: World, database: Database) -> None:
    """Gives back what it has not tried: due at once, no attempt spent, nobody waits for a lease."""
    world.save(*leagues(3))
    graph = FakeGraph()
    stopping = threading.Event()
    worker = delivery(database, graph, _once("claimed", stopping.set))
    assert not worker.drain(60, stopping.is_set).more
    assert graph.calls == []
    assert {(op.status, op.attempts, op.wait <= 0) for op in world.ops("neo4j")} == {
        ("pending", 0, True)
    }


def test_a_worker_that_shall_stop_before_it_starts(world: World, database: Database) -> None:
    """Claims nothing."""
    world.save(NFL)
    graph = FakeGraph()
    assert not delivery(database, graph).drain(60, lambda: True).more
    assert graph.calls == []


def test_workers_share_the_work(world: World, database: Database) -> None:
    """Four threads of one process and one sink: each row is written once."""
    world.save(*leagues(200))
    graph = FakeGraph()
    worker = delivery(database, graph, batch_size=10)

    def work(_: int) -> None:
        while world_has_work(world.url):
            worker.deliver_batch()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert sorted(key for call in graph.calls for key in call.keys) == [
        f"l{n:03}" for n in range(200)
    ]
    assert world.counts("neo4j") == {"synced": 200}


def test_seeding_while_delivering_converges(world: World, database: Database) -> None:
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
            world.save(*(league(c.league_tag, description=f"{number % 3}") for c in contents))
            world.delete(*contents[number % 4 :: 4])
        world.save(*contents[:15])
        stop.set()
        for task in tasks:
            task.result()
    world.delete(*contents[15:])
    _drain(database, sinks)
    wanted = {content.league_tag: world.version(content) for content in contents[:15]}
    assert {key: held.version for (_, key), held in graph.living().items()} == wanted
    assert {key: held.version for (_, _, key), held in index.held.items()} == wanted
    assert sum(embedder.paid.values()) <= 2 * len(embedder.paid)


def _drain(database: Database, sinks: Sequence[Any]) -> None:
    for _ in range(2):
        for sink in reversed(sinks):
            delivery(database, sink).drain(10)


def world_has_work(url: str) -> bool:
    """Whether anything waits for the graph."""
    world = World(url)
    try:
        return bool(
            world.scalar(
                "SELECT count(*) FROM sync_operation WHERE sink = 'neo4j' AND status = 'pending'"
            )
        )
    finally:
        world.close()


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
