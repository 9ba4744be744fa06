"""How many calls and messages a change costs, exactly."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.acceptance.oracle import assert_agreement
from tests.acceptance.seeds import write_leagues
from tests.acceptance.stack import SINKS, Stack

LEAGUES = 5000

#: Operations per batch, when nothing else is set.
BATCH = 500

#: Bytes of one upsert: the vendor's limit.
UPSERT_BYTES = 2_000_000


@pytest.mark.slow
def test_new_leagues_cost_one_call_per_full_batch(stack: Stack, folder: Path) -> None:
    """5,000 waiting leagues are 10 calls to Neo4j, 10 to OpenAI, and as few upserts as fit."""
    stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES)))
    stack.start_relay()
    workers = {sink: stack.start_worker(sink) for sink in SINKS}
    stack.wait_until_recorded()

    stats = stack.vectors.stats()
    calls = {sink: stack.remote_calls(sink) for sink in SINKS}
    received = {sink: workers[sink].output.count("] received") for sink in SINKS}
    print("calls:", calls, "messages:", received)
    batches = math.ceil(LEAGUES / BATCH)
    claimed = stack.rows("SELECT claimed FROM delivery_batch WHERE sink = 'pinecone'")
    vector_bytes = stats.bytes["pinecone.upsert"] / LEAGUES
    upserts = sum(math.ceil(row[0] * vector_bytes / UPSERT_BYTES) for row in claimed)
    assert len(claimed) == batches
    assert calls == {"embedding": batches, "neo4j": batches, "pinecone": upserts}
    assert stats.requests["openai.embeddings"] == batches
    assert stats.requests["pinecone.upsert"] == upserts
    assert stats.records["openai.embeddings"] == LEAGUES
    assert stats.records["pinecone.upsert"] == LEAGUES
    assert stats.requests["pinecone.delete"] == 0
    assert sum(received.values()) <= len(SINKS) * batches
    assert_agreement(stack)
