"""Watching real workers: one id from the seed line to every sink, and results in Flower."""

from __future__ import annotations

import base64
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from altsync.local.ports import accepts, free_ports
from tests.acceptance import seeds
from tests.acceptance.conftest import PROCESS_SETTINGS, Processes
from tests.acceptance.stack import SINKS, Stack

pytestmark = pytest.mark.slow

LOOPBACK = "127.0.0.1"

LOUD = {"ALTSYNC_LOG_LEVEL": "DEBUG", "ALTSYNC_LOG_FORMAT": "json"}


def _events(text: str, name: str) -> list[dict[str, Any]]:
    """Log lines of one event."""
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == name]


def test_one_id_follows_a_change(stack: Stack, folder: Path) -> None:
    """The seeder names file, line and version; every sink's worker names that version."""
    seeds.write(folder, "archetypes.jsonl", seeds.archetypes())
    seeds.write(folder, "leagues/mine.jsonl", [seeds.league(1), seeds.league(2)])
    stack.start_relay()
    worker = stack.start_worker(size=3, settings={**PROCESS_SETTINGS, **LOUD})
    seeded = stack.seed("--all", "--wait", "--dir", str(folder), env={**stack.env, **LOUD})
    changed = _events(seeded.stderr, "entity.changed")
    (one,) = (
        line for line in changed if line["file"] == "leagues/mine.jsonl" and line["line"] == 2
    )
    assert one["seed_id"] == seeds.league(2)["id"]
    assert one["change"] == stack.number(
        "SELECT version FROM league WHERE seed_id = %s", one["seed_id"]
    )

    def settled() -> bool:
        return {line["sink"] for line in _of(worker.output, one["change"])} == set(SINKS)

    stack.until(settled, "the change in the log of every sink")
    lines = _of(worker.output, one["change"])
    assert {(line["key"], line["outcome"]) for line in lines} == {(one["key"], "synced")}


def _of(text: str, change: int) -> list[dict[str, Any]]:
    return [line for line in _events(text, "operation.settled") if line["change"] == change]


def test_flower_shows_what_each_task_did(stack: Stack, processes: Processes, folder: Path) -> None:
    """Under the sink's name, with a summary as its result."""
    (port,) = free_ports(1, LOOPBACK)
    stack.start(
        *("flower", "celery", "-A", "altsync.workers.app", "flower"),
        env={**stack.env, "FLOWER_PORT": str(port)},
    )
    stack.until(lambda: accepts(port, LOOPBACK), "Flower")
    login = (stack.folders.home / "flower.auth").read_text().strip()
    seeds.write(folder, "archetypes.jsonl", seeds.archetypes())
    tier = iter(range(1000))

    def results() -> dict[str, str]:
        # Events of tasks that ran before Flower listened are gone: a new change each time.
        line = {**seeds.league(1), "tier": f"TIER{next(tier)}", "description": str(next(tier))}
        seeds.write(folder, "leagues/mine.jsonl", [line])
        stack.seed("--all", "--wait", "--dir", str(folder))
        tasks = _ask(f"http://{LOOPBACK}:{port}/api/tasks?state=SUCCESS", login)
        return {
            task["name"]: task["result"]
            for task in tasks.values()
            if "'claimed': 1," in task["result"]
        }

    names = {f"altsync.sync_batch.{sink}" for sink in SINKS}
    found: dict[str, str] = {}

    def all_shown() -> bool:
        found.update(results())
        return names <= found.keys()

    stack.until(all_shown, "results of all three sinks")
    for sink in SINKS:
        result = found[f"altsync.sync_batch.{sink}"]
        assert result.startswith(f"{{'sink': '{sink}', 'batches': 1, 'claimed': 1, 'synced': 1, ")
        for name in ("superseded", "retried", "dead", "remote_calls", "tokens", "seconds"):
            assert f"'{name}': " in result


def _ask(url: str, login: str) -> dict[str, Any]:
    request = urllib.request.Request(url)  # noqa: S310 - our own server
    request.add_header("Authorization", f"Basic {base64.b64encode(login.encode()).decode()}")
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=10) as answer:
        body: dict[str, Any] = json.load(answer)
    return body
