"""Sinks that hang or throttle, over real processes: who waits, who does not, and how many calls."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from altsync.local.vectors.faults import FaultRule
from tests.acceptance.oracle import assert_agreement
from tests.acceptance.seeds import write_leagues
from tests.acceptance.stack import SINKS, Stack

pytestmark = pytest.mark.slow

LEAGUES = 600

#: Operations per batch.
BATCH = 100

#: Calls that give up soon, though not on a graph that has just started.
SETTINGS = {
    "ALTSYNC_BATCH_SIZE": str(BATCH),
    "ALTSYNC_LEASE_SECONDS": "6",
    "ALTSYNC_SINK_TIMEOUT_SECONDS": "4",
    "ALTSYNC_BACKOFF_SECONDS": "0.05",
    "ALTSYNC_BREAKER_CAP_SECONDS": "1",
}

#: Seconds for which a call hangs: longer than anybody waits for it.
HANG = 15.0

#: Seconds that the server asks to wait.
RETRY_AFTER = 2.0

#: The same, where every second call is refused.
SHORT_WAIT = 1.0

#: Refusals of each sink for which everything is throttled: a minute of them.
REFUSALS = 30

#: Calls that may be under way at once when the first refusal comes.
AT_ONCE = 4

#: How many times as many calls as a client that knew everything may be made.
LEEWAY = 1.2

#: The vectors server's names for the writes of a sink.
WRITES = {"embedding": "openai.embeddings", "pinecone": "pinecone.upsert"}


def start_processes(stack: Stack) -> None:
    """A relay, and a worker for each sink, as production has them.

    The graph's writes one at a time: the embedded graph refuses some that meet, and would count
    more calls.
    """
    stack.start_relay(SETTINGS)
    for sink in SINKS:
        size = 1 if sink == "neo4j" else AT_ONCE
        stack.start_worker(sink, size=size, settings=SETTINGS)


def counts(stack: Stack, sink: str) -> dict[str, int]:
    """Operations of a sink by status."""
    return dict(
        stack.rows("SELECT status, count(*) FROM sync_operation WHERE sink = %s GROUP BY 1", sink)
    )


def recorded(stack: Stack) -> int:
    """Operations that workers have written down as synced."""
    return stack.number("SELECT COALESCE(sum(synced), 0) FROM delivery_batch")


def batches(stack: Stack, sink: str) -> int:
    """Batches of a sink that workers have written down."""
    return stack.number("SELECT count(*) FROM delivery_batch WHERE sink = %s", sink)


def refused(stack: Stack) -> dict[str, int]:
    """Calls that were answered with 429, by sink."""
    injected = stack.vectors.stats().injected
    return {sink: injected[f"{call}:status"] for sink, call in WRITES.items()}


def test_a_sink_that_hangs_holds_up_no_other(stack: Stack, folder: Path) -> None:
    """The others need no call more than without it; its own operations lose no attempt."""
    start_processes(stack)
    stack.vectors.set_faults([FaultRule("pinecone.upsert", "hang", seconds=HANG)])
    stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES)))
    stack.until(lambda: stack.live("embedding") + stack.live("neo4j") == 0, "the other sinks")
    stack.until(lambda: state(stack, "pinecone")[0] != "closed", "an open breaker")

    waiting = counts(stack, "pinecone")
    assert waiting.keys() <= {"pending", "in_progress"}
    assert sum(waiting.values()) == LEAGUES
    assert "did not answer" in (state(stack, "pinecone")[1] or "")
    assert counts(stack, "neo4j") == counts(stack, "embedding") == {"synced": LEAGUES}
    stack.until(lambda: recorded(stack) == 2 * LEAGUES, "the others' batches, written down")
    for sink in ("embedding", "neo4j"):
        # Not their number: a graph that answers slowly gets smaller batches.
        assert stack.remote_calls(sink) <= batches(stack, sink)
    stack.vectors.clear()
    stack.wait_until_drained()
    assert_agreement(stack)
    assert stack.number("SELECT max(attempts) FROM sync_operation") == 1


def state(stack: Stack, sink: str) -> tuple[str, str | None]:
    """A sink's breaker, and why it is as it is."""
    ((name, reason),) = stack.rows("SELECT state, reason FROM sink_state WHERE sink = %s", sink)
    return name, reason


def test_a_row_that_always_hangs_is_told_from_an_outage(stack: Stack, folder: Path) -> None:
    """All others pass, it is given up on with the reason, and can be retried."""
    start_processes(stack)
    hangs = "league_00007"
    stack.vectors.set_faults([FaultRule("pinecone.upsert", "hang", id=hangs, seconds=HANG)])
    stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES)))
    stack.wait_until_drained()

    arrived = "SELECT count(DISTINCT entity_id) FROM sync_operation WHERE sink = %s AND status = %s"
    assert stack.number(arrived, "pinecone", "synced") == LEAGUES - 1
    assert counts(stack, "pinecone")["dead"] == 1
    assert stack.rows(
        "SELECT entity_key, error_kind FROM sync_operation WHERE status = 'dead'"
    ) == [(hangs, "item")]
    stack.vectors.clear()
    stack.run("retry", "--sink", "pinecone")
    stack.wait_until_drained()
    assert_agreement(stack)


def test_every_call_is_throttled_for_a_minute(stack: Stack, folder: Path) -> None:
    """Retry-After is obeyed by all workers together, and no attempt is spent."""
    begin_with_vectors(stack, folder)
    began = time.monotonic()
    stack.until(lambda: min(refused(stack).values()) >= REFUSALS, "a minute of refusals")
    seconds = time.monotonic() - began

    ideal = seconds / RETRY_AFTER
    for sink, count in refused(stack).items():
        assert count <= LEEWAY * ideal + AT_ONCE, sink
    stack.vectors.clear()
    stack.wait_until_drained()
    assert_agreement(stack)
    assert stack.number("SELECT max(attempts) FROM sync_operation") == 1


def begin_with_vectors(stack: Stack, folder: Path) -> None:
    """Leagues of which half wait for their embeddings, and half for the index."""
    rules = [
        FaultRule(call, "status", status=429, retry_after=RETRY_AFTER) for call in WRITES.values()
    ]
    stack.vectors.set_faults(rules[1:])
    half = write_leagues(folder, LEAGUES // 2)
    start_processes(stack)
    stack.seed("--leagues", "--dir", str(half))
    stack.until(lambda: stack.live("embedding") == 0, "embeddings of the first half")
    stack.vectors.reset_stats()
    stack.vectors.set_faults(rules)
    stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES)))


def test_half_of_the_calls_are_throttled(stack: Stack, folder: Path) -> None:
    """Nothing is written or paid twice, and each refusal costs itself and one probe."""
    stack.vectors.set_faults(
        [
            FaultRule(call, "status", status=429, retry_after=SHORT_WAIT, probability=0.5)
            for call in WRITES.values()
        ],
        seed=15,
    )
    start_processes(stack)
    stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES)))
    began = time.monotonic()
    stack.wait_until_drained()
    seconds = time.monotonic() - began

    stats = stack.vectors.stats()
    for sink, count in refused(stack).items():
        assert count > 0
        assert count <= LEEWAY * seconds / SHORT_WAIT + AT_ONCE, sink
        ideal = math.ceil(LEAGUES / BATCH) + 2 * count
        assert stats.requests[WRITES[sink]] <= LEEWAY * ideal, sink
    assert stats.records["openai.embeddings"] == LEAGUES
    assert stats.records["pinecone.upsert"] == LEAGUES
    assert stack.number("SELECT max(attempts) FROM sync_operation") == 1
    assert_agreement(stack)
