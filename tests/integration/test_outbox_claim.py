"""Leasing operations: who gets what, how many at a time, and for how long."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from altsync import db
from altsync.operations import ErrorKind, Operation, Retry
from altsync.outbox.claim import claim, due, exhausted, extend, release
from tests import sports
from tests.integration.world import (
    GRAPH,
    LEASE,
    World,
    archetype,
    id_of,
    league,
    leagues,
)


def test_a_claim_leases_what_is_due(world: World) -> None:
    """Each operation is leased under the token, with its attempt counted."""
    world.save(*leagues(3))
    token, operations = world.claim("neo4j", worker="host:1")
    assert [
        (op.entity_key, op.attempts, op.timeout_count, op.outcome_unknown) for op in operations
    ] == [
        ("l000", 1, 0, False),
        ("l001", 1, 0, False),
        ("l002", 1, 0, False),
    ]
    for op in world.ops("neo4j"):
        assert (op.status, op.lease_token, op.leased_by) == ("in_progress", token, "host:1")
        assert LEASE - 10 < op.wait <= LEASE


def test_a_claim_takes_one_sink_and_what_is_due(world: World) -> None:
    """Other sinks, leased rows and those that wait for a retry are left alone."""
    world.save(*leagues(3))
    world.conn.execute(
        "UPDATE sync_operation SET available_at = now() + interval '1 minute' "
        "WHERE entity_key = 'l001'"
    )
    _, operations = world.claim("neo4j")
    assert _keys(operations) == ["l000", "l002"]
    assert world.claim("neo4j")[1] == []
    assert world.counts("embedding") == {"pending": 3}


def test_two_claimers_share_without_overlap(world: World) -> None:
    """While one's claim is not committed yet, the other gets what is left, at once."""
    world.save(*leagues(10))
    with db.connect(world.url, autocommit=False) as first:
        mine = _claim(first, limit=6)
        _, theirs = world.claim("neo4j", limit=6)
        first.commit()
    assert (len(mine), len(theirs)) == (6, 4)
    assert not set(_keys(mine)) & set(_keys(theirs))


def test_many_claimers_take_each_operation_once(world: World) -> None:
    """Four at once over two hundred operations: nobody waits, nothing is taken twice."""
    world.save(*leagues(200))

    def drain(_: int) -> list[str]:
        taken: list[str] = []
        with db.connect(world.url) as conn:
            # A claimer that met only locked rows comes back with nothing, and asks again.
            while conn.execute(
                "SELECT 1 FROM sync_operation WHERE sink = 'neo4j' AND status = 'pending' LIMIT 1"
            ).fetchone():
                taken += _keys(_claim(conn, limit=7))
        return taken

    with ThreadPoolExecutor(4) as pool:
        shares = list(pool.map(drain, range(4)))
    assert sorted(key for share in shares for key in share) == [f"l{n:03}" for n in range(200)]
    assert {op.attempts for op in world.ops("neo4j")} == {1}


def test_a_claim_does_not_wait_for_a_seeder(world: World) -> None:
    """A row that a transaction holds is skipped."""
    world.save(*leagues(2))
    with db.connect(world.url, autocommit=False) as other:
        other.execute("SELECT 1 FROM sync_operation WHERE entity_key = 'l000' FOR UPDATE")
        assert _keys(world.claim("neo4j")[1]) == ["l001"]


def test_operations_come_sorted_by_type_and_key(world: World) -> None:
    """So that two workers write to a sink in one order."""
    world.save(league("b"), league("a"), archetype("racing"))
    _, operations = world.claim("neo4j")
    assert [(op.entity_type, op.entity_key) for op in operations] == [
        (sports.LEAGUE, "a"),
        (sports.LEAGUE, "b"),
        (sports.SPORT_ARCHETYPE, "racing"),
    ]


def test_urgent_before_old(world: World) -> None:
    """Priority comes first, then who has waited longest."""
    world.save(*leagues(3))
    world.conn.execute(
        "UPDATE sync_operation SET priority = 9, available_at = now() - interval '1 hour' "
        "WHERE entity_key = 'l000'"
    )
    world.conn.execute(
        "UPDATE sync_operation SET available_at = now() - interval '1 minute' "
        "WHERE entity_key = 'l002'"
    )
    order = [key for _ in range(3) for key in _keys(world.claim("neo4j", limit=1)[1])]
    assert order == ["l002", "l001", "l000"]


def test_a_lost_lease_is_simply_due(world: World) -> None:
    """The next worker takes it over: outcome_unknown, for the last one's write may still land."""
    world.save(league("nfl"))
    old, _ = world.claim("neo4j")
    assert world.claim("neo4j")[1] == []
    world.end_leases()
    new, (op,) = world.claim("neo4j")
    assert (new != old, op.attempts, op.outcome_unknown) == (True, 2, True)
    assert world.live("neo4j", "nfl").lease_token == new


def test_operations_of_vanished_workers_come_fewer_at_a_time(world: World) -> None:
    """One that kills its worker ends up alone: 500, then 50, 5 and 1 at a time."""
    world.save(*leagues(500))
    sizes = []
    for _ in range(5):
        world.end_leases()
        sizes.append(len(world.claim("neo4j", max_attempts=100)[1]))
        # Only those of the last batch stay with their vanished worker.
        world.conn.execute(
            """
            DELETE FROM sync_operation WHERE sink = 'neo4j' AND finished_at IS NULL
              AND (status = 'pending' OR attempts < (SELECT max(attempts) FROM sync_operation))
            """
        )
    assert sizes == [500, 50, 5, 1, 1]


def test_innocents_are_not_held_up_by_a_killer(world: World) -> None:
    """New operations fill the batch beside the few of vanished workers."""
    world.save(*leagues(20))
    world.conn.execute(
        "UPDATE sync_operation SET status = 'in_progress', lease_token = gen_random_uuid(), "
        "attempts = 3, available_at = now() WHERE entity_key = 'l000'"
    )
    _, operations = world.claim("neo4j", limit=10)
    assert (len(operations), {op.attempts for op in operations}) == (10, {1})
    assert [len(world.claim("neo4j", limit=10)[1]) for _ in range(3)] == [9, 1, 0]


def test_a_suspect_operation_comes_alone(world: World) -> None:
    """Each suspect call makes the next batch ten times smaller, without a lost lease."""
    world.save(*leagues(50))
    _suspect(world, "l000", 3)
    assert _keys(world.claim("neo4j")[1]) == ["l000"]
    assert len(world.claim("neo4j")[1]) == 49


def test_mildly_suspect_operations_share_a_batch(world: World) -> None:
    """After one suspect call a tenth of the batch goes out at once."""
    world.save(*leagues(100))
    world.conn.execute("UPDATE sync_operation SET timeout_count = 1")
    assert [len(world.claim("neo4j")[1]) for _ in range(2)] == [50, 50]
    world.conn.execute(
        "UPDATE sync_operation SET timeout_count = 2, status = 'pending', lease_token = NULL, "
        "available_at = now()"
    )
    assert len(world.claim("neo4j")[1]) == 5


def test_no_suspicion_is_too_great(world: World) -> None:
    """A record that hung a thousand times is claimed, alone."""
    world.save(*leagues(2))
    _suspect(world, "l000", 1000)
    assert _keys(world.claim("neo4j")[1]) == ["l000"]


def test_a_probe_takes_the_least_suspicious_one(world: World) -> None:
    """So that a record that hangs the sink does not hold its breaker open."""
    world.save(*leagues(4))
    for key, timeout_count in (("l000", 5), ("l001", 2), ("l002", 1), ("l003", 7)):
        _suspect(world, key, timeout_count)
    order = [key for _ in range(4) for key in _keys(world.claim("neo4j", probe=True)[1])]
    assert order == ["l002", "l001", "l000", "l003"]


def test_an_operation_that_lost_every_lease_is_left_to_the_relay(world: World) -> None:
    """At the limit nobody claims it any more; ``exhausted`` finds it."""
    world.save(*leagues(2))
    tokens = []
    for _ in range(3):
        token, operations = world.claim("neo4j", limit=1, max_attempts=3)
        assert _keys(operations) == ["l000"]
        tokens.append(token)
        world.end_leases()
        world.conn.execute(
            "UPDATE sync_operation SET available_at = now() - interval '1 hour' "
            "WHERE entity_key = 'l000'"
        )
    assert _keys(world.claim("neo4j", limit=1, max_attempts=3)[1]) == ["l001"]
    ((sink, token, op),) = exhausted(world.conn, 3)
    assert (sink, token, op.entity_key, op.attempts) == ("neo4j", tokens[-1], "l000", 3)


def test_nobody_is_exhausted_while_leased(world: World) -> None:
    """The last lease counts only when it has run out."""
    world.save(league("nfl"))
    world.claim("neo4j")
    assert exhausted(world.conn, 1) == []
    world.end_leases()
    assert len(exhausted(world.conn, 1)) == 1


def test_a_retry_beyond_the_limit_of_leases_is_not_stranded(world: World) -> None:
    """That limit is for vanished workers: what waits for its retry can always be claimed.

    Else an operation with more attempts left than that would wait for ever, claimed by nobody
    and buried by nobody.
    """
    world.save(league("nfl"))
    for _ in range(3):
        token, operations = world.claim("neo4j", max_attempts=3)
        world.settle(GRAPH, token, [Retry(op, ErrorKind.ITEM, "refused", 0) for op in operations])
    assert _keys(world.claim("neo4j", max_attempts=3)[1]) == ["nfl"]


def test_extending_a_lease(world: World) -> None:
    """The lease ends later from now on."""
    world.save(*leagues(2))
    token, operations = world.claim("neo4j", lease=5)
    assert extend(world.conn, [op.id for op in operations], token, 100)
    assert all(90 < op.wait <= 100 for op in world.ops("neo4j"))


def test_extending_says_when_a_lease_was_taken_away(world: World) -> None:
    """One operation lost is enough to stop: its outcome can no longer be written down."""
    world.save(*leagues(2))
    token, operations = world.claim("neo4j")
    world.conn.execute("UPDATE sync_operation SET available_at = now() WHERE entity_key = 'l001'")
    world.claim("neo4j")
    assert not extend(world.conn, [op.id for op in operations], token, 100)


def test_a_claim_that_was_not_tried_is_given_back(world: World) -> None:
    """Due at once, and the attempt does not count."""
    world.save(*leagues(2))
    token, operations = world.claim("neo4j")
    release(world.conn, [operations[0].id], token)
    op = world.live("neo4j", "l000")
    assert (op.status, op.lease_token, op.attempts, op.wait <= 0) == ("pending", None, 0, True)
    assert world.live("neo4j", "l001").status == "in_progress"


def test_nobody_gives_back_what_another_holds(world: World) -> None:
    """The token is the fence."""
    world.save(league("nfl"))
    token, operations = world.claim("neo4j")
    release(world.conn, [operations[0].id], uuid4())
    assert world.live("neo4j", "nfl").lease_token == token


def test_what_waits_is_counted_up_to_a_cap(world: World) -> None:
    """The relay asks how many batches there are, not how many rows."""
    world.save(*leagues(30))
    graph, index = due(world.conn, ["neo4j", "pinecone"], 20)
    assert (graph.sink, graph.due, graph.seconds_to_next) == ("neo4j", 20, None)
    assert (index.sink, index.due, index.seconds_to_next) == ("pinecone", 0, None)


def test_the_next_due_time_is_of_what_is_not_due_yet(world: World) -> None:
    """Retries and ended leases alike."""
    world.save(*leagues(3))
    world.claim("neo4j", limit=1, lease=50)
    world.conn.execute(
        "UPDATE sync_operation SET available_at = now() + interval '20 s' WHERE entity_key = 'l001'"
    )
    (graph,) = due(world.conn, ["neo4j"], 20)
    assert graph.due == 1
    assert graph.seconds_to_next is not None
    assert 0 < graph.seconds_to_next <= 20


def test_extending_takes_locks_in_the_order_of_seeders(world: World) -> None:
    """A worker with several calls to make does not deadlock with a seeder of the same rows."""
    first, second = sorted(leagues(2), key=id_of)
    world.save(second)  # its operation is the older row, and so the first one that is updated
    world.save(first)
    token, operations = world.claim("neo4j")
    with (
        db.connect(world.url) as other,
        db.connect(world.url) as worker,
        ThreadPoolExecutor(1) as pool,
    ):
        for conn in (other, worker):
            conn.execute("SET deadlock_timeout = '100 ms'")
        seeder = World(world.url)
        seeder.conn.execute("SET deadlock_timeout = '100 ms'")
        with seeder.conn.transaction():
            seeder.delete(first)
            waiting = pool.submit(extend, worker, [op.id for op in operations], token, LEASE)
            world.until_waiting(worker)
            seeder.delete(second)
        assert waiting.result()
        seeder.close()


def _claim(conn: db.Conn, *, limit: int) -> list[Operation]:
    return claim(
        conn, "neo4j", token=uuid4(), worker="tests", limit=limit, lease=LEASE, max_attempts=10
    )


def _keys(operations: list[Operation]) -> list[str]:
    return [op.entity_key for op in operations]


def _suspect(world: World, key: str, timeout_count: int) -> None:
    world.conn.execute(
        "UPDATE sync_operation SET timeout_count = %s, available_at = now() - interval '1 hour' "
        "WHERE entity_key = %s",
        (timeout_count, key),
    )
