"""Wake-ups through a real Redis: bounded, and worth nothing to lose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis
from celery import Celery
from structlog.testing import capture_logs

from altsync.config import read_settings
from altsync.db import Database
from altsync.local import ports
from altsync.local.services.broker import Broker
from altsync.relay import Relay, RelayPolicy
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import DatabaseFixture, leagues

#: Wake-ups that may wait in a queue.
LIMIT = 4


@dataclass(frozen=True, slots=True)
class Queues:
    """A Celery app and its Redis, looked into."""

    app: Celery
    client: redis.Redis
    wake: Callable[[str], None]

    def length(self, sink: str) -> int:
        """Messages that wait for a worker."""
        return int(self.client.llen(sink))

    def messages(self, sink: str) -> list[Any]:
        """Return the messages as (task, arguments)."""
        raw = [json.loads(m) for m in self.client.lrange(sink, 0, -1)]
        return [(m["headers"]["task"], m["headers"]["argsrepr"]) for m in raw]


@pytest.fixture
def queues(redis_server: Broker, monkeypatch: pytest.MonkeyPatch) -> Iterator[Queues]:
    """The product's own Celery app on an empty Redis, with no worker."""
    monkeypatch.setenv("REDIS_URL", redis_server.url)  # read when the module is imported
    from altsync.workers import app as rooms

    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        app = rooms.create(read_settings(redis_url=redis_server.url))
        yield Queues(app, client, rooms.waker(app, LIMIT))
        app.close()
        client.flushall()


def test_a_wake_up_names_its_sink_and_carries_no_work(queues: Queues) -> None:
    """In the queue of that sink."""
    queues.wake("neo4j")
    assert queues.messages("neo4j") == [("altsync.sync_batch", "['neo4j']")]
    assert queues.length("pinecone") == 0


def test_a_queue_never_holds_more_than_its_limit(queues: Queues) -> None:
    """However often it is asked; each queue has its own."""
    for _ in range(20):
        queues.wake("neo4j")
    queues.wake("pinecone")
    assert (queues.length("neo4j"), queues.length("pinecone")) == (LIMIT, 1)


def test_a_relay_without_an_answer(pg: DatabaseFixture, database: Database, queues: Queues) -> None:
    """However long there is no worker: the queue is full, and no fuller."""
    pg.save(*leagues(30))
    relay = _relay(pg, database, queues)
    for _ in range(12):
        relay.poll(TOPOLOGY.names)
        pg.advance_time(100)
    assert [queues.length(sink) for sink in ("neo4j", "embedding")] == [LIMIT, LIMIT]
    assert queues.length("pinecone") == 0


def test_a_redis_that_lost_everything(
    pg: DatabaseFixture, database: Database, queues: Queues
) -> None:
    """The relay notices by itself: after its timeout it wakes again."""
    pg.save(*leagues(3))
    relay = _relay(pg, database, queues)
    relay.poll(["neo4j"])
    assert queues.length("neo4j") == 1
    queues.client.flushall()
    relay.poll(["neo4j"])
    assert queues.length("neo4j") == 0
    pg.advance_time(11)
    relay.poll(["neo4j"])
    assert queues.length("neo4j") == 1


def test_a_redis_that_is_away(pg: DatabaseFixture, database: Database) -> None:
    """One warning; the work stays where it is."""
    from altsync.workers import app as rooms

    url = f"redis://127.0.0.1:{ports.free_ports(1, '127.0.0.1')[0]}/0"
    app = rooms.create(read_settings(redis_url=url))
    pg.save(*leagues(3))
    relay = _relay(pg, database, rooms.waker(app, LIMIT))
    with capture_logs() as log:
        relay.poll(["neo4j"])
        pg.advance_time(11)
        relay.poll(["neo4j"])
    app.close()
    told = [(entry["event"], entry["log_level"]) for entry in log]
    assert told == [("wake.failed", "warning"), ("wake.failed", "debug")]
    assert pg.counts("neo4j") == {"pending": 3}


def _relay(
    pg: DatabaseFixture, database: Database, queues: Queues | Callable[[str], None]
) -> Relay:
    wake = queues.wake if isinstance(queues, Queues) else queues
    policy = RelayPolicy(batch_size=10, wake_limit=LIMIT)
    return Relay(database, lambda: pg.conn, wake, TOPOLOGY, TOPOLOGY.names, policy)
