"""Every named point of the code is known to the tests that kill there."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import points

SOURCE = Path(__file__).resolve().parents[2] / "src" / "altsync"

#: The names of the hook, as a parameter and as an attribute.
HOOKS = ("at", "_at")


def hooked(room: str) -> Iterator[tuple[str, ast.expr]]:
    """The place and the argument of each call of a hook in a room."""
    for file in sorted((SOURCE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and _name(node.func) in HOOKS:
                yield f"{file.name}:{node.lineno}", node.args[0]


def _name(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


@pytest.mark.parametrize(
    ("room", "known"),
    [("delivery", points.DELIVERY), ("seed", points.SEEDING), ("erase", points.ERASING)],
)
def test_every_point_of_the_code_is_known(room: str, known: tuple[str, ...]) -> None:
    """A new point without a kill in the tests fails here. Each is a literal name."""
    found = dict(hooked(room))
    unnamed = [place for place, one in found.items() if not isinstance(one, ast.Constant)]
    assert unnamed == []
    names = {one.value for one in found.values() if isinstance(one, ast.Constant)}
    of_renames = points.OF_RENAMES[room]
    assert names == {*known, *of_renames}
    assert len(names) == len(known) + len(of_renames)


def test_no_other_room_has_points() -> None:
    """No test would use them."""
    rooms = {file.relative_to(SOURCE).parts[0] for file in SOURCE.rglob("*.py")}
    others = [room for room in rooms if (SOURCE / room).is_dir() and room not in points.OF_RENAMES]
    assert [place for room in others for place, _ in hooked(room)] == []
