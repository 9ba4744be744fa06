"""Pruning: what the files no longer hold is deleted, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from altsync.errors import SeedError
from altsync.seed import loader
from tests import sports
from tests.integration.database_fixture import DatabaseFixture
from tests.integration.seeds import (
    archetype_line,
    contract_line,
    document_line,
    example_line,
    league_line,
    living,
    seed,
    tag_of,
    write,
)

TEN = [league_line(f"l{n}") for n in range(10)]


def test_what_the_files_no_longer_hold_is_deleted(pg: DatabaseFixture, tmp_path: Path) -> None:
    """In every sink, too; without --prune nothing is."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    pg.conn.execute("DELETE FROM sync_operation")
    write(tmp_path, "leagues.jsonl", TEN[:8])
    assert seed(pg, tmp_path).total.deleted == 0
    report = seed(pg, tmp_path, prune=True)
    assert (report.total.deleted, report.total.operations) == (2, 4)
    assert living(pg) == {f"l{n}" for n in range(8)}
    assert {(op.entity_key, op.sink, op.action) for op in pg.ops()} == {
        (tag_of(pg, seed_id), sink, "delete")
        for seed_id in ("l8", "l9")
        for sink in ("neo4j", "pinecone")
    }


def test_pruning_twice_deletes_once(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Deleted rows are not counted again."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", TEN[:9])
    assert [seed(pg, tmp_path, prune=True).total.deleted for _ in range(2)] == [1, 0]


def test_only_parts_of_the_run_are_pruned(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A part that was not asked for, or has no files, is left alone."""
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, "examples/triage.jsonl", [example_line("e1")])
    write(tmp_path, "documents.jsonl", [document_line("d1", "l1")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", TEN[:9])
    write(tmp_path, "examples/triage.jsonl", [example_line("e2")])
    (tmp_path / "documents.jsonl").unlink()
    seed(pg, tmp_path, sports.LEAGUES, sports.DOCUMENTS, prune=True)
    assert len(living(pg)) == 9
    assert living(pg, "few_shot_example") == {"e1"}
    assert pg.scalar("SELECT count(*) FROM document") == 1


def test_documents_and_contracts_are_pruned_for_good(pg: DatabaseFixture, tmp_path: Path) -> None:
    """No sink holds them."""
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, "documents.jsonl", [document_line(f"d{n}", "l1") for n in range(10)])
    write(tmp_path, "contracts.jsonl", [contract_line(f"c{n}", "l1") for n in range(10)])
    seed(pg, tmp_path)
    write(tmp_path, "documents.jsonl", [document_line(f"d{n}", "l1") for n in range(9)])
    write(tmp_path, "contracts.jsonl", [contract_line(f"c{n}", "l1") for n in range(8)])
    report = seed(pg, tmp_path, prune=True)
    assert report.parts[sports.DOCUMENTS].deleted == 1
    assert report.parts[sports.CONTRACTS].deleted == 2
    assert pg.scalar("SELECT count(*) FROM document") == 9


@pytest.mark.parametrize("bad", ['{"id": "l9", ', b'{"id": "\xff"}', '{"id": 5}', "[]"])
def test_a_line_that_cannot_be_read_blocks_pruning(
    pg: DatabaseFixture, tmp_path: Path, bad: str | bytes
) -> None:
    """The entity is not known; the report names the line."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [*TEN[:9], bad])
    report = seed(pg, tmp_path, prune=True, yes=True)
    assert report.total.deleted == 0
    assert report.notes == ["nothing was pruned: leagues.jsonl:10 cannot be read"]
    assert len(living(pg)) == 10


def test_an_unreadable_line_of_one_part_blocks_every_part(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """A run is right or it is not."""
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, "examples/triage.jsonl", [example_line("e1")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", TEN[:9])
    write(tmp_path, "examples/triage.jsonl", [example_line("e1"), "{"])
    seed(pg, tmp_path, prune=True)
    assert len(living(pg)) == 10


@pytest.mark.parametrize(
    "change",
    [
        {"sport_name": 5},
        {"sport_archetype": "nonsense"},
        {"note": "\\u0000"},
        {"league_name": ""},
        {"league_tag": "not a tag"},
    ],
    ids=str,
)
def test_a_refused_line_that_names_its_id_is_never_pruned(
    pg: DatabaseFixture, tmp_path: Path, change: dict[str, Any]
) -> None:
    """The entity is there, only its new content is wrong; others are pruned."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    line: Any = {**TEN[8], **change}
    if "note" in change:
        line = '{"id": "l8", "league_name": "A", "sport_name": "B", "note": "\\u0000"}'
    write(tmp_path, "leagues.jsonl", [*TEN[:8], line])
    report = seed(pg, tmp_path, prune=True)
    assert (report.total.rejected, report.total.deleted) == (1, 1)
    assert living(pg) == {f"l{n}" for n in range(9)}


def test_a_refused_line_in_another_batch_counts_too(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of what was seen is the run's, not the batch's."""
    monkeypatch.setattr(loader, "BATCH", 2)
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    lines = [{"id": "l0"}, *TEN[1:7], {"id": "l7"}, TEN[8]]
    write(tmp_path, "leagues.jsonl", lines)
    assert seed(pg, tmp_path, prune=True).total.deleted == 1
    assert living(pg) == {f"l{n}" for n in range(9)}


@pytest.mark.parametrize(
    ("options", "why"),
    [({"limit": 5}, "--limit"), ({"only": {"category": "triage"}}, "--category")],
)
def test_a_run_that_did_not_read_everything_prunes_nothing(
    pg: DatabaseFixture, tmp_path: Path, options: dict[str, Any], why: str
) -> None:
    """And says why."""
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, "examples/triage.jsonl", [example_line("e1"), example_line("e2")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", TEN[:9])
    write(tmp_path, "examples/triage.jsonl", [example_line("e1")])
    report = seed(pg, tmp_path, prune=True, yes=True, **options)
    assert report.total.deleted == 0
    assert why in report.notes[0]
    assert len(living(pg)) == 10


def test_a_file_refused_whole_blocks_pruning(pg: DatabaseFixture, tmp_path: Path) -> None:
    """With --strict none of its lines was seen."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [*TEN[:9], {"id": "l9"}])
    report = seed(pg, tmp_path, prune=True, yes=True, strict=True)
    assert (report.total.deleted, len(living(pg))) == (0, 10)
    assert "refused as a whole" in report.notes[-1]


def test_a_large_prune_wants_to_be_told_twice(pg: DatabaseFixture, tmp_path: Path) -> None:
    """More than a fifth of a part: refused with the numbers, nothing deleted."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [*TEN[:7], league_line("new")])
    with pytest.raises(SeedError, match=r"delete 3 of 11 leagues \(27%\); nothing was deleted"):
        seed(pg, tmp_path, prune=True)
    assert len(living(pg)) == 11
    assert seed(pg, tmp_path, prune=True, yes=True).total.deleted == 3


def test_a_fifth_is_not_large(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Just as much may go."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", TEN[:8])
    assert seed(pg, tmp_path, prune=True).total.deleted == 2


def test_an_empty_file_does_not_empty_the_table(pg: DatabaseFixture, tmp_path: Path) -> None:
    """It is all of a part."""
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [])
    with pytest.raises(SeedError, match="10 of 10"):
        seed(pg, tmp_path, prune=True)
    assert len(living(pg)) == 10


def test_a_large_prune_of_one_part_leaves_every_part_whole(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """All parts are looked at before any is touched."""
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, "documents.jsonl", [document_line(f"d{n}", "l1") for n in range(10)])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", TEN[:2])
    write(tmp_path, "documents.jsonl", [document_line(f"d{n}", "l1") for n in range(9)])
    with pytest.raises(SeedError):
        seed(pg, tmp_path, prune=True)
    assert pg.scalar("SELECT count(*) FROM document") == 10


def test_an_archetype_that_leagues_name_is_not_deleted(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The error says which, and by how many."""
    _archetypes(tmp_path, 10)
    write(tmp_path, "leagues.jsonl", [league_line("l1", sport_archetype="kind9")])
    seed(pg, tmp_path)
    _archetypes(tmp_path, 9)
    with pytest.raises(SeedError, match=r"kind9 \(1 league\)"):
        seed(pg, tmp_path, sports.ARCHETYPES, prune=True)
    assert len(living(pg, "sport_archetype")) == 10


def test_an_archetype_in_use_leaves_every_part_whole(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A refusal is one for the whole prune: nothing else was deleted before it."""
    _archetypes(tmp_path, 10)
    leagues = [league_line(f"l{n}", sport_archetype="kind9") for n in range(10)]
    write(tmp_path, "leagues.jsonl", leagues)
    seed(pg, tmp_path)
    _archetypes(tmp_path, 9)
    write(tmp_path, "leagues.jsonl", leagues[:9])
    with pytest.raises(SeedError, match="kind9"):
        seed(pg, tmp_path, prune=True)
    assert len(living(pg)) == 10


def test_an_archetype_goes_together_with_its_last_leagues(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """Children before what they belong to."""
    _archetypes(tmp_path, 10)
    leagues = [league_line(f"l{n}") for n in range(10)]
    write(tmp_path, "leagues.jsonl", [*leagues, league_line("x", sport_archetype="kind9")])
    seed(pg, tmp_path)
    _archetypes(tmp_path, 9)
    write(tmp_path, "leagues.jsonl", leagues)
    report = seed(pg, tmp_path, prune=True)
    assert report.parts[sports.ARCHETYPES].deleted == 1
    assert report.parts[sports.LEAGUES].deleted == 1


def test_a_deleted_league_keeps_its_archetype_from_nothing(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """Only living leagues count."""
    _archetypes(tmp_path, 10)
    leagues = [league_line(f"l{n}") for n in range(10)]
    write(tmp_path, "leagues.jsonl", [*leagues, league_line("x", sport_archetype="kind9")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", leagues)
    seed(pg, tmp_path, prune=True)
    _archetypes(tmp_path, 9)
    assert seed(pg, tmp_path, sports.ARCHETYPES, prune=True).total.deleted == 1


def test_a_great_prune_goes_page_by_page(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short transactions; all of it in the end."""
    monkeypatch.setattr("altsync.seed.pruning.DELETE_PAGE", 3)
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", TEN[:2])
    report = seed(pg, tmp_path, prune=True, yes=True)
    assert (report.total.deleted, report.total.operations) == (8, 16)
    assert living(pg) == {"l0", "l1"}


def _archetypes(folder: Path, count: int) -> None:
    lines = [archetype_line(f"a{n}", f"kind{n}") for n in range(count)]
    write(folder, "archetypes.jsonl", lines)
