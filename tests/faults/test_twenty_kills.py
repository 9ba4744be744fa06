"""Workers are killed and Redis is emptied, and nothing is lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from altsync.local.vectors.faults import FaultRule
from tests.acceptance.kills import Kill, given_up, kill_process, kill_worker
from tests.acceptance.oracle import assert_agreement
from tests.acceptance.seeds import write_leagues
from tests.acceptance.stack import SINKS, Running, Stack

LEAGUES = 20_000

#: The first delivery of every league to every sink.
OPERATIONS = LEAGUES * len(SINKS)

KILLS = 20

#: Celery workers, and the processes of each: four that deliver.
WORKERS, PROCESSES = 2, 2

#: Kills that take a whole worker at once; the others take one of its processes.
WHOLE = (5, 12)

#: Kills after which Redis is emptied, with the wake-ups that the victim would have taken.
FLUSHES = (1, 15)

#: How much is done by the last kill at the latest: far from all, so that each meets live work.
LAST_KILL = 0.5

#: Small batches and short leases, so that a kill finds one in flight and is soon repaired.
SETTINGS = {
    "ALTSYNC_BATCH_SIZE": "250",
    "ALTSYNC_LEASE_SECONDS": "3",
    "ALTSYNC_SINK_TIMEOUT_SECONDS": "2.5",
}

#: Seconds for all that is left after the last kill, on a machine that is busy with other tests.
TIMEOUT = 400.0

#: Seconds that a remote call takes longer, so that processes are mostly found inside one.
LATENCY = 0.1


@pytest.mark.slow
def test_twenty_kills_and_an_empty_redis_lose_nothing(stack: Stack, folder: Path) -> None:
    """Workers die twenty times amid 20,000 leagues, and Redis forgets all; the stores agree."""
    seed = random.randrange(1_000_000)
    print("random seed", seed)
    chance = random.Random(seed)
    slow = ("openai.embeddings", "pinecone.upsert")
    stack.vectors.set_faults([FaultRule(call, "latency", seconds=LATENCY) for call in slow])
    stack.start_relay(SETTINGS)
    workers = [_start_worker(stack) for _ in range(WORKERS)]
    stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES)))

    kills: list[Kill] = []
    moments = [0.0, *sorted(chance.uniform(0, LAST_KILL) for _ in range(KILLS - 1))]
    for number, moment in enumerate(moments):
        _wait_until_done(stack, round(moment * OPERATIONS))
        if number in WHOLE:
            kills.append(kill_worker(stack, workers.pop(0)))
            workers.append(_start_worker(stack))
        else:
            # The first one while it embeds: what a text costs again is to be seen.
            sink = "embedding" if number == 0 else None
            kills.append(kill_process(stack, workers, chance, sink))
        if number in FLUSHES:
            stack.redis.flushall()
    print(*kills, sep="\n")
    stack.until(lambda: stack.live() == 0, "no live operation", TIMEOUT)

    assert stack.number("SELECT count(*) FROM league") == LEAGUES
    assert_agreement(stack)
    assert len({kill.pid for kill in kills}) == KILLS
    assert [kill for kill in kills if kill.live == 0] == []
    assert sum(kill.held > 0 for kill in kills) > KILLS // 2
    paid = stack.vectors.stats().records["openai.embeddings"]
    in_flight = sum(kill.texts for kill in kills) + given_up(stack)
    print("paid again:", paid - LEAGUES, "in flight:", in_flight)
    assert LEAGUES <= paid <= LEAGUES + in_flight


def _start_worker(stack: Stack) -> Running:
    """Start a worker of some processes. Celery replaces a dead child, not the worker itself."""
    return stack.start_worker(forks=True, size=PROCESSES, settings=SETTINGS)


def _wait_until_done(stack: Stack, count: int) -> None:
    done = "SELECT count(*) FROM sync_operation WHERE finished_at IS NOT NULL"
    stack.until(lambda: stack.number(done) >= count, f"{count} operations done")
