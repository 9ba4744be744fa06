"""A provider's limits by the minute are kept by all workers together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from altsync.circuit import budget
from altsync.circuit.budget import correct
from altsync.circuit.sinks import sink_health
from altsync.contract import EMBEDDING
from altsync.db import Database
from altsync.delivery import Delivery
from altsync.delivery.budget import guessed_tokens
from altsync.embedding import Embedded
from altsync.entities import Model
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.store.rows import read_rows
from tests import sports
from tests.integration.database_fixture import (
    DatabaseFixture,
    delivery,
    embedding_sink,
    id_of,
    league,
    leagues,
)
from tests.integration.fakes import FakeEmbedder

#: Seconds of budget that no test waits for.
FOREVER = 1e6


def reserve(
    database: Database, requests: float, tokens: float, max_wait: float = FOREVER
) -> tuple[bool, float]:
    """A place for a call that costs so many seconds of each budget."""
    with database.autocommit() as conn:
        return budget.reserve(conn, EMBEDDING, requests=requests, tokens=tokens, max_wait=max_wait)


def test_each_call_waits_for_those_before_it(pg: DatabaseFixture, database: Database) -> None:
    """By the budget that is more spent; time that passes meanwhile counts."""
    waits = [reserve(database, 100.0, 10.0)[1] for _ in range(3)]
    assert waits[0] == 0.0
    assert 190.0 < waits[2] <= 200.0
    assert 900.0 < reserve(database, 0.0, 0.0)[1] + 700.0 <= 1000.0


def test_a_turn_too_far_away_takes_nothing(pg: DatabaseFixture, database: Database) -> None:
    """A caller that does not wait spends nothing."""
    assert reserve(database, 0.0, 500.0) == (True, 0.0)
    for _ in range(3):
        granted, wait = reserve(database, 0.0, 500.0, max_wait=10.0)
        assert not granted
        assert 490.0 < wait <= 500.0


def test_workers_at_once_lose_no_reservation(pg: DatabaseFixture, database: Database) -> None:
    """Twenty calls of 100 seconds are 2,000 seconds, in any order."""
    with ThreadPoolExecutor(8) as pool:
        waits = sorted(pool.map(lambda _: reserve(database, 100.0, 0.0)[1], range(20)))
    for place, wait in enumerate(waits):
        assert 100.0 * place - 60.0 < wait <= 100.0 * place


def test_a_correction_moves_the_queue(pg: DatabaseFixture, database: Database) -> None:
    """A guess that was too high is given back."""
    reserve(database, 0.0, 500.0)
    with database.autocommit() as conn:
        correct(conn, EMBEDDING, requests=0.0, tokens=-300.0)
    assert 190.0 < reserve(database, 0.0, 1.0)[1] <= 200.0


def test_a_spent_budget_holds_the_sink_back(pg: DatabaseFixture, database: Database) -> None:
    """No call is made, no attempt is spent, and status says which budget and until when."""
    pg.save(*leagues(4))
    embedder = FakeEmbedder()
    sink = embedding_sink(database, embedder)
    deliverer = delivery(database, sink, batch_size=1, tokens_per_minute=1)
    first, second = deliverer.deliver_batch(), deliverer.deliver_batch()
    assert (first.settlement.synced, first.calls) == (1, 1)
    assert (second.settlement.retried, second.calls) == (1, 0)
    assert len(embedder.requests) == 1
    with database.autocommit() as conn:
        health = sink_health(conn)[EMBEDDING]
    assert health.reason == "the budget of 1 tokens a minute is used up"
    assert {op.attempts for op in pg.ops(EMBEDDING) if op.live} == {0}


def test_the_answer_corrects_the_guess(pg: DatabaseFixture, database: Database) -> None:
    """Known texts cost nothing in the end, however long they are."""
    pg.save(*leagues(3))
    sink = embedding_sink(database, FakeEmbedder())
    delivery(database, sink).deliver_batch()
    pg.save(league("namesake", league_name="The l000"))
    deliverer = delivery(database, sink, tokens_per_minute=1, requests_per_minute=1)
    batch = deliverer.deliver_batch()
    assert (batch.settlement.synced, batch.calls) == (1, 0)
    assert reserve(database, 0.0, 0.0)[1] < 1.0


@pytest.mark.parametrize("requests", [None, 3000])
def test_within_the_budget_nothing_waits(
    pg: DatabaseFixture, database: Database, requests: int | None
) -> None:
    """One worker's first calls go out as if there were none."""
    pg.save(*leagues(3))
    sink = embedding_sink(database, FakeEmbedder())
    deliverer = delivery(database, sink, requests_per_minute=requests)
    assert deliverer.deliver_batch().settlement.synced == 3


def test_a_text_is_guessed_once(pg: DatabaseFixture, database: Database) -> None:
    """Rows of one text make one input."""
    same = [league(f"l{n}", league_name="One") for n in range(3)]
    pg.save(*same)
    rows = read_rows(pg.conn, sports.LEAGUE, [id_of(one) for one in same])
    assert guessed_tokens(rows) == guessed_tokens(rows[:1]) > 0


class Metered(FakeEmbedder):
    """An embedder that allows so many tokens a minute, by a clock of the test's own.

    A request that takes more than is left is refused, as with a token bucket of one minute.
    """

    def __init__(self, tokens: int, requests: float = math.inf, largest: float = math.inf) -> None:
        super().__init__()
        self.limit, self.request_limit, self.largest = tokens, requests, largest
        self.clock, self.left, self.requests_left = 0.0, float(tokens), float(requests)
        self.granted, self.refused, self.sizes = 0.0, 0, [0.0]

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.clock += seconds
        self.left = min(self.limit, self.left + self.limit * seconds / 60)
        more = self.request_limit * seconds / 60
        self.requests_left = min(self.request_limit, self.requests_left + more)

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """One request, which takes 0.3 seconds."""
        self.wait(0.3)
        tokens = sum(len(text.encode()) for text in texts) / 4
        self.sizes.append(tokens)
        if len(texts) > self.largest:
            self.refused += 1
            raise SinkFailure(ErrorKind.ITEM, "413 too large", throttled=True)
        if tokens > self.left or self.requests_left < 1:
            self.refused += 1
            raise SinkFailure(ErrorKind.SINK, "429 too many tokens", throttled=True)
        self.left -= tokens
        self.requests_left -= 1
        self.granted += tokens
        return Embedded(super().embed(texts, model).vectors, round(tokens))


def deliver_all(
    pg: DatabaseFixture, deliverer: Delivery, embedder: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deliver until nothing is left, in the time of the embedder's clock."""

    def wait(seconds: float) -> None:
        embedder.wait(seconds)
        pg.advance_time(seconds)
        pg.conn.execute(
            "UPDATE sink_state SET tokens_until = tokens_until - make_interval(secs => %(t)s), "
            "requests_until = requests_until - make_interval(secs => %(t)s)",
            {"t": seconds},
        )

    monkeypatch.setattr("altsync.delivery.calls.time.sleep", wait)
    for _ in range(3000):
        if not deliverer.deliver_batch().claimed:
            wait(0.5)
            if not pg.scalar(
                "SELECT count(*) FROM sync_operation WHERE sink = %s AND finished_at IS NULL",
                EMBEDDING,
            ):
                return
    raise AssertionError(f"not done after {embedder.clock:.0f} seconds")


def long_leagues(count: int) -> list[sports.League]:
    """So many leagues whose texts take about a hundred tokens each."""
    return [league(f"l{n:04}", description=f"{n:04} " + "word " * 70) for n in range(count)]


def embed_leagues(
    count: int,
    pg: DatabaseFixture,
    database: Database,
    embedder: Metered,
    monkeypatch: pytest.MonkeyPatch,
    **policy: Any,
) -> None:
    """Save leagues, and embed all of them in the time of the embedder's clock."""
    pg.save(*long_leagues(count))
    deliverer = delivery(database, embedding_sink(database, embedder), **policy)
    deliver_all(pg, deliverer, embedder, monkeypatch)
    assert pg.counts(EMBEDDING) == {"synced": count}


#: Limits that a provider may have, as arguments of ``Metered``.
LIMITS: dict[str, dict[str, float]] = {
    "tokens a minute": {"tokens": 20_000},
    "few tokens a minute": {"tokens": 5_000},
    "requests a minute": {"tokens": 1_000_000, "requests": 20},
}


@pytest.mark.parametrize("limit", ["tokens a minute", "requests a minute"])
def test_an_unset_limit_is_found_by_smaller_requests(
    pg: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    embedder = Metered(**LIMITS[limit])  # type: ignore[arg-type]
    embed_leagues(400, pg, database, embedder, monkeypatch)
    allowed = embedder.limit * (1 + embedder.clock / 60)
    if limit != "requests a minute":
        assert embedder.granted >= allowed * 2 / 3, f"{embedder.granted:.0f} of {allowed:.0f}"
    assert embedder.refused <= 20 + 2 * embedder.clock


@pytest.mark.slow
def test_a_low_limit_is_found_by_smaller_requests(
    pg: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with more tokens a minute, for eight minutes of the embedder's clock."""
    test_an_unset_limit_is_found_by_smaller_requests(
        pg, database, monkeypatch, "few tokens a minute"
    )


def test_the_budget_of_the_settings_cuts_requests(
    pg: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No request takes more than can be granted while a lease is held; none is refused."""
    embedder = Metered(5_000)
    embed_leagues(200, pg, database, embedder, monkeypatch, tokens_per_minute=5_000)
    assert max(embedder.sizes) <= 5_000 * 10 / 60
    assert embedder.refused == 0
    assert embedder.granted >= 5_000 * embedder.clock / 60 * 2 / 3


def test_a_budget_below_one_text_lets_single_texts_pass(
    pg: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Metered(1_000_000)
    embed_leagues(4, pg, database, embedder, monkeypatch, tokens_per_minute=50)
    assert len(embedder.sizes) == 1 + 4
    assert embedder.granted <= 50 * (embedder.clock / 60 + 3)


def test_a_request_that_is_too_large_is_split_and_the_next_ones_are_small(
    pg: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing dies, no attempt is spent, and the halving is not repeated for each batch."""
    embedder = Metered(10_000_000, largest=30)
    embed_leagues(400, pg, database, embedder, monkeypatch, batch_size=100)
    assert embedder.refused <= 12
