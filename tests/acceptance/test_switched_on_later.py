"""Sinks that are not configured yet: their work waits, and nothing else does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.acceptance import seeds
from tests.acceptance.conftest import Processes
from tests.acceptance.oracle import assert_agreement
from tests.acceptance.stack import SINKS, Stack, worker_arguments

pytestmark = pytest.mark.slow

#: The contents of the small seed folder.
ENTITIES = 5 + 40

COUNTS = {"sport_archetype": 5, "league": 40, "few_shot_example": 0}


def test_sinks_switched_on_later_drain_by_themselves(
    stack: Stack, session_processes: Processes, folder: Path
) -> None:
    """PostgreSQL alone, then the vectors, then the graph: each catches up with no command."""
    seeds.write(folder, "archetypes.jsonl", seeds.archetypes())
    seeds.write_leagues(folder, 40)

    env = _environment(stack, "DATABASE_URL", "REDIS_URL")
    report = stack.seed("--all", "--dir", str(folder), "--wait", "--json", env=env).json
    assert report["created"] == ENTITIES
    status = stack.run("status", "--json", env=env).json
    assert _reasons(status) == {
        "embedding": ("disabled", "OPENAI_API_KEY is not set"),
        "neo4j": ("disabled", "NEO4J_URI is not set"),
        "pinecone": ("disabled", "PINECONE_API_KEY is not set"),
    }
    assert _waiting(status) == {"embedding": ENTITIES, "neo4j": ENTITIES, "pinecone": 0}

    vectors = [name for name in stack.addresses if not name.startswith("NEO4J_")]
    env = _environment(stack, *vectors)
    relay = stack.start("relay", "altsync", "relay", env=env)
    worker = stack.start("worker", "celery", *worker_arguments(size=3), env=env)
    stack.until(lambda: stack.live() == stack.live("neo4j") > 0, "the vectors drained")
    assert stack.live("neo4j") == ENTITIES
    states = "SELECT sink, state, reason FROM sink_state WHERE sink = ANY(%s) ORDER BY sink"
    assert stack.rows(states, list(SINKS)) == [
        ("embedding", "closed", None),
        ("neo4j", "disabled", "NEO4J_URI is not set"),
        ("pinecone", "closed", None),
    ]
    assert (relay.end(), worker.end()) == (0, 0)

    session_processes.start()
    stack.wait_until_drained()
    assert_agreement(stack)
    assert stack.vectors.stats().records["openai.embeddings"] == ENTITIES

    stack.cypher("MATCH (n:League {league_tag: 'league_00007'}) DETACH DELETE n")
    forced = stack.run("backfill", "--sink", "neo4j", "--force", "--json").json
    assert forced == {"enqueued": COUNTS}
    stack.wait_until_drained()
    assert_agreement(stack)
    assert stack.vectors.stats().records["pinecone.upsert"] == ENTITIES


def _environment(stack: Stack, *names: str) -> dict[str, str]:
    """The addresses of some services and of no others."""
    named = {name: stack.addresses[name] for name in names}
    return {**stack.bare_env, **named, "ALTSYNC_SIMILARITY": "false"}


def _reasons(status: Any) -> dict[str, tuple[str, str | None]]:
    return {s: (status["sinks"][s]["state"], status["sinks"][s]["reason"]) for s in SINKS}


def _waiting(status: Any) -> dict[str, int]:
    return {sink: status["operations"][sink]["pending"] for sink in SINKS}
