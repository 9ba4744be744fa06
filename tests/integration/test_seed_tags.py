"""Tags: every league has its own, and keeps it whatever is added or removed around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from altsync.seed import loader
from tests import sports
from tests.integration.database_fixture import DatabaseFixture
from tests.integration.seeds import archetype_line, league_line, living, seed, tag_of, write


def test_a_tag_is_made_from_the_name(pg: DatabaseFixture, tmp_path: Path) -> None:
    """In ASCII, as an id of every sink must be."""
    names = {"l1": "Süper Lig", "l2": "Ekstraklasa – Łódź", "l3": "中超"}
    write(tmp_path, "leagues.jsonl", [league_line(i, league_name=n) for i, n in names.items()])
    seed(pg, tmp_path)
    assert tag_of(pg, "l1") == "super_lig"
    assert tag_of(pg, "l2") == "ekstraklasa_lodz"
    assert tag_of(pg, "l3").startswith("seed_")


def test_namesakes_are_different_entities(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The first has the plain tag, the next ones their place, then a suffix of their own."""
    places = {"l1": "England", "l2": "Ghana", "l3": "Ghana", "l4": None}
    write(
        tmp_path,
        "leagues.jsonl",
        [league_line(i, league_name="Premier League", location=p) for i, p in places.items()],
    )
    seed(pg, tmp_path)
    tags = [tag_of(pg, seed_id) for seed_id in places]
    assert tags[:2] == ["premier_league", "premier_league_ghana"]
    assert len(set(tags)) == 4
    assert all(tag.startswith("premier_league_") for tag in tags[2:])
    assert len(living(pg)) == 4


@pytest.mark.parametrize("size", [1, 2, 2000])
def test_tags_stay_when_files_come_and_go_around_them(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A file before them, a file after them, in batches of any size, and in another order."""
    monkeypatch.setattr(loader, "BATCH", size)
    middle = [league_line(f"m{n}", league_name="Serie A", location="Italy") for n in range(3)]
    write(tmp_path, "leagues/m.jsonl", middle)
    seed(pg, tmp_path)
    before = {line["id"]: tag_of(pg, line["id"]) for line in middle}
    assert len(set(before.values())) == 3

    write(tmp_path, "leagues/a.jsonl", [league_line("a", league_name="Serie A")])
    write(tmp_path, "leagues/z.jsonl", [league_line("z", league_name="Serie A", location="Italy")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues/m.jsonl", reversed(middle))
    seed(pg, tmp_path)
    assert {line["id"]: tag_of(pg, line["id"]) for line in middle} == before
    every = [tag_of(pg, seed_id) for seed_id in [*before, "a", "z"]]
    assert len(set(every)) == 5


def test_a_tag_is_not_given_away_when_its_holder_goes(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Not when it is deleted, nor when its row is purged; it waits for its holder."""
    plain = league_line("l1", league_name="Serie A")
    namesake = league_line("l2", league_name="Serie A", location="Brazil")
    write(tmp_path, "leagues.jsonl", [plain])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [namesake])
    seed(pg, tmp_path, prune=True, yes=True)
    assert tag_of(pg, "l2") == "serie_a_brazil"
    pg.conn.execute("DELETE FROM league WHERE deleted_at IS NOT NULL")
    write(tmp_path, "leagues.jsonl", [namesake, plain])
    seed(pg, tmp_path)
    assert (tag_of(pg, "l1"), tag_of(pg, "l2")) == ("serie_a", "serie_a_brazil")


def test_a_league_that_is_renamed_keeps_its_tag(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Its nodes and vectors are found by it."""
    write(tmp_path, "leagues.jsonl", [league_line("l1", league_name="Division One")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues.jsonl", [league_line("l1", league_name="Premiership")])
    assert seed(pg, tmp_path).total.updated == 1
    assert tag_of(pg, "l1") == "division_one"


def test_a_tag_that_is_given_is_taken(pg: DatabaseFixture, tmp_path: Path) -> None:
    """As it is written."""
    write(tmp_path, "leagues.jsonl", [league_line("l1", league_tag="NFL-1.x")])
    seed(pg, tmp_path)
    assert tag_of(pg, "l1") == "NFL-1.x"


@pytest.mark.parametrize("size", [1, 2000])
def test_a_given_tag_belongs_to_one(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The second line that gives it is refused by name; the rest of the batch goes on."""
    monkeypatch.setattr(loader, "BATCH", size)
    lines = [
        league_line("l1", league_tag="same"),
        league_line("l2", league_tag="same"),
        league_line("l3"),
    ]
    write(tmp_path, "leagues.jsonl", lines)
    report = seed(pg, tmp_path)
    assert living(pg) == {"l1", "l3"}
    (refused,) = report.shown
    assert (refused.number, refused.field, refused.seed_id) == (2, "league_tag", "l2")
    assert "'l1'" in refused.reason


def test_a_refused_tag_does_not_get_its_league_pruned(pg: DatabaseFixture, tmp_path: Path) -> None:
    """The line was readable: the league stays as it was."""
    write(tmp_path, "leagues.jsonl", [league_line("l1"), league_line("l2", league_tag="mine")])
    seed(pg, tmp_path)
    changed = league_line("l2", league_tag="league_l1", tier="1")
    write(tmp_path, "leagues.jsonl", [league_line("l1"), changed])
    report = seed(pg, tmp_path, prune=True)
    assert (report.total.rejected, report.total.deleted) == (1, 0)
    assert living(pg) == {"l1", "l2"}
    assert pg.scalar("SELECT tier FROM league WHERE seed_id = 'l2'") is None


def test_a_tag_can_change_to_one_that_is_free(pg: DatabaseFixture, tmp_path: Path) -> None:
    """From one given to another, and from one made to one given; the first line gets it."""
    write(tmp_path, "leagues.jsonl", [league_line("l1", league_tag="one"), league_line("l2")])
    seed(pg, tmp_path)
    lines = [league_line("l1", league_tag="two"), league_line("l2", league_tag="two")]
    write(tmp_path, "leagues.jsonl", lines)
    report = seed(pg, tmp_path)
    (refused,) = report.shown
    assert "the key 'two' belongs to the seed 'l1'" in str(refused)
    assert (tag_of(pg, "l1"), tag_of(pg, "l2")) == ("two", "league_l2")


def test_a_tag_that_is_no_longer_given_stays(pg: DatabaseFixture, tmp_path: Path) -> None:
    """As does one that is given as it was made."""
    write(tmp_path, "leagues.jsonl", [league_line("l1", league_tag="one"), league_line("l2")])
    seed(pg, tmp_path)
    lines = [league_line("l1"), league_line("l2", league_tag="league_l2")]
    write(tmp_path, "leagues.jsonl", lines)
    report = seed(pg, tmp_path)
    assert report.total.rejected == 0
    assert (tag_of(pg, "l1"), tag_of(pg, "l2")) == ("one", "league_l2")


def test_a_made_tag_makes_way_for_one_that_was_given_before(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """The name's tag is taken: the place, or a suffix, tells them apart."""
    write(tmp_path, "leagues.jsonl", [league_line("l1", league_tag="serie_a")])
    seed(pg, tmp_path)
    write(
        tmp_path,
        "leagues/more.jsonl",
        [league_line("l2", league_name="Serie A", location="Italy")],
    )
    seed(pg, tmp_path)
    assert tag_of(pg, "l2") == "serie_a_italy"


def test_an_archetypes_name_is_its_tag(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Two ids cannot share it, and one id may change it."""
    write(
        tmp_path,
        "archetypes.jsonl",
        [archetype_line("a1", "racing"), archetype_line("a2", "racing")],
    )
    report = seed(pg, tmp_path, sports.ARCHETYPES)
    assert (report.total.created, report.total.rejected) == (1, 1)
    write(tmp_path, "archetypes.jsonl", [archetype_line("a1", "chasing")])
    report = seed(pg, tmp_path, sports.ARCHETYPES)
    assert (report.total.updated, report.total.rejected) == (1, 0)
    assert pg.scalar("SELECT archetype_name FROM sport_archetype") == "chasing"
