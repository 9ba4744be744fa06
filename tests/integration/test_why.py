"""``altsync why`` on the embedded stores: one entity, and the sentence that says why."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from altsync.app import Application
from altsync.circuit.sinks import want_model
from altsync.cli import app as cli
from altsync.cli.terminal import Exit
from altsync.db import Database
from altsync.errors import SinkFailure
from altsync.local.services.graph import Graph
from altsync.local.services.vectors import Vectors
from altsync.operations import ErrorKind
from altsync.projection import embedding_text
from altsync.sinks.embedding.write import PROBE
from altsync.tokens import most_tokens
from tests import sports
from tests.conftest import DIMENSIONS, MODEL
from tests.contract.doubles import closed_port
from tests.contract.harness import GraphHarness, PineconeHarness, arcade_harness
from tests.integration.database_fixture import (
    DatabaseFixture,
    delivery,
    embed,
    embedding_sink,
    league,
)
from tests.integration.fakes import FakeEmbedder
from tests.integration.stores import name_stores

pytestmark = pytest.mark.slow

LEAGUE = {
    "id": "f1",
    "league_name": "Formula 1",
    "sport_name": "Motorsport",
    "sport_archetype": "racing",
    "league_tag": "formula_1",
    "tier": "TIER1",
}
CONTENT = league(
    "formula_1",
    league_name="Formula 1",
    sport_name="Motorsport",
    sport_archetype="racing",
    tier="TIER1",
)
ARCHETYPE = {
    "id": "racing",
    "archetype_name": "racing",
    "display_name": "Racing",
    "code_pattern": "RaceEvent",
}
EXAMPLE = {"id": "ask_1", "input_text": "Who?", "output_text": "Me.", "tags": ["a"]}


@dataclass(frozen=True)
class Site:
    """All stores, a seed folder, and the commands as a user has them."""

    pg: DatabaseFixture
    database: Database
    folder: Path
    app: Application
    graph: GraphHarness
    index: PineconeHarness

    def run(self, *arguments: str, code: int = 0) -> Any:
        """A command; returns what it printed."""
        result = CliRunner().invoke(cli, list(arguments))
        # The command logs to the runner's stderr, which is closed by now.
        logging.root.handlers[:] = [logging.NullHandler()]
        assert result.exit_code == code, result.output
        return result

    def write(self, name: str, *lines: dict[str, Any]) -> None:
        """A seed file."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))

    def seed(self) -> None:
        """Load the folder."""
        self.run("seed", "--all", "--dir", str(self.folder))

    def deliver(self, *sinks: str) -> None:
        """Deliver all that is due."""
        for sink in sinks:
            if sink == "embedding":
                embed(self.database)
            else:
                self.app.deliver(sink)

    def why(self, key: str = "formula_1", code: int = 0) -> dict[str, Any]:
        """The answer as scripts read it."""
        result = self.run("why", key, "--dir", str(self.folder), "--json", code=code)
        body: dict[str, Any] = json.loads(result.stdout)
        return body

    def reasons(self, key: str = "formula_1") -> list[str]:
        """The sentences."""
        found: list[str] = self.why(key)["reasons"]
        return found

    def checks(self, key: str = "formula_1") -> dict[str, tuple[bool | None, str]]:
        """Return the result of each store."""
        checks = self.why(key)["checks"]
        return {check["store"]: (check["agrees"], check["detail"]) for check in checks}


@pytest.fixture
def site(
    pg: DatabaseFixture,
    database: Database,
    graph_server: Graph,
    vectors_server: Vectors,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """Three seeds in a folder, and stores that hold nothing."""
    name_stores(monkeypatch, pg.url, graph_server, vectors_server)
    monkeypatch.chdir(tmp_path)
    graph = arcade_harness(graph_server)
    graph.empty()
    index = PineconeHarness(vectors_server)
    index.wipe()
    app = Application()
    site = Site(pg, database, tmp_path / "seeds", app, graph, index)
    site.write("archetypes.jsonl", ARCHETYPE)
    site.write(
        "leagues/motorsport.jsonl", {**LEAGUE, "id": "f2", "league_tag": "formula_2"}, LEAGUE
    )
    site.write("examples/triage.jsonl", EXAMPLE)
    yield site
    app.close()
    graph.close()
    index.close()


def test_all_that_is_known_when_everything_agrees(site: Site) -> None:
    """The shape that scripts read, with what every store holds."""
    site.seed()
    site.deliver("neo4j", "embedding", "pinecone")
    found = site.why()
    row = site.pg.conn.execute(
        "SELECT version, content_hash, neo4j_node_id FROM league WHERE seed_id = 'f1'"
    ).fetchone()
    assert row is not None
    version, content_hash, node_id = row
    assert found["agrees"] is True
    assert found["reasons"] == [f"Every store agrees at version {version}."]
    assert {check["store"]: check["agrees"] for check in found["checks"]} == {
        "seed": True,
        "embedding": True,
        "neo4j": True,
        "pinecone": True,
    }
    assert found["seed"] == {
        "file": "leagues/motorsport.jsonl",
        "line": 2,
        "text": json.dumps(LEAGUE),
        "same": True,
        "refused": None,
    }
    embedding = found["embedding"]
    assert embedding.pop("updated_at")
    assert embedding == {
        "wanted_model": MODEL,
        "model": MODEL,
        "up_to_date": True,
        "most_tokens": most_tokens(embedding_text(CONTENT)),
        "kept": True,
    }
    assert found["neo4j"] == {
        "node_id": node_id,
        "version": version,
        "properties": found["neo4j"]["properties"],
        "edges": [
            {
                "type": "BELONGS_TO_ARCHETYPE",
                "direction": "out",
                "count": 1,
                "names": ["racing"],
            }
        ],
        "tombstone": None,
    }
    assert found["neo4j"]["properties"]["league_name"] == "Formula 1"
    (vector,) = found["pinecone"]
    assert vector.pop("metadata")["league_name"] == "Formula 1"
    assert vector == {
        "index": "altsports-leagues",
        "namespace": "default",
        "key": "formula_1",
        "version": version,
        "model": MODEL,
        "content_hash": content_hash,
        "dimensions": DIMENSIONS,
    }
    assert {(op["sink"], op["status"], op["attempts"]) for op in found["operations"]} == {
        ("embedding", "synced", 1),
        ("neo4j", "synced", 1),
        ("pinecone", "synced", 1),
    }
    assert (found["entity"]["key"], found["entity"]["seed_id"]) == ("formula_1", "f1")


def test_every_type_agrees_and_fits_on_a_screen(site: Site) -> None:
    """By tag, by name, by id, and by seed id; for people as for scripts."""
    site.seed()
    site.deliver("neo4j", "embedding", "pinecone")
    for key in ("formula_1", "f1", "racing", "ask_1"):
        assert site.why(key)["agrees"] is True, site.checks(key)
        said = site.run("why", key, "--dir", str(site.folder)).stdout
        assert "Every store agrees" in said
        assert "Latest operations" in said


def test_what_is_due_without_a_worker(site: Site) -> None:
    """Nothing has arrived anywhere; the sinks were asked all the same."""
    site.seed()
    assert site.reasons() == [
        "The embedding is due, and will be worked on in its turn.",
        "Neo4j is due, and will be worked on in its turn.",
        "Pinecone waits for the embedding.",
    ]
    site.pg.advance_time(60)
    assert site.reasons()[1] == (
        "Neo4j is due, and no worker has claimed it yet: see whether relay and worker run."
    )
    assert site.checks() == {
        "seed": (True, "PostgreSQL holds what it says"),
        "embedding": (False, "there is none yet"),
        "neo4j": (False, "no node"),
        "pinecone": (False, "no vector"),
    }


def test_an_open_breaker_is_the_reason(site: Site) -> None:
    """Since when, and what the embedder said."""
    site.seed()
    embedder = FakeEmbedder()

    def refuse(texts: object) -> None:
        raise SinkFailure(ErrorKind.SINK, "the embedder answered 429: too fast", retry_after=300)

    embedder.before = refuse
    delivery(site.database, embedding_sink(site.database, embedder)).deliver_batch()
    first, *_, last = site.reasons()
    assert first.startswith("The embedding waits: its breaker is open since ")
    assert first.endswith(" UTC: the embedder answered 429: too fast.")
    assert last == "Pinecone waits for the embedding."


def test_another_model_is_the_reason(site: Site) -> None:
    """The database wants another one, and no text was embedded with it."""
    site.seed()
    site.deliver("neo4j", "embedding", "pinecone")
    want_model(site.pg.conn, "another")
    assert site.checks()["embedding"] == (False, f"by {MODEL}, not by another")
    assert site.reasons() == [
        f"The embedding is not as wanted (by {MODEL}, not by another), and no operation is live: "
        "altsync reembed finds such rows.",
        "Pinecone waits for the embedding.",
    ]
    assert site.why()["embedding"]["kept"] is False


def test_what_was_given_up_on(site: Site) -> None:
    """After how many attempts, of what, and what to do."""
    site.seed()
    embedder = FakeEmbedder()

    def refuse(texts: object) -> None:
        if texts != [PROBE]:
            raise SinkFailure(ErrorKind.ITEM, "no such text")

    embedder.before = refuse
    worker = delivery(site.database, embedding_sink(site.database, embedder), max_attempts=1)
    worker.drain(10)
    assert site.reasons()[0] == (
        "The embedding was given up on after 1 attempt: no such text. Remove the cause, then "
        "altsync retry --entity formula_1."
    )


def test_a_retry_says_when_and_after_what(site: Site) -> None:
    """It waits for its time."""
    site.seed()
    embedder = FakeEmbedder()

    def refuse(texts: object) -> None:
        if texts != [PROBE]:
            raise SinkFailure(ErrorKind.ITEM, "not now")

    embedder.before = refuse
    sink = embedding_sink(site.database, embedder)
    delivery(site.database, sink, backoff=1e6, backoff_cap=1e6).deliver_batch()
    first = site.reasons()[0]
    assert first.startswith("The embedding is tried again at ")
    assert first.endswith(", after 1 attempt: not now.")


def test_a_sink_that_is_switched_off_or_away(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said, and not fatal; what waits for it says so."""
    site.seed()
    site.deliver("neo4j", "embedding", "pinecone")
    monkeypatch.setenv("NEO4J_URI", f"bolt://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("ALTSYNC_SINK_TIMEOUT_SECONDS", "1")
    monkeypatch.delenv("PINECONE_API_KEY")
    monkeypatch.delenv("PINECONE_CONTROLLER_HOST")
    found = site.why()
    assert found["agrees"] is None
    graph, index = found["reasons"]
    assert graph.startswith("Neo4j was not compared: no answer: ")
    assert index == "Pinecone was not compared: switched off: PINECONE_API_KEY is not set."
    assert (found["neo4j"], found["pinecone"]) == (None, [])
    site.write("leagues/motorsport.jsonl", {**LEAGUE, "tier": "TIER2"})
    site.seed()
    assert site.reasons()[-1] == (
        "Pinecone waits: it is switched off (PINECONE_API_KEY is not set)."
    )


def test_a_line_that_was_edited_and_not_loaded(site: Site) -> None:
    """The stores agree with each other, and not with the file."""
    site.seed()
    site.deliver("neo4j", "embedding", "pinecone")
    site.write("leagues/motorsport.jsonl", {**LEAGUE, "tier": "TIER2"})
    assert site.reasons() == [
        "Its seed line has changed and is not loaded: altsync seed --leagues loads it."
    ]
    site.write("leagues/motorsport.jsonl", {**LEAGUE, "league_name": 7})
    (reason,) = site.reasons()
    assert reason.startswith("Its seed line is refused, so PostgreSQL keeps what it had: ")
    site.write("leagues/motorsport.jsonl")
    assert site.checks()["seed"] == (None, f"no line of {site.folder} gives f1")
    assert site.why()["agrees"] is True


def test_a_tag_made_from_the_name_is_no_difference(site: Site) -> None:
    """The line gives none, and PostgreSQL has one."""
    line = {name: value for name, value in LEAGUE.items() if name != "league_tag"}
    site.write("leagues/motorsport.jsonl", line)
    site.seed()
    assert site.checks("f1")["seed"] == (True, "PostgreSQL holds what it says")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ("SET n.tier = 'TIER9'", "the version fits, and tier does not"),
        ("SET n.sync_version = 1", "version 1, behind PostgreSQL's {version}"),
        (
            "SET n.sync_version = 9007199254740991",
            "version 9007199254740991, ahead of PostgreSQL's",
        ),
        ("REMOVE n.sync_version", "a stub that another node's edge has made"),
        ("DETACH DELETE n", "no node"),
    ],
)
def test_a_changed_node(site: Site, change: str, detail: str) -> None:
    """The difference, and its repair."""
    site.seed()
    site.deliver("neo4j", "embedding", "pinecone")
    site.graph.ask(f"MATCH (n:League {{league_tag: 'formula_1'}}) {change}")
    agrees, said = site.checks()["neo4j"]
    version = site.why()["entity"]["version"]
    assert agrees is False
    assert said.startswith(detail.format(version=version))
    (reason,) = site.reasons()
    assert reason.startswith(f"Neo4j differs though it has confirmed ({said}): ")
    assert "altsync backfill --sink neo4j --force" in reason


def test_a_removed_edge(site: Site) -> None:
    """The parent is part of what a node says."""
    site.seed()
    site.deliver("neo4j", "embedding", "pinecone")
    site.graph.ask("MATCH (:League {league_tag: 'formula_1'})-[r]->() DELETE r")
    assert site.checks()["neo4j"] == (
        False,
        "the version fits, and BELONGS_TO_ARCHETYPE does not lead to racing alone",
    )


def test_a_changed_vector(site: Site) -> None:
    """Removed, or written by another application."""
    site.seed()
    site.deliver("neo4j", "embedding", "pinecone")
    index = site.index.index(sports.LEAGUE.index_name)
    index.upsert(vectors=[{"id": "formula_1", "values": [1.0, 0, 0, 0]}], namespace="default")
    assert site.checks()["pinecone"] == (False, "a vector that altsync did not write")
    index.delete(ids=["formula_1"], namespace="default")
    assert site.checks()["pinecone"] == (False, "no vector")


def test_a_deleted_entity(site: Site) -> None:
    """On its way out, gone everywhere, and removed for good."""
    site.seed()
    site.deliver("neo4j", "embedding", "pinecone")
    site.write("leagues/motorsport.jsonl", {**LEAGUE, "id": "f2", "league_tag": "formula_2"})
    site.run("seed", "--leagues", "--prune", "--yes", "--dir", str(site.folder))
    assert site.reasons() == [
        "Neo4j is due, and will be worked on in its turn.",
        "Pinecone is due, and will be worked on in its turn.",
    ]
    assert site.checks()["neo4j"] == (False, "the node is still there")
    assert site.checks()["pinecone"] == (False, "the vector is still there")
    site.deliver("neo4j", "pinecone")
    found = site.why()
    assert found["agrees"] is True
    assert found["reasons"] == [f"Deleted everywhere at version {found['entity']['version']}."]
    assert found["neo4j"]["tombstone"] == found["entity"]["version"]
    site.pg.conn.execute("DELETE FROM league WHERE league_tag = 'formula_1'")
    gone = site.why(code=Exit.ERROR)
    assert gone["error"].startswith("formula_1: deleted, and its row was removed after")


def test_unknown_keys(site: Site) -> None:
    """Why, and what may have been meant; never a traceback."""
    site.seed()
    assert site.why("formla_1", code=Exit.ERROR) == {
        "error": "formla_1: no archetype, league or example has this key or seed id"
        "; did you mean formula_1, formula_2?",
        "kind": "error",
        "exit": 1,
        "key": "formla_1",
        "reason": "formla_1: no archetype, league or example has this key or seed id",
        "near": ["formula_1", "formula_2"],
    }
    said = site.run("why", "Formula  One", "--dir", str(site.folder), code=Exit.ERROR)
    assert said.stdout == ""
    assert "altsync: Formula One: no archetype" in said.stderr
    assert site.why("%_'; --", code=Exit.ERROR)["near"] == []
    assert site.why("", code=Exit.ERROR)["near"] == []


def test_a_line_that_never_was_loaded(site: Site) -> None:
    """Unknown to PostgreSQL, and the folder says why."""
    refused = {**LEAGUE, "id": "f9", "league_name": 7}
    site.write("leagues/more.jsonl", {**LEAGUE, "id": "f8"}, refused)
    assert site.why("f8", code=Exit.ERROR)["error"] == (
        "f8: not in PostgreSQL yet: leagues/more.jsonl:1 gives it; altsync seed --leagues loads it"
    )
    said = site.why("f9", code=Exit.ERROR)["error"]
    assert said.startswith(
        "f9: not in PostgreSQL, as its seed line is refused: leagues/more.jsonl:2: league_name: "
    )


def test_a_folder_that_is_not_there(site: Site) -> None:
    """Everything but the line is shown."""
    site.seed()
    result = site.run("why", "formula_1", "--dir", str(site.folder / "nowhere"), "--json")
    found = json.loads(result.stdout)
    assert found["seed"] is None
    assert "no such folder" in found["checks"][0]["detail"]
