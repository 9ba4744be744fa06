"""Seed folders as people have them: what is loaded, what is refused, what is never pruned."""

from __future__ import annotations

import gzip
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from altsync import db
from altsync.catalogue.parts import Part
from altsync.cli import app as cli
from altsync.seed import loader
from altsync.seed.lines import Rejected
from altsync.seed.loader import BATCH_BYTES, Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SHOWN, SeedReport
from altsync.sentences import Exit
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import DatabaseFixture
from tests.integration.seeds import (
    Fields,
    contract_line,
    document_line,
    example_line,
    league_line,
    living,
    seed,
    short,
    tag_of,
    write,
)

TEN = [league_line(f"l{n}") for n in range(10)]


def relationship(number: int, source: str, target: str, **more: Any) -> Fields:
    """A line of relationships.jsonl."""
    return {"id": f"r{number}", "type": "COMPETES_WITH", "source": source, "target": target, **more}


def finish(pg: DatabaseFixture) -> None:
    """Take every live operation as delivered."""
    pg.conn.execute(
        "UPDATE sync_operation SET status = 'synced', finished_at = now() WHERE finished_at IS NULL"
    )


def pending(pg: DatabaseFixture) -> int:
    """Live operations."""
    return sum(op.live for op in pg.ops())


# --- files -------------------------------------------------------------------------------------


def _fifo(path: Path) -> None:
    os.mkfifo(path)


BROKEN: dict[str, Callable[[Path], object]] = {
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "pipe": _fifo,
    "folder": lambda path: path.mkdir(),
    "array": lambda path: path.write_text(json.dumps(TEN)),
    "UTF-16": lambda path: path.write_text(json.dumps(TEN[0]) + "\n", "utf-16"),
    "gzip": lambda path: path.write_bytes(gzip.compress(b"{}")),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_file_that_cannot_be_read_costs_itself_and_prunes_nothing(
    pg: DatabaseFixture, tmp_path: Path, kind: str
) -> None:
    write(tmp_path, "leagues/a.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues/a.jsonl", [*TEN[:8], league_line("new")])
    BROKEN[kind](tmp_path / "leagues/x.jsonl")
    report = seed(pg, tmp_path, prune=True, yes=True)
    assert short(report.total) == (10, 1, 0, 8, 0, 1)
    assert [str(line).partition(": ")[0] for line in report.shown] == ["leagues/x.jsonl"]
    assert report.notes == ["nothing was pruned: leagues/x.jsonl cannot be read"]
    assert len(living(pg)) == 11


@pytest.mark.parametrize("name", ["a.json", "a.csv", "a.jsonl.xz", "sub/a.txt", "../venues.jsonl"])
def test_nothing_is_pruned_while_a_file_of_the_folder_is_not_read(
    pg: DatabaseFixture, tmp_path: Path, name: str
) -> None:
    write(tmp_path, "leagues/a.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues/a.jsonl", TEN[:9])
    write(tmp_path, f"leagues/{name}", TEN[9:])
    report = seed(pg, tmp_path, prune=True, yes=True)
    label = name.removeprefix("../") if name.startswith("..") else f"leagues/{name}"
    assert (report.total.rejected, report.total.deleted) == (0, 0)
    assert report.notes[0].startswith(f"{label}: not read: ")
    assert report.notes[-1] == f"nothing was pruned: {label} was not read"
    assert report.as_json()["not_pruned"] == f"{label} was not read"


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--category", "naming"], ["--limit", "5"]])
def test_a_run_that_prunes_nothing_though_it_was_asked_to_ends_with_3(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str]
) -> None:
    """Also where no line was refused; without --prune the same files end with 0."""
    monkeypatch.setenv("DATABASE_URL", pg.url)
    monkeypatch.setenv("ALTSYNC_HOME", str(tmp_path / "home"))
    write(tmp_path, "examples/naming.jsonl", [])
    write(tmp_path, "leagues/a.jsonl", TEN)
    if more in ([], ["--dry-run"]):
        write(tmp_path, "leagues/notes.json", TEN)
    command = ["seed", "--all", "--dir", str(tmp_path), "--json", *more]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == Exit.OK, result.output
    assert "not_pruned" not in json.loads(result.stdout)
    result = CliRunner().invoke(cli, [*command, "--prune"])
    assert result.exit_code == Exit.REJECTED, result.output
    body = json.loads(result.stdout)
    assert (body["rejected"], body["deleted"]) == (0, 0)
    assert body["not_pruned"]


@pytest.mark.parametrize("name", ["b.ndjson", "B.JSONL", "sub/b.jsonl", "b.jsonl.gz"])
def test_what_moves_to_another_form_of_file_is_not_pruned(
    pg: DatabaseFixture, tmp_path: Path, name: str
) -> None:
    write(tmp_path, "leagues/a.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues/a.jsonl", TEN[:5])
    write(tmp_path, f"leagues/{name}", TEN[5:])
    if name.endswith(".gz"):
        file = tmp_path / "leagues" / name
        file.write_bytes(gzip.compress(file.read_bytes()))
    assert short(seed(pg, tmp_path, prune=True).total) == (10, 0, 0, 10, 0, 0)


def test_leavings_of_editors_are_neither_loaded_nor_in_the_way(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    write(tmp_path, "leagues/a.jsonl", TEN)
    seed(pg, tmp_path)
    write(tmp_path, "leagues/a.jsonl", TEN[:9])
    for name in ("._a.jsonl", ".r.jsonl", "a.jsonl~", "a.jsonl.bak"):
        write(tmp_path, f"leagues/{name}", [league_line("hidden"), b"\x00\x05\x16\x07"])
    (tmp_path / "leagues/.#a.jsonl").symlink_to("someone@host.1")
    report = seed(pg, tmp_path, prune=True)
    assert short(report.total) == (9, 0, 0, 9, 1, 0)
    assert report.notes == []


def test_a_file_without_lines_is_noted(pg: DatabaseFixture, tmp_path: Path) -> None:
    write(tmp_path, "leagues/a.jsonl", TEN)
    write(tmp_path, "leagues/b.jsonl", ["", "  "])
    assert seed(pg, tmp_path).notes == ["leagues/b.jsonl: holds no line"]


def test_a_batch_ends_at_bytes_as_well_as_at_lines(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Two thousand lines of a megabyte would be in memory several times over."""
    lines = [league_line(f"l{n}", description="x" * 1_000_000) for n in range(12)]
    write(tmp_path, "leagues.jsonl", lines)
    points: list[str] = []
    options = SeedOptions(tmp_path, (sports.LEAGUES,))
    report = SeedReport(None)
    Loader(pg.conn, TOPOLOGY, options, report, at=points.append).run()
    assert report.total.created == 12
    assert points.count("committed") >= 12_000_000 // (BATCH_BYTES + 1_100_000)


# --- strict -------------------------------------------------------------------------------------


LATE: dict[str, tuple[Part, list[Fields]]] = {
    "an id twice": (sports.LEAGUES, [league_line("b3")]),
    "an id of another file": (sports.LEAGUES, [league_line("l0")]),
    "a tag of another": (sports.LEAGUES, [league_line("b99", league_tag="league_l0")]),
    "an unknown archetype": (sports.LEAGUES, [league_line("b99", sport_archetype="nonsense")]),
    "a missing field": (sports.LEAGUES, [{"id": "b99"}]),
    "no league": (sports.DOCUMENTS, [document_line("b99", "nothing")]),
    "no league of a contract": (sports.CONTRACTS, [contract_line("b99", "nothing")]),
    "no end": (sports.RELATIONSHIPS, [relationship(99, "l0", "nothing")]),
    "said already": (sports.RELATIONSHIPS, [relationship(99, "l0", "l1")]),
    "an example twice": (sports.EXAMPLES, [example_line("b3")]),
}


def _good(part: Part) -> list[Fields]:
    makers: dict[Part, Callable[[int], Fields]] = {
        sports.LEAGUES: lambda n: league_line(f"b{n}"),
        sports.EXAMPLES: lambda n: example_line(f"b{n}"),
        sports.DOCUMENTS: lambda n: document_line(f"b{n}", "l1"),
        sports.CONTRACTS: lambda n: contract_line(f"b{n}", "l1"),
        sports.RELATIONSHIPS: lambda n: relationship(n, "l0", f"l{n}"),
    }
    make = makers[part]
    return [make(n) for n in range(1, 9)]


@pytest.mark.parametrize("place", [0, 5, 8])
@pytest.mark.parametrize("reason", LATE)
def test_a_strict_run_loads_all_of_a_file_or_nothing_whatever_the_reason(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str, place: int
) -> None:
    """Over batches, wherever the bad line stands, and other files are loaded."""
    monkeypatch.setattr(loader, "BATCH", 3)
    write(tmp_path, "leagues/a.jsonl", TEN)
    seed(pg, tmp_path)
    finish(pg)
    part, bad = LATE[reason]
    lines = _good(part)
    lines[place:place] = bad
    table = {sports.RELATIONSHIPS: "league_relationship"}.get(
        part, part.entity_type or part.value.removesuffix("s")
    )
    before = pg.conn.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()
    write(tmp_path, f"{part}/b.jsonl", lines)
    write(tmp_path, "examples/zzz.jsonl", [example_line("other")])
    report = seed(pg, tmp_path, strict=True, followed=False)
    if part is not sports.EXAMPLES:
        assert pg.conn.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() == before
    assert living(pg, "few_shot_example") == {"other"}
    assert pending(pg) == 2
    assert report.total.rejected == 1
    assert report.parts[part].created == (1 if part is sports.EXAMPLES else 0)
    assert report.notes == [f"{part}/b.jsonl: refused as a whole, 1 bad line (--strict)"]
    assert pg.scalar("SELECT count(*) FROM tag_registry WHERE seed_id LIKE 'b%%'") == 0


def test_a_strict_run_loads_a_good_file_of_many_batches(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "BATCH", 3)
    write(tmp_path, "leagues/a.jsonl", TEN)
    write(tmp_path, "documents.jsonl", [document_line(f"d{n}", f"l{n}") for n in range(10)])
    report = seed(pg, tmp_path, strict=True)
    assert short(report.total) == (20, 20, 0, 0, 0, 0)
    assert short(seed(pg, tmp_path, strict=True).total) == (20, 0, 0, 20, 0, 0)


def test_a_dry_strict_run_says_what_the_run_does(pg: DatabaseFixture, tmp_path: Path) -> None:
    write(tmp_path, "leagues/a.jsonl", [*TEN, TEN[0]])
    write(tmp_path, "leagues/b.jsonl", [league_line("good")])
    write(tmp_path, "documents.jsonl", [document_line("d1", "l1"), document_line("d2", "good")])
    dry = seed(pg, tmp_path, strict=True, dry_run=True)
    assert living(pg) == set()
    real = seed(pg, tmp_path, strict=True)
    assert dry.as_json() == real.as_json()
    assert living(pg) == {"good"}


def test_two_strict_runs_of_the_same_files_end_as_one(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The second waits for the first one's transaction, and finds everything as it says."""
    write(tmp_path, "leagues.jsonl", TEN)
    other = DatabaseFixture(pg.url)
    met: list[SeedReport] = []

    def at(point: str) -> None:
        if point == "seen" and not met:
            met.append(seed(other, tmp_path, strict=True))

    report = SeedReport(None)
    options = SeedOptions(tmp_path, (sports.LEAGUES,), strict=True)
    Loader(pg.conn, TOPOLOGY, options, report, at=at).run()
    other.close()
    assert (met[0].total.created, report.total.unchanged, report.total.rejected) == (10, 10, 0)


# --- rest is rest, and the first run is right -----------------------------------------------------


REFUSED: dict[str, list[Fields]] = {
    "an unknown target": [relationship(9, "l5", "nothing")],
    "an unknown source": [relationship(9, "nothing", "l5")],
    "said by another line": [relationship(9, "l0", "l1")],
    "a line twice": [relationship(1, "l0", "l1")],
    "an id twice": [relationship(1, "l6", "l7")],
    "a loaded one that now says the same as another": [relationship(2, "l0", "l1", strength=0.5)],
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_refused_relationship_costs_no_operation(
    pg: DatabaseFixture, tmp_path: Path, reason: str
) -> None:
    good = [relationship(1, "l0", "l1"), relationship(2, "l2", "l3")]
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, "relationships.jsonl", good)
    seed(pg, tmp_path)
    finish(pg)
    kept = good[:1] if "loaded" in reason else good
    write(tmp_path, "relationships.jsonl", [*kept, *REFUSED[reason]])
    for _ in range(2):
        report = seed(pg, tmp_path)
        assert (report.total.operations, report.total.rejected) == (0, 1)
        assert pending(pg) == 0


def test_a_refused_relationship_beside_a_new_one_carries_the_new_one_alone(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    write(tmp_path, "leagues.jsonl", TEN)
    seed(pg, tmp_path)
    finish(pg)
    lines = [relationship(1, "l0", "l1"), relationship(2, "l5", "nothing")]
    write(tmp_path, "relationships.jsonl", lines)
    assert seed(pg, tmp_path).total.operations == 1
    assert [op.entity_key for op in pg.ops() if op.live] == [tag_of(pg, "l0")]


NAMING: dict[Part, Callable[[], Fields]] = {
    sports.DOCUMENTS: lambda: document_line("x", "l9"),
    sports.CONTRACTS: lambda: contract_line("x", "l9"),
    sports.RELATIONSHIPS: lambda: relationship(1, "l0", "l9"),
}


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize("part", NAMING)
def test_what_names_a_league_that_is_pruned_is_refused_at_the_first_run(
    pg: DatabaseFixture, tmp_path: Path, part: Part, dry: bool
) -> None:
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, f"{part}.jsonl", [NAMING[part]()])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", TEN[:9])
    first = seed(pg, tmp_path, prune=True, dry_run=dry)
    assert short(first.parts[sports.LEAGUES]) == (9, 0, 0, 9, 1, 0)
    assert short(first.parts[part]) == (1, 0, 0, 0, 0, 1)
    assert "no league with the seed id 'l9' stays: --prune deletes it" in first.shown[0].reason
    if not dry:
        finish(pg)
        again = seed(pg, tmp_path, prune=True)
        assert short(again.parts[part]) == (1, 0, 0, 0, 0, 1)
        assert again.total.operations == 0


def test_a_league_whose_line_is_refused_stays_and_so_does_what_names_it(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    write(tmp_path, "leagues.jsonl", TEN)
    write(tmp_path, "documents.jsonl", [document_line("d1", "l9")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [*TEN[:9], {"id": "l9"}])
    report = seed(pg, tmp_path, prune=True)
    assert (report.total.deleted, report.parts[sports.DOCUMENTS].unchanged) == (0, 1)


# --- fields -------------------------------------------------------------------------------------


def test_null_and_empty_optional_fields_are_absent(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A row of an export has every column; the rows come to the same, with one note a file."""
    optional = ("location", "tier", "status", "description", "league_tag")
    write(tmp_path, "leagues/plain.jsonl", [TEN[0]])
    seed(pg, tmp_path)
    row = "SELECT content_hash FROM league WHERE seed_id = 'l0'"
    plain = pg.scalar(row)
    for empty in (None, ""):
        fields = dict.fromkeys(optional, empty)
        lines = [{**line, **fields, "extra": empty} for line in TEN]
        write(tmp_path, "leagues/plain.jsonl", [{**TEN[0], **fields}])
        write(tmp_path, "leagues/rows.jsonl", lines[1:])
        report = seed(pg, tmp_path)
        assert report.total.rejected == 0
        assert pg.scalar(row) == plain
        assert len(report.notes) == (2 if empty == "" else 0)
    assert report.notes[1] == (
        "leagues/rows.jsonl: empty text is taken as absent: location (9 times), tier (9 times), "
        "status (9 times), description (9 times), league_tag (9 times)"
    )
    assert pg.scalar("SELECT attributes FROM league WHERE seed_id = 'l1'") == {"extra": ""}
    assert pg.scalar("SELECT status FROM league WHERE seed_id = 'l1'") == "active"


@pytest.mark.parametrize("empty", [None, ""])
def test_they_are_in_every_part(pg: DatabaseFixture, tmp_path: Path, empty: str | None) -> None:
    nothing = {"category": empty, "sport_archetype": empty, "tags": empty}
    dates = {"start_date": empty, "end_date": empty, "status": empty, "counterparty": empty}
    write(tmp_path, "leagues.jsonl", TEN[:2])
    write(
        tmp_path,
        "examples/triage.jsonl",
        [example_line("e1", **nothing), example_line("e2", tags=["a", empty])],
    )
    write(tmp_path, "documents.jsonl", [document_line("d1", "l0", kind=empty, body=empty)])
    write(tmp_path, "contracts.jsonl", [contract_line("c1", "l0", **dates)])
    write(tmp_path, "relationships.jsonl", [relationship(1, "l0", "l1", strength=empty)])
    assert seed(pg, tmp_path).total.rejected == 0
    assert pg.conn.execute(
        "SELECT category, tags FROM few_shot_example ORDER BY seed_id"
    ).fetchall() == [("triage", []), ("triage", ["a"])]


@pytest.mark.parametrize("empty", [None, ""])
@pytest.mark.parametrize("field", ["id", "league_name", "sport_name", "sport_archetype"])
def test_a_required_field_may_be_neither(
    pg: DatabaseFixture, tmp_path: Path, field: str, empty: str | None
) -> None:
    write(tmp_path, "leagues.jsonl", [{**TEN[0], field: empty}])
    (refused,) = seed(pg, tmp_path).shown
    assert refused.field == field
    word = "null" if empty is None else "empty"
    assert refused.reason == f"Field required, and may not be {word}"


@pytest.mark.parametrize(
    "wrong",
    [
        "20240229",
        "2024-W09-4",
        "2024-02-29T00:00",
        "2024-2-9",
        "2023-02-29",
        "24-02-29",
        "٢٠٢٤-٠٢-٢٩",
        20240229,
        1709164800.0,
        True,
        ["2024-02-29"],
    ],
    ids=str,
)
def test_a_date_in_another_form_is_refused_with_the_one_that_is_wanted(
    pg: DatabaseFixture, tmp_path: Path, wrong: object
) -> None:
    write(tmp_path, "leagues.jsonl", TEN[:1])
    write(tmp_path, "contracts.jsonl", [contract_line("c1", "l0", start_date=wrong)])
    (refused,) = seed(pg, tmp_path).shown
    assert (refused.field, refused.reason) == ("start_date", "give a date as 2026-01-31")


def test_an_end_before_its_start_is_refused(pg: DatabaseFixture, tmp_path: Path) -> None:
    dates = {"start_date": "2026-02-01", "end_date": "2026-01-31"}
    write(tmp_path, "leagues.jsonl", TEN[:1])
    same = {"start_date": "2026-02-01", "end_date": "2026-02-01"}
    lines = [contract_line("c1", "l0", **dates), contract_line("c2", "l0", **same)]
    write(tmp_path, "contracts.jsonl", lines)
    (refused,) = seed(pg, tmp_path).shown
    assert (refused.number, refused.field) == (1, "end_date")
    assert refused.reason == "2026-01-31 is before the start_date 2026-02-01"


# --- the report -----------------------------------------------------------------------------------


@pytest.mark.parametrize("dry", [True, False])
def test_all_refused_lines_are_in_the_file_and_in_the_json(
    pg: DatabaseFixture, tmp_path: Path, dry: bool
) -> None:
    write(tmp_path / "seeds", "leagues.jsonl", [{"id": f"bad{n}"} for n in range(323)])
    report = SeedReport(tmp_path / "home" / "runs" / "one", only_refusals=dry)
    seed(pg, tmp_path / "seeds", report=report, dry_run=dry)
    report.close()
    assert len(report.shown) == SHOWN
    assert report.rejects_file is not None
    in_file = [json.loads(line) for line in report.rejects_file.read_text().splitlines()]
    assert [entry["line"] for entry in in_file] == list(range(1, 324))
    assert [entry["line"] for entry in report.refused()] == list(range(1, 324))


def test_a_dry_run_that_refuses_nothing_leaves_no_file(pg: DatabaseFixture, tmp_path: Path) -> None:
    write(tmp_path / "seeds", "leagues.jsonl", TEN)
    report = SeedReport(tmp_path / "home" / "runs" / "one", only_refusals=True)
    seed(pg, tmp_path / "seeds", report=report, dry_run=True)
    report.close()
    assert not (tmp_path / "home").exists()


def test_what_a_run_leaves_is_its_owners_alone(tmp_path: Path) -> None:
    """Whatever stands in the way, and whatever the umask."""
    folder, victim = tmp_path / "runs" / "one", tmp_path / "victim"
    victim.write_text("kept")
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    (folder / "rejects.jsonl").symlink_to(victim)
    before = os.umask(0)
    try:
        report = SeedReport(folder)
        report.reject(sports.LEAGUES, Rejected("leagues.jsonl", 1, None, "bad", "secret"))
        report.close()
    finally:
        os.umask(before)
    assert victim.read_text() == "kept"
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in folder.iterdir()}
    assert modes == {"rejects.jsonl": 0o600, "report.json": 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert report.rejects_file is not None
    assert not report.rejects_file.is_symlink()


def test_a_link_in_the_folders_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "one").symlink_to("elsewhere")
    with pytest.raises(OSError, match="one"):
        SeedReport(tmp_path / "one").close()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_tags_that_were_given_by_older_rules_stay(pg: DatabaseFixture, tmp_path: Path) -> None:
    line = league_line("l1", league_name="Bayern–München Derby")
    write(tmp_path, "leagues.jsonl", [line])
    with db.connect(pg.url) as conn:
        conn.execute(
            "INSERT INTO tag_registry (entity_type, seed_id, tag) "
            "VALUES ('league', 'l1', 'bayernmunchen_derby')"
        )
    seed(pg, tmp_path)
    assert tag_of(pg, "l1") == "bayernmunchen_derby"
    write(tmp_path, "leagues.jsonl", [line, {**line, "id": "l2"}])
    assert short(seed(pg, tmp_path).total) == (2, 1, 0, 1, 0, 0)
    assert tag_of(pg, "l2") == "bayern_munchen_derby"
