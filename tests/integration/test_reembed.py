"""Another embedding model: what it costs, exactly which rows are redone, and nothing unasked."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from typer.testing import CliRunner

from altsync import reembed
from altsync.app import Application
from altsync.circuit import breaker
from altsync.circuit.breaker import Gate
from altsync.circuit.sinks import want_model
from altsync.cli import app as cli
from altsync.cli.terminal import Exit
from altsync.db import Database
from altsync.doctor import check_services
from altsync.entities import Content, Model
from altsync.operations import Dead, ErrorKind
from altsync.outbox.enqueue import LOW_PRIORITY
from altsync.outbox.upkeep import reembed_page
from altsync.projection import embedding_text
from altsync.tokens import most_tokens
from tests import sports
from tests.conftest import DIMENSIONS, MODEL, TOPOLOGY
from tests.integration.database_fixture import (
    EMBEDDER,
    DatabaseFixture,
    archetype,
    delivery,
    embed,
    embedding_sink,
    example,
    league,
    leagues,
)
from tests.integration.fakes import FakeEmbedder, FakeGraph, FakeIndex

pytestmark = pytest.mark.slow

NEW = "new-model"

STATEMENT = "SELECT config ->> 'model' FROM sink_state WHERE sink = 'embedding'"


@dataclass(frozen=True)
class Site:
    """A database whose commands are those of a user, and the embedder that is paid."""

    pg: DatabaseFixture
    database: Database
    monkeypatch: pytest.MonkeyPatch
    embedder: FakeEmbedder
    index: FakeIndex

    def settings(self, model: str, dimensions: int = DIMENSIONS) -> None:
        """Name a model, as a user does."""
        self.monkeypatch.setenv("ALTSYNC_EMBEDDING_MODEL", model)
        self.monkeypatch.setenv("ALTSYNC_EMBEDDING_DIMENSIONS", str(dimensions))

    def run(self, *arguments: str, code: int = 0) -> Any:
        """A command."""
        result = CliRunner().invoke(cli, list(arguments))
        # The command logs to the runner's stderr, which is closed by now.
        logging.root.handlers[:] = [logging.NullHandler()]
        assert result.exit_code == code, result.output
        return result

    def plan(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """Return the document of ``altsync reembed --json``."""
        result = self.run("reembed", "--json", *arguments, code=code)
        body: dict[str, Any] = json.loads(result.stdout)
        return body

    def settle(self) -> None:
        """Deliver all that is due to all sinks."""
        embed(self.database, self.embedder)
        delivery(self.database, self.index).drain(30)
        delivery(self.database, FakeGraph()).drain(30)

    @property
    def paid(self) -> int:
        """Texts that were paid, once for each time."""
        return self.embedder.paid.total()

    @property
    def wanted(self) -> str:
        """The model in the database."""
        model: str = self.pg.scalar(STATEMENT)
        return model

    def models(self) -> set[str]:
        """The models of all vectors."""
        rows = self.pg.conn.execute(
            "SELECT embedding_model FROM league UNION SELECT embedding_model FROM few_shot_example "
            "UNION SELECT embedding_model FROM sport_archetype"
        )
        return {row[0] for row in rows}

    def asked(self) -> list[tuple[Any, ...]]:
        """All operations as they stand."""
        return self.pg.conn.execute(
            "SELECT id, status, version, origin, available_at FROM sync_operation ORDER BY id"
        ).fetchall()

    def waiting(self) -> list[str]:
        """Keys of what is to be embedded."""
        ops = self.pg.ops("embedding")
        return sorted(op.entity_key for op in ops if op.live)


@pytest.fixture
def site(pg: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Three rows of three types, embedded and delivered."""
    monkeypatch.setenv("DATABASE_URL", pg.url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-nothing")
    site = Site(pg, database, monkeypatch, FakeEmbedder(), FakeIndex())
    site.settings(MODEL)
    pg.save(league("one"), archetype("racing"), example("ask"))
    site.settle()
    return site


CONTENTS: list[Content] = [league("one"), archetype("racing"), example("ask")]


def test_nothing_to_do(site: Site) -> None:
    """Settings and database agree, and everything is embedded."""
    found = site.plan()
    assert (found["rows"], found["texts"], found["enqueued"]) == (
        {"sport_archetype": 0, "league": 0, "few_shot_example": 0},
        0,
        0,
    )
    assert site.plan("--yes")["enqueued"] == 0
    said = site.run("reembed").stderr
    assert "Every row is embedded by it." in said


def test_without_yes_nothing_changes(site: Site) -> None:
    """The price is shown, with an exit code of its own."""
    site.settings(NEW)
    before = site.asked(), site.pg.row(league("one"))
    bound = sum(most_tokens(embedding_text(content)) for content in CONTENTS)
    found = site.plan(code=Exit.NOT_CONFIRMED)
    plan = found.pop("plan")
    assert (plan["exact"], plan["tokens"], plan["dollars"]) == (False, bound, None)
    assert {one["sink"]: one["writes"] for one in plan["sinks"] if one["writes"]} == {
        "embedding": 3,
        "pinecone": 3,
        "similarity": 1,
    }
    assert found == {
        "model": {"name": NEW, "dimensions": DIMENSIONS},
        "wanted": {"name": MODEL, "dimensions": DIMENSIONS},
        "rows": {"sport_archetype": 1, "league": 1, "few_shot_example": 1},
        "in_progress": 0,
        "texts": 3,
        "enqueued": 0,
    }
    said = " ".join(site.run("reembed", code=Exit.NOT_CONFIRMED).stderr.split())
    assert f"The database wants {MODEL}, the settings say {NEW}." in said
    assert f"To be embedded: 3 texts of at most {bound} tokens (their bytes)." in said
    assert f"Total: not known, as {NEW} has no price" in said
    assert said.endswith("Nothing was changed: altsync reembed --yes does it.")
    assert site.wanted == MODEL
    assert (site.asked(), site.pg.row(league("one"))) == before


def test_with_yes_every_row_is_redone_once(site: Site) -> None:
    """Behind all other work; vector sinks follow, the graph has nothing to do with it."""
    site.settings(NEW)
    version = site.pg.version(league("one"))
    before = len(site.pg.ops())
    assert site.plan("--yes")["enqueued"] == 3
    assert site.wanted == NEW
    made = site.pg.ops()[before:]
    assert {(op.sink, op.origin, op.priority, op.status) for op in made} == {
        ("embedding", "model", LOW_PRIORITY, "pending")
    }
    for content in CONTENTS:
        assert site.pg.statuses(content) == {
            "embedding": "pending",
            "neo4j": "synced",
            "pinecone": "pending",
        }
    paid, calls = site.paid, len(site.index.calls)
    site.settle()
    assert site.paid - paid == 3
    assert len(site.index.calls) > calls
    assert site.models() == {NEW}
    for content in CONTENTS:
        assert set(site.pg.statuses(content).values()) == {"synced"}
    assert site.pg.version(league("one")) == version
    assert len([op for op in site.pg.ops("neo4j") if op.origin != "seed"]) == 0
    assert site.plan()["enqueued"] == 0


def test_only_what_the_model_lacks(site: Site) -> None:
    """Rows of two models: those of the wanted one are left alone, and so are deleted ones."""
    site.settings(NEW)
    site.run("reembed", "--yes")
    site.settle()
    site.pg.save(*leagues(5), league("gone"))
    site.settle()
    site.pg.delete(league("gone"))
    site.pg.conn.execute("UPDATE league SET embedding_model = 'x' WHERE seed_id <> 'l002'")
    site.pg.conn.execute("UPDATE few_shot_example SET text_hash = 'another'")
    found = site.plan(code=Exit.NOT_CONFIRMED)
    assert found["rows"] == {"sport_archetype": 0, "league": 5, "few_shot_example": 1}
    assert found["texts"] == 1
    site.run("reembed", "--yes")
    assert site.waiting() == ["ask", "l000", "l001", "l003", "l004", "one"]
    assert site.pg.statuses(league("l002"))["embedding"] == "synced"


def test_equal_texts_are_paid_once(site: Site) -> None:
    """And shown as one."""
    site.settings(NEW)
    site.pg.save(league("duplicate", league_name="The one"))
    site.settle()
    found = site.plan(code=Exit.NOT_CONFIRMED)
    assert (found["rows"]["league"], found["texts"]) == (2, 3)
    paid = site.paid
    site.run("reembed", "--yes")
    site.settle()
    assert site.paid - paid == 3


def test_the_way_back_is_free(site: Site) -> None:
    """The former model's vectors are kept."""
    site.settings(NEW)
    site.run("reembed", "--yes")
    site.settle()
    site.settings(MODEL)
    paid = site.paid
    found = site.plan(code=Exit.NOT_CONFIRMED)
    assert (found["texts"], found["plan"]["tokens"]) == (0, 0)
    said = site.run("reembed", "--yes").stderr
    assert "To be embedded: nothing, as every vector is stored already." in said
    site.settle()
    assert site.models() == {MODEL}
    assert site.paid == paid


def test_other_dimensions_are_refused(site: Site) -> None:
    """An index keeps its dimensions; nothing changes, not even with --yes."""
    site.settings(NEW, dimensions=3072)
    for arguments in ([], ["--yes"]):
        said = " ".join(site.run("reembed", *arguments, code=Exit.SETTINGS).stderr.split())
        assert "the settings ask for 3072 dimensions, the database and its vector indexes" in said
        assert f"ALTSYNC_EMBEDDING_DIMENSIONS={DIMENSIONS}" in said
    assert site.wanted == MODEL


def test_a_change_that_was_broken_off_is_taken_up_again(site: Site) -> None:
    """The model was changed, and one page was enqueued."""
    site.pg.save(*leagues(3))
    site.settle()
    site.settings(NEW)
    with site.database.transaction() as conn:
        want_model(conn, NEW)
    with site.database.transaction() as conn:
        page = reembed_page(conn, TOPOLOGY, sports.LEAGUE, after=None, limit=2)
    assert page[0] == 2
    found = site.plan(code=Exit.NOT_CONFIRMED)
    assert (sum(found["rows"].values()), found["in_progress"]) == (6, 2)
    site.run("reembed", "--yes")
    assert site.plan()["in_progress"] == 6
    site.settle()
    assert site.models() == {NEW}


def test_back_to_the_former_model(site: Site) -> None:
    """Some texts could not be embedded by the new one: what the former one has counts again."""
    site.settings(NEW)
    site.run("reembed", "--yes")
    token, operations = site.pg.claim("embedding")
    site.pg.settle(
        EMBEDDER, token, [Dead(op, op.version, ErrorKind.ITEM, "refused") for op in operations]
    )
    assert {site.pg.row(c)["embedding_sync_status"] for c in CONTENTS} == {"failed"}
    paid = site.paid
    site.settings(MODEL)
    assert site.plan(code=Exit.NOT_CONFIRMED)["texts"] == 0
    site.run("reembed", "--yes")
    site.settle()
    assert {s for c in CONTENTS for s in site.pg.statuses(c).values()} == {"synced"}
    assert site.pg.scalar("SELECT count(*) FROM sync_operation WHERE status = 'dead'") == 0
    assert (site.models(), site.paid) == ({MODEL}, paid)
    assert site.plan()["enqueued"] == 0


@pytest.mark.parametrize("point", ["claimed", "read", "written", "settling"])
def test_a_batch_under_way_by_the_former_model_is_done_again(site: Site, point: str) -> None:
    """Whenever the change comes, the last word is the new model's."""
    edited = league("one", description="edited")
    site.pg.save(edited)
    change = _once(point, lambda: _change(site))
    sink = embedding_sink(site.database, site.embedder)
    if point == "settling":
        # The rows are locked by then: the change waits for them, and finds them settled.
        delivery(site.database, sink).deliver_batch()
        _change(site)
    else:
        delivery(site.database, sink, change).deliver_batch()
    site.settle()
    assert site.models() == {NEW}
    assert set(site.pg.statuses(edited).values()) == {"synced"}


def test_a_claim_after_the_change_is_by_the_new_model(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the worker was admitted before it, and slow."""
    site.settings(NEW)
    admit = breaker.gate

    def slow(*arguments: Any) -> Gate:
        gate = admit(*arguments)
        monkeypatch.setattr(breaker, "gate", admit)
        _change(site)
        return gate

    monkeypatch.setattr(breaker, "gate", slow)
    embed(site.database, site.embedder)
    monkeypatch.undo()
    assert site.models() == {NEW}


@pytest.mark.parametrize("point", ["claimed", "read", "written"])
def test_a_vector_under_way_is_not_the_last_word(site: Site, point: str) -> None:
    """The former model's vector lands, and the entity stays pending until the new one has."""
    edited = league("one", tier="TIER2")
    site.pg.save(edited)
    delivery(site.database, site.index, _once(point, lambda: _change(site))).deliver_batch()
    assert site.pg.statuses(edited)["pinecone"] == "pending"
    site.settle()
    assert set(site.pg.statuses(edited).values()) == {"synced"}
    assert site.models() == {NEW}


# --- what is paid otherwise -------------------------------------------------------------------


def test_a_new_name_is_embedded_and_a_new_tier_is_not(site: Site) -> None:
    """Only what is part of the text costs anything, and what was paid once is free for ever."""
    paid, requests = site.paid, len(site.embedder.requests)
    site.pg.save(league("one", tier="TIER3"))
    assert site.waiting() == []
    site.settle()
    assert len(site.embedder.requests) == requests
    assert set(site.pg.statuses(league("one")).values()) == {"synced"}
    site.pg.save(league("one", league_name="Another"))
    site.settle()
    assert (site.paid - paid, len(site.embedder.requests) - requests) == (1, 1)
    site.pg.save(league("one"))
    site.settle()
    assert (site.paid - paid, len(site.embedder.requests) - requests) == (1, 1)


def test_a_forced_backfill_costs_nothing(site: Site) -> None:
    """Every vector is kept."""
    requests = len(site.embedder.requests)
    site.run("backfill", "--sink", "embedding", "--force")
    assert site.waiting() == ["ask", "one", "racing"]
    site.settle()
    assert len(site.embedder.requests) == requests
    assert set(site.pg.statuses(league("one")).values()) == {"synced"}


def test_a_backfill_that_would_pay_again_asks_first(site: Site) -> None:
    """Vectors that are kept no more: nothing is enqueued without --yes."""
    site.pg.conn.execute("DELETE FROM embedding WHERE text_hash IN (SELECT text_hash FROM league)")
    before = site.asked()
    said = site.run("backfill", "--sink", "embedding", "--force", code=Exit.NOT_CONFIRMED).stderr
    assert said.startswith("To be embedded and paid again, though the text is as it was: 1 row.")
    assert site.asked() == before
    # None of these pays twice.
    site.run("backfill", "--sink", "embedding")
    site.run("backfill", "--sink", "pinecone", "--force")
    site.run("backfill", "--sink", "neo4j", "--force")
    paid = site.paid
    site.settle()
    assert site.paid == paid
    site.run("backfill", "--sink", "embedding", "--force", "--yes")
    site.settle()
    assert site.paid == paid + 1


def test_a_backfill_of_vectors_is_no_change_of_model(site: Site) -> None:
    """A model that was changed by hand is not paid for by filling the index."""
    with site.database.transaction() as conn:
        want_model(conn, NEW)
    before = site.asked()
    site.run("backfill", "--sink", "pinecone", "--force", code=Exit.NOT_CONFIRMED)
    site.run("backfill", "--sink", "embedding", "--force", code=Exit.NOT_CONFIRMED)
    site.run("backfill", "--sink", "embedding")
    assert site.asked() == before


# --- being told -------------------------------------------------------------------------------


def test_status_and_doctor_say_that_they_differ(site: Site) -> None:
    """And what to do about it; nothing when they agree."""
    assert "altsync reembed" not in site.run("status").stdout
    site.settings(NEW)
    said = " ".join(site.run("status").stdout.split())
    assert (
        f"The database wants embeddings by {MODEL} (4 dimensions), the settings say {NEW}" in said
    )
    assert "altsync reembed shows what a change costs" in said
    assert json.loads(site.run("status", "--json").stdout)["model"] == {
        "database": {"name": MODEL, "dimensions": DIMENSIONS},
        "settings": {"name": NEW, "dimensions": DIMENSIONS},
        "agree": False,
    }
    app = Application()
    try:
        (schema,) = (finding for finding in check_services(app) if finding.name == "Schema")
    finally:
        app.close()
    assert f"the settings say {NEW} (4): altsync reembed shows" in schema.detail


def _once(point: str, act: Callable[[], object]) -> Callable[[str], None]:
    left = [act]

    def at(reached: str) -> None:
        if reached == point and left:
            left.pop()()

    return at


def _change(site: Site) -> None:
    list(reembed.start(site.database, TOPOLOGY, Model(NEW, DIMENSIONS)))
