"""The shipped data keep their hashes: seeding a database of any release says *unchanged*."""

from __future__ import annotations

from pathlib import Path

import pytest

from altsync.catalogue.current import parts
from altsync.entities import Attached, Content, Relationship
from altsync.projection import content_hash, digest, part_hash, text_hash
from altsync.seed.lines import Line
from altsync.seed.listing import find_files
from altsync.seed.reader import read

SEEDS = Path(__file__).parents[2] / "seeds"

#: Number of lines of each part, and a hash over the hashes of all of them.
GOLDEN = {
    "archetypes": (5, "9239cb3bf9a7b7ecb915d59d11950c3d"),
    "leagues": (522, "5b6b7fa7048ab0ec67f8ea67a2d9ef9d"),
    "examples": (133, "0df3b8aad864756b4bf01d40707aab08"),
    "documents": (53, "d20c77b44ffc3ec24944420797b15b95"),
    "contracts": (55, "6b2a514768c75099166d3eedda0f99e6"),
    "relationships": (40, "fbc04d96a7e8f863cb7a7bd3d2a95922"),
}


def hashes(line: Line) -> str:
    item = line.item
    if isinstance(item, Attached | Relationship):
        return f"{line.seed_id} {part_hash(item)}"
    assert isinstance(item, Content)
    return f"{line.seed_id} {content_hash(item)} {text_hash(item)}"


@pytest.mark.parametrize("name", GOLDEN)
def test_shipped_lines_have_the_hashes_of_the_first_release(name: str) -> None:
    part = next(one for one in parts() if one == name)
    lines = [line for file in find_files(SEEDS, part) for line in read(file, None)]
    assert all(isinstance(line, Line) for line in lines)
    found = digest("\n".join(sorted(map(hashes, lines))).encode())  # type: ignore[arg-type]
    assert (len(lines), found) == GOLDEN[name]
