"""Texts over the embedding model's limit: one verdict, no paid call, one status in every view."""

from __future__ import annotations

import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from altsync.app import Application
from altsync.cli import app as cli
from altsync.cli.terminal import Exit
from altsync.contract import EMBEDDING, SinkTraits
from altsync.db import Database
from altsync.operations import Dead, ErrorKind
from altsync.projection import embedded_fields, embedding_text
from altsync.retry import dead_ids, discard_dead, retry_dead
from altsync.seed.report import SeedReport
from altsync.sinks.embedding import write as embedding
from altsync.store.vectors import EmbeddingCache
from altsync.tokens import too_long
from altsync.verify.gaps import edited_rows, embedding_gaps
from altsync.why.explain import explain
from altsync.why.explanation import Explanation
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import (
    EMBEDDER,
    GRAPH,
    DatabaseFixture,
    archetype,
    delivery,
    embedding_sink,
    example,
    league,
)
from tests.integration.fakes import FakeEmbedder
from tests.integration.seeds import (
    archetype_line,
    example_line,
    league_line,
    living,
    seed,
    short,
    write,
)
from tests.integration.verifying import Site

#: 9,000 tokens and some.
LONG = "word " * 9000

SMALL = "text-embedding-3-small"


@pytest.fixture(autouse=True)
def _limited(pg: DatabaseFixture) -> None:
    """A database whose model has a limit that altsync knows."""
    pg.conn.execute(
        "UPDATE sink_state SET config = jsonb_set(config, '{model}', to_jsonb(%s::text)) "
        "WHERE sink = 'embedding'",
        (SMALL,),
    )


def embed(database: Database) -> FakeEmbedder:
    """Embed all that is due."""
    embedder = FakeEmbedder()
    delivery(database, embedding_sink(database, embedder)).drain(10)
    return embedder


# --- delivery ----------------------------------------------------------------------------------


def test_a_text_over_the_limit_dies_at_its_first_attempt_without_a_call(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(league("long", description=LONG))
    embedder = embed(database)
    assert embedder.requests == []
    dead = pg.last(EMBEDDING, "long")
    assert (dead.status, dead.attempts, dead.error_kind) == ("dead", 1, "item")
    assert dead.last_error == (
        f"the text to embed has 9,009 tokens, and {SMALL} takes 8,192: shorten it"
    )


def test_texts_over_the_limit_keep_no_other_text_from_its_vector(
    pg: DatabaseFixture, database: Database
) -> None:
    """Many in one batch, of every type: the others are embedded in as few calls as ever."""
    pg.save(
        *(league(f"long{n}", description=LONG + str(n)) for n in range(5)),
        archetype("team_sport", description=LONG),
        example("long", output_text=LONG),
        *(league(f"short{n}") for n in range(5)),
    )
    embedder = embed(database)
    assert pg.counts(EMBEDDING) == {"dead": 7, "synced": 5}
    assert len(embedder.requests) == 1
    assert pg.scalar("SELECT state FROM sink_state WHERE sink = 'embedding'") == "closed"


def test_only_texts_over_the_limit_open_no_breaker(pg: DatabaseFixture, database: Database) -> None:
    """Nothing has passed since, and none of it says anything of the embedder."""
    pg.save(*(league(f"long{n}", description=LONG + str(n)) for n in range(20)))
    assert embed(database).requests == []
    assert pg.counts(EMBEDDING) == {"dead": 20}
    assert pg.scalar("SELECT state FROM sink_state WHERE sink = 'embedding'") == "closed"


def test_a_text_that_is_shortened_is_embedded_and_closes_the_failure(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(league("long", description=LONG))
    embed(database)
    pg.save(league("long", description="Short."))
    embed(database)
    assert pg.counts(EMBEDDING) == {"superseded": 1, "synced": 1}


# --- seeding -----------------------------------------------------------------------------------


def _refusals(report: SeedReport) -> list[str]:
    return [str(line) for line in report.shown]


@pytest.mark.parametrize(
    ("name", "line", "fields"),
    [
        ("leagues/a.jsonl", league_line("x", description=LONG), "description"),
        ("archetypes.jsonl", archetype_line("x", "racing", description=LONG), "description"),
        ("examples/a.jsonl", example_line("x", output_text=LONG), "output_text"),
        ("examples/a.jsonl", example_line("x", tags=["word " * 99] * 91), "tags"),
        (
            "examples/a.jsonl",
            example_line("x", input_text="word " * 8500, output_text="word " * 8600),
            "output_text, input_text",
        ),
    ],
)
def test_a_line_over_the_limit_is_refused_with_its_fields_tokens_and_limit(
    pg: DatabaseFixture, tmp_path: Path, name: str, line: dict[str, Any], fields: str
) -> None:
    folder = tmp_path / "seeds"
    write(folder, name, [{**line, "id": "good", **_short(line)}, line])
    report = SeedReport(tmp_path / "run")
    seed(pg, folder, report=report)
    report.close()
    assert short(report.total) == (2, 1, 0, 0, 0, 1)
    (said,) = _refusals(report)
    assert said.startswith(f"{name}:2: {fields}: the text to embed has ")
    assert said.endswith(f" tokens, and {SMALL} takes 8,192: shorten it")
    (kept,) = (tmp_path / "run").glob("**/rejects.jsonl")
    assert orjson.loads(kept.read_bytes())["field"] == fields
    assert pg.counts(EMBEDDING) == {"pending": 1}


def _short(line: dict[str, Any]) -> dict[str, Any]:
    texts = {name: "short" for name, value in line.items() if len(str(value)) > 1000}
    more = {"archetype_name": "other"} if "archetype_name" in line else {}
    return texts | more | ({"tags": ["short"]} if "tags" in texts else {})


def test_an_entity_whose_line_grew_too_long_stays_as_it_is(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """It is neither changed nor pruned, at the first run and at every later one."""
    write(tmp_path, "leagues/a.jsonl", [league_line("x"), league_line("y")])
    seed(pg, tmp_path)
    write(tmp_path, "leagues/a.jsonl", [league_line("x", description=LONG), league_line("y")])
    for _ in range(2):
        report = seed(pg, tmp_path, prune=True, yes=True)
        assert short(report.total) == (2, 0, 0, 1, 0, 1)
        assert living(pg) == {"x", "y"}


def test_a_line_that_an_earlier_model_took_is_refused_by_one_that_does_not(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    """Though it is unchanged, byte for byte."""
    pg.conn.execute('UPDATE sink_state SET config = config || \'{"model": "other"}\'')
    write(tmp_path, "leagues/a.jsonl", [league_line("x", description=LONG)])
    assert short(seed(pg, tmp_path).total) == (1, 1, 0, 0, 0, 0)
    assert short(seed(pg, tmp_path).total) == (1, 0, 0, 1, 0, 0)
    pg.conn.execute(
        "UPDATE sink_state SET config = config || jsonb_build_object('model', %s::text)", (SMALL,)
    )
    assert short(seed(pg, tmp_path).total) == (1, 0, 0, 0, 0, 1)


def test_fields_that_are_not_embedded_may_be_of_any_length(
    pg: DatabaseFixture, tmp_path: Path
) -> None:
    write(tmp_path, "leagues/a.jsonl", [league_line("x", notes=LONG)])
    assert short(seed(pg, tmp_path).total) == (1, 1, 0, 0, 0, 0)


def test_the_embedded_text_is_made_of_the_fields_that_a_refusal_may_name() -> None:
    for content in (league("x", description="A."), archetype("y"), example("z")):
        text = embedding_text(content)
        for value in embedded_fields(content).values():
            assert value in text or value.replace("_", " ") in text


# --- every view --------------------------------------------------------------------------------


@pytest.mark.parametrize("then", ["dead", "discarded"])
def test_an_entity_without_its_embedding_has_one_status_in_every_view(
    site: Site, then: str
) -> None:
    """Failed for the embedding and the index; verify names what was given up on, and no repair."""
    site.deliver()
    long = league("long", description=LONG)
    site.pg.save(long)
    site.pg.conn.execute(
        "UPDATE sink_state SET config = config || jsonb_build_object('model', %s::text)", (SMALL,)
    )
    site.delivery("embedding").drain(10)
    site.delivery("pinecone").drain(10)
    if then == "discarded":
        with site.pg.conn.transaction():
            dead = dead_ids(site.pg.conn)
            topology = site.app.topology
            discard_dead(site.pg.conn, dead, topology, by="me", why="too long")
    statuses = site.pg.statuses(long)
    assert (statuses["embedding"], statuses["pinecone"]) == ("failed", "failed")
    told = explain(site.app, "long", Path("nowhere"))
    assert isinstance(told, Explanation)
    assert any("was given up on" in reason for reason in told.reasons if "Pinecone" in reason)


def test_verify_says_what_was_given_up_on_and_not_that_a_repair_helps(
    site: Site,
) -> None:
    site.pg.save(league("long"))
    site.deliver()
    site.pg.save(league("long", description="Refused."))
    token, operations = site.pg.claim(EMBEDDING)
    verdicts = [Dead(op, op.version, ErrorKind.ITEM, "refused") for op in operations]
    site.pg.settle(EMBEDDER, token, verdicts)
    site.delivery("neo4j").drain(10)
    body = site.json(code=1)
    assert body["given_up"] == {"embedding": 1, "pinecone": 1}
    text = " ".join(site.run(code=1).output.split())
    assert "Given up on: embedding (1), pinecone (1). altsync failures shows the causes" in text
    assert "repairs it" not in text


def _fail(site: Site, sink: SinkTraits, *keys: str, reason: str = "refused") -> None:
    """Give up on what is due of some leagues."""
    token, operations = site.pg.claim(sink.name)
    assert {op.entity_key for op in operations} == set(keys)
    verdicts = [Dead(op, op.version, ErrorKind.ITEM, reason) for op in operations]
    site.pg.settle(sink, token, verdicts)


def _discard(site: Site) -> None:
    with site.pg.conn.transaction():
        dead = dead_ids(site.pg.conn)
        topology = site.app.topology
        discard_dead(site.pg.conn, dead, topology, by="me", why="too long")


def _enqueued_since(site: Site, last: int) -> list[tuple[str, str]]:
    return [(op.sink, op.entity_key) for op in site.pg.ops() if op.id > last]


@pytest.mark.parametrize("then", ["dead", "discarded", "pruned"])
def test_a_repair_leaves_out_what_was_given_up_on_and_repairs_the_rest(
    site: Site, then: str
) -> None:
    """Its embedding failed, so neither embedding nor index gets another request."""
    site.pg.save(league("l001", description="Refused."))
    _fail(site, EMBEDDER, "l001")
    site.delivery("neo4j").drain(10)
    if then != "dead":
        _discard(site)
    if then == "pruned":
        site.pg.conn.execute("DELETE FROM sync_operation WHERE entity_key = 'l001'")
    site.drop_vector("l002")
    last = max(op.id for op in site.pg.ops())
    paid = len(site.embedder.requests)
    dry = site.json("--repair", "--dry-run", code=1)
    assert {sink: one["enqueued"] for sink, one in dry["sinks"].items() if one["enqueued"]} == {
        "pinecone": 1
    }
    for _ in range(2):
        body = site.json("--repair", code=1)
        assert body["given_up"] == {"embedding": 1, "pinecone": 1}
        assert body["samples"]["embedding"]["given_up"] == ["l001"]
        site.deliver()
    assert _enqueued_since(site, last) == [("pinecone", "l002")]
    assert len(site.embedder.requests) == paid
    text = " ".join(site.run("--repair", code=1).output.split())
    assert "A repair leaves these entities out" in text
    assert "Remove them, then run altsync retry" in text


def test_a_repair_leaves_out_what_the_graph_was_given_up_on(site: Site) -> None:
    """As stale, and as missing. A graph that is ahead is the cause, and is repaired."""
    site.pg.save(*(league(f"l00{n}", tier="TIER9") for n in (1, 2, 3, 4)))
    _fail(site, GRAPH, "l001", "l002", "l003", "l004", reason="refused")
    site.graph.ask("MATCH (l:League {league_tag: 'l002'}) DETACH DELETE l")
    for key, version in (("l003", site.beyond()), ("l004", 2**62)):
        site.graph.ask(
            "MATCH (l:League {league_tag: $key}) SET l.sync_version = $version",
            key=key,
            version=version,
        )
    site.delivery("pinecone").drain(10)
    last = max(op.id for op in site.pg.ops())
    for dry_run in (True, False):
        (tally,) = site.verify("neo4j", repair=True, max_delete=1.0, dry_run=dry_run).tallies
        assert sorted(tally.given_up_keys) == ["l001", "l002"]
        assert (tally.given_up, tally.enqueued) == (2, 2)
    assert {key for _, key in _enqueued_since(site, last)} == {"l003", "l004"}
    site.deliver()
    assert site.drift("neo4j") == {"neo4j": {"missing": 1, "stale": 1}}


def test_a_graph_that_is_ahead_is_repaired_without_paying_a_failed_text_again(
    site: Site,
) -> None:
    site.pg.save(league("l001", description="Refused."))
    _fail(site, EMBEDDER, "l001")
    site.delivery("neo4j").drain(10)
    site.graph.ask(
        "MATCH (l:League {league_tag: 'l001'}) SET l.sync_version = $version",
        version=site.beyond(),
    )
    paid = len(site.embedder.requests)
    assert site.verify("neo4j", repair=True, max_delete=1.0).tallies[0].enqueued == 1
    site.deliver()
    assert len(site.embedder.requests) == paid
    assert site.drift("neo4j") == {}
    statuses = site.pg.statuses(league("l001"))
    assert (statuses["embedding"], statuses["pinecone"]) == ("failed", "failed")


def test_a_text_that_was_given_up_on_is_repaired_after_a_retry(site: Site) -> None:
    site.pg.save(league("l001", description="Refused."))
    _fail(site, EMBEDDER, "l001")
    site.deliver()
    with site.pg.conn.transaction():
        retry_dead(site.pg.conn, dead_ids(site.pg.conn), site.app.topology)
    site.deliver()
    site.drop_vector("l001")
    assert site.repair().tallies


# --- ALTSYNC_LONG_TEXT=cut ---------------------------------------------------------------------


def embed_cut(database: Database) -> FakeEmbedder:
    """Embed all that is due, by a worker that cuts."""
    embedder = FakeEmbedder()
    sink = embedding.Sink(embedder, EmbeddingCache(database), cut_long=True)
    delivery(database, sink).drain(10)
    return embedder


@pytest.mark.parametrize("folder", ["leagues", "archetypes", "examples"])
def test_a_seed_over_the_limit_is_loaded_with_a_note_and_embedded_once(
    pg: DatabaseFixture, database: Database, tmp_path: Path, folder: str
) -> None:
    """Seeder, worker and verify judge the same text: nothing is enqueued, or paid, again."""
    name, line = {
        "leagues": ("leagues/a.jsonl", league_line("x", description=LONG)),
        "archetypes": ("archetypes.jsonl", archetype_line("x", "racing", description=LONG)),
        "examples": ("examples/a.jsonl", example_line("x", output_text=LONG)),
    }[folder]
    write(tmp_path, name, [line])
    for run in range(2):
        report = seed(pg, tmp_path, cut_long=True)
        assert short(report.total) == ((1, 1, 0, 0, 0, 0) if run == 0 else (1, 0, 0, 1, 0, 0))
        assert report.notes == [
            f"{name}: 1 text over the limit of {SMALL} is cut for the embedding: line 1"
        ]
        embedder = embed_cut(database)
        assert len(embedder.requests) == (1 if run == 0 else 0)
    assert pg.counts(EMBEDDING) == {"synced": 1}
    for kind in sports.TYPES:
        assert embedding_gaps(pg.conn, kind, after=None, limit=10)[0] == []
        assert edited_rows(pg.conn, kind, after=None, limit=10)[0] == []


def test_what_a_worker_sends_is_cut_and_a_worker_that_refuses_takes_the_vector(
    pg: DatabaseFixture, database: Database
) -> None:
    """The setting may be changed back: what was paid stays."""
    pg.save(league("long", description=LONG), league("short", description="Short."))
    (request,) = embed_cut(database).requests
    sizes = sorted(len(text) for text in request)
    assert [too_long(text, SMALL) for text in request] == [None, None]
    assert 8192 * 4 < sizes[1] < len(LONG)
    pg.save(league("same", league_name="The long", description=LONG))
    assert embed(database).requests == []
    assert pg.counts(EMBEDDING) == {"synced": 3}


def test_what_was_refused_is_embedded_after_the_setting_and_a_retry(
    pg: DatabaseFixture, database: Database
) -> None:
    pg.save(league("long", description=LONG))
    assert embed(database).requests == []
    with pg.conn.transaction():
        retry_dead(pg.conn, dead_ids(pg.conn), TOPOLOGY)
    assert len(embed_cut(database).requests) == 1
    assert pg.statuses(league("long"))["embedding"] == "synced"


def test_why_reads_a_line_over_the_limit_where_texts_are_cut(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site.app.settings, "altsync_long_text", "cut")
    site.pg.conn.execute(
        "UPDATE sink_state SET config = config || jsonb_build_object('model', %s::text)", (SMALL,)
    )
    write(tmp_path, "leagues/a.jsonl", [league_line("long", description=LONG)])
    seed(site.pg, tmp_path, cut_long=True)
    told = explain(site.app, "long", tmp_path)
    assert isinstance(told, Explanation)
    (check,) = (check for check in told.checks if check.store == "seed")
    assert check.agrees is True


@pytest.mark.parametrize("setting", [None, "cut"])
def test_the_command_takes_the_setting(
    pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str | None
) -> None:
    """The sink of a worker as well."""
    monkeypatch.setenv("DATABASE_URL", pg.url)
    monkeypatch.setenv("OPENAI_API_KEY", "key-of-a-test")
    if setting:
        monkeypatch.setenv("ALTSYNC_LONG_TEXT", setting)
    write(tmp_path, "leagues/a.jsonl", [league_line("x", description=LONG)])
    result = CliRunner().invoke(cli, ["seed", "--all", "--dir", str(tmp_path), "--json"])
    logging.root.handlers[:] = [logging.NullHandler()]
    assert result.exit_code == (0 if setting else Exit.REJECTED), result.output
    assert living(pg) == ({"x"} if setting else set())
    assert ("cut for the embedding: line 1" in result.output) is bool(setting)
    with closing(Application()) as app:
        sink = app.sink(EMBEDDING)
        assert isinstance(sink, embedding.Sink)
        assert sink.cuts_long is bool(setting)
