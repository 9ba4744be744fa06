"""SIMILAR_TO from the vectors in PostgreSQL: both ends of a pair, and no question to anybody."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from altsync.similarity.local import Sink
from tests.integration.database_fixture import league
from tests.integration.neighbourhood import Neighbourhood, at, faults
from tests.integration.test_similarity import neighbours


def searches(place: Neighbourhood) -> int:
    """How many searches have ended."""
    return int(
        place.pg.scalar(
            "SELECT count(*) FROM sync_operation WHERE sink = 'similarity' AND status = 'synced'"
        )
    )


def test_a_new_league_reaches_both_ends_in_one_search(circle: Neighbourhood) -> None:
    circle.save(at("a", 0))
    circle.settle()
    circle.save(at("b", 1))
    circle.settle()
    assert circle.edges().keys() == {("a", "b"), ("b", "a")}
    assert searches(circle) == 2


def test_a_first_load_searches_each_league_once(circle: Neighbourhood) -> None:
    circle.save(*[at(f"l{n}", n / 2) for n in range(60)])
    circle.settle()
    assert searches(circle) == 60
    assert list(faults(circle)) == []


def test_no_remote_call_is_made(circle: Neighbourhood) -> None:
    circle.save(*[at(f"l{n}", n) for n in range(20)])
    assert circle.settle() == 0


def test_a_league_that_moves_away_leaves_both_ends(circle: Neighbourhood) -> None:
    circle.save(at("a", 0), at("b", 1))
    circle.settle()
    circle.save(at("b", 120))
    circle.settle()
    assert circle.edges() == {}
    assert searches(circle) == 3


def test_a_full_league_that_loses_a_neighbour_is_searched_again(circle: Neighbourhood) -> None:
    circle.save(at("m", 0), *[at(f"n{n}", n) for n in range(1, 6)])
    circle.settle()
    assert neighbours(circle, "m") == {"n1", "n2", "n3"}
    circle.save(at("n1", 150))
    circle.settle()
    assert neighbours(circle, "m") == {"n2", "n3", "n4"}
    assert list(faults(circle)) == []


def test_a_league_with_room_is_not_searched_again(circle: Neighbourhood) -> None:
    circle.save(at("m", 0), at("n1", 1), at("n2", 2))
    circle.settle()
    before = searches(circle)
    circle.save(at("n1", 150))
    circle.settle()
    assert neighbours(circle, "m") == {"n2"}
    assert searches(circle) == before + 1


def test_a_nearer_league_takes_the_place_of_the_farthest(circle: Neighbourhood) -> None:
    circle.save(at("m", 0), *[at(f"n{n}", 10 * n) for n in range(1, 4)])
    circle.settle()
    circle.save(at("x", 5))
    circle.settle()
    assert neighbours(circle, "m") == {"x", "n1", "n2"}
    assert list(faults(circle)) == []


def test_leagues_of_equal_texts_are_neighbours(
    circle: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More pairs than edges, over several blocks: the choice is by key."""
    monkeypatch.setattr("altsync.similarity.local.BLOCK", 7)
    circle.save(*[at(f"l{n:02}", 0) for n in range(40)])
    circle.settle()
    assert neighbours(circle, "l39") == {"l00", "l01", "l02"}
    assert neighbours(circle, "l00") == {"l01", "l02", "l03"}
    assert list(faults(circle)) == []
    assert set(circle.pg.counts("similarity")) == {"synced"}


def test_a_league_that_comes_back_finds_its_neighbours(circle: Neighbourhood) -> None:
    """It is embedded already, so no embedding enqueues its search."""
    circle.save(at("a", 0), at("b", 1))
    circle.settle()
    circle.delete(at("b", 1))
    circle.settle()
    assert circle.edges() == {}
    circle.save(at("b", 1))
    circle.settle()
    assert circle.edges().keys() == {("a", "b"), ("b", "a")}


def test_an_archetype_that_changes_and_comes_back_leaves_no_edge_behind(
    circle: Neighbourhood,
) -> None:
    """Another league may be searched while it is in the other group."""
    circle.save(at("l", 0))
    circle.settle()
    circle.save(at("l", 0, sport_archetype="racing"))
    circle.save(at("m", 1, sport_archetype="racing"))
    circle.vectors()
    circle.deliver(circle.similarity)
    circle.save(at("l", 0))
    circle.settle()
    assert list(faults(circle)) == []


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_any_size_of_blocks_gives_the_same_edges(
    circle: Neighbourhood, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("altsync.similarity.local.BLOCK", block)
    chance = random.Random(7)
    circle.save(*[at(f"l{n}", chance.uniform(0, 360)) for n in range(40)])
    circle.settle()
    assert list(faults(circle)) == []


def test_a_search_that_meets_a_change_leaves_the_pair_to_the_other(
    circle: Neighbourhood,
) -> None:
    """Worker A reads, worker B searches a league that has moved, worker A writes."""
    circle.save(at("a", 0), at("b", 1))
    circle.vectors()
    sink = circle.similarity
    assert isinstance(sink, Sink)
    compare = sink._compare

    def late(*arguments: object) -> object:
        found = compare(*arguments)  # type: ignore[arg-type]
        sink._compare = compare  # type: ignore[method-assign]
        circle.save(at("b", 90))
        circle.vectors()
        circle.deliver(circle.searching(circle.rules))
        return found

    sink._compare = late  # type: ignore[method-assign, assignment]
    circle.deliver(sink)
    circle.settle()
    assert circle.edges() == {}
    assert list(faults(circle)) == []


def test_a_change_of_another_field_searches_nothing(circle: Neighbourhood) -> None:
    circle.save(league("a", description="0 degrees"))
    circle.settle()
    before = searches(circle)
    circle.save(replace(league("a", description="0 degrees"), tier="TIER2"))
    circle.settle()
    assert searches(circle) == before
