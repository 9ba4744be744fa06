"""Relationships between leagues, from seed lines and vectors to the graph, by real processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from altsync.local.vectors.faults import FaultRule
from tests.acceptance.oracle import assert_agreement
from tests.acceptance.seeds import archetypes, league, write
from tests.acceptance.stack import Stack

pytestmark = pytest.mark.slow

#: Similarity as users have it, but sooner after a change; short leases, so that a kill is repaired.
SETTINGS = {
    "ALTSYNC_SIMILARITY": "true",
    "ALTSYNC_LEASE_SECONDS": "3",
    "ALTSYNC_SINK_TIMEOUT_SECONDS": "2.5",
}

LEAGUES = 40


def lines() -> list[dict[str, Any]]:
    """Leagues whose texts are much alike within an archetype."""
    return [league(number) for number in range(LEAGUES)]


def relationships(count: int) -> list[dict[str, Any]]:
    """Seeded relationships in a ring."""
    return [
        {
            "id": f"r{n}",
            "type": "COMPETES_WITH",
            "source": f"generated_{n:05}",
            "target": f"generated_{(n + 1) % LEAGUES:05}",
            "strength": 0.5,
        }
        for n in range(count)
    ]


def seed(stack: Stack, folder: Path, *more: str) -> Any:
    """Seed everything and wait until every store has it."""
    env = {**stack.env, **SETTINGS}
    return stack.seed("--all", "--dir", str(folder), "--wait", "--json", *more, env=env).json


def similar(stack: Stack) -> int:
    """SIMILAR_TO relationships in the graph."""
    found = stack.cypher("MATCH (:League)-[r:SIMILAR_TO]->(:League) RETURN count(r) AS count")
    return int(found[0]["count"])


def test_relationships_follow_the_seeds(stack: Stack, folder: Path) -> None:
    """Seeded, edited, deleted: when the seeder has waited, the graph has the same edges."""
    write(folder, "archetypes.jsonl", archetypes())
    write(folder, "leagues/all.jsonl", lines())
    write(folder, "relationships.jsonl", relationships(12))
    stack.start_relay(SETTINGS)
    stack.start_worker(size=3, settings=SETTINGS)

    answer = seed(stack, folder)
    assert answer["neo4j"] == {"synced": LEAGUES + 5, "errors": 0}
    assert_agreement(stack)
    assert similar(stack) > LEAGUES

    other = {
        **lines()[7],
        "description": "Sumo in Tokyo: nothing like the rest.",
        "league_name": "Basho",
    }
    write(folder, "leagues/all.jsonl", [other if n == 7 else one for n, one in enumerate(lines())])
    write(folder, "relationships.jsonl", relationships(10))
    seed(stack, folder, "--prune", "--yes")
    assert_agreement(stack)

    write(folder, "leagues/all.jsonl", lines()[4:])
    write(folder, "relationships.jsonl", relationships(10)[4:])
    assert seed(stack, folder, "--prune", "--yes")["deleted"] >= 4
    stack.wait_until_drained()  # those that were similar to what went are looked at again
    assert_agreement(stack)

    before = stack.remote_calls()
    assert seed(stack, folder)["unchanged"] > LEAGUES - 4
    assert stack.remote_calls() == before


def test_a_worker_killed_while_it_asks_loses_nothing(stack: Stack, folder: Path) -> None:
    """kill -9 between a question and its answer: another worker asks again."""
    write(folder, "archetypes.jsonl", archetypes())
    write(folder, "leagues/all.jsonl", lines())
    stack.vectors.set_faults([FaultRule("pinecone.query", "latency", seconds=0.3)])
    stack.start_relay(SETTINGS)
    worker = stack.start_worker(forks=True, size=2, settings=SETTINGS)
    stack.seed("--all", "--dir", str(folder), env={**stack.env, **SETTINGS})
    stack.until(lambda: stack.leases("similarity"), "a worker that looks for neighbours")
    os.killpg(worker.pid, signal.SIGSTOP)
    assert sum(stack.leases("similarity").values()) > 0
    assert psutil.pid_exists(worker.pid)
    worker.kill()
    stack.vectors.clear()
    stack.start_worker(forks=True, size=2, settings=SETTINGS)
    stack.wait_until_drained()
    assert_agreement(stack)
    assert similar(stack) > LEAGUES


def test_relate_by_hand(stack: Stack, folder: Path) -> None:
    """Without any worker: the command itself asks, and enqueues what the graph is to have."""
    write(folder, "archetypes.jsonl", archetypes())
    write(folder, "leagues/all.jsonl", lines())
    stack.start_relay()
    worker = stack.start_worker(size=3)
    stack.seed("--all", "--dir", str(folder), "--wait")
    assert similar(stack) == 0
    env = {**stack.env, **SETTINGS}
    said = stack.run("relate", "--all", "--json", env=env).json
    assert said["entities"] == LEAGUES
    assert said["relationships"] == said["added"] > LEAGUES
    stack.wait_until_drained()
    assert_agreement(stack)
    again = stack.run("relate", "--key", "league_00001", "--json", env=env).json
    assert (again["entities"], again["added"], again["removed"]) == (1, 0, 0)
    assert worker.alive
    refused = stack.run("relate", "--key", "unknown", env=env, code=1)
    assert "no league has the key 'unknown'" in refused.stderr
    assert json.loads(stack.run("status", "--json", env=env).stdout)["operations"]["similarity"]
