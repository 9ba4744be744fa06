"""Two seeders of the same files at the same time: the result of one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from altsync.catalogue.parts import Part
from altsync.seed import loader
from altsync.seed.report import SeedReport
from tests import sports
from tests.integration.database_fixture import DatabaseFixture
from tests.integration.seeds import (
    archetype_line,
    document_line,
    example_line,
    league_line,
    living,
    seed,
    write,
)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "BATCH", 40)


def test_the_result_is_that_of_one(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Every entity once, one live operation per sink, every line accounted for by both."""
    _write(tmp_path)
    reports = _at_once(pg, tmp_path)
    assert {report.total.processed for report in reports} == {451}
    assert sum(report.total.created for report in reports) == 451
    assert sum(report.total.unchanged for report in reports) == 451
    assert {report.total.rejected for report in reports} == {0}
    assert pg.counts("neo4j") == {"pending": 401}
    assert pg.counts("embedding") == {"pending": 401}
    for table in ("league", "few_shot_example"):
        rows = pg.conn.execute(f"SELECT version FROM {table}").fetchall()
        assert len({row[0] for row in rows}) == len(rows)


def test_what_another_seeder_has_just_written_is_unchanged(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """The seeder that waited finds it unchanged, and writes nothing."""
    write(tmp_path, "leagues.jsonl", [league_line("l1")])
    write(tmp_path, "documents.jsonl", [document_line(f"d{n}", "l1") for n in range(5)])
    seed(pg, tmp_path, sports.LEAGUES)
    other = DatabaseFixture(pg.url)
    with ThreadPoolExecutor(1) as pool:
        with pg.conn.transaction():
            first = seed(pg, tmp_path, sports.DOCUMENTS)
            waiting = pool.submit(seed, other, tmp_path, sports.DOCUMENTS)
            DatabaseFixture(pg.url).until_waiting(other.conn)
        second = waiting.result()
    other.close()
    assert (first.total.created, second.total.unchanged, second.total.updated) == (5, 5, 0)


@pytest.mark.parametrize("part", [sports.LEAGUES, sports.EXAMPLES])
def test_what_was_absent_a_moment_ago_is_looked_at_again(
    pg: DatabaseFixture, tmp_path: Path, part: Part
) -> None:
    """A seeder that meets rows of another one changes only those that differ."""
    make = league_line if part is sports.LEAGUES else example_line
    name = "leagues.jsonl" if part is sports.LEAGUES else "examples/triage.jsonl"
    lines = [make(f"x{n}") for n in range(5)]
    write(tmp_path / "a", name, lines)
    write(tmp_path / "b", name, [make("new"), make("x3", note="edited"), *lines[:3], lines[4]])
    other = DatabaseFixture(pg.url)
    with ThreadPoolExecutor(1) as pool:
        with pg.conn.transaction():
            seed(pg, tmp_path / "a", part)
            waiting = pool.submit(seed, other, tmp_path / "b", part)
            DatabaseFixture(pg.url).until_waiting(other.conn)
        report = waiting.result()
    other.close()
    assert (report.total.created, report.total.updated, report.total.unchanged) == (1, 1, 4)
    assert pg.counts("neo4j") == {"pending": 6}


def test_their_tags_are_those_of_one(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Namesakes in one order: the first one is the same for every reader."""
    lines = [league_line(f"l{n}", league_name="Premier League") for n in range(200)]
    write(tmp_path, "leagues.jsonl", lines)
    _at_once(pg, tmp_path)
    tags: dict[str, str] = dict(
        pg.conn.execute("SELECT seed_id, league_tag FROM league").fetchall()
    )
    registry: dict[str, str] = dict(
        pg.conn.execute("SELECT seed_id, tag FROM tag_registry").fetchall()
    )
    assert len(set(tags.values())) == 200
    assert tags == registry
    assert tags["l0"] == "premier_league"


def test_files_in_opposite_order(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Each batch of one overlaps several of the other; all is seeded, and the tags are unique."""
    lines = [league_line(f"l{n}", league_name=f"Name {n % 50}") for n in range(300)]
    write(tmp_path / "a", "leagues.jsonl", lines)
    write(tmp_path / "b", "leagues.jsonl", reversed(lines))
    reports = _at_once(pg, tmp_path / "a", tmp_path / "b")
    assert sum(report.total.created for report in reports) == 300
    assert len(living(pg)) == 300
    assert pg.scalar("SELECT count(DISTINCT league_tag) FROM league") == 300
    assert pg.counts("neo4j") == {"pending": 300}


def test_edits_of_the_same_rows(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Two versions of every line: one of them wins, wholly, with its operation."""
    lines = [league_line(f"l{n}") for n in range(200)]
    write(tmp_path, "leagues.jsonl", lines)
    seed(pg, tmp_path)
    pg.conn.execute("DELETE FROM sync_operation")
    for name in ("a", "b"):
        edited = [{**line, "tier": name, "location": name} for line in lines]
        write(tmp_path / name, "leagues.jsonl", edited if name == "a" else reversed(edited))
    _at_once(pg, tmp_path / "a", tmp_path / "b")
    assert pg.scalar("SELECT count(*) FROM league WHERE tier = location") == 200
    versions = pg.conn.execute(
        "SELECT count(*) FROM league l JOIN sync_operation o ON o.entity_id = l.id "
        "AND o.sink = 'neo4j' AND o.status = 'pending' AND o.version = l.version"
    ).fetchone()
    assert versions == (200,)


def test_one_tag_that_two_seeders_give_to_different_ids(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """One gets it, the other's line is refused; neither run fails."""
    for name in ("a", "b"):
        lines = [league_line(f"{name}{n}", league_tag=f"tag{n}") for n in range(100)]
        write(tmp_path / name, "leagues.jsonl", lines)
    reports = _at_once(pg, tmp_path / "a", tmp_path / "b")
    assert sum(report.total.created for report in reports) == 100
    assert sum(report.total.rejected for report in reports) == 100
    assert pg.scalar("SELECT count(*) FROM league") == 100


def test_pruning_while_another_seeds_the_same(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Rows of both files stay, and rows of neither are deleted."""
    lines = [league_line(f"l{n}") for n in range(200)]
    write(tmp_path, "leagues.jsonl", [*lines, league_line("old")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", lines)
    _at_once(pg, tmp_path, prune=True)
    assert living(pg) == {f"l{n}" for n in range(200)}


def _write(folder: Path) -> None:
    write(folder, "archetypes.jsonl", [archetype_line("a1", "racing")])
    write(folder, "leagues/a.jsonl", [league_line(f"l{n}") for n in range(300)])
    write(folder, "examples/triage.jsonl", [example_line(f"e{n}") for n in range(100)])
    write(folder, "documents.jsonl", [document_line(f"d{n}", f"l{n}") for n in range(50)])


def _at_once(pg: DatabaseFixture, *folders: Path, **options: Any) -> list[SeedReport]:
    """Two runs, over one folder or over two, started together."""
    start = threading.Barrier(2, timeout=30)

    def run(folder: Path) -> SeedReport:
        session = DatabaseFixture(pg.url)
        session.conn.execute("SET deadlock_timeout = '20 ms'")
        start.wait()
        try:
            return seed(session, folder, **options)
        finally:
            session.close()

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(run, folders if len(folders) == 2 else folders * 2))
