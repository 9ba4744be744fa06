"""SIMILAR_TO follows the vectors of a real index, and nothing else is asked or written."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from altsync.contract import SIMILARITY, Topology
from altsync.db import Database
from altsync.delivery import Policy
from altsync.entities import EntityType, Model
from altsync.local.vectors.faults import FaultRule
from altsync.operations import Dead, ErrorKind, Synced
from altsync.outbox.edges import enqueue_neighbour_search
from altsync.outbox.upkeep import backfill_page, purge_deleted
from altsync.protocols import Match, Reads, StoredVector
from altsync.seed.sql.deletion import tombstone
from altsync.similarity.decisions import Candidates, ComparedGroup
from altsync.similarity.index import LAG, PART
from altsync.similarity.index import Sink as Similarity
from altsync.similarity.local import Sink as LocalSimilarity
from altsync.similarity.rules import Rules
from altsync.sinks.pinecone import write as pinecone
from tests import sports
from tests.conftest import TOPOLOGY
from tests.contract.harness import PineconeHarness
from tests.integration.database_fixture import EMBEDDER, INDEX, DatabaseFixture, league
from tests.integration.neighbourhood import (
    DELAY,
    RELATING,
    Compass,
    Neighbourhood,
    at,
    changed,
    faults,
)

#: Few edges each, so that leagues crowd each other out.
RULES = Rules(enter=0.80, leave=0.70, top_k=3)


@pytest.fixture(params=["local", "index"])
def mode(request: pytest.FixtureRequest) -> str:
    """How neighbours are searched."""
    return str(request.param)


#: Tests about what an index answers, and when.
by_index = pytest.mark.parametrize("mode", ["index"], indirect=True)


@pytest.fixture
def place(
    pg: DatabaseFixture, database: Database, index: PineconeHarness, mode: str
) -> Iterator[Neighbourhood]:
    """Everything between the seeds and the graph, under RULES."""
    place = Neighbourhood(pg, database, index.open(), RULES, mode)
    yield place
    place.similarity.close()


def some(count: int, archetype: str = "combat") -> list[sports.League]:
    """Leagues of one archetype; in four dimensions many of them are near each other."""
    return [league(f"{archetype}{n}", sport_archetype=archetype) for n in range(count)]


def test_neighbours_are_found_after_vectors_land(place: Neighbourhood) -> None:
    """Seeding is enough: edges and their projection follow, by the rules."""
    place.save(*some(20), *some(10, "racing"))
    place.settle()
    assert len(place.edges()) > 10
    assert list(faults(place)) == []


@by_index
def test_one_query_for_each_league(place: Neighbourhood) -> None:
    """Never one per pair, and none for a league because of another."""
    place.save(*some(30))
    place.vectors()
    place.pg.advance_time(DELAY + 1)
    assert place.deliver(place.similarity).calls == 30
    assert place.settle() == 0
    assert list(faults(place)) == []


def test_nothing_changed_asks_nothing(place: Neighbourhood) -> None:
    """A field outside the text, the same seed again, a vector written again: no query."""
    leagues = some(10)
    place.save(*leagues)
    place.settle()
    place.save(*leagues)
    place.save(*[replace(one, tier="TIER9") for one in leagues])
    assert place.settle() == 0
    assert list(faults(place)) == []


def test_the_same_vectors_given_again_ask_nothing(place: Neighbourhood) -> None:
    """Embedding everything once more finds what was there, and no neighbour is news."""
    place.save(*some(10))
    place.settle()
    with place.pg.conn.transaction():
        backfill_page(place.pg.conn, EMBEDDER, sports.LEAGUE, after=None, force=True)
    assert place.settle() == 0
    assert place.pg.counts("embedding") == {"synced": 20}


def test_a_changed_text_moves_its_edges_and_those_to_it(place: Neighbourhood) -> None:
    """Only the league itself and its neighbours are read."""
    leagues = some(20)
    place.save(*leagues)
    place.settle()
    before = place.edges()
    for number, one in enumerate(leagues[:5]):
        place.save(changed(one, f"something else {number}"))
        place.settle()
        assert list(faults(place)) == []
    assert place.edges() != before


def test_a_moved_archetype_takes_its_league_along(place: Neighbourhood) -> None:
    """Its former neighbours let go of it, the new ones find it."""
    combat, racing = some(12), some(12, "racing")
    place.save(*combat, *racing)
    place.settle()
    linked = {tag for pair in place.edges() for tag in pair}
    moved = next(one for one in combat if one.league_tag in linked)
    place.save(replace(moved, sport_archetype="racing"))
    place.settle()
    assert list(faults(place)) == []


def test_a_deleted_league_is_no_neighbour(place: Neighbourhood) -> None:
    """Its edges go at once, in both directions, and others take its place."""
    leagues = some(20)
    place.save(*leagues)
    place.settle()
    busiest = max(leagues, key=lambda one: sum(one.league_tag in p for p in place.edges()))
    place.delete(busiest)
    assert not any(busiest.league_tag in pair for pair in place.edges())
    place.settle()
    assert list(faults(place)) == []
    place.save(busiest)
    place.settle()
    assert any(busiest.league_tag in pair for pair in place.edges())
    assert list(faults(place)) == []


@pytest.mark.parametrize("status", ["dead", "pending", "left behind"])
def test_a_deleted_league_is_not_looked_for_any_more(place: Neighbourhood, status: str) -> None:
    """No search would close a dead or waiting operation, which would block the purge."""
    (one,) = some(1)
    place.save(one)
    place.vectors()
    if status != "pending":
        place.pg.advance_time(DELAY + 1)
        token, (op,) = place.pg.claim("similarity")
        if status == "dead":
            dead = Dead(op, op.version, ErrorKind.ITEM, "no")
            place.pg.settle(Similarity.traits, token, [dead])
        place.pg.expire_leases()
    with place.pg.conn.transaction():
        tombstone(place.pg.conn, sports.LEAGUE, [place.pg.row(one)["id"]], TOPOLOGY)
    assert place.pg.counts("similarity") == {"superseded": 1}
    place.vectors()
    place.deliver(place.graph)
    place.pg.advance_time(100)
    assert purge_deleted(place.pg.conn, 50) == 1


def test_a_search_under_way_for_a_deleted_league_is_left_to_its_worker(
    place: Neighbourhood,
) -> None:
    """It holds the lease, and finds the league deleted."""
    (one,) = some(1)
    place.save(one)
    place.vectors()
    place.pg.advance_time(DELAY + 1)
    token, (op,) = place.pg.claim("similarity")
    place.delete(one)
    assert place.pg.counts("similarity") == {"in_progress": 1}
    settled = place.pg.settle(Similarity.traits, token, [Synced(op, op.version)])
    assert settled.lost == 0


def test_hysteresis(place: Neighbourhood) -> None:
    """Between the two thresholds what is there stays, and what is not does not come."""
    place.save(*some(20))
    place.settle()
    stricter = replace(RULES, enter=0.95, leave=0.70)
    before = place.edges()
    assert any(score < 0.95 for score in before.values())
    second = Neighbourhood(place.pg, place.database, place.index, stricter, place.mode)
    place.pg.conn.execute("UPDATE league SET neighbours_input_hash = NULL")
    ask_all(place)
    second.settle()
    assert second.edges() == before
    second.similarity.close()


def ask_all(place: Neighbourhood) -> None:
    """Have every league looked at again."""
    with place.pg.conn.transaction():
        ids = [r[0] for r in place.pg.conn.execute("SELECT id FROM league ORDER BY id")]
        enqueue_neighbour_search(place.pg.conn, sports.LEAGUE, [SIMILARITY], ids, again=True)


def test_across_archetypes(place: Neighbourhood) -> None:
    """If the rules allow it, the archetype does not matter."""
    rules = replace(RULES, across=True)
    everywhere = Neighbourhood(place.pg, place.database, place.index, rules, place.mode)
    everywhere.save(*some(10), *some(10, "racing"))
    everywhere.settle()
    assert any(a[:3] != b[:3] for a, b in everywhere.edges())
    assert list(faults(everywhere)) == []
    everywhere.similarity.close()


@by_index
def test_an_index_that_lags_is_queried_later(place: Neighbourhood, index: PineconeHarness) -> None:
    """A league that the index does not show yet waits in the outbox; no attempt is spent."""
    index.server.admin.set_faults([FaultRule("pinecone.upsert", "lag", seconds=3600)])
    place.save(*some(6))
    place.vectors()
    place.pg.advance_time(DELAY + 1)
    assert place.deliver(place.similarity).claimed == 6
    waiting = [op for op in place.pg.ops("similarity") if op.live]
    assert {(op.status, op.attempts, op.error_kind) for op in waiting} == {("pending", 0, "sink")}
    assert all(0 < op.wait <= LAG for op in waiting)
    assert place.edges() == {}

    index.wipe()  # what lags is only gone with its index
    index.shared().setup()
    place.save(*[replace(one, tier="TIER2") for one in some(6)])
    place.settle()
    assert list(faults(place)) == []


@by_index
@pytest.mark.parametrize("bare", [False, True])
def test_the_header_of_a_query_decides_and_a_server_without_one_is_asked_for_the_vector(
    place: Neighbourhood, index: PineconeHarness, bare: bool
) -> None:
    """No fetch is paid for where the query says that it has not seen the write."""
    rules = [FaultRule("pinecone.upsert", "lag", seconds=3600)]
    rules += [FaultRule("pinecone.*", "bare")] if bare else []
    index.server.admin.set_faults(rules)
    place.save(*some(6))
    place.vectors()
    place.pg.advance_time(DELAY + 1)
    index.server.admin.reset_stats()
    place.deliver(place.similarity)
    assert (index.server.admin.stats().requests["pinecone.fetch"] > 0) is bare
    assert len([op for op in place.pg.ops("similarity") if op.live]) == 6
    index.server.admin.flush()
    place.settle()
    assert list(faults(place)) == []


@by_index
@pytest.mark.parametrize(("lost", "expected"), [(1, "item"), (3, "sink")])
def test_a_deleted_vector_is_reported(
    place: Neighbourhood, index: PineconeHarness, lost: int, expected: str
) -> None:
    """After any lag the failure is kept, and says what to do.

    If no search finds its league, the index is at fault, and no league is charged.
    """
    leagues = some(3)
    place.save(*leagues)
    place.vectors()
    forget(index, *leagues[:lost])
    place.pg.conn.execute("UPDATE league SET pinecone_synced_at = now() - interval '1 hour'")
    place.pg.advance_time(DELAY + 1)
    place.deliver_batch(place.similarity)  # a retry alone would be the index's fault
    failed = [op for op in place.pg.ops("similarity") if op.live]
    assert len(failed) == lost
    ((kind, text),) = {(op.error_kind, op.last_error) for op in failed}
    assert kind == expected
    assert "altsync backfill --sink pinecone --force" in str(text)


@by_index
def test_an_outage_of_the_index_loses_nothing(place: Neighbourhood, index: PineconeHarness) -> None:
    """Queries fail, the breaker opens, and when the index is back everything is found."""
    place.save(*some(12))
    place.vectors()
    place.pg.advance_time(DELAY + 1)
    index.server.admin.set_faults([FaultRule("pinecone.query", "status", status=503)])
    place.deliver(place.similarity)
    assert place.edges() == {}
    assert {op.attempts for op in place.pg.ops("similarity") if op.live} == {0}
    index.server.admin.clear()
    place.pg.advance_time(3600)
    place.settle()
    assert list(faults(place)) == []


def test_many_parts(place: Neighbourhood) -> None:
    """More leagues than go into one call."""
    place.save(*some(PART + 7))
    place.settle()
    assert list(faults(place)) == []


class Interrupted:
    """An index at which something happens once, right after it has answered."""

    def __init__(self, index: pinecone.Sink, meanwhile: Callable[[], object]) -> None:
        self._index, self._meanwhile = index, [meanwhile]

    def setup(self) -> None:
        """Nothing is missing."""

    def nearest(self, entity_type: EntityType, vector: bytes, **question: Any) -> list[Match]:
        """The index's own answer, which is old when it arrives."""
        matches = self._index.nearest(entity_type, vector, **question)
        while self._meanwhile:
            self._meanwhile.pop()()
        return matches

    def fetch(
        self, entity_type: EntityType, space: str, keys: Sequence[str], reads: Reads
    ) -> list[StoredVector]:
        """Return the vectors of the index."""
        return self._index.fetch(entity_type, space, keys, reads)

    def close(self) -> None:
        """The index is not its own."""


class InterruptedSearch(LocalSimilarity):
    """A search in PostgreSQL at which something happens once, after it has read the vectors."""

    def __init__(
        self,
        database: Database,
        topology: Topology,
        rules: Rules,
        meanwhile: Callable[[], object],
    ) -> None:
        super().__init__(database, topology, lambda _kind: rules)
        self._meanwhile = [meanwhile]

    def _compare(
        self,
        kind: EntityType,
        group: str | None,
        ids: Sequence[UUID],
        model: Model,
        candidates: Candidates | None,
    ) -> ComparedGroup:
        found = super()._compare(kind, group, ids, model, candidates)
        while self._meanwhile:
            self._meanwhile.pop()()
        return found


@pytest.fixture
def circle(place: Neighbourhood) -> Neighbourhood:
    """The place with leagues on a circle."""
    place.embedder = Compass()
    return place


def neighbours(place: Neighbourhood, tag: str) -> set[str]:
    """Return the leagues that a league is similar to."""
    return {target for source, target in place.edges() if source == tag}


def look(place: Neighbourhood) -> None:
    """Have similarity look at what waits for it, and nothing else happen."""
    place.pg.advance_time(DELAY + 1)
    place.deliver(place.similarity)


def look_amid(place: Neighbourhood, meanwhile: Callable[[], object]) -> None:
    """The same, with something that happens while the first answer is under way."""
    own = place.similarity
    if place.mode == "local":
        place.similarity = InterruptedSearch(place.database, place.topology, RULES, meanwhile)
    else:
        index = Interrupted(place.index, meanwhile)
        place.similarity = Similarity(place.database, index, RELATING, lambda _kind: RULES)
    try:
        look(place)
    finally:
        place.similarity.close()
        place.similarity = own


def make_due(place: Neighbourhood, tag: str) -> None:
    """Let the time of one league's search have come."""
    place.pg.conn.execute(
        "UPDATE sync_operation SET available_at = now() "
        "WHERE sink = 'similarity' AND finished_at IS NULL AND entity_key = %s",
        (tag,),
    )


@by_index
def test_a_deleted_league_that_the_index_still_shows_takes_no_place(circle: Neighbourhood) -> None:
    """Its neighbours may be looked at before the index has let go of it."""
    circle.save(at("m", 0), *[at(f"n{n}", n) for n in range(1, 5)])
    circle.settle()
    assert neighbours(circle, "m") == {"n1", "n2", "n3"}
    circle.delete(at("n1", 1))
    circle.deliver(circle.similarity)
    assert neighbours(circle, "m") == {"n2", "n3", "n4"}
    circle.settle()
    assert list(faults(circle)) == []


@by_index
def test_a_crowd_of_deleted_leagues_hides_no_neighbour(
    circle: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that is full of them makes a larger request."""
    monkeypatch.setattr("altsync.similarity.nearest.REACH", 5)
    crowd = [at(f"n{n}", n / 10) for n in range(12)]
    circle.save(at("m", 0), *crowd, *[at(f"o{n}", 20 + n) for n in range(3)])
    circle.settle()
    circle.delete(*crowd)
    circle.deliver(circle.similarity)
    circle.settle()
    assert neighbours(circle, "m") == {"o0", "o1", "o2"}


def test_a_league_deleted_amid_a_search_takes_no_place(circle: Neighbourhood) -> None:
    """Leagues that had it in their answers are searched once more."""
    near = [at(f"n{n}", n) for n in range(1, 5)]
    circle.save(*near)
    circle.settle()
    circle.save(at("m", 0))
    circle.vectors()
    look_amid(circle, lambda: circle.delete(near[0]))
    circle.settle()
    assert neighbours(circle, "m") == {"n2", "n3", "n4"}
    assert list(faults(circle)) == []


@pytest.mark.parametrize("degrees", [30, 90])
def test_a_text_that_comes_back_is_looked_at_anew(circle: Neighbourhood, degrees: int) -> None:
    """Others have seen the league where it was meanwhile, or have not seen it."""
    circle.save(at("l", 0))
    circle.settle()
    circle.save(at("l", degrees))
    circle.vectors()
    circle.save(at("m", 1))
    circle.vectors()
    make_due(circle, "m")
    circle.deliver(circle.similarity)
    circle.save(at("l", 0))
    circle.settle()
    assert list(faults(circle)) == []


def test_a_text_that_comes_back_amid_its_search_is_looked_at_anew(circle: Neighbourhood) -> None:
    """An answer from before the change is not taken for one from after it."""
    another = circle.similarity

    def meanwhile() -> None:
        circle.save(at("l", 90), at("m", 1))
        circle.vectors()
        make_due(circle, "m")
        circle.deliver(another)
        circle.save(at("l", 0))
        circle.vectors()

    circle.save(at("l", 0))
    circle.vectors()
    look_amid(circle, meanwhile)
    circle.settle()
    assert list(faults(circle)) == []


def test_a_search_that_outlives_its_lease_and_a_change_is_no_search(circle: Neighbourhood) -> None:
    """The league was elsewhere in between, where another did not find it."""
    another = circle.similarity

    def meanwhile() -> None:
        circle.pg.expire_leases()
        circle.deliver(another)
        circle.save(at("l", 90), at("m", 1))
        circle.vectors()
        circle.pg.advance_time(DELAY + 1)
        circle.deliver(another)
        circle.save(at("l", 0))
        circle.embed()

    circle.save(at("l", 0))
    circle.vectors()
    look_amid(circle, meanwhile)
    circle.settle()
    assert list(faults(circle)) == []


@by_index
def test_leagues_that_are_new_together_are_looked_at_once(circle: Neighbourhood) -> None:
    """Leagues of the first call have those of the second as candidates before their search."""
    count = PART + 7
    circle.save(*[at(f"l{number}", 30 * number / count) for number in range(count)])
    assert circle.settle() == count
    assert list(faults(circle)) == []


def test_a_league_that_comes_amid_a_search_is_made_up_for(circle: Neighbourhood) -> None:
    """A request that comes after the index has answered stays open."""
    another = circle.similarity

    def meanwhile() -> None:
        circle.save(at("m", 1))
        circle.vectors()
        make_due(circle, "m")
        circle.deliver(another)

    circle.save(at("l", 0))
    circle.vectors()
    look_amid(circle, meanwhile)
    circle.settle()
    assert circle.edges().keys() == {("l", "m"), ("m", "l")}
    assert list(faults(circle)) == []


def test_a_vector_that_comes_before_its_search_begins_is_made_up_for(
    circle: Neighbourhood,
) -> None:
    """The search goes by the one that was read."""

    def meanwhile(point: str) -> None:
        if point == "namespaces_recorded" and circle.pg.version(at("l", 0)) == first:
            circle.save(at("l", 90))
            circle.vectors()
            make_due(circle, "l")

    circle.save(at("l", 0), at("m", 90))
    first = circle.pg.version(at("l", 0))
    circle.vectors()
    circle.pg.advance_time(DELAY + 1)
    circle.deliver(circle.similarity, meanwhile)
    circle.settle()
    assert list(faults(circle)) == []


#: Leagues near ``m``, one more than it keeps.
NEAR = [at(f"n{n}", n) for n in range(1, 5)]


def with_a_search_ahead(place: Neighbourhood) -> None:
    """A full league ``m`` that is to be searched once more, as it has lost a neighbour."""
    place.save(at("m", 0), *NEAR)
    place.settle()
    place.delete(NEAR[0])
    assert place.pg.live("similarity", "m")
    assert neighbours(place, "m") == {"n2", "n3"}


@by_index
def test_a_search_that_waited_for_an_embedding_is_made_up_for(circle: Neighbourhood) -> None:
    """The text is taken back before it is embedded: the vector is the old one all along."""
    with_a_search_ahead(circle)
    circle.save(at("m", 90))
    look(circle)
    assert circle.pg.last("similarity", "m").status == "superseded"
    circle.save(at("m", 0))
    circle.settle()
    assert list(faults(circle)) == []


@by_index
def test_a_search_that_waited_for_a_vector_is_made_up_for(
    circle: Neighbourhood, index: PineconeHarness
) -> None:
    """The index does not show the league, whose vector is about to be written again."""
    with_a_search_ahead(circle)
    index.empty()
    circle.save(at("m", 0, tier="TIER2"), *[replace(one, tier="TIER2") for one in NEAR[1:]])
    look(circle)
    assert not any(op.live for op in circle.pg.ops("similarity"))
    circle.settle()
    assert list(faults(circle)) == []


@by_index
def test_a_vector_written_again_revives_its_search(
    circle: Neighbourhood, index: PineconeHarness
) -> None:
    """The advice of the failure is all that is needed.

    The search is given up on, as the index finds another league at each of its attempts.
    """
    with_a_search_ahead(circle)
    forget(index, at("m", 0))
    circle.pg.conn.execute("UPDATE league SET pinecone_synced_at = now() - interval '1 hour'")
    for attempt in range(Policy().max_attempts):
        circle.save(at(f"far{attempt}", 90 + 20 * attempt))
        circle.vectors()
        circle.pg.advance_time(3600)
        look(circle)
    assert circle.pg.last("similarity", "m").status == "dead"
    with circle.pg.conn.transaction():
        backfill_page(circle.pg.conn, INDEX, sports.LEAGUE, after=None, force=True)
    circle.settle()
    assert list(faults(circle)) == []
    assert "dead" not in circle.pg.counts("similarity")


def forget(index: PineconeHarness, *leagues: sports.League) -> None:
    """Delete vectors from the index behind altsync's back."""
    ids = [one.league_tag for one in leagues]
    index.index(sports.LEAGUE.index_name).delete(ids=ids, namespace="default")


def dead(place: Neighbourhood) -> list[str]:
    """The errors of operations that were given up on."""
    return [str(op.last_error) for op in place.pg.ops("similarity") if op.status == "dead"]


def equals(count: int) -> list[sports.League]:
    """Leagues of equal text."""
    return [
        league(f"e{number:03}", league_name="The same", description="0 degrees")
        for number in range(count)
    ]


@pytest.mark.parametrize("texts", ["equal", "different"])
def test_leagues_of_equal_vectors_are_neighbours_for_few_queries(
    circle: Neighbourhood, texts: str
) -> None:
    many = equals(300)
    if texts == "different":
        many = [replace(one, league_name=one.league_tag) for one in many]
    circle.save(*many)
    queries = circle.settle()
    tags = [one.league_tag for one in many]
    nearest = {tag: {t for t in tags[: RULES.top_k + 1] if t != tag} for tag in tags}
    assert dead(circle) == []
    for tag in tags:
        assert len(neighbours(circle, tag)) == RULES.top_k
        assert neighbours(circle, tag) <= nearest[tag], "of equal scores the first tags are kept"
    assert set(circle.edges().values()) == {1.0}
    assert queries <= 300 / PART * 3
    assert list(faults(circle)) == []


def test_more_equal_vectors_than_an_index_answers_with(
    circle: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most leagues are in no answer, their own included: their ids are fetched."""
    monkeypatch.setattr("altsync.similarity.nearest.REACH", 5)
    monkeypatch.setattr("altsync.similarity.nearest.FARTHEST", 20)
    few_seen = Neighbourhood(circle.pg, circle.database, circle.index, RULES)
    few_seen.embedder = circle.embedder
    many = equals(60)
    few_seen.save(*many)
    queries = few_seen.settle()
    assert dead(few_seen) == []
    assert {len(neighbours(few_seen, one.league_tag)) for one in many} == {RULES.top_k}
    assert queries <= 60


def test_leagues_nearer_than_a_score_can_show_take_about_one_query_each(
    circle: Neighbourhood,
) -> None:
    many = [at(f"n{number:03}", number / 1e5) for number in range(250)]
    circle.save(*many)
    queries = circle.settle()
    assert dead(circle) == []
    assert {len(neighbours(circle, one.league_tag)) for one in many} == {RULES.top_k}
    assert queries <= len(many) + 2 * PART
    assert list(faults(circle)) == []


def test_equal_vectors_of_another_archetype_are_no_neighbours(circle: Neighbourhood) -> None:
    racing = [
        replace(o, league_tag=f"r{o.league_tag}", sport_archetype="racing") for o in equals(6)
    ]
    circle.save(*equals(6), *racing)
    circle.settle()
    assert dead(circle) == []
    assert not any(a.startswith("r") != b.startswith("r") for a, b in circle.edges())
    assert list(faults(circle)) == []


@by_index
def test_a_vector_that_is_lost_among_equal_ones_is_said(
    circle: Neighbourhood, index: PineconeHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crowded answer does not hide that the index lacks a vector."""
    monkeypatch.setattr("altsync.similarity.nearest.REACH", 5)
    many = equals(30)
    circle.save(*many)
    circle.vectors()
    forget(index, many[7])
    circle.pg.conn.execute("UPDATE league SET pinecone_synced_at = now() - interval '1 hour'")
    circle.pg.advance_time(DELAY + 1)
    circle.deliver(circle.similarity)
    errors = {op.entity_key: op.last_error for op in circle.pg.ops("similarity") if op.live}
    assert errors.keys() == {"e007"}
    assert "altsync backfill --sink pinecone --force" in str(errors["e007"])


def test_deleted_equal_leagues_hide_no_neighbour(
    circle: Neighbourhood, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index still shows them, and they fill its first answers."""
    monkeypatch.setattr("altsync.similarity.nearest.REACH", 5)
    many = equals(40)
    circle.save(*many)
    circle.settle()
    circle.delete(*many[:36])
    circle.deliver(circle.similarity)
    assert neighbours(circle, "e039") == {"e036", "e037", "e038"}
    circle.settle()
    assert dead(circle) == []
    assert list(faults(circle)) == []


def test_a_score_at_the_threshold_does_not_hang_on_rounding(circle: Neighbourhood) -> None:
    """0.8 as float32 is above 0.8 or below it, depending on the side that asks."""
    circle.save(at("m", 0), at("n", math.degrees(math.acos(RULES.enter))))
    circle.settle()
    assert circle.edges() == {}


def test_leagues_that_are_deleted_amid_a_search_leave_their_places_to_others(
    circle: Neighbourhood,
) -> None:
    """More are as near as the chosen ones than a search keeps."""
    many = equals(40)
    circle.save(*many)
    circle.vectors()
    look_amid(circle, lambda: circle.delete(*many[:4]))
    circle.settle()
    assert neighbours(circle, "e039") == {"e004", "e005", "e006"}
    assert list(faults(circle)) == []


@pytest.mark.parametrize("seed", range(6))
def test_any_history_ends_by_the_rules(
    circle: Neighbourhood, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Leagues come, move, change their group and go, with batches of three and searches between."""
    monkeypatch.setattr(f"altsync.similarity.{circle.mode}.PART", 3)
    monkeypatch.setattr("altsync.similarity.local.BLOCK", 4)
    monkeypatch.setattr("altsync.similarity.local.SOURCES", 2)
    chance = random.Random(seed)
    there: dict[str, sports.League] = {}
    for _step in range(15):
        touched: dict[str, sports.League] = {}
        for _ in range(chance.randint(1, 6)):
            tag = f"l{chance.randrange(18)}"
            if tag in there and tag not in touched and chance.random() < 0.25:
                circle.delete(there.pop(tag))
                continue
            archetype = chance.choice(["combat", "combat", "racing"])
            touched[tag] = at(tag, chance.randrange(0, 360, 5), sport_archetype=archetype)
        there |= touched
        if touched:
            circle.save(*touched.values())
        match chance.randrange(4):
            case 0:
                circle.vectors()
            case 1:
                circle.vectors()
                look(circle)
            case 2:
                circle.settle()
    circle.settle()
    assert list(faults(circle)) == []
    assert {tag for pair in circle.edges() for tag in pair} <= there.keys()
