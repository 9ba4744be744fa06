"""The main job in one command."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.seeds import REAL_SEEDS, count_lines
from tests.acceptance.stack import Folders, Stack

QUESTIONS = (
    "PostgreSQL: leagues by archetype",
    "Neo4j: archetypes with the most TIER1 leagues",
    "All three: leagues most like Formula 1",
)


@pytest.mark.slow
def test_a_second_demo_has_nothing_to_do(tmp_path: Path) -> None:
    """The demo fills three stores and asks each a question; run again, it calls no store."""
    work = tmp_path / "work"
    work.mkdir()
    stack = Stack(Folders(tmp_path / "home", work, tmp_path))
    try:
        first, second = (stack.run("demo", "--dir", str(REAL_SEEDS)).stdout for _ in range(2))
    finally:
        stack.run("local", "down")

    for question in QUESTIONS:
        assert question in first
        assert question in second
    lines = count_lines(REAL_SEEDS)
    assert {f"  Created: {lines}", "  Errors: 0"} <= set(first.splitlines())
    nothing = {"  Created: 0", "  Updated: 0", f"  Unchanged: {lines}", "  Errors: 0"}
    assert nothing <= set(second.splitlines())
    assert "Remote calls to the sinks in this run: 0" not in first
    assert "Remote calls to the sinks in this run: 0" in second


@pytest.mark.slow
def test_a_stack_that_ran_before_goes_on_running(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "seeds").mkdir(parents=True)
    stack = Stack(Folders(tmp_path / "home", work, tmp_path))

    def running() -> dict[str, int]:
        listed = json.loads(stack.run("local", "status", "--json").stdout)
        return {one["name"]: one["pid"] for one in listed if one["state"] == "running"}

    try:
        stack.run("local", "up")
        before = running()
        assert len(before) == 4
        missing = stack.run("demo", "--dir", "no-such-folder", code=1)
        assert "no seed folder no-such-folder" in missing.stderr
        assert running() == before
        os.kill(before["redis"], signal.SIGKILL)
        failed = stack.run("demo", "--dir", "seeds", code=1)
        assert "no seed files" in failed.stderr
        after = running()
        assert after == {name: pid for name, pid in before.items() if name != "redis"}
        assert (tmp_path / "home" / "local.env").exists()
    finally:
        stack.run("local", "down")
