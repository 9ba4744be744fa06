"""Two models side by side: filled, kept in step, exchanged, returned to and dropped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from altsync.config import Settings
from altsync.local.services.vectors import Vectors
from tests.integration.database_fixture import DatabaseFixture, archetype, example, league, leagues
from tests.integration.models_site import NEW, OLD, ModelsSite, models_site
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
    assert (found["entities"], found["texts"], found["enqueued"]) == (7, 7, 0)
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
    found = site.run("verify")
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
    site.run("verify")
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
    found = site.run("verify", code=1)
    assert found["sinks"]["pinecone"]["missing"] == 2
    assert site.run("status")["verified"] is None
    site.run("verify", "--repair", code=1)
    site.deliver()
    site.run("verify")
    assert site.held(shadow=True) == site.expected(NEW)
