"""The main job in one command."""

from __future__ import annotations

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
