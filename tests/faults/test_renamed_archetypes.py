"""Archetypes that are renamed, refused or deleted while leagues name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.seeds import archetype_line, league_line, seed, write
from tests.integration.verifying import Site
from tests.integration.world import World, archetype, league


def archetypes_of(world: World) -> set[str]:
    """Archetypes that leagues name."""
    return {row[0] for row in world.conn.execute("SELECT DISTINCT sport_archetype FROM league")}


def folder_of(folder: Path, archetype_name: str, named: str) -> Path:
    """An archetype, and two leagues that name one."""
    write(folder, "archetypes.jsonl", [archetype_line("a1", archetype_name)])
    leagues = [league_line(f"l{n}", sport_archetype=named) for n in (1, 2)]
    write(folder, "leagues.jsonl", leagues)
    return folder


@pytest.mark.parametrize("dry_run", [True, False])
def test_leagues_of_a_renamed_archetype_stay_where_they_are(
    world: World, tmp_path: Path, dry_run: bool
) -> None:
    """Its line is refused, and so are they: nothing is half done."""
    assert seed(world, folder_of(tmp_path, "rowing", "rowing")).total.rejected == 0
    renamed = seed(world, folder_of(tmp_path, "boat_racing", "boat_racing"), dry_run=dry_run)
    assert (renamed.total.rejected, renamed.total.operations) == (3, 0)
    assert archetypes_of(world) == {"rowing"}
    back = seed(world, folder_of(tmp_path, "rowing", "rowing")).total
    assert (back.rejected, back.unchanged) == (0, 3)


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_new_archetype_may_be_named_in_the_same_run(
    world: World, tmp_path: Path, dry_run: bool
) -> None:
    """It is loaded before its leagues."""
    report = seed(world, folder_of(tmp_path, "rowing", "rowing"), dry_run=dry_run)
    assert (report.total.created, report.total.rejected) == (3, 0)


def test_leagues_of_a_refused_archetype_are_refused(world: World, tmp_path: Path) -> None:
    """A line that cannot be loaded gives no name."""
    folder_of(tmp_path, "rowing", "rowing")
    bad = archetype_line("a1", "rowing")
    del bad["display_name"]
    write(tmp_path, "archetypes.jsonl", [bad])
    assert seed(world, tmp_path).total.rejected == 3
    assert archetypes_of(world) == set()


def test_a_stub_that_stays_is_drift(site: Site) -> None:
    """An archetype that was deleted by SQL's hand while leagues name it, or was never loaded."""
    site.world.save(league("odd", sport_archetype="rowing"))
    site.deliver()
    assert site.drift() == {"neo4j": {"missing": 1}}
    tally = next(t for t in site.verify().tallies if t.sink == "neo4j")
    assert "rowing" in " ".join(next(iter(tally.samples.values())))
    site.world.save(archetype("rowing"))
    site.deliver()
    assert site.drift(deep=True) == {}
