"""A provider's limits by the minute are kept by all workers together."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from altsync import outbox, store
from altsync.db import Database
from altsync.delivery.budget import guessed_tokens
from altsync.records import EMBEDDING, EntityType
from tests.integration.fakes import FakeEmbedder
from tests.integration.world import World, delivery, embedding_sink, id_of, league, leagues

#: Seconds of budget that no test waits for.
FOREVER = 1e6


def reserve(
    database: Database, requests: float, tokens: float, patience: float = FOREVER
) -> tuple[bool, float]:
    """A place for a call that costs so many seconds of each budget."""
    with database.autocommit() as conn:
        return outbox.reserve(conn, EMBEDDING, requests=requests, tokens=tokens, patience=patience)


def test_each_call_waits_for_those_before_it(world: World, database: Database) -> None:
    """By the budget that is more spent; time that passes meanwhile counts."""
    waits = [reserve(database, 100.0, 10.0)[1] for _ in range(3)]
    assert waits[0] == 0.0
    assert 190.0 < waits[2] <= 200.0
    assert 900.0 < reserve(database, 0.0, 0.0)[1] + 700.0 <= 1000.0


def test_a_turn_too_far_away_takes_nothing(world: World, database: Database) -> None:
    """Who does not wait, does not spend."""
    assert reserve(database, 0.0, 500.0) == (True, 0.0)
    for _ in range(3):
        granted, wait = reserve(database, 0.0, 500.0, patience=10.0)
        assert not granted
        assert 490.0 < wait <= 500.0


def test_workers_at_once_lose_no_reservation(world: World, database: Database) -> None:
    """Twenty calls of 100 seconds are 2,000 seconds, whoever came first."""
    with ThreadPoolExecutor(8) as pool:
        waits = sorted(pool.map(lambda _: reserve(database, 100.0, 0.0)[1], range(20)))
    for place, wait in enumerate(waits):
        assert 100.0 * place - 60.0 < wait <= 100.0 * place


def test_a_correction_moves_the_queue(world: World, database: Database) -> None:
    """What was guessed too high is given back."""
    reserve(database, 0.0, 500.0)
    with database.autocommit() as conn:
        outbox.correct(conn, EMBEDDING, requests=0.0, tokens=-300.0)
    assert 190.0 < reserve(database, 0.0, 1.0)[1] <= 200.0


def test_a_spent_budget_holds_the_sink_back(world: World, database: Database) -> None:
    """No call is made, no attempt is spent, and status says which budget and until when."""
    world.save(*leagues(4))
    embedder = FakeEmbedder()
    sink = embedding_sink(database, embedder)
    deliverer = delivery(database, sink, batch_size=2, tokens_per_minute=1)
    first, second = deliverer.deliver_batch(), deliverer.deliver_batch()
    assert (first.settlement.synced, first.calls) == (2, 1)
    assert (second.settlement.retried, second.calls) == (2, 0)
    assert len(embedder.requests) == 1
    with database.autocommit() as conn:
        health = outbox.sink_health(conn)[EMBEDDING]
    assert health.reason == "the budget of 1 tokens a minute is used up"
    assert {op.attempts for op in world.ops(EMBEDDING) if op.live} == {0}


def test_the_answer_corrects_the_guess(world: World, database: Database) -> None:
    """Known texts cost nothing in the end, however long they are."""
    world.save(*leagues(3))
    sink = embedding_sink(database, FakeEmbedder())
    delivery(database, sink).deliver_batch()
    world.save(league("namesake", league_name="The l000"))
    deliverer = delivery(database, sink, tokens_per_minute=1, requests_per_minute=1)
    batch = deliverer.deliver_batch()
    assert (batch.settlement.synced, batch.calls) == (1, 0)
    assert reserve(database, 0.0, 0.0)[1] < 1.0


@pytest.mark.parametrize("requests", [None, 3000])
def test_within_the_budget_nothing_waits(
    world: World, database: Database, requests: int | None
) -> None:
    """One worker's first calls go out as if there were none."""
    world.save(*leagues(3))
    sink = embedding_sink(database, FakeEmbedder())
    deliverer = delivery(database, sink, requests_per_minute=requests)
    assert deliverer.deliver_batch().settlement.synced == 3


def test_a_text_is_guessed_once(world: World, database: Database) -> None:
    """Rows of one text make one input."""
    same = [league(f"l{n}", league_name="One") for n in range(3)]
    world.save(*same)
    rows = store.read_rows(world.conn, EntityType.LEAGUE, [id_of(one) for one in same])
    assert guessed_tokens(rows) == guessed_tokens(rows[:1]) > 0
