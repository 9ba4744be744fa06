"""Leasing operations: who gets what, how many at a time, and for how long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from altsync import db
from altsync.operations import ErrorKind, Operation, Retry
from altsync.outbox.claim import claim, due, exhausted, extend, release
from tests import sports
from tests.integration.database_fixture import (
    GRAPH,
    LEASE,
    DatabaseFixture,
    archetype,
    id_of,
    league,
    leagues,
)


def test_a_claim_leases_what_is_due(pg: DatabaseFixture) -> None:
    """Each operation is leased under the token, with its attempt counted."""
    pg.save(*leagues(3))
    token, operations = pg.claim("neo4j", worker="host:1")
    assert [
        (op.entity_key, op.attempts, op.timeout_count, op.outcome_unknown) for op in operations
    ] == [
        ("l000", 1, 0, False),
        ("l001", 1, 0, False),
        ("l002", 1, 0, False),
    ]
    for op in pg.ops("neo4j"):
        assert (op.status, op.lease_token, op.leased_by) == ("in_progress", token, "host:1")
        assert LEASE - 10 < op.wait <= LEASE


def test_a_claim_takes_one_sink_and_what_is_due(pg: DatabaseFixture) -> None:
    """Other sinks, leased rows and those that wait for a retry are left alone."""
    pg.save(*leagues(3))
    pg.conn.execute(
        "UPDATE sync_operation SET available_at = now() + interval '1 minute' "
        "WHERE entity_key = 'l001'"
    )
    _, operations = pg.claim("neo4j")
    assert _keys(operations) == ["l000", "l002"]
    assert pg.claim("neo4j")[1] == []
    assert pg.counts("embedding") == {"pending": 3}


def test_two_claimers_share_without_overlap(pg: DatabaseFixture) -> None:
    """While one's claim is not committed yet, the other gets what is left, at once."""
    pg.save(*leagues(10))
    with db.connect(pg.url, autocommit=False) as first:
        mine = _claim(first, limit=6)
        _, theirs = pg.claim("neo4j", limit=6)
        first.commit()
    assert (len(mine), len(theirs)) == (6, 4)
    assert not set(_keys(mine)) & set(_keys(theirs))


def test_many_claimers_take_each_operation_once(pg: DatabaseFixture) -> None:
    """Four at once over two hundred operations: none waits, nothing is taken twice."""
    pg.save(*leagues(200))

    def drain(_: int) -> list[str]:
        taken: list[str] = []
        with db.connect(pg.url) as conn:
            # A claimer that met only locked rows comes back with nothing, and asks again.
            while conn.execute(
                "SELECT 1 FROM sync_operation WHERE sink = 'neo4j' AND status = 'pending' LIMIT 1"
            ).fetchone():
                taken += _keys(_claim(conn, limit=7))
        return taken

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(drain, range(4)))
    assert sorted(key for share in shares for key in share) == [f"l{n:03}" for n in range(200)]
    assert {op.attempts for op in pg.ops("neo4j")} == {1}


def test_a_claim_does_not_wait_for_a_seeder(pg: DatabaseFixture) -> None:
    """A row that a transaction holds is skipped."""
    pg.save(*leagues(2))
    with db.connect(pg.url, autocommit=False) as other:
        other.execute("SELECT 1 FROM sync_operation WHERE entity_key = 'l000' FOR UPDATE")
        assert _keys(pg.claim("neo4j")[1]) == ["l001"]


def test_operations_come_sorted_by_type_and_key(pg: DatabaseFixture) -> None:
    """So that two workers write to a sink in one order."""
    pg.save(league("b"), league("a"), archetype("racing"))
    _, operations = pg.claim("neo4j")
    assert [(op.entity_type, op.entity_key) for op in operations] == [
        (sports.LEAGUE, "a"),
        (sports.LEAGUE, "b"),
        (sports.SPORT_ARCHETYPE, "racing"),
    ]


def test_urgent_before_old(pg: DatabaseFixture) -> None:
    """Priority comes first, then who has waited longest."""
    pg.save(*leagues(3))
    pg.conn.execute(
        "UPDATE sync_operation SET priority = 9, available_at = now() - interval '1 hour' "
        "WHERE entity_key = 'l000'"
    )
    pg.conn.execute(
        "UPDATE sync_operation SET available_at = now() - interval '1 minute' "
        "WHERE entity_key = 'l002'"
    )
    order = [key for _ in range(3) for key in _keys(pg.claim("neo4j", limit=1)[1])]
    assert order == ["l002", "l001", "l000"]


def test_a_lost_lease_is_simply_due(pg: DatabaseFixture) -> None:
    """The next worker takes it over: outcome_unknown, for the last one's write may still land."""
    pg.save(league("nfl"))
    old, _ = pg.claim("neo4j")
    assert pg.claim("neo4j")[1] == []
    pg.expire_leases()
    new, (op,) = pg.claim("neo4j")
    assert (new != old, op.attempts, op.outcome_unknown) == (True, 2, True)
    assert pg.live("neo4j", "nfl").lease_token == new


def test_operations_of_vanished_workers_come_fewer_at_a_time(pg: DatabaseFixture) -> None:
    """One that kills its worker ends up alone: 500, then 50, 5 and 1 at a time."""
    pg.save(*leagues(500))
    sizes = []
    for _ in range(5):
        pg.expire_leases()
        sizes.append(len(pg.claim("neo4j", max_attempts=100)[1]))
        # Only those of the last batch stay with their vanished worker.
        pg.conn.execute(
            """
            DELETE FROM sync_operation WHERE sink = 'neo4j' AND finished_at IS NULL
              AND (status = 'pending' OR attempts < (SELECT max(attempts) FROM sync_operation))
            """
        )
    assert sizes == [500, 50, 5, 1, 1]


def test_healthy_records_are_not_held_up_by_a_poison_record(pg: DatabaseFixture) -> None:
    """New operations fill the batch beside the few of vanished workers."""
    pg.save(*leagues(20))
    pg.conn.execute(
        "UPDATE sync_operation SET status = 'in_progress', lease_token = gen_random_uuid(), "
        "attempts = 3, available_at = now() WHERE entity_key = 'l000'"
    )
    _, operations = pg.claim("neo4j", limit=10)
    assert (len(operations), {op.attempts for op in operations}) == (10, {1})
    assert [len(pg.claim("neo4j", limit=10)[1]) for _ in range(3)] == [9, 1, 0]


def test_an_operation_after_three_timeouts_comes_alone(pg: DatabaseFixture) -> None:
    """Each timed_out call makes the next batch ten times smaller, without a lost lease."""
    pg.save(*leagues(50))
    _count_timeouts(pg, "l000", 3)
    assert _keys(pg.claim("neo4j")[1]) == ["l000"]
    assert len(pg.claim("neo4j")[1]) == 49


def test_operations_after_one_timeout_share_a_batch(pg: DatabaseFixture) -> None:
    """After one timed_out call a tenth of the batch goes out at once."""
    pg.save(*leagues(100))
    pg.conn.execute("UPDATE sync_operation SET timeout_count = 1")
    assert [len(pg.claim("neo4j")[1]) for _ in range(2)] == [50, 50]
    pg.conn.execute(
        "UPDATE sync_operation SET timeout_count = 2, status = 'pending', lease_token = NULL, "
        "available_at = now()"
    )
    assert len(pg.claim("neo4j")[1]) == 5


def test_no_count_of_timeouts_is_too_great(pg: DatabaseFixture) -> None:
    """A record that hung a thousand times is claimed, alone."""
    pg.save(*leagues(2))
    _count_timeouts(pg, "l000", 1000)
    assert _keys(pg.claim("neo4j")[1]) == ["l000"]


def test_a_probe_takes_the_least_suspicious_one(pg: DatabaseFixture) -> None:
    """So that a record that hangs the sink does not hold its breaker open."""
    pg.save(*leagues(4))
    for key, timeout_count in (("l000", 5), ("l001", 2), ("l002", 1), ("l003", 7)):
        _count_timeouts(pg, key, timeout_count)
    order = [key for _ in range(4) for key in _keys(pg.claim("neo4j", probe=True)[1])]
    assert order == ["l002", "l001", "l000", "l003"]


def test_an_operation_that_lost_every_lease_is_left_to_the_relay(pg: DatabaseFixture) -> None:
    """At the limit no worker claims it any more; ``exhausted`` finds it."""
    pg.save(*leagues(2))
    tokens = []
    for _ in range(3):
        token, operations = pg.claim("neo4j", limit=1, max_attempts=3)
        assert _keys(operations) == ["l000"]
        tokens.append(token)
        pg.expire_leases()
        pg.conn.execute(
            "UPDATE sync_operation SET available_at = now() - interval '1 hour' "
            "WHERE entity_key = 'l000'"
        )
    assert _keys(pg.claim("neo4j", limit=1, max_attempts=3)[1]) == ["l001"]
    ((sink, token, op),) = exhausted(pg.conn, 3)
    assert (sink, token, op.entity_key, op.attempts) == ("neo4j", tokens[-1], "l000", 3)


def test_no_leased_operation_is_exhausted(pg: DatabaseFixture) -> None:
    """The last lease counts only when it has run out."""
    pg.save(league("nfl"))
    pg.claim("neo4j")
    assert exhausted(pg.conn, 1) == []
    pg.expire_leases()
    assert len(exhausted(pg.conn, 1)) == 1


def test_a_retry_beyond_the_limit_of_leases_is_not_stranded(pg: DatabaseFixture) -> None:
    """That limit is for vanished workers: what waits for its retry can always be claimed.

    Otherwise an operation with more attempts left than that would wait for ever: never claimed, and
    never moved to the dead letters.
    """
    pg.save(league("nfl"))
    for _ in range(3):
        token, operations = pg.claim("neo4j", max_attempts=3)
        pg.settle(GRAPH, token, [Retry(op, ErrorKind.ITEM, "refused", 0) for op in operations])
    assert _keys(pg.claim("neo4j", max_attempts=3)[1]) == ["nfl"]


def test_extending_a_lease(pg: DatabaseFixture) -> None:
    """The lease ends later from now on."""
    pg.save(*leagues(2))
    token, operations = pg.claim("neo4j", lease=5)
    assert extend(pg.conn, [op.id for op in operations], token, 100)
    assert all(90 < op.wait <= 100 for op in pg.ops("neo4j"))


def test_extending_says_when_a_lease_was_taken_away(pg: DatabaseFixture) -> None:
    """One operation lost is enough to stop: its outcome can no longer be written down."""
    pg.save(*leagues(2))
    token, operations = pg.claim("neo4j")
    pg.conn.execute("UPDATE sync_operation SET available_at = now() WHERE entity_key = 'l001'")
    pg.claim("neo4j")
    assert not extend(pg.conn, [op.id for op in operations], token, 100)


def test_a_claim_that_was_not_tried_is_given_back(pg: DatabaseFixture) -> None:
    """Due at once, and the attempt does not count."""
    pg.save(*leagues(2))
    token, operations = pg.claim("neo4j")
    release(pg.conn, [operations[0].id], token)
    op = pg.live("neo4j", "l000")
    assert (op.status, op.lease_token, op.attempts, op.wait <= 0) == ("pending", None, 0, True)
    assert pg.live("neo4j", "l001").status == "in_progress"


def test_no_worker_releases_the_lease_of_another(pg: DatabaseFixture) -> None:
    """The token is the fence."""
    pg.save(league("nfl"))
    token, operations = pg.claim("neo4j")
    release(pg.conn, [operations[0].id], uuid4())
    assert pg.live("neo4j", "nfl").lease_token == token


def test_what_waits_is_counted_up_to_a_cap(pg: DatabaseFixture) -> None:
    """The relay asks how many batches there are, not how many rows."""
    pg.save(*leagues(30))
    graph, index = due(pg.conn, ["neo4j", "pinecone"], 20)
    assert (graph.sink, graph.due, graph.seconds_to_next) == ("neo4j", 20, None)
    assert (index.sink, index.due, index.seconds_to_next) == ("pinecone", 0, None)


def test_the_next_due_time_is_of_what_is_not_due_yet(pg: DatabaseFixture) -> None:
    """Retries and ended leases alike."""
    pg.save(*leagues(3))
    pg.claim("neo4j", limit=1, lease=50)
    pg.conn.execute(
        "UPDATE sync_operation SET available_at = now() + interval '20 s' WHERE entity_key = 'l001'"
    )
    (graph,) = due(pg.conn, ["neo4j"], 20)
    assert graph.due == 1
    assert graph.seconds_to_next is not None
    assert 0 < graph.seconds_to_next <= 20


def test_extending_takes_locks_in_the_order_of_seeders(pg: DatabaseFixture) -> None:
    """A worker with several calls to make does not deadlock with a seeder of the same rows."""
    first, second = sorted(leagues(2), key=id_of)
    pg.save(second)  # its operation is the older row, and so the first one that is updated
    pg.save(first)
    token, operations = pg.claim("neo4j")
    with (
        db.connect(pg.url) as other,
        db.connect(pg.url) as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        for conn in (other, worker):
            conn.execute("SET deadlock_timeout = '100 ms'")
        seeder = DatabaseFixture(pg.url)
        seeder.conn.execute("SET deadlock_timeout = '100 ms'")
        with seeder.conn.transaction():
            seeder.delete(first)
            waiting = pool.submit(extend, worker, [op.id for op in operations], token, LEASE)
            pg.until_waiting(worker)
            seeder.delete(second)
        assert waiting.result()
        seeder.close()


def _claim(conn: db.Conn, *, limit: int) -> list[Operation]:
    return claim(
        conn, "neo4j", token=uuid4(), worker="tests", limit=limit, lease=LEASE, max_attempts=10
    )


def _keys(operations: list[Operation]) -> list[str]:
    return [op.entity_key for op in operations]


def _count_timeouts(pg: DatabaseFixture, key: str, timeout_count: int) -> None:
    pg.conn.execute(
        "UPDATE sync_operation SET timeout_count = %s, available_at = now() - interval '1 hour' "
        "WHERE entity_key = %s",
        (timeout_count, key),
    )
