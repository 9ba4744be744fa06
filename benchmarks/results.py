"""Figures in a file: a later run replaces the figures that it measured and keeps the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine
from benchmarks.report import Figure, figure_from_json


@dataclass(frozen=True, slots=True)
class Result:
    """A figure, and where and how it was measured."""

    figure: Figure
    machine: Machine
    full: bool

    def to_json(self) -> dict[str, Any]:
        """The result as it is kept."""
        return {**self.figure.to_json(), "machine": asdict(self.machine), "full": self.full}


def read_results(file: Path) -> list[Result]:
    """Return the results of a file, by number; empty if it does not exist."""
    if not file.exists():
        return []
    return [
        Result(figure_from_json(body), Machine(**body["machine"]), body["full"])
        for body in json.loads(file.read_text(encoding="utf-8"))["figures"]
    ]


def write_results(file: Path, results: Sequence[Result]) -> None:
    """Put these results into a file in place of former ones of the same figures."""
    kept = {result.figure.number: result for result in read_results(file)}
    kept |= {result.figure.number: result for result in results}
    body = {"figures": [kept[number].to_json() for number in sorted(kept)]}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
