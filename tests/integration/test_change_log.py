"""The change id in the logs: one line per entity at DEBUG, and none below it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from altsync.config import Settings
from altsync.db import Database
from altsync.delivery import DrainResult
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.seed.loader import Loader
from altsync.seed.options import SeedOptions
from altsync.seed.report import SeedReport
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import (
    DatabaseFixture,
    deliver,
    delivery,
    embed,
    league,
    leagues,
)
from tests.integration.fakes import Call, FakeGraph


@pytest.fixture
def debug() -> None:
    """Lines at DEBUG are wanted; the level is put back by a fixture for every test."""
    logging.root.setLevel(logging.DEBUG)


def _line(seed_id: str, **fields: Any) -> dict[str, Any]:
    return {
        "id": seed_id,
        "league_name": f"League {seed_id}",
        "sport_name": "Football",
        "sport_archetype": "team_sport",
        "league_tag": f"tag_{seed_id}",
        **fields,
    }


def _load(pg: DatabaseFixture, folder: Path, *lines: dict[str, Any], **options: Any) -> list[Any]:
    """Seed these lines; returns the events about entities."""
    (folder / "leagues.jsonl").write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))
    asked = SeedOptions(folder, (sports.LEAGUES,), **options)
    with capture_logs() as events:
        Loader(pg.conn, TOPOLOGY, asked, SeedReport(None)).run()
    return [event for event in events if event["event"].startswith("entity.")]


@pytest.mark.usefixtures("debug")
def test_every_changed_entity_names_its_line_and_change(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """Unchanged lines are not logged, and so is a line that repeats an id."""
    one, two = _line("one"), _line("two")
    first = _load(pg, tmp_path, one, two, {**one, "tier": "TIER9"})
    versions: dict[str, int] = dict(
        pg.conn.execute("SELECT seed_id, version FROM league").fetchall()
    )
    assert sorted(first, key=lambda event: event["line"]) == [
        {
            "event": "entity.changed",
            "log_level": "debug",
            "file": "leagues.jsonl",
            "line": number,
            "seed_id": seed_id,
            "key": f"tag_{seed_id}",
            "change": versions[seed_id],
        }
        for number, seed_id in ((1, "one"), (2, "two"))
    ]
    second = _load(pg, tmp_path, one, {**two, "tier": "TIER1"})
    assert [(e["seed_id"], e["line"]) for e in second] == [("two", 2)]
    assert second[0]["change"] > versions["two"]


@pytest.mark.usefixtures("debug")
def test_deletions_are_named_and_dry_runs_are_silent(pg: DatabaseFixture, tmp_path: Path) -> None:
    """A deletion has no line any more."""
    _load(pg, tmp_path, _line("one"), _line("two"))
    assert _load(pg, tmp_path, _line("one", tier="TIER1"), dry_run=True) == []
    (gone,) = _load(pg, tmp_path, _line("one"), prune=True, yes=True)
    version = pg.scalar("SELECT version FROM league WHERE seed_id = 'two'")
    assert gone == {
        "event": "entity.deleted",
        "log_level": "debug",
        "seed_id": "two",
        "key": "tag_two",
        "change": version,
    }


def test_nothing_is_read_or_said_above_debug(pg: DatabaseFixture, tmp_path: Path) -> None:
    """Bulk loading pays nothing for it."""
    logging.root.setLevel(logging.INFO)
    assert _load(pg, tmp_path, _line("one")) == []


@pytest.mark.usefixtures("debug")
def test_every_settled_operation_names_its_change(pg: DatabaseFixture, database: Database) -> None:
    """With its outcome, and why it is no success."""
    good, bad = league("good"), league("bad")
    pg.save(good, bad)
    graph = FakeGraph()

    def refuse(call: Call) -> None:
        if "bad" in call.keys:
            raise SinkFailure(ErrorKind.ITEM, "no such thing")

    graph.before = refuse
    with capture_logs() as events:
        deliver(database, graph)
    lines = {e["key"]: e for e in events if e["event"] == "operation.settled"}
    assert lines == {
        "good": {
            "event": "operation.settled",
            "log_level": "debug",
            "sink": "neo4j",
            "key": "good",
            "change": pg.version(good),
            "outcome": "synced",
            "reason": None,
        },
        "bad": {
            "event": "operation.settled",
            "log_level": "debug",
            "sink": "neo4j",
            "key": "bad",
            "change": pg.version(bad),
            "outcome": "retried",
            "reason": "no such thing",
        },
    }


def test_a_drain_tells_what_it_came_to(pg: DatabaseFixture, database: Database) -> None:
    """Batches, operations, calls and tokens, summed up."""
    pg.save(*leagues(7))
    graph = FakeGraph()
    drained = delivery(database, graph, batch_size=3).drain(60)
    assert drained == DrainResult(
        batches=3, claimed=7, synced=7, remote_calls=3, seconds=drained.seconds
    )
    assert 0 < drained.seconds < 60
    assert delivery(database, graph).drain(60).batches == 0
    embedder = embed(database)
    tokens = pg.scalar("SELECT sum(tokens) FROM delivery_batch WHERE sink = 'embedding'")
    assert tokens == sum(embedder.paid.values())
    cut = delivery(database, FakeGraph(), batch_size=3)
    pg.save(*(league(f"l{number:03}", tier="TIER1") for number in range(7)))
    drained = cut.drain(0)
    assert (drained.batches, drained.claimed, drained.has_more) == (1, 3, True)


def test_a_level_that_was_set_is_told_from_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands log nothing without the option."""
    assert "altsync_log_level" not in Settings().model_fields_set
    monkeypatch.setenv("ALTSYNC_LOG_LEVEL", "INFO")
    assert "altsync_log_level" in Settings().model_fields_set
