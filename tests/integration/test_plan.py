"""``altsync plan``: what a command would change and cost, and nothing is written."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from altsync.cli import app as cli
from altsync.cli.terminal import Exit
from altsync.db import Database
from tests import sports
from tests.conftest import DIMENSIONS, MODEL
from tests.integration.database_fixture import DatabaseFixture, delivery, embed
from tests.integration.fakes import FakeGraph, FakeIndex
from tests.integration.seeds import archetype_line, league_line, seed, write
from tests.integration.test_seed_dry_run import _dump

LINES = [league_line(f"l{n}", description=f"Text {n}.") for n in range(10)]


@dataclass(frozen=True)
class Site:
    """A database and a seed folder, and the commands of a user."""

    pg: DatabaseFixture
    database: Database
    folder: Path

    def plan(self, what: str, *options: str, code: int = 0) -> dict[str, Any]:
        """Return the document of a plan, and see that it has written nothing."""
        before = _dump(self.pg)
        arguments = ["--all", "--dir", str(self.folder)] if what == "seed" else []
        result = CliRunner().invoke(cli, ["plan", what, *arguments, *options, "--json"])
        logging.root.handlers[:] = [logging.NullHandler()]
        assert result.exit_code == code, result.output
        assert _dump(self.pg) == before
        body: dict[str, Any] = json.loads(result.stdout)
        return body

    def cost(self, *options: str) -> dict[str, Any]:
        """Return the cost of seeding."""
        found: dict[str, Any] = self.plan("seed", *options)["plan"]
        return found

    def settle(self) -> None:
        """Seed, and deliver to every sink."""
        seed(self.pg, self.folder)
        embed(self.database)
        delivery(self.database, FakeIndex()).drain(30)
        delivery(self.database, FakeGraph()).drain(30)


@pytest.fixture
def site(
    pg: DatabaseFixture, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Site:
    """A folder with ten leagues, and an empty database."""
    monkeypatch.setenv("DATABASE_URL", pg.url)
    monkeypatch.setenv("ALTSYNC_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("ALTSYNC_EMBEDDING_MODEL", MODEL)
    monkeypatch.setenv("ALTSYNC_EMBEDDING_DIMENSIONS", str(DIMENSIONS))
    write(tmp_path / "seeds", "leagues.jsonl", LINES)
    return Site(pg, database, tmp_path / "seeds")


def counts(plan: dict[str, Any]) -> tuple[int, ...]:
    """Return what changes of leagues: written, removed, to embed, stored."""
    found = plan["entities"].get("league", {})
    return tuple(found.get(name, 0) for name in ("written", "removed", "texts", "stored"))


def of_sink(plan: dict[str, Any], sink: str) -> dict[str, Any]:
    """Return the part of one sink."""
    (found,) = (one for one in plan["sinks"] if one["sink"] == sink)
    return dict(found)


def edit(site: Site, **changes: Any) -> None:
    """Change the first league."""
    write(site.folder, "leagues.jsonl", [{**LINES[0], **changes}, *LINES[1:]])


def test_a_first_seeding(site: Site) -> None:
    plan = site.cost()
    assert counts(plan) == (10, 0, 10, 0)
    assert (plan["exact"], plan["dollars"]) == (False, None)
    assert of_sink(plan, "pinecone")["stored_bytes"] > 0


def test_another_model_gives_exact_tokens_and_dollars(site: Site) -> None:
    plan = site.cost("--model", "text-embedding-3-small", "--dimensions", "1536")
    assert plan["exact"] is True
    assert 10 < plan["tokens"] < site.cost()["tokens"]
    by_sink = sum(one["dollars"] for one in plan["sinks"])
    assert plan["dollars"] == pytest.approx(by_sink)
    assert of_sink(plan, "embedding")["dollars"] == pytest.approx(plan["tokens"] * 0.02 / 1e6)
    assert of_sink(plan, "pinecone")["dollars"] == pytest.approx(plan["write_units"] * 4 / 1e6)


def test_nothing_changes_and_nothing_costs(site: Site) -> None:
    site.settle()
    plan = site.cost()
    assert counts(plan) == (0, 0, 0, 0)
    assert (plan["tokens"], plan["write_units"], plan["dollars"]) == (0, 0, 0)


def test_a_change_outside_the_text_costs_a_write_over_the_record(site: Site) -> None:
    new = of_sink(site.cost(), "pinecone")["stored_bytes"] / 10
    site.settle()
    edit(site, tier="TIER9")
    plan = site.cost()
    assert counts(plan) == (1, 0, 0, 0)
    assert of_sink(plan, "embedding")["writes"] == 0
    assert of_sink(plan, "pinecone")["write_units"] == max(5, -(-2 * new // 1000))
    assert of_sink(plan, "pinecone")["stored_bytes"] == 0


def test_a_change_of_fields_of_the_graph_alone_costs_nothing(site: Site) -> None:
    """The plan leaves out the vector that the seeding leaves as it is."""
    lines = [archetype_line("a1", "racing", characteristics={"players": 1})]
    write(site.folder, "archetypes.jsonl", lines)
    site.settle()
    write(site.folder, "archetypes.jsonl", [{**lines[0], "characteristics": {"players": 2}}])
    plan = site.cost()
    assert {one["sink"]: one["writes"] for one in plan["sinks"] if one["writes"]} == {"neo4j": 1}
    assert (plan["tokens"], plan["write_units"]) == (0, 0)
    seed(site.pg, site.folder)
    assert [op.sink for op in site.pg.ops() if op.live] == ["neo4j"]


def test_a_changed_text_is_embedded_unless_its_vector_is_stored(site: Site) -> None:
    site.settle()
    edit(site, description="Another text.")
    assert counts(site.cost()) == (1, 0, 1, 0)
    site.settle()
    write(site.folder, "leagues.jsonl", LINES)
    assert counts(site.cost()) == (1, 0, 0, 1)


def test_what_prune_removes_frees_its_storage(site: Site) -> None:
    site.settle()
    write(site.folder, "leagues.jsonl", LINES[:9])
    plan = site.cost("--prune")
    assert counts(plan) == (0, 1, 0, 0)
    assert of_sink(plan, "pinecone")["removals"] == of_sink(plan, "neo4j")["removals"] == 1
    assert of_sink(plan, "pinecone")["write_units"] >= 5
    assert plan["dollars_per_month"] < 0


def test_another_declaration_of_the_text_embeds_what_changes(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.settle()
    kind = sports.LEAGUE
    monkeypatch.setattr(kind, "text_rule", "another")
    assert counts(site.cost()) == (0, 0, 0, 0)
    first = kind.text_of
    monkeypatch.setattr(kind, "text_of", lambda content: first(content) + f" {content.tier}")
    plan = site.cost()
    assert counts(plan) == (10, 0, 10, 0)
    report = seed(site.pg, site.folder)
    assert report.total.updated == 10
    assert embed(site.database).paid.total() == 10
    assert counts(site.cost()) == (0, 0, 0, 0)


def test_lines_of_another_declaration_are_compared_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their texts are as they were: the second seeding knows them by their bytes again."""
    site.settle()
    hashes = "SELECT array_agg(line_hash ORDER BY id) FROM league"
    first = site.pg.scalar(hashes)
    monkeypatch.setattr(sports.LEAGUE, "text_rule", "another")
    assert seed(site.pg, site.folder).total.unchanged == 10
    second = site.pg.scalar(hashes)
    assert seed(site.pg, site.folder).total.unchanged == 10
    assert first != second == site.pg.scalar(hashes)


def test_a_text_over_the_limit_is_refused_with_file_and_line(site: Site) -> None:
    edit(site, description="word " * 9000)
    found = site.plan("seed", "--model", "text-embedding-3-small", code=3)
    (refused,) = found["refused"]
    assert (refused["file"], refused["line"]) == ("leagues.jsonl", 1)
    assert "tokens, and text-embedding-3-small takes 8,192" in refused["reason"]
    assert counts(found["plan"]) == (9, 0, 9, 0)


def test_reembedding_writes_every_vector_again(site: Site) -> None:
    site.settle()
    assert site.plan("reembed")["write_units"] == 0
    plan = site.plan("reembed", "--model", "text-embedding-3-large")
    assert counts(plan) == (10, 0, 10, 0)
    assert (of_sink(plan, "neo4j")["writes"], of_sink(plan, "pinecone")["writes"]) == (0, 10)
    assert plan["dollars"] > 0


def test_a_backfill_is_planned_for_its_sink_alone(site: Site) -> None:
    site.settle()
    assert of_sink(site.plan("backfill", "--sink", "pinecone"), "pinecone")["writes"] == 0
    plan = site.plan("backfill", "--sink", "pinecone", "--force")
    assert {one["sink"]: one["writes"] for one in plan["sinks"] if one["writes"]} == {
        "pinecone": 10
    }
    assert plan["tokens"] == 0


def test_a_dry_run_of_seed_shows_the_same_plan(site: Site) -> None:
    arguments = ["seed", "--all", "--dir", str(site.folder), "--dry-run", "--json"]
    result = CliRunner().invoke(cli, arguments)
    logging.root.handlers[:] = [logging.NullHandler()]
    assert json.loads(result.stdout)["plan"] == site.cost()


def test_a_wrong_file_of_prices_is_named(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    file = site.folder / "prices.toml"
    file.write_text("[write_unit]\ndollars = 4\n")
    monkeypatch.setenv("ALTSYNC_PRICES", str(file))
    result = CliRunner().invoke(cli, ["plan", "reembed"])
    logging.root.handlers[:] = [logging.NullHandler()]
    assert result.exit_code == Exit.SETTINGS
    assert "write_unit.per_units: it must be a number" in result.stderr


def test_the_tables_fit_into_80_columns(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(cli, ["plan", "seed", "--all", "--dir", str(site.folder)])
    logging.root.handlers[:] = [logging.NullHandler()]
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "embedding is disabled: OPENAI_API_KEY is not set" in result.stdout
    assert "no price" in result.stdout


PRICED = """
[models.{model}]
dollars = 1
per_tokens = 1
[write_unit]
dollars = 0.01
per_units = 1
"""


@pytest.fixture
def priced(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A table of prices in which a token costs a dollar."""
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICED.format(model=MODEL))
    monkeypatch.setenv("ALTSYNC_PRICES", str(prices))
    return site


def run(site: Site, *arguments: str, code: int = 0) -> dict[str, Any]:
    """Return the document of a command."""
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    logging.root.handlers[:] = [logging.NullHandler()]
    assert result.exit_code == code, result.output
    body: dict[str, Any] = json.loads(result.stdout)
    return body


def test_a_seeding_that_costs_too_much_writes_nothing(priced: Site) -> None:
    seeding = ("seed", "--all", "--dir", str(priced.folder))
    cost = priced.cost()["dollars"]
    assert cost > 10
    before = _dump(priced.pg)
    refused = run(priced, *seeding, "--max-cost", str(cost - 1), code=Exit.NOT_CONFIRMED)
    assert _dump(priced.pg) == before
    assert refused["plan"]["dollars"] == cost
    assert "--max-cost" in refused["error"]
    assert run(priced, *seeding, "--max-cost", str(cost))["created"] == 10


def test_a_reembedding_that_costs_too_much_enqueues_nothing(
    priced: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    priced.settle()
    monkeypatch.setenv("ALTSYNC_EMBEDDING_MODEL", "of-my-own")
    before = _dump(priced.pg)
    refused = run(priced, "reembed", "--yes", "--max-cost", "5", code=Exit.NOT_CONFIRMED)
    assert "of-my-own has no price" in refused["error"]
    assert _dump(priced.pg) == before


def test_a_backfill_that_costs_too_much_enqueues_nothing(priced: Site) -> None:
    priced.settle()
    filling = ("backfill", "--sink", "pinecone", "--force")
    before = _dump(priced.pg)
    refused = run(priced, *filling, "--max-cost", "0.01", code=Exit.NOT_CONFIRMED)
    assert 0.01 < refused["plan"]["dollars"] < 10
    assert _dump(priced.pg) == before
    assert run(priced, *filling, "--max-cost", "10")["enqueued"]["league"] == 10
