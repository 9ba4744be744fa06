"""PostgreSQL and pgvector alone: delivered to, compared, shown, searched."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from altsync import erased, queries
from altsync.app import Application
from altsync.cli import app as cli
from altsync.cli.seed_run import seed_summary, waited_for
from altsync.cli.status import matrix_table
from altsync.cli.tables import Text
from altsync.cli.why import as_plain, view
from altsync.db import Database
from altsync.delivery import Delivery, Policy
from altsync.doctor import Health, check_services
from altsync.entities import Content
from altsync.erase.receipt import Receipt, Store
from altsync.erase.run import Request, erase, look
from altsync.erase.sql import Target
from altsync.local.services.postgres import Postgres
from altsync.seed.report import SeedReport
from altsync.sinks.pgvector.tables import table_names
from altsync.status.run_progress import RunProgress
from altsync.verify.report import Options, Report
from altsync.why.explain import explain
from altsync.why.explanation import Explanation
from tests import sports
from tests.conftest import DIMENSIONS, MODEL
from tests.contract.harness import PgvectorHarness
from tests.integration.database_fixture import (
    CONFIRM_AFTER,
    LEASE,
    DatabaseFixture,
    archetype,
    embedding_sink,
    example,
    league,
    leagues,
)
from tests.integration.fakes import FakeEmbedder

LEAGUES, EXAMPLES = (table_names("")[kind] for kind in (sports.LEAGUE, sports.FEW_SHOT_EXAMPLE))

#: Enough that one record is below the share that may be removed.
COUNT = 30

CONTENTS: tuple[Content, ...] = (
    *leagues(COUNT),
    archetype("team_sport"),
    *(example(f"e{number}", "triage" if number % 2 else "naming") for number in range(6)),
)


@dataclass
class Alone:
    """An installation whose only mirror is pgvector."""

    pg: DatabaseFixture
    database: Database
    app: Application
    index: PgvectorHarness

    def deliver(self) -> None:
        """Deliver all that is due, until nothing is left."""
        for _ in range(10):
            for name in self.app.topology.names:
                sink = self.app.sink(name)
                if name == "embedding":
                    sink = embedding_sink(self.database, FakeEmbedder())
                assert sink is not None
                policy = Policy(lease=LEASE, confirm_after=CONFIRM_AFTER)
                Delivery(self.database, sink, self.app.topology, policy, worker="tests").drain(60.0)
            if not self.live():
                return
            self.pg.advance_time(60)
        raise AssertionError("not at rest")

    def live(self) -> int:
        """Operations that are not done."""
        found = self.pg.scalar("SELECT count(*) FROM sync_operation WHERE finished_at IS NULL")
        return int(found)

    def verify(self, **options: Any) -> Report:
        """Compare all sinks."""
        return self.app.verify(Options(**{"grace": 0.0, **options}))

    def drift(self, **options: Any) -> dict[str, int]:
        """Return the kinds of drift in pgvector above zero."""
        report = self.verify(**options)
        assert report.problems == {}
        (tally,) = (one for one in report.tallies if one.sink == "pgvector")
        return {kind.value: count for kind, count in tally.kinds.items() if count}

    def repair(self, **options: Any) -> Report:
        """Repair, deliver, and see that one run was enough."""
        report = self.verify(repair=True, **options)
        self.deliver()
        assert self.drift(deep=True) == {}
        return report


@pytest.fixture(scope="module")
def _pgvector(postgres: Postgres) -> Iterator[PgvectorHarness]:
    harness = PgvectorHarness(postgres, DIMENSIONS)
    yield harness
    harness.close()


@pytest.fixture
def alone(
    pg: DatabaseFixture,
    database: Database,
    _pgvector: PgvectorHarness,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Alone]:
    """Filled and at rest."""
    variables = {
        "DATABASE_URL": pg.url,
        "PGVECTOR_URL": _pgvector.url,
        "OPENAI_API_KEY": "none",
        "ALTSYNC_SINKS": "embedding,pgvector",
        "ALTSYNC_SIMILARITY": "index",
        "ALTSYNC_EMBEDDING_MODEL": MODEL,
        "ALTSYNC_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    _pgvector.wipe()
    app = Application()
    pg.conn.execute("DELETE FROM sink_state")
    with database.transaction() as conn:
        app.register_sinks(conn)
    pg.topology = app.topology
    assert set(app.set_up_sinks().values()) == {None}
    alone = Alone(pg, database, app, _pgvector)
    pg.save(*CONTENTS)
    alone.deliver()
    yield alone
    app.close()


# --- delivery ---------------------------------------------------------------------------------


def test_every_entity_arrives_and_its_row_says_so(alone: Alone) -> None:
    rows = alone.index.stored(sports.LEAGUE)
    assert sorted(rows) == [f"l{number:03}" for number in range(COUNT)]
    found = alone.pg.row(league("l003"))
    assert found["pgvector_sync_status"] == "synced"
    assert found["pgvector_synced_at"] is not None
    assert rows["l003"]["version"] == found["version"]
    assert (found["neo4j_sync_status"], found["pinecone_sync_status"]) == ("pending", "pending")


def test_a_change_makes_it_pending_and_arrives(alone: Alone) -> None:
    changed = league("l003", tier="TIER1", description="Another text.")
    alone.pg.save(changed)
    assert alone.pg.row(changed)["pgvector_sync_status"] == "pending"
    assert alone.pg.row(changed)["pgvector_synced_at"] is not None
    alone.deliver()
    assert alone.pg.row(changed)["pgvector_sync_status"] == "synced"
    assert alone.index.stored(sports.LEAGUE)["l003"]["tier"] == "TIER1"
    assert alone.drift(deep=True) == {}


def test_a_changed_category_moves_its_row(alone: Alone) -> None:
    """The row is in the new namespace alone; no other place is remembered."""
    alone.pg.save(example("e1", "naming"))
    alone.deliver()
    assert alone.index.stored(sports.FEW_SHOT_EXAMPLE)["e1"]["namespace"] == "naming"
    assert alone.pg.scalar("SELECT count(*) FROM sync_operation WHERE namespaces <> '{}'") == 0
    assert alone.drift(deep=True) == {}


def test_a_deleted_entity_leaves_and_does_not_come_back(alone: Alone) -> None:
    with alone.pg.conn.transaction():
        from altsync.seed.sql.deletion import tombstone
        from altsync.seed.sql.seen import create_changed_in_run

        create_changed_in_run(alone.pg.conn)
        ids = [alone.pg.row(league("l003"))["id"]]
        tombstone(alone.pg.conn, sports.LEAGUE, ids, alone.app.topology)
    alone.deliver()
    assert "l003" not in alone.index.stored(sports.LEAGUE)
    assert alone.drift(deep=True) == {}
    alone.pg.save(league("l003"))
    alone.deliver()
    assert "l003" in alone.index.stored(sports.LEAGUE)
    assert alone.drift(deep=True) == {}


def test_a_restored_tombstone_above_the_row_is_found_and_overcome(alone: Alone) -> None:
    """PostgreSQL was restored from a backup of before the deletion."""
    above = int(alone.pg.scalar("SELECT last_value + 10000000 FROM entity_version"))
    alone.index.ask(
        f"UPDATE {LEAGUES} SET version = %s, embedding = NULL, model = NULL, content_hash = NULL, "
        "metadata = NULL, deleted_at = now() WHERE key = 'l003'",
        above,
    )
    assert alone.drift() == {"ahead": 1}
    alone.repair()


# --- verify -----------------------------------------------------------------------------------

PLANTED = [
    ("missing", False, f"DELETE FROM {LEAGUES} WHERE key = 'l003'"),
    ("stale", False, f"UPDATE {LEAGUES} SET version = 5 WHERE key = 'l003'"),
    ("stale", False, f"UPDATE {LEAGUES} SET version = 9223372036854775807 WHERE key = 'l003'"),
    ("stale", False, f"UPDATE {LEAGUES} SET content_hash = 'x' WHERE key = 'l003'"),
    ("wrong_model", False, f"UPDATE {LEAGUES} SET model = 'another' WHERE key = 'l003'"),
    ("wrong_namespace", False, f"UPDATE {EXAMPLES} SET namespace = 'naming' WHERE key = 'e1'"),
    (
        "orphan",
        False,
        f"INSERT INTO {LEAGUES} SELECT 'orphan', namespace, version + 1, model, content_hash, "
        f"metadata, embedding FROM {LEAGUES} WHERE key = 'l003'",
    ),
    ("stale", True, f"UPDATE {LEAGUES} SET embedding = '[1,0,0,0]' WHERE key = 'l003'"),
    (
        "stale",
        True,
        f"UPDATE {LEAGUES} SET metadata = metadata || '{{\"tier\": \"x\"}}' WHERE key = 'l003'",
    ),
]


def test_a_store_at_rest_agrees(alone: Alone) -> None:
    for deep in (False, True):
        report = alone.verify(deep=deep, repair=True)
        assert report.consistent
        assert alone.live() == 0
    body = alone.verify().as_json()["sinks"]["pgvector"]
    assert body == dict.fromkeys(body, 0)
    assert "wrong_namespace" in body


@pytest.mark.parametrize(("kind", "deep", "statement"), PLANTED)
def test_planted_drift_is_found_and_repaired(
    alone: Alone, kind: str, deep: bool, statement: str
) -> None:
    alone.index.ask(statement)
    if deep:
        assert alone.drift() == {}
    assert alone.drift(deep=deep) == {kind: 1}
    assert alone.drift(deep=deep, sample=10_000) == ({} if kind == "orphan" else {kind: 1})
    report = alone.repair(deep=deep)
    assert sum(tally.removed for tally in report.tallies) == (kind == "orphan")
    assert "orphan" not in alone.index.stored(sports.LEAGUE)


def test_a_version_ahead_is_overtaken(alone: Alone) -> None:
    above = int(alone.pg.scalar("SELECT last_value + 10000000 FROM entity_version"))
    alone.index.ask(f"UPDATE {LEAGUES} SET version = %s WHERE key = 'l003'", above)
    assert alone.drift() == {"ahead": 1}
    alone.repair()
    assert alone.index.stored(sports.LEAGUE)["l003"]["version"] > above


def test_too_many_orphans_are_left_and_said(alone: Alone) -> None:
    alone.index.ask(
        f"INSERT INTO {LEAGUES} SELECT 'orphan_' || key, namespace, version, model, content_hash, "
        f"metadata, embedding FROM {LEAGUES}"
    )
    report = alone.verify(repair=True)
    (tally,) = (one for one in report.tallies if one.sink == "pgvector")
    assert "more than the 5.0% that may be removed" in (tally.refused or "")
    assert len(alone.index.stored(sports.LEAGUE)) == 2 * COUNT


def test_an_empty_index_is_filled_by_a_repair(alone: Alone) -> None:
    alone.index.wipe()
    assert alone.drift() == {"missing": len(CONTENTS)}
    alone.repair()


# --- what people see --------------------------------------------------------------------------


def test_status_and_summary_name_the_sinks_of_the_settings(alone: Alone) -> None:
    from altsync.status.collect import collect

    disabled = {name: alone.app.disabled_reason(name) for name in alone.app.topology.names}
    found = collect(alone.pg.conn, alone.app.topology, disabled)
    body = found.as_json()
    assert body["matrix"] == [
        {"entity": kind, "pgvector_sync_status": "synced", "count": count}
        for kind, count in (("sport_archetype", 1), ("league", COUNT), ("few_shot_example", 6))
    ]
    assert set(body["entities"]["league"]) == {"total", "embedding", "pgvector"}
    assert "pgvector" in Text.from_markup(str(matrix_table(found).columns[1].header)).plain
    assert set(waited_for(alone.app)) == {"embedding", "pgvector", "similarity"}
    done = {"pgvector": RunProgress(3, 2, 1)}
    said = seed_summary(SeedReport(Path("none")), done, alone.app.topology.names)
    assert "pgvector:\n  Synced: 2\n  Errors: 1" in said
    assert "Neo4j" not in said


def explained(alone: Alone, key: str) -> Explanation:
    """Why an entity is where it is."""
    found = explain(alone.app, key, Path("none"))
    assert isinstance(found, Explanation)
    return found


def test_why_shows_what_pgvector_holds(alone: Alone) -> None:
    found = explained(alone, "e1")
    body = as_plain(found)
    assert body["pgvector"][0]["namespace"] == "triage"
    (check,) = (one for one in found.checks if one.store == "pgvector")
    assert check.agrees
    alone.index.ask(f"UPDATE {EXAMPLES} SET namespace = 'naming' WHERE key = 'e1'")
    found = explained(alone, "e1")
    assert any("in the namespace naming, not in triage alone" in one for one in found.reasons)
    assert any("altsync backfill --sink pgvector --force" in one for one in found.reasons)
    alone.index.ask(f"DELETE FROM {EXAMPLES} WHERE key = 'e1'")
    assert any("pgvector differs" in one for one in explained(alone, "e1").reasons)
    assert view(found)


def test_doctor_says_which_pgvector_it_is(alone: Alone) -> None:
    (found,) = (one for one in check_services(alone.app) if one.name == "pgvector")
    assert found.health is Health.OK, found.detail
    assert found.detail.startswith("pgvector 0.")
    alone.index.ask(f"ALTER TABLE {LEAGUES} ALTER embedding TYPE halfvec")
    (found,) = (one for one in check_services(alone.app) if one.name == "pgvector")
    assert found.health is Health.FAILED
    assert "dimensions where altsync needs 4" in found.detail


def run(*arguments: str) -> Any:
    """A command, as JSON."""
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    logging.root.handlers[:] = [logging.NullHandler()]
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_queries_ask_pgvector_where_pinecone_is_not_configured(alone: Alone) -> None:
    stores = alone.app.stores()
    assert stores.index == "pgvector"
    found = queries.similar(stores, "league", "l003", top_k=5)
    assert found.results
    assert all("vector" in one.sources for one in found.results)
    assert {one.store for one in found.unavailable} == {"neo4j"}
    vector = alone.pg.vector(league("l003"))
    assert vector is not None
    assert stores.vectors is not None
    (first,) = stores.vectors.nearest(sports.LEAGUE, vector, top_k=1, space="default")
    assert first.score == pytest.approx(1.0, abs=1e-3)


def test_similar_leagues_are_related_by_pgvector(alone: Alone) -> None:
    """The neighbours of PostgreSQL's own vectors, but for scores at the rounding of 16 bits."""
    assert alone.app.topology.traits("similarity").follows == "pgvector"
    done = alone.pg.scalar(
        "SELECT count(*) FROM sync_operation WHERE sink = 'similarity' AND status = 'synced'"
    )
    assert done >= COUNT
    assert (
        alone.pg.scalar("SELECT count(*) FROM league WHERE neighbours_input_hash IS NOT NULL")
        == COUNT
    )


def test_failures_of_pgvector_are_shown_and_retried(alone: Alone) -> None:
    alone.index.ask(
        f"ALTER TABLE {LEAGUES} ADD CONSTRAINT no_such CHECK (key <> 'l003')  NOT VALID"
    )
    try:
        alone.pg.save(league("l003", tier="TIER9"))
        alone.deliver()
        assert alone.pg.row(league("l003"))["pgvector_sync_status"] == "failed"
        (group,) = run("failures")
        assert group["sink"] == "pgvector"
    finally:
        alone.index.ask(f"ALTER TABLE {LEAGUES} DROP CONSTRAINT no_such")
    run("retry", "--sink", "pgvector")
    alone.deliver()
    assert alone.pg.row(league("l003"))["pgvector_sync_status"] == "synced"
    assert alone.drift(deep=True) == {}


def test_a_backfill_fills_an_index_that_was_switched_on_later(alone: Alone) -> None:
    alone.index.wipe()
    alone.pg.conn.execute("UPDATE league SET pgvector_sync_status = 'pending'")
    run("backfill", "--sink", "pgvector")
    alone.deliver()
    assert len(alone.index.stored(sports.LEAGUE)) == COUNT


# --- erasure ----------------------------------------------------------------------------------


def test_an_erasure_leaves_no_tombstone(alone: Alone) -> None:
    """A deletion leaves one with the key for a day."""
    found: list[Store] = []

    def look_after_deletion(reached: str) -> None:
        if reached == "purged":
            with alone.database.autocommit() as conn:
                begun = erased.find(conn, sports.LEAGUE, "l003")
            assert begun is not None
            assert begun.target is not None
            found.append(look(alone.app, Target.from_json(begun.target), "pgvector"))

    request = Request("league", "l003", None, "test@host")
    done = erase(alone.app, request, wait=lambda seconds: alone.deliver(), at=look_after_deletion)
    assert isinstance(done, Receipt)
    assert found[0].found[0].startswith("deleted there as of version")
    sink: Any = alone.app.sink("pgvector")
    assert sink.tombstones(sports.LEAGUE, ["l003"]) == {}
    assert alone.drift(deep=True) == {}
