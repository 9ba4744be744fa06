"""Archetypes that are renamed, refused or deleted while leagues name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from altsync.errors import SeedError
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import DatabaseFixture, archetype, league
from tests.integration.seeds import archetype_line, league_line, living, seed, write
from tests.integration.verifying import Site


def archetypes_of(pg: DatabaseFixture) -> set[str]:
    """Archetypes that leagues name."""
    return {row[0] for row in pg.conn.execute("SELECT DISTINCT sport_archetype FROM league")}


def folder_of(folder: Path, archetype_name: str, named: str) -> Path:
    """An archetype, and two leagues that name one."""
    write(folder, "archetypes.jsonl", [archetype_line("a1", archetype_name)])
    leagues = [league_line(f"l{n}", sport_archetype=named) for n in (1, 2)]
    write(folder, "leagues.jsonl", leagues)
    return folder


@pytest.mark.parametrize("dry_run", [True, False])
def test_leagues_of_a_renamed_archetype_follow_it(
    pg: DatabaseFixture, tmp_path: Path, dry_run: bool
) -> None:
    """In the transaction that renames it: nothing is half done."""
    assert seed(pg, folder_of(tmp_path, "rowing", "rowing")).total.rejected == 0
    renamed = seed(pg, folder_of(tmp_path, "boat_racing", "boat_racing"), dry_run=dry_run)
    assert renamed.total.rejected == 0
    assert archetypes_of(pg) == {"rowing" if dry_run else "boat_racing"}
    back = seed(pg, folder_of(tmp_path, "rowing", "rowing")).total
    assert (back.rejected, back.unchanged) == (0, 3 if dry_run else 2)
    assert archetypes_of(pg) == {"rowing"}


@pytest.mark.parametrize("dry_run", [True, False])
def test_lines_that_name_the_former_key_of_an_archetype_are_refused(
    pg: DatabaseFixture, tmp_path: Path, dry_run: bool
) -> None:
    """Their former contents have moved along, so that no league leads to an empty stub."""
    seed(pg, folder_of(tmp_path, "rowing", "rowing"))
    renamed = seed(pg, folder_of(tmp_path, "boat_racing", "rowing"), dry_run=dry_run)
    assert (renamed.total.rejected, renamed.total.updated) == (2, 1)
    assert archetypes_of(pg) == {"rowing" if dry_run else "boat_racing"}


def test_the_former_key_of_an_archetype_is_free_for_no_other(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """The line that wants it is refused, and so are leagues that name it; theirs have moved."""
    seed(pg, folder_of(tmp_path, "rowing", "rowing"))
    lines = [archetype_line("a1", "sculling"), archetype_line("a2", "rowing")]
    write(tmp_path, "archetypes.jsonl", lines)
    report = seed(pg, tmp_path)
    assert report.total.rejected == 3
    assert archetypes_of(pg) == {"sculling"}


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_new_archetype_may_be_named_in_the_same_run(
    pg: DatabaseFixture, tmp_path: Path, dry_run: bool
) -> None:
    """It is loaded before its leagues."""
    report = seed(pg, folder_of(tmp_path, "rowing", "rowing"), dry_run=dry_run)
    assert (report.total.created, report.total.rejected) == (3, 0)


def test_leagues_of_a_refused_archetype_are_refused(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A line that cannot be loaded gives no name."""
    folder_of(tmp_path, "rowing", "rowing")
    bad = archetype_line("a1", "rowing")
    del bad["display_name"]
    write(tmp_path, "archetypes.jsonl", [bad])
    assert seed(pg, tmp_path).total.rejected == 3
    assert archetypes_of(pg) == set()


def test_a_stub_that_stays_is_drift(site: Site) -> None:
    """An archetype that was deleted by SQL's hand while leagues name it, or was never loaded."""
    site.pg.save(league("odd", sport_archetype="rowing"))
    site.deliver()
    assert site.drift() == {"neo4j": {"missing": 1}}
    tally = next(t for t in site.verify().tallies if t.sink == "neo4j")
    assert "rowing" in " ".join(next(iter(tally.samples.values())))
    site.pg.save(archetype("rowing"))
    site.deliver()
    assert site.drift(deep=True) == {}


def archetypes(folder: Path, *names: str) -> Path:
    """The archetypes of a folder; a few more keep a deletion below the share of a pruning."""
    lines = [archetype_line(f"a-{name}", name) for name in (*names, *(f"k{n}" for n in range(9)))]
    write(folder, "archetypes.jsonl", lines)
    return folder


def named_by(folder: Path, *names: str) -> Path:
    """Leagues, one of each archetype."""
    lines = [league_line(f"of-{name}", sport_archetype=name) for name in names]
    write(folder, "leagues.jsonl", lines)
    return folder


@pytest.mark.parametrize("name", ["rowing", "racing"])
@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("when", ["this run", "an earlier run"])
def test_an_archetype_that_leagues_of_another_folder_name_is_not_pruned(
    pg: DatabaseFixture, tmp_path: Path, name: str, when: str, dry_run: bool
) -> None:
    """Known to altsync or not, and a dry run says the same."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    seed(pg, archetypes(mine, name), sports.ARCHETYPES)
    folder = theirs if when == "an earlier run" else mine
    named_by(folder, name)
    if when == "an earlier run":
        seed(pg, theirs, sports.LEAGUES)
    archetypes(mine)
    parts = (sports.ARCHETYPES,) if when == "an earlier run" else ()
    for _ in range(2):
        with pytest.raises(SeedError, match=rf"{name} \(1 league\)"):
            seed(pg, mine, *parts, prune=True, dry_run=dry_run)
        assert f"a-{name}" in living(pg, "sport_archetype")


def test_leagues_may_not_name_an_archetype_that_an_earlier_run_pruned(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    seed(pg, archetypes(mine, "rowing"))
    seed(pg, archetypes(mine), prune=True)
    report = seed(pg, named_by(theirs, "rowing"), sports.LEAGUES)
    assert (report.total.created, report.total.rejected) == (0, 1)


def test_an_archetype_is_not_pruned_when_another_seeder_names_it_meanwhile(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """Between the look and the deletion."""
    seed(pg, archetypes(tmp_path, "rowing"))
    archetypes(tmp_path)

    def at(point: str) -> None:
        if point == "checked":
            pg.save(league("other", sport_archetype="rowing"))

    options = SeedOptions(tmp_path, (sports.ARCHETYPES,), prune=True)
    with pytest.raises(SeedError, match="rowing"):
        Loader(pg.conn, TOPOLOGY, options, SeedReport(None), at=at).run()
    assert "a-rowing" in living(pg, "sport_archetype")


def test_a_known_archetype_that_was_loaded_and_deleted_is_drift(site: Site, tmp_path: Path) -> None:
    """One that was never loaded has a node without properties by design."""
    site.pg.save(league("odd", sport_archetype="precision"))
    site.deliver()
    assert site.drift() == {}
    seed(site.pg, archetypes(tmp_path, "precision"), sports.ARCHETYPES)
    site.deliver()
    site.pg.conn.execute(
        "UPDATE sport_archetype SET deleted_at = now(), version = nextval('entity_version') "
        "WHERE archetype_name = 'precision'"
    )
    tally = next(t for t in site.verify().tallies if t.sink == "neo4j")
    assert any("archetype precision" in key for keys in tally.samples.values() for key in keys)
    seed(site.pg, tmp_path, sports.ARCHETYPES)
    site.deliver()
    assert site.drift(deep=True) == {}
