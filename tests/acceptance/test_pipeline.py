"""Edit a line, seed, and every store agrees."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from altsync.local.vectors.faults import FaultRule
from tests.acceptance import seeds
from tests.acceptance.conftest import PROCESS_SETTINGS, Beginning, Processes
from tests.acceptance.oracle import assert_agreement
from tests.acceptance.seeds import REAL_SEEDS
from tests.acceptance.stack import ADDRESSES, SINKS, Stack

#: Lines of the real seeds.
LINES = seeds.count_lines(REAL_SEEDS)

#: Seconds that each request for embeddings takes longer: the first ones are still under way
#: when the worker is told to stop, and the others wait.
LATENCY = 2.5


def assert_as_planned(stack: Stack, plan: dict[str, Any]) -> None:
    """The tokens that the server counted, and the units of the requests, within 1 %."""
    assert plan["tokens"] == pytest.approx(stack.vectors.stats().tokens, rel=0.01)
    units = stack.number("SELECT sum(write_units) FROM spend WHERE day = current_date")
    assert plan["write_units"] == pytest.approx(units, rel=0.01)


def test_real_seeds_reach_every_store(
    stack: Stack, processes: Processes, beginning: tuple[Stack, Beginning]
) -> None:
    """Up, migrate, seed, relay and a worker bring all of the real seeds to every store."""
    commands = beginning[1]
    assert "Ready" in commands.up.stderr
    assert [f"{sink}: ready" in commands.migrate.stderr for sink in SINKS] == [True] * 3
    assert sorted(stack.addresses) == sorted(ADDRESSES)

    planned = stack.run("plan", "seed", "--all", "--dir", str(REAL_SEEDS), "--json").json
    assert stack.number("SELECT count(*) FROM league") == 0
    first = stack.seed("--all", "--dir", str(REAL_SEEDS), "--json").json

    assert (first["processed"], first["created"]) == (LINES, LINES)
    assert (first["updated"], first["rejected"]) == (0, 0)
    stack.wait_until_recorded()
    assert_agreement(stack)
    texts = stack.number("SELECT count(*) FROM embedding")
    assert stack.vectors.stats().records["openai.embeddings"] == texts
    assert_as_planned(stack, planned["plan"])

    stack.vectors.reset_stats()
    calls, batches = stack.remote_calls(), stack.number("SELECT count(*) FROM delivery_batch")
    again = stack.seed("--all", "--dir", str(REAL_SEEDS), "--json", "--wait").json

    assert (again["unchanged"], again["operations"]) == (LINES, 0)
    assert stack.remote_calls() == calls
    assert stack.number("SELECT count(*) FROM delivery_batch") == batches
    assert sum(stack.vectors.stats().requests.values()) == 0
    assert_agreement(stack)


def test_edits_reach_every_store(stack: Stack, processes: Processes, folder: Path) -> None:
    """Edited, deleted, added and moved lines are followed, and only new texts are embedded."""
    leagues = [seeds.league(n) for n in range(12)]
    examples = [seeds.example(n, "triage" if n % 2 else "support") for n in range(8)]
    seeds.write(folder, "archetypes.jsonl", seeds.archetypes())
    seeds.write(folder, "leagues/some.jsonl", leagues)
    seeds.write(folder, "examples/all.jsonl", examples)
    stack.seed("--all", "--dir", str(folder), "--wait")
    assert_agreement(stack)
    before = dict(stack.rows("SELECT seed_id, version FROM league"))
    stack.vectors.reset_stats()

    namesake = {**leagues[3], "id": "namesake", "location": "Elsewhere"}
    leagues[0]["description"] = "Another season altogether."
    leagues[1]["tier"] = "TIER9"
    leagues[4]["sport_archetype"] = "racing"
    examples[0]["category"] = "triage"
    seeds.write(folder, "leagues/some.jsonl", [*leagues[:11], namesake])
    seeds.write(folder, "examples/all.jsonl", examples)
    report = stack.seed("--all", "--dir", str(folder), "--wait", "--prune", "--json").json

    changes = {name: report[name] for name in ("created", "updated", "deleted", "rejected")}
    assert changes == {"created": 1, "updated": 4, "deleted": 1, "rejected": 0}
    stack.wait_until_recorded()
    assert_agreement(stack)
    stats = stack.vectors.stats()
    # The description, the archetype (a part of the text) and the namesake; not the tier.
    assert stats.records["openai.embeddings"] == 3
    assert stats.records["pinecone.upsert"] == 5
    after = dict(stack.rows("SELECT seed_id, version FROM league WHERE deleted_at IS NULL"))
    assert {seed for seed in after if after[seed] != before.get(seed)} == {
        leagues[0]["id"],
        leagues[1]["id"],
        leagues[4]["id"],
        "namesake",
    }
    names = stack.rows(
        "SELECT league_tag FROM league WHERE league_name = %s ORDER BY 1",
        leagues[3]["league_name"],
    )
    assert [r[0] for r in names] == ["league_00003", "league_00003_elsewhere"]
    spaces = stack.indexes["altsports-examples"].describe_index_stats().namespaces
    counts = {name: summary.vector_count for name, summary in spaces.items()}
    assert {name: n for name, n in counts.items() if n} == {"support": 3, "triage": 5}


def test_a_worker_told_to_stop_repeats_nothing(
    stack: Stack, processes: Processes, folder: Path
) -> None:
    """SIGTERM lets the batches under way finish; the next worker takes up where it ended."""
    leagues = 500
    stack.vectors.set_faults([FaultRule("openai.embeddings", "latency", seconds=LATENCY)])
    stack.seed("--leagues", "--dir", str(seeds.write_leagues(folder, leagues)))
    stack.until(
        lambda: stack.vectors.stats().requests["openai.embeddings"] > 0, "a request under way"
    )

    held = stack.leases().get(processes.worker.pid, 0)
    processes.worker.send(signal.SIGTERM)
    assert held > 0
    assert processes.worker.wait() == 0

    assert stack.leases() == {}
    assert stack.live("embedding") > 0
    stack.vectors.clear()
    stack.start_worker(size=3, settings=PROCESS_SETTINGS)
    stack.wait_until_recorded()
    assert_agreement(stack)
    stats = stack.vectors.stats()
    assert stats.records["openai.embeddings"] == leagues
    assert stats.records["pinecone.upsert"] == leagues
    assert stats.requests["openai.embeddings"] == stack.remote_calls("embedding")
    assert stats.requests["pinecone.upsert"] == stack.remote_calls("pinecone")
    assert stack.number("SELECT sum(retried + lost + dead) FROM delivery_batch") == 0
    assert stack.number("SELECT sum(claimed) FROM delivery_batch") == leagues * len(SINKS)
    assert processes.relay.end() == 0
