"""The report of a seeding run: counts, and refused lines in a file beside them."""

from __future__ import annotations

import json
from pathlib import Path

from altsync.seed.lines import Rejected
from altsync.seed.report import SHOWN, Counts, SeedReport
from tests import sports


def refused(number: int, raw: str = '{"id":7}') -> Rejected:
    """A refused line."""
    return Rejected("leagues/a.jsonl", number, "id", "Input should be a valid string", raw)


def test_counts_add_up_over_the_parts(tmp_path: Path) -> None:
    """The total is the sum of the parts, field by field."""
    report = SeedReport(tmp_path)
    report.counts(sports.LEAGUES).add(Counts(1, 2, 3, 4, 5, 6, 7))
    report.counts(sports.LEAGUES).created += 1
    report.counts(sports.EXAMPLES).add(Counts(10, 20, 30, 40, 50, 60, 70))
    assert report.total == Counts(11, 23, 33, 44, 55, 66, 77)
    report.close()


def test_refused_lines_land_in_a_file(tmp_path: Path) -> None:
    """One JSON object each: where, which field, why, and the line itself."""
    report = SeedReport(tmp_path / "runs" / "1")
    report.reject(sports.LEAGUES, refused(3, 'x}) "quoted" é 🏆\ttab'))
    report.reject(sports.EXAMPLES, Rejected("examples/b.jsonl", 9, None, "not JSON", "\\xe9"))
    report.close()

    assert report.rejects_file == tmp_path / "runs" / "1" / "rejects.jsonl"
    lines = report.rejects_file.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "file": "leagues/a.jsonl",
            "line": 3,
            "field": "id",
            "reason": "Input should be a valid string",
            "raw": 'x}) "quoted" é 🏆\ttab',
        },
        {
            "file": "examples/b.jsonl",
            "line": 9,
            "field": None,
            "reason": "not JSON",
            "raw": "\\xe9",
        },
    ]
    assert report.counts(sports.LEAGUES).rejected == 1
    assert report.total.rejected == 2


def test_memory_keeps_the_first_refused_lines_alone(tmp_path: Path) -> None:
    """The terminal shows some; the file has all."""
    report = SeedReport(tmp_path)
    for number in range(1, SHOWN + 31):
        report.reject(sports.LEAGUES, refused(number))
    report.close()
    assert [line.number for line in report.shown] == list(range(1, SHOWN + 1))
    assert report.total.rejected == SHOWN + 30
    assert len((tmp_path / "rejects.jsonl").read_text().splitlines()) == SHOWN + 30


def test_a_run_without_refused_lines_leaves_no_file_of_them(tmp_path: Path) -> None:
    """An empty rejects file would look like trouble."""
    report = SeedReport(tmp_path / "run")
    report.counts(sports.LEAGUES).processed += 2
    report.close()
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["report.json"]
    assert report.rejects_file is None


def test_the_reports_json(tmp_path: Path) -> None:
    """The document for scripts, on stdout and in the file: totals at the top, parts below."""
    report = SeedReport(tmp_path)
    report.counts(sports.LEAGUES).add(Counts(processed=3, created=2, operations=4))
    report.reject(sports.LEAGUES, refused(1))
    report.notes.append("nothing was pruned: --limit leaves lines unread")
    report.close()
    counts = {
        "processed": 3,
        "created": 2,
        "updated": 0,
        "unchanged": 0,
        "deleted": 0,
        "rejected": 1,
        "operations": 4,
    }
    assert report.as_json() == {
        **counts,
        "parts": {"leagues": counts},
        "notes": ["nothing was pruned: --limit leaves lines unread"],
        "rejects_file": str(tmp_path / "rejects.jsonl"),
    }
    assert json.loads((tmp_path / "report.json").read_text()) == report.as_json()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    """Without a folder the lines are counted and shown, and no more."""
    report = SeedReport(None)
    report.reject(sports.LEAGUES, refused(1))
    report.close()
    assert (report.total.rejected, len(report.shown), report.rejects_file) == (1, 1, None)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_line_in_one_sentence() -> None:
    """File, line, field and reason, as an editor can jump to."""
    line = refused(3)
    assert str(line) == "leagues/a.jsonl:3: id: Input should be a valid string"
    assert str(Rejected("a", 1, None, "not JSON", "")) == "a:1: not JSON"
