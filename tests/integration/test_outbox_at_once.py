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
from tests.integration.database_fixture import (
    EMBEDDER,
    GRAPH,
    TIMEOUT,
    DatabaseFixture,
    id_of,
    league,
    leagues,
    settle,
)

Task = Callable[[], object]
Writer = Callable[[DatabaseFixture, Sequence[sports.League]], Task]


def test_versions_never_go_backwards(pg: DatabaseFixture) -> None:
    """A number is drawn after the row's lock, so the last commit has the highest one."""
    pg.save(league("nfl"))
    other = DatabaseFixture(pg.url)
    with ThreadPoolExecutor(1) as pool:
        with pg.conn.transaction():
            pg.save(league("nfl", tier="1"))
            later = pool.submit(other.save, league("nfl", tier="2"))
            DatabaseFixture(pg.url).until_waiting(other.conn)
            pg.save(league("nfl", tier="3"))
            first = pg.version(league("nfl"))
        later.result()
    other.close()
    row = pg.row(league("nfl"))
    assert row["tier"] == "2"
    assert row["version"] > first
    assert pg.live("neo4j", "nfl").version == row["version"]


def _settle(pg: DatabaseFixture, contents: Sequence[sports.League]) -> Task:
    token, operations = pg.claim("neo4j")
    return lambda: pg.settle(GRAPH, token, [Synced(op, op.version) for op in operations])


def _retry_dead(pg: DatabaseFixture, contents: Sequence[sports.League]) -> Task:
    token, operations = pg.claim("neo4j")
    verdicts = [Dead(op, op.version, ErrorKind.ITEM, "bad") for op in operations]
    pg.settle(GRAPH, token, verdicts)
    dead = dead_ids(pg.conn)
    return lambda: _in_transaction(pg, lambda c: retry_dead(c, dead, TOPOLOGY))


def _backfill(pg: DatabaseFixture, contents: Sequence[sports.League]) -> Task:
    return lambda: _in_transaction(
        pg, lambda c: backfill_page(c, GRAPH, sports.LEAGUE, after=None, force=True)
    )


def _delete(pg: DatabaseFixture, contents: Sequence[sports.League]) -> Task:
    return lambda: pg.delete(*reversed(contents))


def _save(pg: DatabaseFixture, contents: Sequence[sports.League]) -> Task:
    return lambda: pg.save(*(league(c.league_tag, tier="9") for c in reversed(contents)))


@pytest.mark.parametrize(
    "writer",
    [_settle, _retry_dead, _backfill, _delete, _save],
    ids=lambda f: f.__name__[1:],
)
def test_a_seeder_and_another_writer_do_not_deadlock(pg: DatabaseFixture, writer: Writer) -> None:
    """Everybody locks entities by id before operations: the second one waits, holding nothing."""
    contents = sorted(leagues(2), key=id_of)
    first, second = contents
    pg.save(second)
    pg.save(first)
    task = writer(pg, contents)
    seeder = DatabaseFixture(pg.url)
    for conn in (pg.conn, seeder.conn):
        conn.execute("SET deadlock_timeout = '100 ms'")
    with ThreadPoolExecutor(1) as pool:
        with seeder.conn.transaction():
            seeder.save(league(first.league_tag, tier="1"))
            waiting = pool.submit(task)
            DatabaseFixture(pg.url).until_waiting(pg.conn)
            seeder.save(league(second.league_tag, tier="1"))
        waiting.result()
    seeder.close()
    assert all(len([o for o in pg.ops("neo4j", c.league_tag) if o.live]) == 1 for c in contents)


def test_two_seeders_in_opposite_order_do_not_deadlock(pg: DatabaseFixture) -> None:
    """A hundred rows each, six times over, from both ends: none is lost.

    Rows that are new to both may be refused to one of them by another key than the id, as its
    guard is the id's alone. The second try finds them, as the product's does.
    """
    start = threading.Barrier(2, timeout=TIMEOUT)

    def seed(backwards: bool) -> None:
        seeder = DatabaseFixture(pg.url)
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
    assert pg.scalar("SELECT count(*) FROM league") == 100
    assert pg.counts("neo4j") == {"pending": 100}
    versions = {r[0] for r in pg.conn.execute("SELECT version FROM league")}
    assert versions == {op.version for op in pg.ops("neo4j")}


def test_seeding_and_settling_the_same_rows_for_a_while(pg: DatabaseFixture) -> None:
    """One seeds, two deliver, one retries the dead: no deadlock, and all ends in agreement."""
    contents = leagues(60)
    stop = threading.Event()

    def seed() -> None:
        seeder = DatabaseFixture(pg.url)
        for number in range(25):
            seeder.save(*(league(c.league_tag, tier=str(number)) for c in reversed(contents)))
        seeder.close()
        stop.set()

    def work() -> None:
        worker = DatabaseFixture(pg.url)
        while not stop.is_set() or _waits(worker):
            token, operations = worker.claim("neo4j", limit=17)
            worker.settle(GRAPH, token, [_verdict(worker.conn, op) for op in operations])
        worker.close()

    def repair() -> None:
        person = DatabaseFixture(pg.url)
        while not stop.is_set():
            with person.conn.transaction():
                retry_dead(person.conn, dead_ids(person.conn), TOPOLOGY)
        person.close()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(task) for task in (seed, work, work, repair)]:
            done.result()
    with pg.conn.transaction():
        retry_dead(pg.conn, dead_ids(pg.conn), TOPOLOGY)
    token, operations = pg.claim("neo4j")
    pg.settle(GRAPH, token, [Synced(op, op.version) for op in operations])
    assert not _waits(pg)
    assert {pg.statuses(content)["neo4j"] for content in contents} == {"synced"}


def test_an_enqueue_waits_for_a_settle_and_is_not_lost(pg: DatabaseFixture) -> None:
    """Either it meets the leased row and is followed up, or it makes a new one."""
    pg.save(league("nfl"))
    token, (op,) = pg.claim("neo4j")
    seeder = DatabaseFixture(pg.url)
    with ThreadPoolExecutor(1) as pool:
        with pg.conn.transaction():
            settle(pg.conn, GRAPH, token, [Synced(op, op.version)])
            waiting = pool.submit(seeder.save, league("nfl", tier="1"))
            DatabaseFixture(pg.url).until_waiting(seeder.conn)
        waiting.result()
    seeder.close()
    assert [o.status for o in pg.ops("neo4j")] == ["synced", "pending"]
    assert pg.live("neo4j", "nfl").version == pg.version(league("nfl"))
    assert pg.statuses(league("nfl"))["neo4j"] == "pending"


def test_a_claim_and_an_enqueue_of_one_row_agree(pg: DatabaseFixture) -> None:
    """The enqueue that waited for the claim finds the leased row and says that it asked."""
    pg.save(league("nfl"))
    seeder = DatabaseFixture(pg.url)
    with ThreadPoolExecutor(1) as pool:
        with pg.conn.transaction():
            pg.claim("neo4j")
            waiting = pool.submit(seeder.save, league("nfl", tier="1"))
            DatabaseFixture(pg.url).until_waiting(seeder.conn)
        waiting.result()
    seeder.close()
    op = pg.live("neo4j", "nfl")
    assert (op.status, op.rerun_requested) == ("in_progress", True)


def test_two_sinks_settle_the_same_entities_at_once(pg: DatabaseFixture) -> None:
    """They take the entities in turn, in one order, whatever the order of their verdicts."""
    pg.save(*leagues(40))
    other = DatabaseFixture(pg.url)
    claims = [pg.claim("neo4j"), pg.claim("embedding")]
    with ThreadPoolExecutor(2) as pool:
        results = [
            pool.submit(
                session.settle,
                sink,
                token,
                [Dead(op, op.version, ErrorKind.ITEM, "bad") for op in order(operations)],
            )
            for session, sink, (token, operations), order in zip(
                (pg, other), (GRAPH, EMBEDDER), claims, (list, reversed), strict=True
            )
        ]
        assert [result.result().dead for result in results] == [40, 40]
    other.close()


def _in_transaction(pg: DatabaseFixture, work: Callable[[Conn], object]) -> object:
    with pg.conn.transaction():
        return work(pg.conn)


def _waits(pg: DatabaseFixture) -> bool:
    return bool(
        pg.scalar(
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
