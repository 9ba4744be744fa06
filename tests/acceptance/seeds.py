"""Seed folders for tests: a few lines to edit, or thousands to move."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]

#: The seeds that come with altsync.
REAL_SEEDS = Path(__file__).resolve().parents[2] / "seeds"

ARCHETYPES = ("racing", "combat", "team_sport", "precision", "large_field")


def count_lines(folder: Path) -> int:
    """Lines of all files of a seed folder, blank ones left out."""
    texts = (file.read_text(encoding="utf-8") for file in folder.rglob("*.jsonl"))
    return sum(1 for text in texts for line in text.split("\n") if line.strip())


def write(folder: Path, file: str, lines: Iterable[Line | str]) -> None:
    """Write a seed file line by line; a string stands as it is."""
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for line in lines:
            stream.write(f"{line if isinstance(line, str) else json.dumps(line)}\n")


def archetypes() -> list[Line]:
    """The five archetypes."""
    return [
        {
            "id": f"archetype_{name}",
            "archetype_name": name,
            "display_name": name.replace("_", " ").title(),
            "code_pattern": "RaceEvent",
        }
        for name in ARCHETYPES
    ]


def league(number: int) -> Line:
    """One of as many leagues as wanted; no two have a text in common."""
    return {
        "id": f"generated_{number:05}",
        "league_name": f"League {number:05}",
        "sport_name": f"Sport {number % 40}",
        "sport_archetype": ARCHETYPES[number % len(ARCHETYPES)],
        "location": f"Country {number % 90}",
        "tier": f"TIER{number % 3 + 1}",
        "description": f"Season {number} of a competition without players.",
    }


def write_leagues(folder: Path, count: int, first: int = 0) -> Path:
    """A seed folder with ``count`` generated leagues and nothing else."""
    write(folder, "leagues/generated.jsonl", (league(first + n) for n in range(count)))
    return folder


def example(number: int, category: str) -> Line:
    """A few-shot example of a category."""
    return {
        "id": f"example_{number:03}",
        "category": category,
        "input_text": f"Question {number}: which market opens first?",
        "output_text": f"Answer {number}: the winner's.",
        "tags": ["generated"],
    }
