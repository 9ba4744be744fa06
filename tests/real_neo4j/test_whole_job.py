"""The main job on each release of a real Neo4j: seed, deliver, prune, verify every property."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from neo4j import GraphDatabase
from typer.testing import CliRunner

from altsync import db
from altsync.app import Application
from altsync.cli import app as cli
from altsync.local.services.vectors import Vectors
from altsync.local.vectors.names import EMBEDDING_MODEL
from tests.acceptance.seeds import REAL_SEEDS
from tests.contract.harness import PineconeHarness
from tests.real_neo4j.server import RELEASES, RealNeo4j

#: Dimensions that the embedded vectors server answers.
DIMENSIONS = 1536

#: Rounds of delivery; each sink comes once in a round, and searches follow vectors.
ROUNDS = 20


@pytest.fixture(params=[pytest.param(name, marks=pytest.mark.real_neo4j) for name in RELEASES])
def server(
    request: pytest.FixtureRequest,
    neo4j_servers: Callable[[str], RealNeo4j],
    empty_database_url: str,
    vectors_server: Vectors,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RealNeo4j]:
    """An empty Neo4j of each release, named to altsync beside empty stores of the other kinds."""
    started = neo4j_servers(request.param)
    with GraphDatabase.driver(started.uri, auth=started.auth) as driver:
        driver.execute_query("MATCH (n) DETACH DELETE n", database_=started.database)
    index = PineconeHarness(vectors_server, dimensions=DIMENSIONS)
    index.wipe()
    variables = {
        "DATABASE_URL": empty_database_url,
        "NEO4J_URI": started.uri,
        "NEO4J_DATABASE": started.database,
        "PINECONE_API_KEY": vectors_server.secret,
        "PINECONE_CONTROLLER_HOST": vectors_server.url,
        "OPENAI_API_KEY": vectors_server.secret,
        "OPENAI_BASE_URL": vectors_server.openai_url,
        "ALTSYNC_EMBEDDING_MODEL": EMBEDDING_MODEL,
        "ALTSYNC_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
        # A server that has just started plans each statement for the first time.
        "ALTSYNC_SINK_TIMEOUT_SECONDS": "100",
        "ALTSYNC_LEASE_SECONDS": "200",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield started
    index.wipe()
    index.close()


def run(*arguments: str) -> str:
    """Run a command as a user has it; return what it wrote to stdout."""
    result = CliRunner().invoke(cli, list(arguments))
    # The command logs to the runner's stderr, which is closed by now.
    logging.root.handlers[:] = [logging.NullHandler()]
    assert result.exit_code == 0, (arguments, result.output)
    return result.stdout


def deliver(url: str) -> None:
    """Deliver all that is due, until nothing is left. Nothing may fail on the way."""
    app = Application()
    try:
        for _ in range(ROUNDS):
            for name in app.topology.names:
                app.deliver(name)
            with db.connect(url) as conn:
                failed = conn.execute(
                    "SELECT sink, entity_key, last_error FROM sync_operation "
                    "WHERE last_error IS NOT NULL"
                ).fetchall()
                live = conn.execute(
                    "SELECT count(*) FROM sync_operation WHERE finished_at IS NULL"
                ).fetchone()
            assert failed == []
            if live == (0,):
                return
    finally:
        app.close()
    raise AssertionError(live)


def without(folder: Path, tag: str, seed_id: str) -> None:
    """Take a league, and every line that names it, out of a seed folder."""
    for file in folder.rglob("*.jsonl"):
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if f'"{seed_id}"' not in line and f'"{tag}"' not in line]
        file.write_text("".join(kept), encoding="utf-8")


def test_seeds_are_delivered_pruned_and_verified(
    server: RealNeo4j, empty_database_url: str, tmp_path: Path
) -> None:
    seeds = tmp_path / "seeds"
    shutil.copytree(REAL_SEEDS, seeds)
    run("migrate")
    run("seed", "--all", "--dir", str(seeds))
    deliver(empty_database_url)
    before = verified()

    with db.connect(empty_database_url) as conn:
        # Relationships lead to and from it, so that its node has edges to lose.
        found = conn.execute(
            "SELECT l.league_tag, l.seed_id FROM league l "
            "JOIN league_relationship r ON l.id IN (r.source_league_id, r.target_league_id) "
            "GROUP BY 1, 2 ORDER BY count(*) DESC, 1 LIMIT 1"
        ).fetchone()
    assert found is not None
    tag, seed_id = found
    without(seeds, tag, seed_id)
    run("seed", "--all", "--dir", str(seeds), "--prune")
    deliver(empty_database_url)

    assert verified() == before - 1
    with GraphDatabase.driver(server.uri, auth=server.auth) as driver:
        left = driver.execute_query(
            "MATCH (n:League {league_tag: $tag}) RETURN n", tag=tag, database_=server.database
        ).records
    assert left == []


def verified() -> int:
    """Compare every property in every store; return the number of entities."""
    report: dict[str, Any] = json.loads(run("verify", "--deep", "--json"))
    assert report["consistent"], report
    return int(report["entities"])
