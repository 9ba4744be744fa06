"""One line of a seed folder, found by its id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from altsync.errors import SeedError
from altsync.seed.lines import Line, Rejected
from altsync.seed.parsing import LINE_BYTES
from altsync.seed.reader import find
from tests import sports


def _line(seed_id: str, **fields: Any) -> str:
    body = {
        "id": seed_id,
        "league_name": "A league",
        "sport_name": "Football",
        "sport_archetype": "unknown_sport",
        **fields,
    }
    return json.dumps(body, ensure_ascii=False)


def _write(folder: Path, *lines: str) -> None:
    (folder / "leagues").mkdir(exist_ok=True)
    (folder / "leagues" / "a.jsonl").write_text("".join(line + "\n" for line in lines), "utf-8")


def _found(folder: Path, seed_id: str) -> list[tuple[str, int, bool]]:
    lines = find(folder, sports.LEAGUES, seed_id)
    return [(line.file, line.number, isinstance(line, Line)) for line in lines]


def test_every_line_of_an_id_is_found_in_order(tmp_path: Path) -> None:
    """Good or refused; blank lines count, other ids and mere mentions do not."""
    refused = _line("one", league_name=7)
    _write(tmp_path, _line("two", description="one"), "", refused, _line("one"), _line("ones"))
    (tmp_path / "leagues" / "b.jsonl").write_text(_line("one"))
    assert _found(tmp_path, "one") == [
        ("leagues/a.jsonl", 3, False),
        ("leagues/a.jsonl", 4, True),
        ("leagues/b.jsonl", 1, True),
    ]
    assert _found(tmp_path, "nothing") == []
    assert list(find(tmp_path, sports.EXAMPLES, "one")) == []


def test_an_id_is_found_however_it_is_written(tmp_path: Path) -> None:
    """As it is, by escapes, and behind a byte order mark."""
    escaped = _line("x").replace('"x"', '"\\u00e9t\\u00e9"')
    _write(tmp_path, "\ufeff" + _line("été"), escaped)
    assert [number for _, number, _ in _found(tmp_path, "été")] == [1, 2]


def test_what_a_line_says_is_there(tmp_path: Path) -> None:
    """Its item and its text; the category of an example comes from the file's name."""
    (tmp_path / "examples").mkdir()
    text = '{"id": "ask", "input_text": "in", "output_text": "out"}'
    (tmp_path / "examples" / "triage.jsonl").write_text(text)
    (line,) = find(tmp_path, sports.EXAMPLES, "ask")
    assert isinstance(line, Line)
    assert line.raw == text
    assert getattr(line.item, "category", None) == "triage"


def test_lines_that_cannot_be_read_are_passed_over(tmp_path: Path) -> None:
    """They give no id."""
    long = _line("one", description="x" * LINE_BYTES)
    _write(tmp_path, '{"id": "one"', long, _line("one"))
    assert [number for _, number, _ in _found(tmp_path, "one")] == [3]


def test_a_refused_line_says_why(tmp_path: Path) -> None:
    """By field, as a seeding run would."""
    _write(tmp_path, _line("one", league_name=7))
    (line,) = find(tmp_path, sports.LEAGUES, "one")
    assert isinstance(line, Rejected)
    assert line.field == "league_name"


def test_a_missing_folder(tmp_path: Path) -> None:
    """The same sentence as for a seeding run."""
    with pytest.raises(SeedError, match="no such folder"):
        list(find(tmp_path / "nowhere", sports.LEAGUES, "one"))
