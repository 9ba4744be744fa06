"""Which parts of a watched folder are due."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from altsync.catalogue.current import parts
from altsync.seed.watching import QUIET_SECONDS, Due, is_half_written

LEAGUES, EXAMPLES = (
    next(one for one in parts() if one == name) for name in ("leagues", "examples")
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def due(tmp_path: Path, clock: Clock) -> Due:
    (tmp_path / "leagues").mkdir()
    (tmp_path / "examples").mkdir()
    return Due(tmp_path, tuple(parts()), clock)


@pytest.mark.parametrize(
    ("content", "half"),
    [
        (b"", True),
        (b'{"id": "a"}\n', False),
        (b'{"id": "a"}', False),
        (b'{"id": "a"}\n{"id": "b', True),
        (b'{"id": "a"}\nno json\n', False),
        (b"\n\n", False),
        (b'{"id": "a"}\n\n\n', False),
    ],
)
def test_a_file_is_half_written_when_it_ends_within_a_line(
    tmp_path: Path, content: bytes, half: bool
) -> None:
    plain, packed = tmp_path / "a.jsonl", tmp_path / "a.jsonl.gz"
    plain.write_bytes(content)
    packed.write_bytes(gzip.compress(content) if content else b"")
    assert (is_half_written(plain), is_half_written(packed)) == (half, half)


def test_compressed_data_that_break_off_are_half_written(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"id": "a"}\n' * 99)[:-9])
    assert is_half_written(tmp_path / "a.jsonl.gz")


def test_a_file_that_is_gone_is_not_half_written(tmp_path: Path) -> None:
    assert not is_half_written(tmp_path / "a.jsonl")


def test_only_the_part_of_a_changed_file_is_due(tmp_path: Path, due: Due) -> None:
    (tmp_path / "leagues" / "a.jsonl").write_text("{}\n")
    due.note({tmp_path / "leagues" / "a.jsonl", tmp_path / "notes.txt", tmp_path / ".leagues.swp"})
    assert due.ready() == (LEAGUES,)
    due.seeded((LEAGUES,), ())
    assert due.ready() == ()


def test_every_part_is_due_when_the_folder_appears(tmp_path: Path, due: Due) -> None:
    due.note({tmp_path})
    assert due.ready() == tuple(parts())


def test_a_half_written_file_holds_its_part_back(tmp_path: Path, due: Due) -> None:
    file = tmp_path / "leagues" / "a.jsonl"
    file.write_text('{"id": ')
    (tmp_path / "examples" / "triage.jsonl").write_text("{}\n")
    due.note({file, tmp_path / "examples" / "triage.jsonl"})
    assert due.ready() == (EXAMPLES,)
    due.seeded((EXAMPLES,), ())
    file.write_text('{"id": "a"}\n')
    assert due.ready() == (LEAGUES,)


def test_a_file_that_stays_half_written_is_seeded_after_the_quiet_time(
    tmp_path: Path, due: Due, clock: Clock
) -> None:
    file = tmp_path / "leagues.jsonl"
    file.write_text('{"id": ')
    due.note({file})
    clock.now = QUIET_SECONDS / 2
    due.note({file})
    clock.now = QUIET_SECONDS
    assert due.ready() == ()
    clock.now = QUIET_SECONDS * 1.5
    assert due.ready() == (LEAGUES,)


def test_refused_lines_are_tried_again_with_the_next_change(tmp_path: Path, due: Due) -> None:
    due.note({tmp_path})
    due.seeded(tuple(parts()), {LEAGUES})
    assert due.ready() == ()
    (tmp_path / "examples" / "triage.jsonl").write_text("{}\n")
    due.note({tmp_path / "examples" / "triage.jsonl"})
    assert due.ready() == (LEAGUES, EXAMPLES)
    due.seeded((LEAGUES, EXAMPLES), ())
    due.note({tmp_path / "examples" / "triage.jsonl"})
    assert due.ready() == (EXAMPLES,)


def test_a_deleted_file_is_named(tmp_path: Path, due: Due) -> None:
    assert due.note({tmp_path / "leagues" / "a.jsonl"}) == ["leagues/a.jsonl"]
    assert due.ready() == (LEAGUES,)


def test_a_link_to_the_folder_is_the_folder(tmp_path: Path, clock: Callable[[], float]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "leagues.jsonl").write_text("{}\n")
    due = Due(tmp_path / "link", tuple(parts()), clock)
    due.note({tmp_path / "real" / "leagues.jsonl"})
    assert due.ready() == (LEAGUES,)
