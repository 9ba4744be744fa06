"""Seeding: what is counted, what is written, what is refused, and what it costs."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from altsync.catalogue.parts import Part
from altsync.db import Database
from altsync.errors import SeedError
from altsync.operations import Dead, ErrorKind
from altsync.seed import loader
from altsync.seed.report import SeedReport
from altsync.status.run_progress import run_progress
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import EMBEDDER, DatabaseFixture, deliver, embed
from tests.integration.fakes import FakeGraph, FakeIndex
from tests.integration.seeds import (
    archetype_line,
    contract_line,
    document_line,
    example_line,
    league_id,
    league_line,
    living,
    seed,
    short,
    tag_of,
    write,
)


def test_everything_is_counted_truly(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Created, updated, unchanged, deleted and refused, by part and in all."""
    write(tmp_path, "archetypes.jsonl", [archetype_line("a1", "racing")])
    write(tmp_path, "leagues/one.jsonl", [league_line(f"l{n}") for n in range(10)])
    write(tmp_path, "examples/triage.jsonl", [example_line("e1"), example_line("e2")])
    write(tmp_path, "documents.jsonl", [document_line("d1", "l1")])
    write(tmp_path, "contracts.jsonl", [contract_line("c1", "l1", start_date="2026-01-31")])
    report = seed(pg, tmp_path)
    assert {part: short(counts) for part, counts in report.parts.items()} == {
        sports.ARCHETYPES: (1, 1, 0, 0, 0, 0),
        sports.LEAGUES: (10, 10, 0, 0, 0, 0),
        sports.EXAMPLES: (2, 2, 0, 0, 0, 0),
        sports.DOCUMENTS: (1, 1, 0, 0, 0, 0),
        sports.CONTRACTS: (1, 1, 0, 0, 0, 0),
    }
    assert report.total.operations == 26

    changed: list[Any] = [league_line(f"l{n}") for n in range(1, 9)]
    changed[0]["tier"] = "TIER1"
    write(tmp_path, "leagues/one.jsonl", [*changed, league_line("new"), league_line("")])
    write(tmp_path, "documents.jsonl", [document_line("d1", "l1", body="Rules.")])
    report = seed(pg, tmp_path, prune=True)
    assert {part: short(counts) for part, counts in report.parts.items()} == {
        sports.ARCHETYPES: (1, 0, 0, 1, 0, 0),
        sports.LEAGUES: (10, 1, 1, 7, 2, 1),
        sports.EXAMPLES: (2, 0, 0, 2, 0, 0),
        sports.DOCUMENTS: (1, 0, 1, 0, 0, 0),
        sports.CONTRACTS: (1, 0, 0, 1, 0, 0),
    }
    assert short(report.total) == (15, 1, 2, 11, 2, 1)
    assert report.total.operations == 2 + 2 + 4


def test_the_same_again_writes_nothing(pg: DatabaseFixture, tmp_path: Path) -> None:
    """No operation, no new version, no row touched."""
    write(tmp_path, "leagues.jsonl", [league_line(f"l{n}") for n in range(30)])
    seed(pg, tmp_path)
    pg.conn.execute("DELETE FROM sync_operation")
    before = pg.conn.execute("SELECT xmin::text, league.* FROM league ORDER BY id").fetchall()
    assert short(seed(pg, tmp_path).total) == (30, 0, 0, 30, 0, 0)
    assert pg.ops() == []
    after = pg.conn.execute("SELECT xmin::text, league.* FROM league ORDER BY id").fetchall()
    assert after == before


def test_fields_that_the_schema_does_not_name_are_kept(pg: DatabaseFixture, tmp_path: Path) -> None:
    """And a change of one is a change."""
    write(tmp_path, "leagues.jsonl", [league_line("l1", founded=1920, teams=["a", "b"])])
    seed(pg, tmp_path)
    assert pg.scalar("SELECT attributes FROM league") == {"founded": 1920, "teams": ["a", "b"]}
    write(tmp_path, "leagues.jsonl", [league_line("l1", founded=1921, teams=["a", "b"])])
    assert seed(pg, tmp_path).total.updated == 1
    write(tmp_path, "leagues.jsonl", [league_line("l1", teams=["a", "b"], founded=1921)])
    assert seed(pg, tmp_path).total.unchanged == 1


def test_exactly_what_changed_is_asked_for(pg: DatabaseFixture, tmp_path: Path) -> None:
    """5,000 leagues, one in a hundred edited: fifty changes, a hundred operations."""
    lines = [league_line(f"l{n:04}", description=f"About {n}") for n in range(5000)]
    write(tmp_path, "leagues.jsonl", lines)
    assert short(seed(pg, tmp_path).total) == (5000, 5000, 0, 0, 0, 0)
    assert pg.counts("neo4j") == {"pending": 5000}
    pg.conn.execute("DELETE FROM sync_operation")
    edited = lines[7::100]
    for place, line in enumerate(edited):
        line["tier" if place % 2 else "description"] = "Another"
    pg.conn.execute(
        "UPDATE league SET embedding_text_hash = text_hash, embedding_model = 'test-model'"
    )
    write(tmp_path, "leagues.jsonl", lines)
    report = seed(pg, tmp_path)
    assert short(report.total) == (5000, 0, 50, 4950, 0, 0)
    assert report.total.operations == 100
    assert {sink: pg.counts(sink) for sink in TOPOLOGY.names} == {
        "embedding": {"pending": 25},
        "neo4j": {"pending": 50},
        "pinecone": {"pending": 25},
    }
    assert {op.entity_id for op in pg.ops("neo4j")} == {league_id(e["id"]) for e in edited}


@pytest.mark.parametrize("part", [sports.LEAGUES, sports.EXAMPLES, sports.DOCUMENTS])
def test_the_number_of_statements_does_not_grow_with_the_rows(
    pg: DatabaseFixture, tmp_path: Path, part: Part
) -> None:
    """A batch of a thousand new lines asks PostgreSQL as often as a batch of ten."""
    write(tmp_path, "leagues.jsonl", [league_line("owner")])
    seed(pg, tmp_path)
    costs = []
    for count in (10, 1000):
        folder = tmp_path / str(count)
        lines = {
            sports.LEAGUES: [league_line(f"{count}-{n}") for n in range(count)],
            sports.EXAMPLES: [example_line(f"{count}-{n}") for n in range(count)],
            sports.DOCUMENTS: [document_line(f"{count}-{n}", "owner") for n in range(count)],
        }[part]
        write(folder, f"{part}/triage.jsonl", lines)
        costs.append(_statements(pg, lambda folder=folder: seed(pg, folder, part)))
    assert costs[1] <= costs[0] + 5  # the driver prepares what it has asked a few times


def test_nor_with_the_lines_that_are_refused(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A file that was appended to itself."""
    costs = []
    for count in (10, 1000):
        lines = [league_line(f"l{n}") for n in range(count)]
        write(tmp_path / str(count), "leagues.jsonl", lines * 2)
        folder = tmp_path / str(count)
        costs.append(_statements(pg, lambda folder=folder: seed(pg, folder)))
    assert costs[1] <= costs[0] + 30  # a batch more, and what the driver prepares


def test_the_first_line_of_an_id_counts(pg: DatabaseFixture, tmp_path: Path) -> None:
    """In a batch, over batches and over files; the others are refused and say where it stands."""
    write(tmp_path, "leagues/a.jsonl", [league_line("l1", tier="1"), league_line("l1", tier="2")])
    write(tmp_path, "leagues/b.jsonl", [league_line("l2"), league_line("l1", tier="3")])
    report = seed(pg, tmp_path)
    assert short(report.total) == (4, 2, 0, 0, 0, 2)
    assert pg.scalar("SELECT tier FROM league WHERE seed_id = 'l1'") == "1"
    assert [(r.file, r.number, r.field) for r in report.shown] == [
        ("leagues/a.jsonl", 2, "id"),
        ("leagues/b.jsonl", 2, "id"),
    ]
    assert {"leagues/a.jsonl:1" in r.reason for r in report.shown} == {True}


def test_the_first_line_counts_over_batches(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever batch it came in, and in the next run again."""
    monkeypatch.setattr(loader, "BATCH", 3)
    lines = [league_line(f"l{n}") for n in range(5)]
    write(tmp_path, "leagues.jsonl", [*lines, league_line("l0", tier="X"), *lines])
    for _ in range(2):
        report = seed(pg, tmp_path)
        assert (report.total.processed, report.total.rejected) == (11, 6)
        assert pg.scalar("SELECT tier FROM league WHERE seed_id = 'l0'") is None


def test_a_good_line_counts_though_a_bad_one_had_its_id(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused line takes no id away, in the same batch or an earlier one."""
    bad = {"id": "l1", "league_name": "No sport"}
    for size in (10, 1):
        monkeypatch.setattr(loader, "BATCH", size)
        write(tmp_path, "leagues.jsonl", [bad, league_line("l1", tier=str(size))])
        report = seed(pg, tmp_path)
        assert (report.total.created + report.total.updated, report.total.rejected) == (1, 1)


def test_one_part_alone(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The others are not read."""
    write(tmp_path, "leagues.jsonl", [league_line("l1")])
    write(tmp_path, "examples/triage.jsonl", [example_line("e1")])
    report = seed(pg, tmp_path, sports.EXAMPLES)
    assert set(report.parts) == {sports.EXAMPLES}
    assert living(pg) == set()


def test_a_limit_is_for_each_part(pg: DatabaseFixture, tmp_path: Path) -> None:
    """So many lines of each."""
    write(tmp_path, "leagues.jsonl", [league_line(f"l{n}") for n in range(5)])
    write(tmp_path, "examples/triage.jsonl", [example_line(f"e{n}") for n in range(5)])
    report = seed(pg, tmp_path, limit=2)
    assert {part: c.processed for part, c in report.parts.items()} == {
        sports.LEAGUES: 2,
        sports.EXAMPLES: 2,
    }
    assert living(pg) == {"l0", "l1"}


def test_one_category_alone(pg: DatabaseFixture, tmp_path: Path) -> None:
    """And a category without a file is an error that names it."""
    write(tmp_path, "examples/triage.jsonl", [example_line("e1")])
    write(tmp_path, "examples/support.jsonl", [example_line("e2")])
    seed(pg, tmp_path, only={"category": "support"})
    assert living(pg, "few_shot_example") == {"e2"}
    assert pg.scalar("SELECT category FROM few_shot_example") == "support"
    with pytest.raises(SeedError, match=r"nothere\.jsonl"):
        seed(pg, tmp_path, only={"category": "nothere"})


def test_a_folder_without_seeds_is_an_error(pg: DatabaseFixture, tmp_path: Path) -> None:
    """So is one that is not there."""
    with pytest.raises(SeedError, match="no seed files for leagues"):
        seed(pg, tmp_path, sports.LEAGUES)
    with pytest.raises(SeedError, match="no such folder"):
        seed(pg, tmp_path / "elsewhere")


def test_an_archetype_may_come_from_the_files(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Or be there already; any other is refused by name."""
    write(tmp_path, "archetypes.jsonl", [archetype_line("a1", "mind_sport")])
    lines = [
        league_line("l1", sport_archetype="mind_sport"),
        league_line("l2", sport_archetype="nonsense"),
    ]
    write(tmp_path, "leagues.jsonl", lines)
    report = seed(pg, tmp_path)
    assert report.parts[sports.LEAGUES].rejected == 1
    assert "nonsense" in report.shown[0].reason
    (tmp_path / "archetypes.jsonl").unlink()
    assert seed(pg, tmp_path, sports.LEAGUES).total.unchanged == 1


@pytest.mark.parametrize(
    ("part", "line"), [(sports.DOCUMENTS, document_line), (sports.CONTRACTS, contract_line)]
)
def test_what_belongs_to_no_league_is_refused(
    pg: DatabaseFixture, tmp_path: Path, part: Part, line: Any
) -> None:
    """Unknown or deleted; the others of its batch are loaded."""
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line("l2")])
    seed(pg, tmp_path, sports.LEAGUES)
    write(tmp_path, "leagues.jsonl", [league_line("l1")])
    seed(pg, tmp_path, sports.LEAGUES, prune=True, yes=True)
    write(tmp_path, f"{part}.jsonl", [line("p1", "l1"), line("p2", "l2"), line("p3", "unknown")])
    report = seed(pg, tmp_path, part)
    assert short(report.total) == (3, 1, 0, 0, 0, 2)
    assert [(r.number, r.field) for r in report.shown] == [(2, "league"), (3, "league")]
    assert "unknown" in report.shown[1].reason


def test_a_document_may_move_to_another_league(pg: DatabaseFixture, tmp_path: Path) -> None:
    """It is a change as any other."""
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line("l2")])
    write(tmp_path, "documents.jsonl", [document_line("d1", "l1")])
    seed(pg, tmp_path)
    write(tmp_path, "documents.jsonl", [document_line("d1", "l2")])
    assert seed(pg, tmp_path, sports.DOCUMENTS).total.updated == 1
    assert pg.scalar("SELECT league_id FROM document") == league_id("l2")


def test_a_strict_run_refuses_a_file_whole(pg: DatabaseFixture, tmp_path: Path) -> None:
    """None of its lines is loaded; other files are."""
    write(tmp_path, "leagues/bad.jsonl", [league_line("l1"), {"id": "l2"}, "{", league_line("l3")])
    write(tmp_path, "leagues/good.jsonl", [league_line("l4")])
    report = seed(pg, tmp_path, strict=True)
    assert living(pg) == {"l4"}
    assert (report.total.rejected, report.total.created) == (2, 1)
    assert report.notes == ["leagues/bad.jsonl: refused as a whole, 2 bad lines (--strict)"]


def test_refused_lines_are_kept_beside_the_report(pg: DatabaseFixture, tmp_path: Path) -> None:
    """With their file, line, field, reason and text."""
    runs = tmp_path / "runs"
    write(tmp_path / "seeds", "leagues.jsonl", [league_line("l1"), {"id": "l2"}, "nonsense"])
    report = SeedReport(runs)
    seed(pg, tmp_path / "seeds", report=report)
    report.close()
    entries = [json.loads(line) for line in (runs / "rejects.jsonl").read_text().splitlines()]
    assert [(e["file"], e["line"], e["field"], e["raw"]) for e in entries] == [
        ("leagues.jsonl", 2, "league_name", '{"id": "l2"}'),
        ("leagues.jsonl", 3, None, "nonsense"),
    ]
    body = json.loads((runs / "report.json").read_text())
    assert (body["processed"], body["created"], body["rejected"]) == (3, 1, 2)
    assert body["rejects_file"] == str(runs / "rejects.jsonl")


def test_hostile_names_are_stored_as_they_are(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Quotes, braces, backslashes, tabs, right-to-left and emoji survive COPY and SQL."""
    names = ["x}) DETACH DELETE n //", "`'\"$1 %s \\N \\", "tab\tand\nline", "دوري المحترفين", "🏉"]
    write(
        tmp_path,
        "leagues.jsonl",
        [league_line(f"l{n}", league_name=name, note=name) for n, name in enumerate(names)],
    )
    seed(pg, tmp_path)
    rows = pg.conn.execute("SELECT league_name, attributes FROM league ORDER BY seed_id")
    assert [(r[0], r[1]["note"]) for r in rows] == [(name, name) for name in names]
    assert seed(pg, tmp_path).total.unchanged == len(names)


def test_an_entity_comes_back_with_a_higher_version(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Deleted and seeded again, unchanged: the same id and tag, a newer version."""
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line("l2")])
    seed(pg, tmp_path)
    row = "SELECT id, league_tag, version FROM league WHERE seed_id = 'l2'"
    before = pg.conn.execute(row).fetchone()
    write(tmp_path, "leagues.jsonl", [league_line("l1")])
    seed(pg, tmp_path, prune=True, yes=True)
    deleted = pg.conn.execute(row).fetchone()
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line("l2")])
    assert short(seed(pg, tmp_path).total) == (2, 0, 1, 1, 0, 0)
    after = pg.conn.execute(row).fetchone()
    assert before is not None
    assert deleted is not None
    assert after is not None
    assert before[:2] == deleted[:2] == after[:2]
    assert before[2] < deleted[2] < after[2]
    assert living(pg) == {"l1", "l2"}


def test_a_changed_projection_is_sent_again(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no seed edited; what is embedded stays."""
    write(tmp_path, "leagues.jsonl", [league_line("l1")])
    seed(pg, tmp_path)
    monkeypatch.setattr("altsync.projection.PROJECTION_VERSION", 2)
    assert seed(pg, tmp_path).total.updated == 1


def test_how_far_a_run_has_come(pg: DatabaseFixture, database: Database, tmp_path: Path) -> None:
    """By sink: what this run changed, what is confirmed, what was given up on."""
    write(tmp_path, "leagues.jsonl", [league_line(f"l{n}") for n in range(6)])
    seed(pg, tmp_path)
    assert _progress(pg, "neo4j") == (6, 0, 0, 6)
    deliver(database, FakeGraph())
    embed(database)
    deliver(database, FakeIndex())
    assert _progress(pg, "neo4j") == (6, 6, 0, 0)
    assert _progress(pg, "pinecone") == (6, 6, 0, 0)

    lines = [league_line(f"l{n}") for n in range(5)]
    lines[0]["description"], lines[1]["description"], lines[2]["tier"] = "A", "B", "1"
    write(tmp_path, "leagues.jsonl", lines)
    seed(pg, tmp_path, prune=True, yes=True)
    assert _progress(pg, "pinecone") == (4, 0, 0, 4)
    _dead_letter(pg, tag_of(pg, "l0"))
    assert _progress(pg, "pinecone") == (4, 0, 1, 3)
    assert _progress(pg, "neo4j") == (4, 0, 0, 4)
    deliver(database, FakeGraph())
    deliver(database, FakeIndex())
    assert _progress(pg, "pinecone") == (4, 2, 1, 1)
    assert _progress(pg, "neo4j") == (4, 4, 0, 0)


def test_a_run_knows_only_its_own_changes(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A run without changes has nothing to wait for."""
    write(tmp_path, "leagues.jsonl", [league_line("l1")])
    seed(pg, tmp_path)
    seed(pg, tmp_path)
    assert _progress(pg, "neo4j") == (0, 0, 0, 0)


def test_a_run_without_a_follower_notes_nothing(pg: DatabaseFixture, tmp_path: Path) -> None:
    """It writes and enqueues the same, and is spared the list of what it changed."""
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line("l2")])
    report = seed(pg, tmp_path, followed=False)
    assert (report.total.created, report.total.operations) == (2, 4)
    assert _progress(pg, "neo4j") == (0, 0, 0, 0)
    write(tmp_path, "leagues.jsonl", [league_line("l1", tier="TIER1"), league_line("l2")])
    report = seed(pg, tmp_path, followed=True)
    assert (report.total.updated, report.total.operations) == (1, 2)
    assert _progress(pg, "neo4j") == (1, 0, 0, 1)


def test_an_id_longer_than_an_index_takes_costs_its_own_line(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """It is refused like any other, and the lines around it are loaded."""
    endless = "".join(f"{n:x}" for n in range(9000))
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line(endless), league_line("l2")])
    assert short(seed(pg, tmp_path, prune=True).total) == (3, 2, 0, 0, 0, 1)


def test_what_was_purged_meanwhile_has_arrived(
    pg: DatabaseFixture, database: Database, tmp_path: Path
) -> None:
    """A deletion that every sink confirmed needs no row any more."""
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line("l2")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [league_line("l1")])
    seed(pg, tmp_path, prune=True, yes=True)
    pg.conn.execute("DELETE FROM league WHERE seed_id = 'l2'")
    assert _progress(pg, "neo4j") == (1, 1, 0, 0)


def test_the_process_is_left_as_it_was(pg: DatabaseFixture, tmp_path: Path) -> None:
    """How often Python looks for garbage and lets threads take turns is a run's own, also one
    that fails."""
    before = gc.get_threshold(), sys.getswitchinterval()
    write(tmp_path, "leagues.jsonl", [league_line("l1")])
    seed(pg, tmp_path)
    with pytest.raises(SeedError):
        seed(pg, tmp_path / "nowhere")
    assert (gc.get_threshold(), sys.getswitchinterval()) == before


def test_two_sessions_keep_their_own_runs(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Only the session of a run sees the list of its changes."""
    write(tmp_path, "leagues.jsonl", [league_line("l1")])
    other = DatabaseFixture(pg.url)
    seed(pg, tmp_path)
    seed(other, tmp_path)
    assert _progress(pg, "neo4j") == (1, 0, 0, 1)
    assert _progress(other, "neo4j") == (0, 0, 0, 0)
    other.close()


def _progress(pg: DatabaseFixture, sink: str) -> tuple[int, int, int, int]:
    progress = run_progress(pg.conn, TOPOLOGY.traits(sink))
    return progress.changed, progress.synced, progress.failed, progress.waiting


def _dead_letter(pg: DatabaseFixture, key: str) -> None:
    token, operations = pg.claim("embedding")
    dead = [op for op in operations if op.entity_key == key]
    assert dead
    pg.settle(EMBEDDER, token, [Dead(op, op.version, ErrorKind.ITEM, "bad") for op in dead])


def _statements(pg: DatabaseFixture, work: Any) -> int:
    """How many statements PostgreSQL was asked, as it logs them."""
    heard: list[str] = []
    pg.conn.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    pg.conn.execute("SET log_statement = 'all'")
    pg.conn.execute("SET client_min_messages = 'log'")
    try:
        heard.clear()
        work()
        return len(heard)
    finally:
        pg.conn.execute("RESET client_min_messages")
        pg.conn.execute("RESET log_statement")
