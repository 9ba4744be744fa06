"""Two models side by side: filled, kept in step, exchanged, returned to and dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from altsync import queries, reembed
from altsync.config import Settings
from altsync.entities import Model
from altsync.errors import AltsyncError, SinkFailure
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from altsync.moves import state
from tests.contract.harness import PgvectorHarness
from tests.integration.database_fixture import DatabaseFixture, archetype, example, league, leagues
from tests.integration.models_site import DIMENSIONS, NEW, OLD, ModelsSite, models_site
from tests.points import DELIVERY
from tests.sports import LEAGUE


@pytest.fixture
def site(
    pg: DatabaseFixture, vectors_server: Vectors, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ModelsSite]:
    """Three types of entities, embedded and delivered."""
    with models_site(pg, vectors_server, monkeypatch) as site:
        site.save(*leagues(5), archetype("racing"), example("ask"))
        site.deliver()
        assert site.held() == site.expected(OLD)
        yield site


def test_without_yes_only_the_cost_is_shown(site: ModelsSite) -> None:
    found = site.run("add", NEW, code=6)
    plan = found["plan"]
    texts = sum(one["texts"] for one in plan["entities"].values())
    assert (found["entities"], texts, found["enqueued"]) == (7, 7, 0)
    assert (plan["exact"], plan["tokens"] > 0, plan["dollars"] > 0) == (True, True, True)
    assert {one["sink"]: one["writes"] for one in plan["sinks"] if one["writes"]} == {
        "embedding": 7,
        "pinecone": 7,
    }
    assert site.run("status")["state"] == "single"


def test_the_second_model_is_filled_and_the_first_one_stays(site: ModelsSite) -> None:
    assert site.run("add", NEW, "--yes")["enqueued"] == 7
    assert site.run("status")["state"] == "filling"
    site.deliver()
    assert site.held(shadow=True) == site.expected(NEW)
    assert site.held() == site.expected(OLD)
    found = site.run("status")
    assert (found["state"], found["dead"]) == ("ready", 0)
    assert found["sinks"]["pinecone"]["done"] == 7


def test_edits_and_deletions_during_the_move_reach_both(site: ModelsSite) -> None:
    site.run("add", NEW, "--yes")
    site.save(league("l000", description="edited"), league("l001", tier="TIER1"), league("new"))
    site.save(example("ask", "another"))
    site.pg.delete(league("l002"))
    site.deliver()
    site.save(example("ask", "third"), league("l003", tier="TIER2"))
    site.deliver()
    assert site.held(shadow=True) == site.expected(NEW)
    assert site.held() == site.expected(OLD)


def test_an_exchange_is_seen_by_the_next_batch(site: ModelsSite) -> None:
    site.run("add", NEW, "--yes")
    site.deliver()
    site.exchange()
    assert site.held() == site.expected(NEW)
    site.save(league("l000", description="edited"))
    site.deliver()
    assert site.held() == site.expected(NEW)
    assert site.held(shadow=True) == site.expected(OLD)
    site.exchange()
    assert site.held() == site.expected(OLD)


def test_verify_switch_rollback_and_drop(site: ModelsSite, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "confirm_after_seconds", 0.0)
    site.run("add", NEW, "--yes")
    assert "not verified" in site.say("switch", code=1)
    site.deliver()
    found = site.run("verify", "--grace", "0")
    assert (found["complete"], found["consistent"]) == (True, True)
    found = site.run("switch")
    assert (found["state"], found["serving"]["model"]["name"]) == ("switched", NEW)
    assert site.consistent()
    site.save(league("l000", description="edited"), example("ask", "moved"))
    site.deliver()
    assert site.consistent()
    assert site.run("rollback")["serving"]["model"]["name"] == OLD
    site.deliver()
    assert site.consistent()
    assert site.held() == site.expected(OLD)
    site.run("verify", "--grace", "0")
    site.run("switch")
    site.deliver()
    assert site.run("drop", code=6)
    site.run("drop", "--yes")
    assert site.run("status")["state"] == "single"
    assert site.pg.scalar("SELECT count(*) FROM league WHERE embedding_model <> %s", NEW) == 0
    site.save(league("l001", description="edited"))
    site.deliver()
    assert site.held() == site.expected(NEW)
    assert site.consistent()


def test_verify_finds_what_is_missing_and_repairs_it(site: ModelsSite) -> None:
    site.run("add", NEW, "--yes")
    site.deliver()
    site.index(shadow=True).remove(LEAGUE, "default", ["l000", "l001"])
    found = site.run("verify", "--grace", "0", code=1)
    assert found["sinks"]["pinecone"]["missing"] == 2
    assert site.run("status")["verified"] is None
    site.run("verify", "--repair", "--grace", "0", code=1)
    site.deliver()
    site.run("verify", "--grace", "0")
    assert site.held(shadow=True) == site.expected(NEW)


class Killed(BaseException):
    """The end of a process."""


def once(point: str, act: Callable[[], object]) -> Callable[[str], None]:
    """Do something when a point is first reached."""
    left = [act]

    def at(reached: str) -> None:
        if reached == point and left:
            left.pop()()

    return at


def kill() -> None:
    raise Killed


@pytest.mark.parametrize(
    "sink",
    [
        pytest.param("pinecone", marks=pytest.mark.slow),
        pytest.param("shadow_embedding", marks=pytest.mark.slow),
        "shadow_pinecone",
    ],
)
def test_a_worker_killed_at_every_point_leaves_both_in_step(site: ModelsSite, sink: str) -> None:
    site.run("add", NEW, "--yes")
    site.deliver()
    for number, point in enumerate(DELIVERY):
        site.save(
            league("l000", description=f"edit {number}"),
            league("l001", tier=f"TIER{number}"),
            example("ask", f"category {number}"),
        )
        site.deliver(None, "embedding")
        for name in ("pinecone", "shadow_embedding", "shadow_pinecone"):
            if name == sink:
                with suppress(Killed):
                    site.deliver(once(point, kill), name)
                break
            site.deliver(None, name)
        site.pg.advance_time(60)
        site.deliver()
    site.pg.advance_time(60)
    site.deliver()
    assert site.held(shadow=True) == site.expected(NEW)
    assert site.held() == site.expected(OLD)


@pytest.mark.parametrize("sink", ["embedding", "pinecone", "shadow_embedding", "shadow_pinecone"])
@pytest.mark.parametrize(
    "point",
    ["called", *(pytest.param(p, marks=pytest.mark.slow) for p in ("claimed", "read", "written"))],
)
def test_an_exchange_amid_a_batch_loses_nothing(site: ModelsSite, sink: str, point: str) -> None:
    site.run("add", NEW, "--yes")
    site.deliver()
    site.save(league("l000", description="edited"), league("l001", tier="TIER1"), league("new"))
    site.save(example("ask", "another"))
    site.pg.delete(league("l002"))
    for name in ("embedding", "pinecone", "shadow_embedding", "shadow_pinecone"):
        if name == sink:
            site.deliver(once(point, site.exchange), name)
            break
        site.deliver(None, name)
    site.app._continue_move()
    site.deliver()
    site.pg.advance_time(60)
    site.deliver()
    assert site.held() == site.expected(NEW)
    assert site.held(shadow=True) == site.expected(OLD)
    assert site.consistent()


def test_a_worker_that_was_slow_over_the_exchange_and_dies_loses_nothing(site: ModelsSite) -> None:
    site.run("add", NEW, "--yes")
    site.deliver()
    site.save(league("l000", description="edited"), example("ask", "another"))
    site.deliver(None, "embedding")

    def exchange_and_die() -> None:
        site.exchange()
        kill()

    with suppress(Killed):
        site.deliver(once("called", exchange_and_die), "pinecone")
    for _ in range(2):
        site.pg.advance_time(60)
        site.deliver()
    assert site.held() == site.expected(NEW)
    assert site.held(shadow=True) == site.expected(OLD)


def test_filling_and_searching_are_continued_by_the_relay(
    site: ModelsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PAGE", 2)
    with site.app.database.transaction() as conn:
        state.begin(conn, site.app.topology, Model(NEW, DIMENSIONS), requests=None, tokens=None)
    assert next(state.fill(site.app.database, site.app.topology)) == 1
    assert site.run("status")["state"] == "filling"
    site.app._continue_move()
    site.app._continue_move()
    site.deliver()
    assert site.held(shadow=True) == site.expected(NEW)
    site.exchange()
    next(state.search_again(site.app.database, site.app.topology))
    site.app._continue_move()
    site.deliver()
    assert site.consistent()


def test_adding_again_continues_and_sets_the_limits(site: ModelsSite) -> None:
    site.run("add", NEW, "--yes", "--tokens-per-minute", "1000000")
    site.run("add", NEW, "--yes", "--requests-per-minute", "600000")
    shadow = site.run("status")["shadow"]
    assert (shadow["requests"], shadow["tokens"]) == (600000, 1000000)
    site.deliver()
    assert site.held(shadow=True) == site.expected(NEW)
    spent = "SELECT requests_until IS NOT NULL FROM sink_state WHERE sink = 'shadow_embedding'"
    assert site.pg.scalar(spent)
    assert "beside" in site.say("add", "another", "--yes", code=1)
    assert "serving model already" in site.say("add", OLD, "--yes", code=1)


def test_live_work_goes_first(site: ModelsSite) -> None:
    site.run("add", NEW, "--yes")
    site.save(league("fresh"))
    site.deliver(None, "shadow_embedding")
    assert site.pg.counts("shadow_embedding") == {"pending": 7}
    site.deliver(None, "embedding")
    site.deliver(None, "shadow_embedding")
    assert site.pg.counts("shadow_embedding") == {"synced": 7}


def test_shorter_vectors_of_the_same_model(site: ModelsSite) -> None:
    site.run("add", OLD, "--dimensions", "8", "--yes")
    site.save(league("l000", description="edited"))
    site.deliver()
    assert site.held(shadow=True) == site.expected(OLD, 8)
    site.run("verify", "--deep", "--grace", "0")
    site.run("switch")
    site.save(league("l001", description="edited"))
    site.deliver()
    assert site.held() == site.expected(OLD, 8)
    assert site.held(shadow=True) == site.expected(OLD)
    assert site.consistent()
    site.run("rollback")
    site.deliver()
    assert site.held() == site.expected(OLD)


def test_questions_follow_the_exchange(site: ModelsSite) -> None:
    site.run("add", NEW, "--yes")
    site.deliver()
    stores = site.app.stores()
    before = queries.search(stores, LEAGUE, "football", top_k=3)
    site.exchange()
    after = queries.search(stores, LEAGUE, "football", top_k=3)
    assert (len(before), len(after)) == (3, 3)
    assert stores.now().model.name == NEW
    assert [one.score for one in before] != [one.score for one in after]


def test_a_question_by_another_model_than_the_index_fails_closed(site: ModelsSite) -> None:
    site.run("add", OLD, "--dimensions", "8", "--yes")
    site.deliver()
    found = site.app.generations()
    assert found is not None
    mixed = replace(site.app.stores_of(found, shadow=True), vectors=site.index())
    with pytest.raises(SinkFailure, match="dimension"):
        queries.search(mixed, LEAGUE, "football", top_k=3)


def test_a_dropped_move_leaves_the_serving_indexes_alone(
    site: ModelsSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Settings, "confirm_after_seconds", 0.0)
    site.run("add", NEW, "--yes")
    site.deliver(None, "shadow_embedding")
    assert site.pg.counts("shadow_pinecone") == {"pending": 7}
    site.run("drop", "--yes")
    assert site.pg.counts("shadow_pinecone") == {}
    site.save(league("l000", description="edited"))
    site.deliver()
    assert site.held() == site.expected(OLD)
    plan = site.run("add", NEW, code=6)["plan"]
    # The vectors stay, but for the new text.
    assert sum(one["texts"] for one in plan["entities"].values()) == 1
    site.run("add", NEW, "--yes")
    site.deliver()
    assert site.held(shadow=True) == site.expected(NEW)


def test_the_answers_of_both_models_are_compared(site: ModelsSite, tmp_path: Path) -> None:
    site.run("add", NEW, "--yes")
    site.deliver()
    file = tmp_path / "questions.jsonl"
    file.write_text('{"entity": "league", "text": "football"}\n{"entity": "league"}\n')
    assert "questions.jsonl:2" in site.say("compare", str(file), code=1)
    file.write_text('{"entity": "league", "text": "football"}\n')
    found = site.run("compare", str(file), "--top", "5")
    assert (found["overlap"], len(found["questions"])) == (1.0, 1)
    assert -1.0 <= found["correlation"] <= 1.0
    assert sorted(found["questions"][0]["other"]) == [f"l00{n}" for n in range(5)]


def test_reembedding_in_place_is_refused_beside_another_model(site: ModelsSite) -> None:
    site.run("add", NEW, "--yes")
    with (
        pytest.raises(AltsyncError, match="altsync model status"),
        site.app.database.transaction() as conn,
    ):
        reembed.plan(conn, Model(NEW, DIMENSIONS))


def test_vectors_in_postgresql_move_to_another_length(
    pg: DatabaseFixture,
    postgres: Postgres,
    vectors_server: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Settings, "confirm_after_seconds", 0.0)
    harness = PgvectorHarness(postgres, DIMENSIONS)
    more = {"ALTSYNC_SINKS": "embedding,pgvector", "PGVECTOR_URL": harness.url}
    with closing(harness), models_site(pg, vectors_server, monkeypatch, **more) as site:
        assert set(site.app.set_up_sinks().values()) == {None}
        site.save(*leagues(3), archetype("racing"), example("ask"))
        site.deliver()
        site.run("add", NEW, "--dimensions", "80", "--yes")
        site.save(league("l000", description="edited"), example("ask", "another"))
        site.deliver()
        assert site.held() == site.expected(OLD)
        assert site.held(shadow=True) == site.expected(NEW, 80)
        site.run("verify", "--deep", "--grace", "0")
        site.run("switch")
        site.save(league("l002", tier="TIER1"))
        site.deliver()
        assert site.held() == site.expected(NEW, 80)
        assert site.held(shadow=True) == site.expected(OLD)
        assert site.consistent()
        site.run("drop", "--yes")
        assert site.held() == site.expected(NEW, 80)
