"""The main job without a vector service: vectors in PostgreSQL itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance import seeds
from tests.acceptance.stack import Running, Stack, worker_arguments

pytestmark = pytest.mark.slow

LEAGUES, EXAMPLES = "altsports_leagues_vectors", "altsports_examples_vectors"

#: As few as one statement writes.
COUNT = 40

#: Retries at once, and a lease that is soon over.
QUICK = {
    "ALTSYNC_BACKOFF_SECONDS": "0.05",
    "ALTSYNC_LEASE_SECONDS": "5",
    "ALTSYNC_SINK_TIMEOUT_SECONDS": "4.5",
}


class Installation:
    """Commands and processes of one installation whose sinks are ``names``."""

    def __init__(self, stack: Stack, *names: str, **more: str) -> None:
        self.stack = stack
        self.names = names
        left_out = ("PINECONE_",) if "neo4j" in names else ("PINECONE_", "NEO4J_")
        addresses = {k: v for k, v in stack.addresses.items() if not k.startswith(left_out)}
        self.env = {**stack.bare_env, **addresses, **QUICK, **more}
        self.env["ALTSYNC_SINKS"] = ",".join(names)
        stack.postgres.execute("DELETE FROM sink_state")

    def start(self) -> None:
        """The relay, and a worker for every queue."""
        self.stack.start("relay", "altsync", "relay", env=self.env)
        self.start_worker(*self.names)

    def start_worker(self, *queues: str) -> Running:
        """A worker for some queues."""
        return self.stack.start(
            "worker", "celery", *worker_arguments(*queues, size=3), env=self.env
        )

    def run(self, *arguments: str) -> Any:
        """A command, as JSON."""
        return self.stack.run(*arguments, "--json", env=self.env).json

    def seed(self, folder: Path, *arguments: str) -> Any:
        """Seed a folder and wait."""
        return self.stack.seed(
            *("--all", "--dir", str(folder), "--wait", "--json"), *arguments, env=self.env
        ).json

    def assert_agreement(self) -> None:
        """Every store agrees, seen by the product and without it."""
        report = self.run("verify", "--deep")
        assert report["consistent"], report
        assert report["not_compared"] == []
        for kind, table, key in (
            ("league", LEAGUES, "league_tag"),
            ("few_shot_example", EXAMPLES, "example_id"),
        ):
            assert (
                self.stack.rows(
                    f"SELECT l.{key} FROM {kind} l FULL JOIN {table} v ON v.key = l.{key} "
                    "AND v.version = l.version AND v.content_hash = l.content_hash "
                    "AND v.model = l.embedding_model AND v.deleted_at IS NULL "
                    "WHERE (l.id IS NULL AND v.deleted_at IS NULL) "
                    "OR (v.key IS NULL AND l.deleted_at IS NULL)"
                )
                == []
            )
            wrong = f"SELECT count(*) FROM {kind} WHERE pgvector_sync_status <> 'synced'"
            assert self.stack.number(wrong) == 0


@pytest.fixture
def clean(stack: Stack) -> Iterator[Stack]:
    """The stack; pgvector's tables go at the end."""
    yield stack
    stack.kill_all()
    for (name,) in stack.rows(
        "SELECT tablename FROM pg_tables WHERE tablename ~ '^altsports_[a-z]+_vectors$' "
        "OR tablename = 'altsync_pgvector_installation'"
    ):
        stack.postgres.execute(f"DROP TABLE {name}".encode())


def fill(folder: Path) -> list[seeds.Line]:
    """A seed folder of all three types."""
    leagues = [seeds.league(n) for n in range(COUNT)]
    seeds.write(folder, "archetypes.jsonl", seeds.archetypes())
    seeds.write(folder, "leagues/some.jsonl", leagues)
    seeds.write(folder, "examples/triage.jsonl", [seeds.example(n, "triage") for n in range(6)])
    return leagues


def test_the_main_job_with_pgvector_beside_the_graph(clean: Stack, folder: Path) -> None:
    """Seed, edit, move, delete; status, search and similar say what the stores hold."""
    site = Installation(clean, "embedding", "neo4j", "pgvector", ALTSYNC_SIMILARITY="off")
    ready = site.run("migrate")["sinks"]
    assert {sink: one["state"] for sink, one in ready.items()} == dict.fromkeys(site.names, "ready")
    site.start()
    leagues = fill(folder)
    report = site.seed(folder)
    assert report["created"] == COUNT + 5 + 6
    synced = {"synced": COUNT + 5 + 6, "errors": 0}
    assert (report["neo4j"], report["pgvector"]) == (synced, synced)
    assert "pinecone" not in report
    site.assert_agreement()

    leagues[0]["description"] = "Racing of solar cars across a continent."
    leagues[1]["tier"] = "TIER9"
    seeds.write(folder, "leagues/some.jsonl", leagues[:-1])
    seeds.write(folder, "examples/triage.jsonl", [seeds.example(n, "triage") for n in range(5)])
    seeds.write(folder, "examples/support.jsonl", [seeds.example(5, "support")])
    report = site.seed(folder, "--prune")
    assert (report["updated"], report["deleted"]) == (3, 1)
    site.assert_agreement()
    assert clean.rows(f"SELECT key FROM {EXAMPLES} WHERE namespace = 'support'") == [
        ("example_005",)
    ]

    status = site.run("status")
    rows = [row for row in status["matrix"] if row["entity"] == "league"]
    (row,) = rows
    assert (row["neo4j_sync_status"], row["pgvector_sync_status"]) == ("synced", "synced")
    found = site.run("search", "solar cars that race")
    assert found[0]["league_name"] == leagues[0]["league_name"]
    near = site.run("similar", found[0]["league_tag"])
    assert any("vector" in one["sources"] for one in near)
    why = site.run("why", found[0]["league_tag"])
    assert why["pgvector"][0]["dimensions"] == 1536
    again = site.seed(folder)
    assert (again["operations"], again["updated"]) == (0, 0)


def test_the_main_job_with_postgresql_alone(clean: Stack, folder: Path) -> None:
    """Vectors, search and similarity without a graph and without a vector service."""
    site = Installation(clean, "embedding", "pgvector", ALTSYNC_SIMILARITY="index")
    site.run("migrate")
    site.start()
    fill(folder)
    report = site.seed(folder)
    assert report["pgvector"] == {"synced": COUNT + 5 + 6, "errors": 0}
    site.assert_agreement()
    assert (
        clean.number("SELECT count(*) FROM league WHERE neighbours_input_hash IS NOT NULL") == COUNT
    )
    assert clean.number("SELECT count(*) FROM league_relationship") > 0
    assert len(site.run("search", "a competition without players", "--top-k", "7")) == 7

    clean.postgres.execute(f"DELETE FROM {LEAGUES} WHERE key = 'league_00003'".encode())
    clean.postgres.execute(f"UPDATE {EXAMPLES} SET model = 'x' WHERE key = 'example_001'".encode())
    drift = clean.run("verify", "--repair", "--json", code=1, env=site.env).json
    assert drift["sinks"]["pgvector"]["missing"] == 1
    assert drift["sinks"]["pgvector"]["wrong_model"] == 1
    clean.wait_until_drained()
    site.assert_agreement()


def test_a_worker_killed_while_it_writes_to_pgvector(clean: Stack, folder: Path) -> None:
    """kill -9 in the middle of the statement: the next worker writes it, once."""
    site = Installation(clean, "embedding", "pgvector", ALTSYNC_SIMILARITY="off")
    site.run("migrate")
    clean.start("relay", "altsync", "relay", env=site.env)
    site.start_worker("embedding")
    victim = site.start_worker("pgvector")
    leagues = fill(folder)
    site.seed(folder)
    for number, line in enumerate(leagues):
        line["tier"] = f"TIER{number}"
    seeds.write(folder, "leagues/some.jsonl", leagues)
    with psycopg.connect(clean.addresses["DATABASE_URL"]) as holder:
        holder.execute(f"LOCK TABLE {LEAGUES} IN EXCLUSIVE MODE".encode())
        clean.seed("--all", "--dir", str(folder), env=site.env)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE application_name = 'altsync-pgvector' AND wait_event_type = 'Lock'"
        )
        clean.until(lambda: clean.number(waiting), "the write under way")
        held = clean.leases("pgvector")
        victim.kill()
        holder.rollback()
    assert set(held) == {victim.pid}
    assert sum(held.values()) == COUNT
    site.start_worker("pgvector")
    clean.wait_until_drained()
    site.assert_agreement()
    taken = clean.rows("SELECT DISTINCT attempts FROM sync_operation WHERE sink = 'pgvector'")
    assert max(row[0] for row in taken) == 2
