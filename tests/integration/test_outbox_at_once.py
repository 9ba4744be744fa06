"""Seeders, workers and people at the same rows at the same time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import errors

from altsync.db import Conn
from altsync.operations import Dead, ErrorKind, Operation, Synced
from altsync.outbox.upkeep import backfill_page
from altsync.retry import dead_ids, retry_dead
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.world import EMBEDDER, GRAPH, PATIENCE, World, id_of, league, leagues, settle

Task = Callable[[], object]
Writer = Callable[[World, Sequence[sports.League]], Task]


def test_versions_never_go_backwards(world: World) -> None:
    """A number is drawn after the row's lock: whoever commits last has the highest one."""
    world.save(league("nfl"))
    other = World(world.url)
    with ThreadPoolExecutor(1) as pool:
        with world.conn.transaction():
            world.save(league("nfl", tier="1"))
            later = pool.submit(other.save, league("nfl", tier="2"))
            World(world.url).until_waiting(other.conn)
            world.save(league("nfl", tier="3"))
            first = world.version(league("nfl"))
        later.result()
    other.close()
    row = world.row(league("nfl"))
    assert row["tier"] == "2"
    assert row["version"] > first
    assert world.live("neo4j", "nfl").version == row["version"]


def _settle(world: World, contents: Sequence[sports.League]) -> Task:
    token, operations = world.claim("neo4j")
    return lambda: world.settle(GRAPH, token, [Synced(op, op.version) for op in operations])


def _retry_dead(world: World, contents: Sequence[sports.League]) -> Task:
    token, operations = world.claim("neo4j")
    verdicts = [Dead(op, op.version, ErrorKind.ITEM, "bad") for op in operations]
    world.settle(GRAPH, token, verdicts)
    dead = dead_ids(world.conn)
    return lambda: _in_transaction(world, lambda c: retry_dead(c, dead, TOPOLOGY))


def _backfill(world: World, contents: Sequence[sports.League]) -> Task:
    return lambda: _in_transaction(
        world, lambda c: backfill_page(c, GRAPH, sports.LEAGUE, after=None, force=True)
    )


def _delete(world: World, contents: Sequence[sports.League]) -> Task:
    return lambda: world.delete(*reversed(contents))


def _save(world: World, contents: Sequence[sports.League]) -> Task:
    return lambda: world.save(*(league(c.league_tag, tier="9") for c in reversed(contents)))


@pytest.mark.parametrize(
    "writer",
    [_settle, _retry_dead, _backfill, _delete, _save],
    ids=lambda f: f.__name__[1:],
)
def test_a_seeder_and_another_writer_do_not_deadlock(world: World, writer: Writer) -> None:
    """Everybody locks entities by id before operations: the second one waits, holding nothing."""
    contents = sorted(leagues(2), key=id_of)
    first, second = contents
    world.save(second)
    world.save(first)
    task = writer(world, contents)
    seeder = World(world.url)
    for conn in (world.conn, seeder.conn):
        conn.execute("SET deadlock_timeout = '100 ms'")
    with ThreadPoolExecutor(1) as pool:
        with seeder.conn.transaction():
            seeder.save(league(first.league_tag, tier="1"))
            waiting = pool.submit(task)
            World(world.url).until_waiting(world.conn)
            seeder.save(league(second.league_tag, tier="1"))
        waiting.result()
    seeder.close()
    assert all(len([o for o in world.ops("neo4j", c.league_tag) if o.live]) == 1 for c in contents)


def test_two_seeders_in_opposite_order_do_not_deadlock(world: World) -> None:
    """A hundred rows each, six times over, from both ends: none is lost.

    Rows that are new to both may be refused to one of them by another key than the id, as its
    guard is the id's alone. The second try finds them, as the product's does.
    """
    start = threading.Barrier(2, timeout=PATIENCE)

    def seed(backwards: bool) -> None:
        seeder = World(world.url)
        seeder.conn.execute("SET deadlock_timeout = '50 ms'")
        for number in range(6):
            contents = [league(c.league_tag, tier=f"{backwards}{number}") for c in leagues(100)]
            ordered = contents[::-1] if backwards else contents
            start.wait()
            try:
                seeder.save(*ordered)
            except errors.UniqueViolation:
                seeder.save(*ordered)
        seeder.close()

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(seed, backwards) for backwards in (False, True)]:
            done.result()
    assert world.scalar("SELECT count(*) FROM league") == 100
    assert world.counts("neo4j") == {"pending": 100}
    versions = {r[0] for r in world.conn.execute("SELECT version FROM league")}
    assert versions == {op.version for op in world.ops("neo4j")}


def test_seeding_and_settling_the_same_rows_for_a_while(world: World) -> None:
    """One seeds, two deliver, one retries the dead: no deadlock, and all ends in agreement."""
    contents = leagues(60)
    stop = threading.Event()

    def seed() -> None:
        seeder = World(world.url)
        for number in range(25):
            seeder.save(*(league(c.league_tag, tier=str(number)) for c in reversed(contents)))
        seeder.close()
        stop.set()

    def work() -> None:
        worker = World(world.url)
        while not stop.is_set() or _waits(worker):
            token, operations = worker.claim("neo4j", limit=17)
            worker.settle(GRAPH, token, [_verdict(worker.conn, op) for op in operations])
        worker.close()

    def mend() -> None:
        person = World(world.url)
        while not stop.is_set():
            with person.conn.transaction():
                retry_dead(person.conn, dead_ids(person.conn), TOPOLOGY)
        person.close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(task) for task in (seed, work, work, mend)]:
            done.result()
    with world.conn.transaction():
        retry_dead(world.conn, dead_ids(world.conn), TOPOLOGY)
    token, operations = world.claim("neo4j")
    world.settle(GRAPH, token, [Synced(op, op.version) for op in operations])
    assert not _waits(world)
    assert {world.statuses(content)["neo4j"] for content in contents} == {"synced"}


def test_an_enqueue_waits_for_a_settle_and_is_not_lost(world: World) -> None:
    """Either it meets the leased row and is followed up, or it makes a new one."""
    world.save(league("nfl"))
    token, (op,) = world.claim("neo4j")
    seeder = World(world.url)
    with ThreadPoolExecutor(1) as pool:
        with world.conn.transaction():
            settle(world.conn, GRAPH, token, [Synced(op, op.version)])
            waiting = pool.submit(seeder.save, league("nfl", tier="1"))
            World(world.url).until_waiting(seeder.conn)
        waiting.result()
    seeder.close()
    assert [o.status for o in world.ops("neo4j")] == ["synced", "pending"]
    assert world.live("neo4j", "nfl").version == world.version(league("nfl"))
    assert world.statuses(league("nfl"))["neo4j"] == "pending"


def test_a_claim_and_an_enqueue_of_one_row_agree(world: World) -> None:
    """The enqueue that waited for the claim finds the leased row and says that it asked."""
    world.save(league("nfl"))
    seeder = World(world.url)
    with ThreadPoolExecutor(1) as pool:
        with world.conn.transaction():
            world.claim("neo4j")
            waiting = pool.submit(seeder.save, league("nfl", tier="1"))
            World(world.url).until_waiting(seeder.conn)
        waiting.result()
    seeder.close()
    op = world.live("neo4j", "nfl")
    assert (op.status, op.rerun_requested) == ("in_progress", True)


def test_two_sinks_settle_the_same_entities_at_once(world: World) -> None:
    """They take the entities in turn, in one order, whatever the order of their verdicts."""
    world.save(*leagues(40))
    other = World(world.url)
    claims = [world.claim("neo4j"), world.claim("embedding")]
    with ThreadPoolExecutor(2) as pool:
        results = [
            pool.submit(
                session.settle,
                sink,
                token,
                [Dead(op, op.version, ErrorKind.ITEM, "bad") for op in order(operations)],
            )
            for session, sink, (token, operations), order in zip(
                (world, other), (GRAPH, EMBEDDER), claims, (list, reversed), strict=True
            )
        ]
        assert [result.result().dead for result in results] == [40, 40]
    other.close()


def _in_transaction(world: World, work: Callable[[Conn], object]) -> object:
    with world.conn.transaction():
        return work(world.conn)


def _waits(world: World) -> bool:
    return bool(
        world.scalar(
            "SELECT count(*) FROM sync_operation WHERE sink = 'neo4j' AND finished_at IS NULL"
        )
    )


def _verdict(conn: Conn, op: Operation) -> Synced | Dead:
    """Now and then one dies."""
    if op.id % 13 == 0:
        return Dead(op, op.version, ErrorKind.ITEM, "unlucky")
    row = conn.execute("SELECT graph_version FROM league WHERE id = %s", (op.entity_id,)).fetchone()
    assert row is not None
    return Synced(op, row[0])
