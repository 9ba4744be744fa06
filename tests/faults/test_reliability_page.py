"""The page of guarantees names a test for each fault, and every test that it names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PAGE = ROOT / "docs" / "reliability.md"

#: The faults that must be held by a test, by their numbers on the page.
FAULTS = [str(number) for number in range(1, 24)] + ["23a", "23b"]
FAULTS += [str(number) for number in range(24, 91)]

_NODE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


@dataclass(frozen=True)
class Line:
    """One row of a table: its cells, the tests that it names, and the commands that run them."""

    cells: tuple[str, ...]

    @property
    def number(self) -> str:
        """The fault's number; the second table has none."""
        return self.cells[0] if len(self.cells) == 5 else ""

    @property
    def tests(self) -> list[tuple[str, str]]:
        """Files and functions."""
        return _NODE.findall(self.cells[-2])

    @property
    def commands(self) -> set[str]:
        """Such as ``make test``."""
        return set(re.findall(r"`([^`]+)`", self.cells[-1]))


def lines() -> list[Line]:
    """Every row of the page's tables."""
    rows = (line for line in PAGE.read_text().splitlines() if line.startswith("| "))
    cells = (tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in rows)
    return [Line(one) for one in cells if one[-1] != "command"]


@cache
def functions_of(file: str) -> dict[str, bool]:
    """The test functions of a file, and whether each is left out of ``make test``."""
    tree = ast.parse((ROOT / file).read_text())
    everywhere = any("slow" in mark for mark in _file_marks(tree))
    return {
        node.name: everywhere or any("slow" in ast.unparse(one) for one in node.decorator_list)
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def _file_marks(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            yield ast.unparse(node.value)


def test_every_fault_has_its_row() -> None:
    """Each once, in order, and no other."""
    assert [line.number for line in lines() if line.number] == FAULTS


@pytest.mark.parametrize("line", lines(), ids=lambda line: line.number or line.cells[0][:40])
def test_what_a_row_names_is_there(line: Line) -> None:
    """Tests that exist, and the commands that run them."""
    assert line.tests
    wanted = set()
    for file, name in line.tests:
        assert name in functions_of(file), f"{file} has no {name}"
        if file.startswith("tests/real_neo4j/"):
            wanted.add("make test-neo4j")
            continue
        long = "make test-faults" if file.startswith("tests/faults/") else "make test-long"
        wanted.add(long if functions_of(file)[name] else "make test")
    assert line.commands == wanted
