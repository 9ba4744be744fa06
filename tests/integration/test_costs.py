"""The ledger of costs, and the cap of a day that all workers keep together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import pytest

from altsync.circuit.pause import probe_now
from altsync.circuit.sinks import sink_health
from altsync.contract import EMBEDDING, Answer, Usage
from altsync.costs import ledger
from altsync.costs.ledger import Bill, Item, Spent
from altsync.db import Database
from altsync.entities import Model, Row
from altsync.errors import SinkFailure
from altsync.operations import BreakerState, ErrorKind, Origin
from altsync.projection import embedding_text
from altsync.status.costs import costs_today
from tests import points
from tests.integration.database_fixture import (
    DatabaseFixture,
    delivery,
    embedding_sink,
    league,
    leagues,
)
from tests.integration.fakes import FakeEmbedder, FakeIndex
from tests.integration.test_crash_points import Killed, kill_at

#: Longer than any drain here takes.
DRAIN = 20.0


@dataclass(frozen=True)
class Flat:
    """Prices of one dollar for a token, and of a cent for a unit."""

    def dollars(self, usage: Usage, model: str) -> Decimal | None:
        """Return the price."""
        return Decimal(usage.tokens) + Decimal(usage.read_units + usage.write_units) / 100


class NoPrices:
    """A table without prices."""

    def dollars(self, usage: Usage, model: str) -> Decimal | None:
        """Return no price."""
        return None


class ChargedIndex(FakeIndex):
    """An index that charges two write units for a row, and three at most."""

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write, and charge."""
        return Answer(super().upsert(rows, model).outcomes, write_units=2 * len(rows))

    def most_usage(self, rows: Sequence[Row], model: Model, removing: bool) -> Usage:
        """Return the bound of a call."""
        return Usage(write_units=3 * len(rows))


def counted(database: Database) -> Decimal:
    """Return the dollars that count against a cap."""
    with database.autocommit() as conn:
        return ledger.today(conn).counted


def spent(database: Database) -> list[Spent]:
    """Return the day's costs."""
    with database.autocommit() as conn:
        return ledger.spent(conn)


def bound_of(count: int) -> int:
    """Return the most tokens of the texts of so many leagues."""
    return sum(len(embedding_text(one).encode()) for one in leagues(count))


def test_a_batch_records_its_cost_by_sink_and_origin(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(*leagues(3))
    pg.conn.execute("UPDATE sync_operation SET origin = 'model' WHERE entity_key = 'l002'")
    delivery(database, embedding_sink(database, FakeEmbedder()), prices=Flat()).drain(DRAIN)
    delivery(database, ChargedIndex(), prices=Flat()).drain(DRAIN)
    assert spent(database) == [
        Spent(EMBEDDING, Origin.MODEL, 1, 0, 0, Decimal(1)),
        Spent(EMBEDDING, Origin.SEED, 2, 0, 0, Decimal(2)),
        Spent("pinecone", Origin.EMBEDDING, 0, 0, 6, Decimal("0.06")),
    ]
    assert pg.conn.execute(
        "SELECT sink, tokens, write_units, dollars FROM delivery_batch ORDER BY id"
    ).fetchall() == [(EMBEDDING, 3, 0, Decimal(3)), ("pinecone", 0, 6, Decimal("0.06"))]
    assert counted(database) == Decimal("3.06")


def test_the_parts_of_a_cost_make_the_whole() -> None:
    parts = ledger.shared(Usage(10, 1, 7), {"seed": 1, "model": 1, "retry": 1})
    assert sum(parts.values(), Usage()) == Usage(10, 1, 7)
    assert [part.tokens for part in parts.values()] == [3, 3, 4]


def test_a_cap_stops_before_it_is_exceeded_and_says_so(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(*leagues(40))
    cap = Decimal(bound_of(1) + 10)
    embedder = FakeEmbedder()
    numbers: dict[str, Any] = {"batch_size": 1, "prices": Flat()}
    delivery(database, embedding_sink(database, embedder), max_cost_per_day=cap, **numbers).drain(
        DRAIN
    )
    assert 10 < sum(embedder.paid.values()) <= cap
    assert counted(database) == sum(embedder.paid.values())
    with database.autocommit() as conn:
        health = sink_health(conn)[EMBEDDING]
        costs = costs_today(conn, cap)
    assert health.state is BreakerState.OPEN
    assert health.reason is not None
    assert f"the cap of ${cap} a day is reached" in health.reason
    assert "ALTSYNC_MAX_COST_PER_DAY" in health.reason
    assert costs.left == cap - sum(embedder.paid.values())
    live = [op for op in pg.ops(EMBEDDING) if op.live]
    assert {op.attempts for op in live} == {0}
    assert len(live) + sum(embedder.paid.values()) == 40


@pytest.mark.parametrize("turn", ["the cap is raised", "the day turns"])
def test_the_work_drains_when(pg: DatabaseFixture, database: Database, turn: str) -> None:
    pg.save(*leagues(6))
    embedder = FakeEmbedder()
    sink = embedding_sink(database, embedder)
    cap = Decimal(bound_of(6))
    with database.autocommit() as conn:
        ledger.record(conn, EMBEDDING, Bill([Item("seed", Usage(1), cap)]))
    delivery(database, sink, prices=Flat(), max_cost_per_day=cap).drain(DRAIN)
    assert not embedder.paid
    if turn == "the day turns":
        pg.conn.execute("UPDATE spend_day SET day = day - 1")
        pg.conn.execute("UPDATE spend SET day = day - 1")
    else:
        cap *= 2
    probe_now(pg.conn, EMBEDDING)
    delivery(database, sink, prices=Flat(), max_cost_per_day=cap).drain(DRAIN)
    assert pg.counts(EMBEDDING) == {"synced": 6}


def test_workers_at_once_do_not_exceed_the_cap_together(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(*leagues(60))
    embedder = FakeEmbedder()
    cap = Decimal(bound_of(4))

    def work(number: int) -> None:
        delivery(
            database,
            embedding_sink(database, embedder),
            batch_size=2,
            prices=Flat(),
            max_cost_per_day=cap,
        ).drain(DRAIN)

    most: list[Decimal] = []
    embedder.before = lambda texts: most.append(counted(database))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert 0 < sum(embedder.paid.values()) <= cap
    assert max(most) <= cap
    assert counted(database) == sum(embedder.paid.values())


@pytest.mark.parametrize("point", points.DELIVERY)
def test_a_killed_worker_never_makes_room_below_the_cap(
    pg: DatabaseFixture, database: Database, point: str
) -> None:
    pg.save(*leagues(12))
    embedder = FakeEmbedder()
    sink = embedding_sink(database, embedder)
    cap = Decimal(bound_of(5))
    for _ in range(3):
        try:
            delivery(
                database,
                sink,
                kill_at(point),
                batch_size=2,
                prices=Flat(),
                max_cost_per_day=cap,
            ).deliver_batch()
        except Killed:
            pg.expire_leases()
        assert sum(embedder.paid.values()) <= counted(database) <= cap
        probe_now(pg.conn, EMBEDDING)
    pg.expire_leases()
    raised = delivery(database, sink, prices=Flat(), max_cost_per_day=cap * 100)
    for _ in range(20):
        probe_now(pg.conn, EMBEDDING)
        pg.advance_time(60)
        raised.drain(DRAIN)
    assert pg.counts(EMBEDDING) == {"synced": 12}
    assert sum(embedder.paid.values()) <= counted(database)


@pytest.mark.parametrize(
    ("failure", "is_spent"),
    [
        (SinkFailure(ErrorKind.SINK, "no answer", timed_out=True), True),
        (SinkFailure(ErrorKind.SINK, "cut", outcome_unknown=True), True),
        (SinkFailure(ErrorKind.SINK, "an answer of no known form", charged=True), True),
        (SinkFailure(ErrorKind.SINK, "throttled", throttled=True), False),
        (SinkFailure(ErrorKind.SINK, "the key is refused"), False),
    ],
    ids=lambda value: value.reason if isinstance(value, SinkFailure) else "",
)
def test_an_unknown_outcome_counts_as_spent(
    pg: DatabaseFixture, database: Database, failure: SinkFailure, is_spent: bool
) -> None:
    pg.save(*leagues(1))

    def fail(texts: object) -> None:
        raise failure

    embedder = FakeEmbedder(before=fail)
    sink = embedding_sink(database, embedder)
    numbers: dict[str, Any] = {"prices": Flat(), "max_cost_per_day": Decimal(10_000)}
    delivery(database, sink, **numbers).deliver_batch()
    assert counted(database) == (bound_of(1) if is_spent else 0)
    with database.autocommit() as conn:
        assert ledger.today(conn).reserved == 0


def test_a_model_without_a_price_is_not_called_under_a_cap(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(*leagues(1))
    embedder = FakeEmbedder()
    sink = embedding_sink(database, embedder)
    delivery(database, sink, prices=NoPrices(), max_cost_per_day=Decimal(5)).drain(DRAIN)
    assert not embedder.paid
    with database.autocommit() as conn:
        reason = sink_health(conn)[EMBEDDING].reason
    assert reason is not None
    assert "no price of" in reason
    assert "ALTSYNC_PRICES" in reason


def test_texts_with_a_vector_cost_nothing_under_a_cap(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(*leagues(1))
    sink = embedding_sink(database, FakeEmbedder())
    delivery(database, sink).drain(DRAIN)
    pg.save(league("namesake", league_name="The l000"))
    delivery(database, sink, prices=Flat(), max_cost_per_day=Decimal(0)).drain(DRAIN)
    assert pg.counts(EMBEDDING) == {"synced": 2}


def test_a_settled_call_releases_the_day_that_it_reserved(
    pg: DatabaseFixture, database: Database
) -> None:
    """A call of yesterday takes nothing of today's cap."""
    pg.save(*leagues(1))

    def turn(texts: object) -> None:
        pg.conn.execute("UPDATE spend_day SET day = day - 1")

    embedder = FakeEmbedder(before=turn)
    original: Callable[..., object] = ledger.reserve
    sink = embedding_sink(database, embedder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ledger,
            "reserve",
            lambda conn, dollars, cap: (
                original(conn, dollars, cap),
                conn.execute("SELECT (now() AT TIME ZONE 'UTC')::date - 1").fetchone()[0],
            )[1],
        )
        delivery(database, sink, prices=Flat(), max_cost_per_day=Decimal(10_000)).drain(DRAIN)
    assert pg.conn.execute(
        "SELECT day = (now() AT TIME ZONE 'UTC')::date - 1, dollars, reserved FROM spend_day"
    ).fetchall() == [(True, Decimal(1), Decimal(0))]
