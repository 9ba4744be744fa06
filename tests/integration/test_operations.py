"""The commands for bad nights: pause, resume, retry, discard, prune, as a person gives them."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any
from uuid import uuid4

import pytest
from psycopg import errors
from typer.testing import CliRunner

from altsync import db
from altsync.circuit.breaker import gate, open_breaker
from altsync.circuit.sinks import sink_health
from altsync.cli import app as cli
from altsync.cli.terminal import Exit
from altsync.costs.ledger import Bill
from altsync.db import Database
from altsync.operations import Dead, ErrorKind, Outcome, Settlement, Synced
from altsync.outbox.batches import record_batch
from altsync.outbox.claim import release
from altsync.outbox.retention import prune_range
from altsync.retry import dead_ids, discard_dead
from altsync.revisions import own_revision
from altsync.store.reads import clock
from altsync.store.vectors import prune_vectors
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import (
    EMBEDDER,
    GRAPH,
    INDEX,
    DatabaseFixture,
    delivery,
    embed,
    eventually,
    league,
    leagues,
)
from tests.integration.fakes import FakeEmbedder, FakeGraph

#: Seconds of a day.
DAY = 86_400


@dataclass(frozen=True)
class Site:
    """A database and the commands on it."""

    pg: DatabaseFixture
    home: Path

    def run(self, *arguments: str, code: int = 0) -> Any:
        """A command."""
        result = CliRunner().invoke(cli, list(arguments))
        # The command logs to the runner's stderr, which is closed by now.
        logging.root.handlers[:] = [logging.NullHandler()]
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.output
        return result

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Return the document of a command with --json; nothing else may be on stdout."""
        return json.loads(self.run(*arguments, "--json", code=code).stdout)

    def said(self, *arguments: str, code: int = 0) -> str:
        """Return the output of a command for people, in one line."""
        return " ".join(self.run(*arguments, code=code).stderr.split())

    def dead_letter(self, reasons: Mapping[str, str]) -> None:
        """Give up on the graph's operations of leagues, which are saved before."""
        self.pg.save(*(league(key) for key in reasons))
        token, operations = self.pg.claim("neo4j")
        dead = [
            Dead(op, op.version, ErrorKind.ITEM, reasons[op.entity_key])
            for op in operations
            if op.entity_key in reasons
        ]
        self.pg.settle(GRAPH, token, dead)

    def age(self, days: float, where: str = "true") -> None:
        """Let operations, batches and vectors be so many days older."""
        for column in ("created_at", "finished_at", "discarded_at"):
            self.pg.conn.execute(
                f"UPDATE sync_operation SET {column} = {column} - make_interval(secs => %s) "
                f"WHERE {where}",
                (days * DAY,),
            )

    def state(self, sink: str = "neo4j") -> tuple[str, str | None]:
        """The shared state of a sink, and its reason."""
        health = sink_health(self.pg.conn)[sink]
        return health.state, health.reason


@pytest.fixture
def site(pg: DatabaseFixture, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Settings that name the database alone."""
    monkeypatch.setenv("DATABASE_URL", pg.url)
    return Site(pg, Path(os.environ["ALTSYNC_HOME"]))


# --- pause and resume ---------------------------------------------------------------------------


def test_pause_and_resume_are_idempotent(site: Site) -> None:
    """They say what they changed, and end well when there is nothing to change."""
    assert site.json("pause", "--sink", "neo4j", "--reason", "moving") == {
        "paused": {"neo4j": True}
    }
    assert site.json("pause", "--sink", "neo4j") == {"paused": {"neo4j": False}}
    assert site.json("resume", "--sink", "neo4j") == {"resumed": {"neo4j": True}}
    assert site.json("resume", "--sink", "neo4j") == {"resumed": {"neo4j": False}}


def test_a_pause_is_shown_with_its_reason_and_who(site: Site) -> None:
    """In the status for people and for scripts."""
    site.run("pause", "--sink", "neo4j", "--reason", "moving")
    state, reason = site.state()
    assert state == "paused"
    assert reason is not None
    assert reason.startswith("moving (")
    assert "@" in reason
    shown = site.json("status")["sinks"]["neo4j"]
    assert (shown["state"], shown["reason"]) == ("paused", reason)
    assert shown["since"]
    assert "neo4j: moving (" in " ".join(site.run("status").stdout.split())


def test_every_sink_is_paused_at_once(site: Site) -> None:
    """All of the settings, whatever each was before."""
    names = set(site.json("status")["sinks"])
    assert set(site.json("pause", "--all")["paused"]) == names
    assert {s["state"] for s in site.json("status")["sinks"].values()} == {"paused"}
    assert set(site.json("resume", "--all")["resumed"].values()) == {True}


def test_resuming_a_broken_sink_says_so(site: Site) -> None:
    """It is not ready: its breaker is open again."""
    site.pg.conn.execute("UPDATE sink_state SET state = 'open', reason = 'down'")
    site.run("pause", "--sink", "neo4j")
    assert "resumed; it is open again" in site.said("resume", "--sink", "neo4j")


@pytest.mark.parametrize(
    "arguments",
    [
        ("pause", "--sink", "oracle"),
        ("resume", "--sink", "oracle"),
        ("retry", "--sink", "oracle"),
        ("failures", "--sink", "oracle"),
        ("discard", "--sink", "oracle", "--why", "gone"),
    ],
)
def test_a_sink_that_is_none_is_named(site: Site, arguments: tuple[str, ...]) -> None:
    """With those that there are."""
    assert "no sink 'oracle'; there are embedding, neo4j" in site.said(*arguments, code=1)


# --- failures, retry, discard -------------------------------------------------------------------

REASONS = {
    "l000": "a node of 410 bytes is too large",
    "l001": "a node of 7000 bytes is too large",
    "l002": "the tier is unknown",
}


def test_failures_are_narrowed(site: Site) -> None:
    """Near-equal errors are one group, with the latest in full."""
    site.dead_letter(REASONS)
    large, tier = site.json("failures")
    assert (large["count"], large["reason"]) == (2, "a node of … bytes is too large")
    assert large["sample_reason"] in REASONS.values()
    assert site.json("failures", "--entity", "l002", "--kind", "item") == [tier]
    assert site.json("failures", "--reason", "too large") == [large]
    assert site.json("failures", "--kind", "lost") == []
    assert site.json("failures", "--older-than", "1h") == []
    assert len(site.json("failures", "--newer-than", "1h")) == 2
    assert "No dead operation matches" in site.said("failures", "--kind", "lost")


def test_a_shown_reason_is_a_selector(site: Site) -> None:
    """Pasted from the table it means the group; a dry run says how many and changes nothing."""
    site.dead_letter(REASONS)
    (reason,) = (g["reason"] for g in site.json("failures") if g["count"] == 2)
    assert site.json("retry", "--reason", reason, "--dry-run") == {"would_retry": 2}
    assert site.pg.counts("neo4j") == {"dead": 3}
    assert site.json("retry", "--reason", reason) == {"retried": 2}
    assert site.pg.counts("neo4j") == {"dead": 1, "superseded": 2, "pending": 2}
    assert site.json("retry", "--reason", "tier", "--newer-than", "2h") == {"retried": 1}


def _troubled_history(site: Site, random: Random) -> None:
    """Entities that fail in several sinks, are edited, retried, discarded, and fail again."""
    pg, keys = site.pg, [f"l{n:03}" for n in range(6)]
    for number in range(12):
        chosen = random.sample(keys, 3)
        text = random.choice(["One text.", f"Text {number}."])
        pg.save(*(league(key, description=text, tier=f"T{number}") for key in chosen))
        for sink in random.sample((GRAPH, EMBEDDER, INDEX), 2):
            token, operations = pg.claim(sink.name)
            verdicts: list[Outcome] = []
            for op in operations:
                kind = random.choice(list(ErrorKind))
                reason = random.choice([f"value {number} is bad", "the tier is unknown"])
                dead = Dead(op, op.version, kind, reason, outcome_unknown=random.random() < 0.5)
                ends: list[Outcome] = [dead, dead, Synced(op, op.version, "id", "default")]
                verdicts.append(random.choice(ends))
            if sink is EMBEDDER:
                verdicts = [one for one in verdicts if isinstance(one, Dead)]
            pg.settle(sink, token, verdicts)
            release(pg.conn, [op.id for op in operations], token)
        match random.randrange(6):
            case 0:
                pg.delete(league(chosen[0]))
            case 1:
                site.run("retry", "--entity", chosen[0])
            case 2:
                site.run("discard", "--entity", chosen[1], "--why", "gone")
        site.age(random.choice([0, 0.02]))


@pytest.mark.parametrize("seed", range(3))
def test_a_dry_run_of_a_retry_says_what_the_run_does(site: Site, seed: int) -> None:
    """By every filter, after any history; a failure names the history's seed."""
    random = Random(seed)
    _troubled_history(site, random)
    total = site.json("retry", "--all", "--dry-run")["would_retry"]
    entities = "SELECT count(DISTINCT (entity_id, sink)) FROM sync_operation WHERE status = 'dead'"
    assert total == site.pg.scalar(entities) > 0
    assert sum(group["count"] for group in site.json("failures")) == total
    filters = [
        *(("--sink", sink) for sink in ("neo4j", "embedding", "pinecone")),
        *(("--entity", f"l00{n}") for n in range(6)),
        *(("--kind", kind.value) for kind in ErrorKind),
        *(("--reason", reason) for reason in ("tier", "value … is bad", "value 7 is bad", "none")),
        *((age, "40m") for age in ("--older-than", "--newer-than")),
        ("--sink", "neo4j", "--kind", "item", "--newer-than", "2h"),
    ]
    random.shuffle(filters)
    for which in (*filters, ("--all",)):
        before = site.pg.scalar("SELECT max(id) FROM sync_operation")
        planned = site.json("retry", *which, "--dry-run")["would_retry"]
        assert site.pg.scalar("SELECT max(id) FROM sync_operation") == before
        left = site.json("retry", "--all", "--dry-run")["would_retry"]
        assert site.json("retry", *which) == {"retried": planned}, which
        assert site.json("retry", *which, "--dry-run") == {"would_retry": 0}, which
        assert site.json("retry", "--all", "--dry-run") == {"would_retry": left - planned}, which
    assert site.json("failures") == []


def test_discarding_needs_a_selection(site: Site) -> None:
    """Or --yes for all: without it, the number is said, and nothing is changed."""
    site.dead_letter(REASONS)
    said = site.said("discard", "--all", "--why", "gone", code=Exit.NOT_CONFIRMED)
    assert "3 dead operations, which are all. Nothing was changed" in said
    why = ("--why", "too large for ever")
    assert site.json("discard", "--reason", "too large", *why, "--dry-run") == {"would_discard": 2}
    assert site.json("discard", "--reason", "too large", *why) == {"discarded": 2}
    assert site.pg.counts("neo4j") == {"dead": 1, "discarded": 2}
    assert site.json("discard", "--all", "--yes", *why) == {"discarded": 1}
    assert site.json("failures") == []
    assert site.json("status")["operations"]["neo4j"]["discarded"] == 3
    assert site.json("status")["entities"]["league"]["neo4j"]["failed"] == 3


def test_a_sink_that_was_taken_out_is_not_retried(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No worker would deliver it. Dead letters are still shown, and can be discarded."""
    site.dead_letter({"l000": "no"})
    monkeypatch.setenv("ALTSYNC_SINKS", "embedding,pinecone")
    assert "1 of neo4j" in site.said("retry", "--all", "--dry-run")
    said = site.said("retry", "--all")
    assert "Due again: 0." in said
    assert "1 of neo4j" in said
    assert site.json("retry", "--all") == {"retried": 0}
    assert "no sink 'neo4j'" in site.said("retry", "--sink", "neo4j", code=Exit.ERROR)
    assert site.pg.counts("neo4j") == {"dead": 1}
    assert [group["count"] for group in site.json("failures", "--sink", "neo4j")] == [1]
    assert site.json("discard", "--sink", "neo4j", "--why", "gone") == {"discarded": 1}
    assert "Ignored" not in site.said("retry", "--all")


def test_why_tells_who_discarded(site: Site) -> None:
    """And that only a change of the entity brings it back."""
    site.dead_letter(REASONS)
    site.run("discard", "--entity", "l002", "--why", "no such tier")
    found = site.json("why", "l002")
    (said,) = (reason for reason in found["reasons"] if reason.startswith("Neo4j"))
    assert "(no such tier) after: the tier is unknown" in said
    (op,) = (op for op in found["operations"] if op["status"] == "discarded")
    assert op["discarded_why"] == "no such tier"
    assert "no such tier" in site.run("why", "l002").stdout


def test_two_who_discard_share_the_work(site: Site) -> None:
    """The second command does not count what the first has discarded."""
    site.dead_letter({f"l{n:03}": "no" for n in range(30)})

    def discard() -> int:
        with db.connect(site.pg.url) as conn, conn.transaction():
            return discard_dead(conn, dead, TOPOLOGY, by="me", why="gone")

    dead = dead_ids(site.pg.conn)
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda _: discard(), range(2))) == [0, 30]


# --- prune --------------------------------------------------------------------------------------


def test_finished_history_is_removed(site: Site, database: Database) -> None:
    """Finished operations older than the age go; live, dead and younger ones stay."""
    pg = site.pg
    site.dead_letter({"dead": "no", "gone": "no"})
    site.run("discard", "--entity", "gone", "--why", "gone")
    pg.save(*leagues(3))
    delivery(database, FakeGraph()).drain(60)
    site.age(31)
    pg.save(league("young"))
    delivery(database, FakeGraph()).drain(60)
    before = pg.counts("neo4j"), pg.counts("embedding")
    assert before[0] == {"dead": 1, "discarded": 1, "synced": 4}
    looked = site.json("prune", "--older-than", "30d", "--dry-run")
    assert (looked["operations"], looked["dead"], looked["dry_run"]) == (4, 0, True)
    assert (pg.counts("neo4j"), pg.counts("embedding")) == before
    pruned = site.json("prune", "--older-than", "30d")
    assert (pruned["operations"], pruned["dead"], pruned["dry_run"]) == (4, 0, False)
    assert pg.counts("neo4j") == {"dead": 1, "synced": 1}
    assert pg.counts("embedding") == before[1]
    assert site.json("prune", "--older-than", "30d")["operations"] == 0


def test_the_age_of_what_was_discarded_begins_with_that(site: Site) -> None:
    """It died long ago and was discarded today: the audit keeps it."""
    site.dead_letter({"gone": "no"})
    site.age(100)
    site.run("discard", "--entity", "gone", "--why", "gone")
    assert site.json("prune", "--older-than", "30d")["operations"] == 0
    site.age(31)
    assert site.json("prune", "--older-than", "30d")["operations"] == 1


def test_ranges_are_walked_over_gaps_until_one_is_young(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids have gaps; what is above the first young range is not read."""
    monkeypatch.setattr("altsync.outbox.retention.RANGE", 3)
    pg = site.pg
    pg.save(*leagues(20))
    pg.conn.execute("UPDATE sync_operation SET status = 'synced', finished_at = now()")
    site.age(40)
    low, high = pg.conn.execute("SELECT min(id), max(id) FROM sync_operation").fetchone() or ()
    pg.conn.execute("DELETE FROM sync_operation WHERE id BETWEEN %s AND %s", (low + 2, low + 17))
    for op_id in (high - 2, high - 1, high):
        pg.conn.execute(
            "UPDATE sync_operation SET created_at = now(), finished_at = now() WHERE id = %s",
            (op_id,),
        )
    total = pg.scalar("SELECT count(*) FROM sync_operation")
    assert site.json("prune", "--older-than", "30d")["operations"] == total - 3


def test_the_dead_are_never_pruned_silently(site: Site, database: Database) -> None:
    """Only with --dead and --yes; who waited for a vector waits no more."""
    pg = site.pg
    site.dead_letter({"l000": "no"})
    token, operations = pg.claim("embedding")
    pg.settle(EMBEDDER, token, [Dead(op, op.version, ErrorKind.ITEM, "no") for op in operations])
    site.age(31)
    said = site.said("prune", "--older-than", "30d", "--dead", code=Exit.NOT_CONFIRMED)
    assert "To be removed: 2 dead operations. Nothing was changed" in said
    assert pg.counts("neo4j") == {"dead": 1}
    pruned = site.json("prune", "--older-than", "30d", "--dead", "--yes")
    assert (pruned["operations"], pruned["dead"]) == (0, 2)
    assert pg.ops() == []
    assert set(pg.statuses(league("l000")).values()) == {"failed"}


def test_records_of_batches_are_removed(site: Site) -> None:
    """By the time when they ended."""
    for days in (1, 31, 40):
        record_batch(
            site.pg.conn, "neo4j", "w", 1, Settlement(synced=1), calls=1, bill=Bill(), seconds=1
        )
        site.pg.conn.execute(
            "UPDATE delivery_batch SET finished_at = now() - make_interval(days => %s) "
            "WHERE id = (SELECT max(id) FROM delivery_batch)",
            (days,),
        )
    assert site.json("prune", "--older-than", "30d", "--dry-run")["batches"] == 2
    assert site.json("prune", "--older-than", "30d")["batches"] == 2
    assert site.pg.scalar("SELECT count(*) FROM delivery_batch") == 1


def test_the_newest_runs_are_kept_whatever_their_age(site: Site) -> None:
    """Twenty of them; nothing beside the folders is touched."""
    runs = site.home / "runs"
    old = time.time() - 40 * DAY
    for number in range(25):
        folder = runs / f"20260101T0000{number:02}-7"
        folder.mkdir(parents=True)
        (folder / "rejects.jsonl").write_text("{}\n")
        os.utime(folder, (old, old))
    (runs / "note.txt").write_text("mine")
    (runs / "0000-elsewhere").symlink_to(site.home)
    assert site.json("prune", "--older-than", "30d", "--dry-run")["runs"] == 5
    assert site.json("prune", "--older-than", "30d")["runs"] == 5
    left = sorted(path.name for path in runs.iterdir())
    assert left == sorted(
        ["note.txt", "0000-elsewhere", *(f"20260101T0000{n:02}-7" for n in range(5, 25))]
    )
    assert site.home.is_dir()


def test_unused_vectors_are_removed_on_request(site: Site, database: Database) -> None:
    """Of questions and former texts; those in use stay, another model's of the same text too."""
    pg = site.pg
    pg.save(league("nfl", description="First."))
    embed(database)
    pg.save(league("nfl", description="Second."))
    embed(database)
    pg.conn.execute(
        "INSERT INTO embedding (model, dimensions, text_hash, vector) "
        "SELECT 'former', dimensions, text_hash, vector FROM embedding "
        "UNION ALL SELECT model, dimensions, 'a question', vector FROM embedding LIMIT 3"
    )
    pg.conn.execute("UPDATE embedding SET created_at = now() - interval '31 days'")
    pg.conn.execute(
        "INSERT INTO embedding (model, dimensions, text_hash, vector) VALUES ('m', 4, 'new', '')"
    )
    total = pg.scalar("SELECT count(*) FROM embedding")
    assert site.json("prune", "--older-than", "30d")["embeddings"] == 0
    looked = site.json("prune", "--older-than", "30d", "--embeddings", "--dry-run")["embeddings"]
    removed = site.json("prune", "--older-than", "30d", "--embeddings")["embeddings"]
    assert removed == looked
    assert pg.scalar("SELECT count(*) FROM embedding") == total - removed
    left = {row[0] for row in pg.conn.execute("SELECT text_hash FROM embedding")}
    current = pg.row(league("nfl"))["text_hash"]
    assert left == {current, "new"}
    counted = "SELECT count(*) FROM embedding WHERE text_hash = %s"
    assert pg.scalar(counted, current) == 2
    pg.save(league("nfl", description="First."))
    assert embed(database, FakeEmbedder()).paid.total() == 1


def test_a_vector_that_is_about_to_be_used_is_not_removed(site: Site, database: Database) -> None:
    """An entity takes the text on at the same moment: the decision waits for it, and keeps it."""
    pg = site.pg
    pg.save(league("nfl", description="First."))
    embed(database)
    pg.save(league("nfl", description="Second."))
    embed(database)
    pg.conn.execute("UPDATE embedding SET created_at = now() - interval '31 days'")
    before = clock(pg.conn)
    pruner = DatabaseFixture(pg.url)

    def remove() -> int:
        with pruner.conn.transaction():
            return prune_vectors(pruner.conn, before)

    with ThreadPoolExecutor(1) as pool:
        with pg.conn.transaction():
            pg.conn.execute(
                "UPDATE league SET text_hash = (SELECT e.text_hash FROM embedding e "
                "WHERE e.text_hash <> league.text_hash LIMIT 1)"
            )
            removing = pool.submit(remove)
            watcher = DatabaseFixture(pg.url)
            watcher.until_waiting(pruner.conn)
            watcher.close()
        assert removing.result() == 0
    pruner.close()


def test_vectors_are_left_when_writers_do_not_pause(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a few tries it says so; nothing is held up for long."""

    def busy(*_: object) -> int:
        raise errors.LockNotAvailable

    monkeypatch.setattr("altsync.cli.prune.prune_vectors", busy)
    monkeypatch.setattr(import_module("altsync.cli.prune"), "PAUSE", 0.0)
    said = site.said("prune", "--older-than", "30d", "--embeddings", code=1)
    assert "entities are being written" in said


def test_pruning_and_delivering_at_once(site: Site, database: Database) -> None:
    """They touch different rows: neither waits for long, and nothing that lives is lost."""
    pg = site.pg
    pg.save(*leagues(60))
    delivery(database, FakeGraph()).drain(60)
    site.age(31, "finished_at IS NOT NULL")
    pg.save(*(league(f"l{n:03}", tier="TIER1") for n in range(60)))
    with ThreadPoolExecutor(2) as pool:
        pruned = pool.submit(lambda: _prune(pg.url))
        drained = pool.submit(lambda: delivery(database, FakeGraph(), batch_size=7).drain(60))
        assert (pruned.result(), drained.result().synced) == (60, 60)
    eventually(lambda: pg.counts("neo4j") == {"synced": 60})


def _prune(url: str) -> int:
    with db.connect(url) as conn:
        before = conn.execute("SELECT now() - interval '30 days'").fetchone()
        assert before is not None
        found = prune_range(conn, TOPOLOGY, 0, before[0])
        return found.finished if found else 0


@pytest.mark.parametrize("command", ["relay", "dashboard"])
def test_services_do_not_start_on_another_releases_schema(site: Site, command: str) -> None:
    site.pg.conn.execute("UPDATE alembic_version SET version_num = '9999'")
    try:
        said = site.said(command, code=Exit.SCHEMA)
    finally:
        site.pg.conn.execute("UPDATE alembic_version SET version_num = %s", (own_revision(),))
    assert "to revision 9999" in said


@pytest.mark.parametrize("command", ["backfill", "retry"])
def test_a_backfill_or_a_retry_has_an_open_breaker_probed_at_once(site: Site, command: str) -> None:
    site.dead_letter({"nfl": "bad"})
    open_breaker(site.pg.conn, "neo4j", uuid4(), "slow down", 300.0)
    site.run(command, "--sink", "neo4j")
    assert gate(site.pg.conn, "neo4j", uuid4(), 30.0).probing
