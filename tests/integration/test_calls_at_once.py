"""Several calls of one batch under way at once: what came of each is kept apart."""

from __future__ import annotations

import threading
from collections.abc import Callable

from altsync.db import Database
from altsync.delivery import Batch
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from tests.integration.database_fixture import DatabaseFixture, delivery, embed, leagues
from tests.integration.fakes import Call, WideIndex

#: Calls at once before the sink has shown what it bears.
FIRST = 2

#: Seconds of an answer that are more than half of what a call may take.
SLOW = 6.0

#: Seconds in which a second call must have come; it comes at once, or never.
TIMEOUT = 30.0


class MeasuredIndex(WideIndex):
    """An index that counts its calls at once, one row each."""

    def __init__(self) -> None:
        super().__init__(size=1)
        self.widest = 0
        self._under_way = 0
        self._lock = threading.Lock()
        self.before = self._enter
        self.after = self._leave

    def _enter(self, call: Call) -> None:
        with self._lock:
            self._under_way += 1
            self.widest = max(self.widest, self._under_way)

    def _leave(self, call: Call) -> None:
        with self._lock:
            self._under_way -= 1


def key_of(call: Call) -> str:
    """The league of a call of one row."""
    return call.rows[0].key


def test_calls_go_out_together(pg: DatabaseFixture, database: Database) -> None:
    """The first answer waits for the second call: in turns, it would never come."""
    pg.save(*leagues(FIRST))
    embed(database)
    together = threading.Barrier(FIRST, timeout=30)
    index = MeasuredIndex()
    index.before = lambda call: _meet(together)
    batch = delivery(database, index).deliver_batch()
    assert (batch.settlement.synced, batch.calls) == (FIRST, FIRST)


def _meet(barrier: threading.Barrier) -> None:
    barrier.wait(TIMEOUT)


def test_a_refused_record_costs_itself_alone(pg: DatabaseFixture, database: Database) -> None:
    """Calls that went out beside it are kept, and one is spent on each."""
    pg.save(*leagues(6))
    embed(database)
    index = MeasuredIndex()
    index.before = _refuse("l003", ErrorKind.ITEM)
    batch = delivery(database, index, max_attempts=1).deliver_batch()
    assert (batch.settlement.synced, batch.settlement.dead, batch.calls) == (5, 1, 6)
    assert pg.last("pinecone", "l003").status == "dead"


def _refuse(key: str, kind: ErrorKind) -> Callable[[Call], None]:
    def before(call: Call) -> None:
        if any(row.key == key for row in call.rows):
            raise SinkFailure(kind, "no such luck")

    return before


def test_a_refusing_sink_is_asked_by_one_call_after_the_other(
    pg: DatabaseFixture, database: Database
) -> None:
    """After a refusal fewer go out at once, and the first wave is the widest."""
    pg.save(*leagues(8))
    embed(database)
    index = MeasuredIndex()
    asked: list[str] = []

    def before(call: Call) -> None:
        asked.append(key_of(call))
        raise SinkFailure(ErrorKind.SINK, "busy", retry_after=0.0)

    index.before = before
    deliverer = delivery(database, index)
    batch = deliverer.deliver_batch()
    assert len(asked) == batch.calls == FIRST
    assert batch.settlement.retried == 8
    assert deliverer.concurrency.in_flight == 1


def test_a_good_answer_beside_it_does_not_undo_a_time_to_wait(
    pg: DatabaseFixture, database: Database
) -> None:
    """One of two calls is told when to come back: nothing goes out before that."""
    pg.save(*leagues(8))
    embed(database)
    index = MeasuredIndex()

    def before(call: Call) -> None:
        if key_of(call) == "l000":
            raise SinkFailure(ErrorKind.SINK, "slow down", retry_after=60.0)

    index.before = before
    batch = delivery(database, index).deliver_batch()
    assert (batch.settlement.synced, batch.settlement.retried, batch.calls) == (1, 7, FIRST)
    assert delivery(database, index).deliver_batch() == Batch()


def test_the_window_grows_with_good_answers(pg: DatabaseFixture, database: Database) -> None:
    """Never wider than the pace says, and wider than at the beginning."""
    pg.save(*leagues(40))
    embed(database)
    index = MeasuredIndex()
    deliverer = delivery(database, index)
    assert deliverer.deliver_batch().settlement.synced == 40
    assert deliverer.concurrency.in_flight == index.traits.in_flight
    assert 1 <= index.widest <= index.traits.in_flight


def test_a_slow_sink_is_given_smaller_batches(pg: DatabaseFixture, database: Database) -> None:
    """After an answer that almost came too late, and another one, the next claim takes half."""
    pg.save(*leagues(40))
    embed(database)
    deliverer = delivery(database, MeasuredIndex(), batch_size=20)
    for _ in range(2):
        deliverer.concurrency.answered(SLOW)
    assert deliverer.deliver_batch().claimed == 10
