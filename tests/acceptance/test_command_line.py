"""The contract with scripts: JSON shapes, exit codes, and what they mean."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from altsync.local.vectors.faults import FaultRule
from tests.acceptance import seeds
from tests.acceptance.conftest import Processes
from tests.acceptance.oracle import assert_agreement
from tests.acceptance.stack import SINKS, Stack

pytestmark = pytest.mark.slow

COUNTS = {"processed", "created", "updated", "unchanged", "deleted", "rejected", "operations"}

#: Seconds that each request for embeddings takes longer, so that waiting does not end by itself.
LATENCY = 2.0

FAILURE = {
    *("sink", "error_kind", "reason", "count", "sample_keys", "oldest", "newest"),
    *("pattern", "sample_reason", "group"),
}


def test_wrong_use_ends_with_a_sentence(stack: Stack, folder: Path) -> None:
    """Wrong arguments are 2, what cannot be done is 1; neither shows a traceback."""
    ended = stack.together(
        lambda: stack.seed("--dir", str(folder), code=2),
        lambda: stack.seed("--all", "--dir", str(folder / "nowhere"), code=1),
        lambda: stack.run("backfill", "--sink", "oracle", code=1),
        lambda: stack.run("status", code=7, env=stack.bare_env),
    )

    said = [" ".join(command.stderr.split()) for command in ended]
    for sentence, words in zip(
        said,
        (
            "say what to seed",
            "no such folder",
            "no sink 'oracle'",
            "DATABASE_URL is not set",
        ),
        strict=True,
    ):
        assert words in sentence
        assert "Traceback" not in sentence


def test_refused_lines_are_kept_with_their_reasons(stack: Stack, folder: Path) -> None:
    """Broken lines cost themselves alone, and land in a file with place, field and reason."""
    good = [seeds.league(n) for n in range(4)]
    broken = {
        2: ('{"id": "torn", "league_name":', None),
        4: (json.dumps({**seeds.league(10), "sport_archetype": "chess"}), "sport_archetype"),
        5: (json.dumps({**seeds.league(11), "league_name": 7}), "league_name"),
        7: (json.dumps(good[0]), "id"),
    }
    lines: list[seeds.Line | str] = [*good[:1], *good[1:2], *good[2:]]
    for number, (text, _field) in sorted(broken.items()):
        lines.insert(number - 1, text)
    seeds.write(folder, "archetypes.jsonl", seeds.archetypes())
    seeds.write(folder, "leagues/some.jsonl", lines)

    report = stack.seed("--all", "--dir", str(folder), "--json", code=3).json

    assert report.keys() == {*COUNTS, "parts", "version", "rejects_file", "refused"}
    assert (report["created"], report["rejected"]) == (9, 4)
    assert sorted(line["line"] for line in report["refused"]) == sorted(broken)
    kept = Path(report["rejects_file"]).read_text(encoding="utf-8").splitlines()
    rejects = {entry["line"]: entry for entry in map(json.loads, kept)}
    assert {n: (r["file"], r["field"]) for n, r in rejects.items()} == {
        number: ("leagues/some.jsonl", field) for number, (_text, field) in broken.items()
    }
    assert all(reject["reason"] for reject in rejects.values())
    assert rejects[4]["raw"] == broken[4][0]


def test_json_shapes(stack: Stack, processes: Processes, folder: Path) -> None:
    """Every --json prints one document of the promised shape on stdout, and nothing else."""
    seeds.write(folder, "archetypes.jsonl", seeds.archetypes())
    seeds.write_leagues(folder, 3)

    report = stack.seed("--all", "--dir", str(folder), "--wait", "--json").json
    status, doctor, services = stack.together(
        lambda: stack.run("status", "--json"),
        lambda: stack.run("doctor", "--json"),
        lambda: stack.run("local", "status", "--json"),
    )

    assert report.keys() == {*COUNTS, "parts", "version", "neo4j", "pinecone"}
    assert {part: set(counts) for part, counts in report["parts"].items()} == {
        "archetypes": COUNTS,
        "leagues": COUNTS,
    }
    assert report["neo4j"] == report["pinecone"] == {"synced": 8, "errors": 0}
    _check_status(status.json)
    assert [(one["name"], one["health"]) for one in doctor.json] == [
        (name, "ok") for name in ("PostgreSQL", "Schema", "Redis", "Neo4j", "Pinecone", "Embedder")
    ]
    assert {"name", "health", "detail"} == set(doctor.json[0])
    assert {one["name"]: one["state"] for one in services.json} == dict.fromkeys(
        ("postgresql", "redis", "graph", "vectors"), "running"
    )
    assert {"name", "flavour", "state", "pid", "address", "log"} == set(services.json[0])


def _check_status(status: dict[str, Any]) -> None:
    def synced(count: int) -> dict[str, object]:
        counts = {"pending": 0, "synced": count, "failed": 0}
        return {"total": count, "embedding": counts, "neo4j": counts, "pinecone": counts}

    assert status.keys() == {
        *("entities", "operations", "matrix", "sinks", "model", "verify", "idle"),
        *("costs", "freshness", "leftovers", "models"),
    }
    assert status["entities"] == {
        "sport_archetype": synced(5),
        "league": synced(3),
        "few_shot_example": synced(0),
    }
    idle = {
        "pending": 0,
        "in_progress": 0,
        "dead": 0,
        "oldest_pending_seconds": None,
        "discarded": 0,
    }
    assert status["operations"] == dict.fromkeys(SINKS, idle)
    assert status["matrix"] == [
        {
            "entity": kind,
            "neo4j_sync_status": "synced",
            "pinecone_sync_status": "synced",
            "count": count,
        }
        for kind, count in (("sport_archetype", 5), ("league", 3))
    ]
    fields = {"state", "since", "reason", "last_claim_at", "last_minute"}
    assert {sink: set(one) for sink, one in status["sinks"].items()} == dict.fromkeys(SINKS, fields)
    assert {one["state"] for one in status["sinks"].values()} == {"closed"}


def test_a_refused_record_dies_is_shown_and_heals(
    stack: Stack, processes: Processes, folder: Path
) -> None:
    """One record that the index refuses fails alone; retry heals it once the cause is gone."""
    bad = "league_00002"
    rule = FaultRule("pinecone.upsert", "status", id=bad, status=400, message="no such luck")
    stack.vectors.set_faults([rule])
    seeds.write(folder, "archetypes.jsonl", seeds.archetypes())
    seeds.write_leagues(folder, 5)

    arguments = ("--all", "--dir", str(folder), "--wait")
    for created in (10, 0):
        ended = stack.seed(*arguments, "--json", code=4)
        report = ended.json
        assert (report["created"], report["unchanged"]) == (created, 10 - created)
        assert report["neo4j"] == {"synced": 10, "errors": 0}
        assert report["pinecone"] == {"synced": 9, "errors": 1}
        (failed,) = report["failed"]
        assert "no such luck" in failed.pop("reason")
        assert failed == {"sink": "pinecone", "entity_type": "league", "key": bad}
        assert (report["kind"], report["exit"]) == ("sink_errors", 4)
        assert f"given up on: league {bad} (pinecone: " in report["error"]
        assert f"altsync: {report['error']}\n" in ended.stderr
    shown = stack.seed(*arguments, code=4)
    assert "Errors: 1" in shown.stdout
    assert f"altsync: given up on: league {bad} (pinecone: " in shown.stderr

    (group,) = stack.run("failures", "--json").json
    assert group.keys() == FAILURE
    assert (group["sink"], group["count"], group["error_kind"]) == ("pinecone", 1, "item")
    assert group["sample_keys"] == [f"league {bad}"]
    assert "no such luck" in group["reason"]
    assert stack.rows("SELECT league_tag FROM league WHERE pinecone_sync_status = 'failed'") == [
        (bad,)
    ]

    stack.vectors.clear()
    assert stack.run("retry", "--entity", bad, "--json").json == {"retried": 1}
    stack.wait_until_drained()
    assert_agreement(stack)


def test_waiting_may_be_given_up(stack: Stack, processes: Processes, folder: Path) -> None:
    """A time limit and Ctrl-C end the waiting, not the work."""
    stack.vectors.set_faults([FaultRule("openai.embeddings", "latency", seconds=LATENCY)])
    seeds.write(folder, "archetypes.jsonl", seeds.archetypes())
    seeds.write_leagues(folder, 5)
    arguments = ("--dir", str(folder), "--wait")
    stack.seed("--archetypes", *arguments, "--timeout", "0", code=5)

    waiting = stack.start("seed", "altsync.seed", "--leagues", *arguments)
    stack.until(lambda: stack.number("SELECT count(*) FROM league") == 5, "5 leagues committed")
    waiting.send(signal.SIGINT)
    assert waiting.wait() == 130
    assert "altsync: interrupted" in waiting.output
    assert "Traceback" not in waiting.output

    assert stack.live() > 0
    stack.vectors.clear()
    stack.wait_until_drained()
    assert_agreement(stack)
