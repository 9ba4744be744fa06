"""How many calls, operations and messages a change costs."""

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

#: Similarity as it is when nothing is set.
SIMILARITY = {"ALTSYNC_SIMILARITY": "local"}

#: Leagues of a first load with similarity: more than a batch, 120 in each group.
FIRST_LOAD = 600

#: Operations of the graph that a new league may take on average: one, and a fifth for leagues
#: that gain a neighbour after they were written.
GRAPH_OPERATIONS = 1.2


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


@pytest.mark.slow
def test_a_first_load_with_similarity_asks_nothing_and_writes_each_league_once(
    stack: Stack, folder: Path
) -> None:
    write_leagues(folder, FIRST_LOAD)
    stack.start_relay(SIMILARITY)
    stack.start_worker(size=4, settings=SIMILARITY)
    stack.seed("--leagues", "--dir", str(folder), env={**stack.env, **SIMILARITY})
    stack.wait_until_recorded()

    stats = stack.vectors.stats()
    sinks = (*SINKS, "similarity")
    calls = {sink: stack.remote_calls(sink) for sink in sinks}
    claimed = {sink: claims(stack, sink) for sink in sinks}
    print("calls:", calls, "claimed:", claimed, "requests:", stats.requests)
    assert claimed["neo4j"] <= GRAPH_OPERATIONS * FIRST_LOAD
    assert claimed["similarity"] == FIRST_LOAD
    assert calls["similarity"] == 0
    assert stats.requests["pinecone.query"] == stats.requests["pinecone.fetch"] == 0
    assert stats.requests["openai.embeddings"] == calls["embedding"]
    assert stats.requests["pinecone.upsert"] == calls["pinecone"]
    assert stats.records["openai.embeddings"] == FIRST_LOAD
    assert stats.records["pinecone.upsert"] == FIRST_LOAD
    similar = stack.cypher("MATCH (:League)-[r:SIMILAR_TO]->(:League) RETURN count(r) AS count")
    assert similar[0]["count"] > FIRST_LOAD
    assert_agreement(stack)


def claims(stack: Stack, sink: str) -> int:
    """Operations of a sink that workers have claimed, those that were repeated counted again."""
    return stack.number("SELECT sum(claimed) FROM delivery_batch WHERE sink = %s", sink)
