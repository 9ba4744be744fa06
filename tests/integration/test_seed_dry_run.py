"""A dry run says what the real one will do, and writes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from altsync.errors import SeedError
from altsync.seed import loader
from altsync.seed.report import SeedReport
from tests.integration.database_fixture import DatabaseFixture, embed
from tests.integration.seeds import (
    Fields,
    archetype_line,
    contract_line,
    document_line,
    example_line,
    league_line,
    seed,
    write,
)

TEN = [league_line(f"l{n}") for n in range(10)]


def test_a_first_run(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Everything would be created."""
    write(tmp_path, "archetypes.jsonl", [archetype_line("a1", "racing")])
    write(tmp_path, "leagues.jsonl", [*TEN, {"id": "bad"}])
    write(tmp_path, "examples/triage.jsonl", [example_line("e1")])
    _assert_same(pg, tmp_path)


def test_what_belongs_to_leagues_of_the_same_run(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Documents and contracts of leagues that would be there by then."""
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, "documents.jsonl", [document_line("d1", "l1"), document_line("d2", "no")])
    write(tmp_path, "contracts.jsonl", [contract_line("c1", "l1")])
    _assert_same(pg, tmp_path)


def test_edits_and_deletions(pg: DatabaseFixture, database: Any, tmp_path: Path) -> None:
    """With the operations that they would ask for."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    embed(database)
    edited: list[Fields] = [dict(line) for line in TEN[:9]]
    edited[0]["tier"], edited[1]["description"] = "1", "New."
    write(tmp_path, "leagues.jsonl", [*edited, league_line("new")])
    _assert_same(pg, tmp_path, prune=True)


def test_what_was_deleted_and_comes_back(pg: DatabaseFixture, tmp_path: Path) -> None:
    """It would be updated."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", TEN[:9])
    seed(pg, tmp_path, prune=True)
    write(tmp_path, "leagues.jsonl", TEN)
    _assert_same(pg, tmp_path)


def test_documents_that_change(pg: DatabaseFixture, tmp_path: Path) -> None:
    """And those that go."""
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, "documents.jsonl", [document_line(f"d{n}", "l1") for n in range(10)])
    seed(pg, tmp_path)
    lines = [document_line(f"d{n}", "l1") for n in range(9)]
    lines[0]["body"] = "New."
    write(tmp_path, "documents.jsonl", lines)
    _assert_same(pg, tmp_path, prune=True)


@pytest.mark.parametrize("size", [1, 2000])
def test_a_tag_that_two_lines_give(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Refused in the same batch, and over batches."""
    monkeypatch.setattr(loader, "BATCH", size)
    lines = [league_line(f"l{n}", league_tag="same") for n in range(3)]
    write(tmp_path, "leagues.jsonl", lines)
    _assert_same(pg, tmp_path)


def test_repeated_ids(pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over batches and over runs of one session."""
    monkeypatch.setattr(loader, "BATCH", 2)
    write(tmp_path, "leagues.jsonl", [*TEN[:3], TEN[0]])
    _assert_same(pg, tmp_path)


def test_an_archetype_that_goes_with_its_last_league(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The real run deletes the leagues first; the dry one must not trip over them."""
    kinds = [archetype_line(f"a{n}", f"kind{n}") for n in range(10)]
    write(tmp_path, "archetypes.jsonl", kinds)
    write(tmp_path, "leagues.jsonl", [*TEN, league_line("x", sport_archetype="kind9")])
    seed(pg, tmp_path)
    write(tmp_path, "archetypes.jsonl", kinds[:9])
    write(tmp_path, "leagues.jsonl", TEN)
    _assert_same(pg, tmp_path, prune=True)


def test_an_archetype_whose_leagues_move(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The same run gives them another one."""
    kinds = [archetype_line(f"a{n}", f"kind{n}") for n in range(10)]
    write(tmp_path, "archetypes.jsonl", kinds)
    write(tmp_path, "leagues.jsonl", [league_line("x", sport_archetype="kind9")])
    seed(pg, tmp_path)
    write(tmp_path, "archetypes.jsonl", kinds[:9])
    write(tmp_path, "leagues.jsonl", [league_line("x", sport_archetype="kind8")])
    _assert_same(pg, tmp_path, prune=True)


def test_a_share_of_what_will_be_there(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Two of nine are more than a fifth, two of ten are not."""
    write(tmp_path, "leagues.jsonl", TEN[:9])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [*TEN[:7], league_line("new")])
    _assert_same(pg, tmp_path, prune=True)


def test_what_is_refused_is_refused(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A prune that would delete too much, an archetype in use."""
    kinds = [archetype_line(f"a{n}", f"kind{n}") for n in range(10)]
    write(tmp_path, "archetypes.jsonl", kinds)
    write(tmp_path, "leagues.jsonl", [league_line("l1", sport_archetype="kind9")])
    seed(pg, tmp_path)
    write(tmp_path, "archetypes.jsonl", kinds[:9])
    with pytest.raises(SeedError, match="kind9"):
        seed(pg, tmp_path, prune=True, dry_run=True)
    write(tmp_path, "archetypes.jsonl", kinds[:2])
    with pytest.raises(SeedError, match="8 of 10 archetypes"):
        seed(pg, tmp_path, prune=True, dry_run=True)


def _assert_same(pg: DatabaseFixture, folder: Path, **options: Any) -> None:
    """The dry run leaves every table as it was, and counts what the real one counts."""
    before = _dump(pg)
    dry = seed(pg, folder, dry_run=True, **options)
    assert _dump(pg) == before
    real = seed(pg, folder, **options)
    assert _summary(dry) == _summary(real)


def _summary(report: SeedReport) -> Any:
    refused = [(line.file, line.number, line.field, line.reason) for line in report.shown]
    return report.as_json(), refused


def _dump(pg: DatabaseFixture) -> dict[str, list[Any]]:
    tables = pg.conn.execute(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
    ).fetchall()
    return {
        name: pg.conn.execute(f"SELECT t::text FROM {name} t ORDER BY 1").fetchall()
        for (name,) in tables
    }
