"""Lines that were loaded before, byte for byte: not read again, and never taken for what they say
where something else has become of their entity.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from altsync.seed.checking import check
from altsync.seed.lines import Raw
from tests import sports
from tests.integration.database_fixture import DatabaseFixture
from tests.integration.seeds import (
    example_line,
    league_id,
    league_line,
    living,
    seed,
    short,
    write,
)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the lines that are parsed and checked."""
    numbers: list[int] = []

    def noting(raw: Raw, *arguments: Any, **options: Any) -> object:
        numbers.append(raw.number)
        return check(raw, *arguments, **options)

    monkeypatch.setattr("altsync.seed.prepare.check", noting)
    return numbers


def test_only_edited_lines_are_read_again(
    pg: DatabaseFixture, tmp_path: Path, checked: list[int]
) -> None:
    """The others are unchanged without a look at what they say."""
    lines = [league_line(f"l{n}") for n in range(6)]
    write(tmp_path, "leagues.jsonl", lines)
    seed(pg, tmp_path)
    checked.clear()
    write(tmp_path, "leagues.jsonl", [*lines[:3], {**lines[3], "tier": "TIER1"}, *lines[4:]])
    assert short(seed(pg, tmp_path).total) == (6, 0, 1, 5, 0, 0)
    assert checked == [4]


def test_the_same_said_in_other_bytes_changes_nothing(
    pg: DatabaseFixture, tmp_path: Path, checked: list[int]
) -> None:
    """It is read, and found to be the same."""
    line = league_line("l1")
    write(tmp_path, "leagues.jsonl", [line])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [json.dumps(line, indent=None, separators=(",", ":"))])
    report = seed(pg, tmp_path)
    assert (short(report.total), report.total.operations) == ((1, 0, 0, 1, 0, 0), 0)
    assert checked == [1, 1]


def test_what_something_else_has_changed_is_brought_back(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """The files are the source of truth, though they are as they were."""
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line("l2")])
    seed(pg, tmp_path)
    pg.conn.execute(
        "UPDATE league SET league_name = 'Other', content_hash = 'other' WHERE id = %s",
        (league_id("l1"),),
    )
    assert short(seed(pg, tmp_path).total) == (2, 0, 1, 1, 0, 0)
    name = pg.scalar("SELECT league_name FROM league WHERE id = %s", league_id("l1"))
    assert name == league_line("l1")["league_name"]


def test_what_was_deleted_comes_back(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Its row has the same hashes still."""
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line("l2")])
    seed(pg, tmp_path)
    pg.conn.execute("UPDATE league SET deleted_at = now() WHERE id = %s", (league_id("l1"),))
    assert short(seed(pg, tmp_path).total) == (2, 0, 1, 1, 0, 0)
    assert living(pg) == {"l1", "l2"}


def test_a_line_in_another_file_says_another_category(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The same bytes, of an example that moves."""
    write(tmp_path, "examples/betting.jsonl", [example_line("e1")])
    seed(pg, tmp_path)
    (tmp_path / "examples/betting.jsonl").rename(tmp_path / "examples/markets.jsonl")
    assert short(seed(pg, tmp_path).total) == (1, 0, 1, 0, 0, 0)
    assert pg.scalar("SELECT category FROM few_shot_example") == "markets"


def test_the_first_line_of_an_id_counts(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Also where a later one is what was loaded last; and a line twice is refused once."""
    old, new = league_line("l1"), {**league_line("l1"), "tier": "TIER1"}
    write(tmp_path, "leagues.jsonl", [old])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [new, old])
    assert short(seed(pg, tmp_path).total) == (2, 0, 1, 0, 0, 1)
    write(tmp_path, "leagues.jsonl", [new, new])
    assert short(seed(pg, tmp_path).total) == (2, 0, 0, 1, 0, 1)


def test_an_id_within_another_field_is_not_mistaken(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A value that looks like the id is looked up, and not trusted."""
    nested = {"origin": {"id": "l1"}, **league_line("l2")}
    write(tmp_path, "leagues.jsonl", [league_line("l1"), nested])
    seed(pg, tmp_path)
    report = seed(pg, tmp_path, sports.LEAGUES)
    assert (short(report.total), report.total.operations) == ((2, 0, 0, 2, 0, 0), 0)


@pytest.mark.parametrize("broken", [b'{"id": "l1\x00"}', b'{"id": "\xff"}', b'{"id": ""}', b'"id"'])
def test_a_broken_id_costs_its_own_line(pg: DatabaseFixture, tmp_path: Path, broken: bytes) -> None:
    """Lines without an id are not looked up."""
    write(tmp_path, "leagues.jsonl", [broken, league_line("l2")])
    assert short(seed(pg, tmp_path).total) == (2, 1, 0, 0, 0, 1)
    assert living(pg) == {"l2"}


def test_a_long_line_that_changes_at_its_end(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Beyond what is kept of a line for those who ask."""
    write(tmp_path, "leagues.jsonl", [league_line("l1", description="x" * 5000)])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [league_line("l1", description="x" * 4999 + "y")])
    assert short(seed(pg, tmp_path).total) == (1, 0, 1, 0, 0, 0)
