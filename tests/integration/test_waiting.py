"""Read-your-writes: wait until a store shows every change up to a version."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import altsync
from altsync import waiting
from altsync.app import Application
from altsync.cli import app as cli
from altsync.db import Database
from altsync.errors import AltsyncError, ConfigurationError
from altsync.local.vectors.faults import FaultRule
from altsync.operations import Dead, ErrorKind, Retry, Superseded, Synced
from altsync.outbox import versions
from altsync.outbox.versions import confirmed_versions, newest_version
from altsync.retry import Selection, dead_ids, retry_dead
from altsync.seed.changes import Changes
from altsync.waiting import SILENT, Reached, Wait, wait_for
from tests import points
from tests.conftest import DIMENSIONS, MODEL, TOPOLOGY
from tests.contract.harness import PineconeHarness
from tests.integration.database_fixture import (
    GRAPH,
    INDEX,
    DatabaseFixture,
    deliver,
    delivery,
    embed,
    league,
)
from tests.integration.fakes import FakeGraph
from tests.integration.seeds import archetype_line, league_line, write
from tests.integration.test_crash_points import Killed, kill_at

NFL = league("nfl")

#: Points that a batch without budget and without a move of namespaces does not pass.
OPTIONAL = ("cost_reserved",)


@pytest.fixture
def app(
    database_url: str, index: PineconeHarness, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Application]:
    """An application that delivers to the local vector index alone."""
    variables = {
        "DATABASE_URL": database_url,
        "PINECONE_API_KEY": index.server.secret,
        "PINECONE_CONTROLLER_HOST": index.server.url,
        "OPENAI_API_KEY": index.server.secret,
        "OPENAI_BASE_URL": index.server.openai_url,
        "ALTSYNC_SINKS": "embedding,pinecone",
        "ALTSYNC_SIMILARITY": "false",
        "ALTSYNC_EMBEDDING_MODEL": MODEL,
        "ALTSYNC_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = Application()
    monkeypatch.setattr(waiting, "_application", lambda: app)
    yield app
    app.close()


@pytest.fixture
def deliver_vectors(database: Database, index: PineconeHarness) -> Callable[[], None]:
    """Embed what waits for it, and write it to the index."""

    def work() -> None:
        embed(database)
        deliver(database, index.shared())

    return work


def look(app: Application, version: int, sink: str = "pinecone", **options: Any) -> Wait:
    """The state of a wait that does not wait."""
    return wait_for(app, version, [sink], **{"timeout": 0.0, **options})


def state(app: Application, version: int) -> Reached:
    """How far the index has come."""
    return look(app, version).sinks["pinecone"].state


def by(step: Callable[[], object]) -> Callable[[float], object]:
    """Do something in place of the pauses between two polls."""
    return lambda seconds: step()


def test_a_wait_ends_when_queries_show_the_version(
    pg: DatabaseFixture, app: Application, deliver_vectors: Callable[[], None]
) -> None:
    pg.save(NFL)
    seen: list[Reached] = []
    found = wait_for(
        app,
        pg.version(NFL),
        ["embedding", "pinecone"],
        timeout=None,
        sleep=by(deliver_vectors),
        show=lambda wait: seen.append(wait.sinks["pinecone"].state),
    )
    assert seen == [Reached.WAITING, Reached.VISIBLE]
    assert {one.state for one in found.sinks.values()} == {Reached.VISIBLE}
    assert (found.timed_out, found.failed) == (False, False)


def test_an_index_that_lags_is_waited_for(
    pg: DatabaseFixture,
    app: Application,
    index: PineconeHarness,
    deliver_vectors: Callable[[], None],
) -> None:
    """It is confirmed at once; the header of a query says when it can be read."""
    index.server.admin.set_faults([FaultRule("pinecone.upsert", "lag", seconds=3600)])
    pg.save(NFL)
    deliver_vectors()
    early = look(app, pg.version(NFL))
    assert early.sinks["pinecone"].state is Reached.CONFIRMED
    assert early.timed_out
    done = look(app, pg.version(NFL), timeout=None, sleep=by(index.server.admin.flush))
    assert done.sinks["pinecone"].state is Reached.VISIBLE


def test_a_deletion_is_waited_for_like_a_write(
    pg: DatabaseFixture,
    app: Application,
    index: PineconeHarness,
    deliver_vectors: Callable[[], None],
) -> None:
    pg.save(NFL)
    deliver_vectors()
    pg.delete(NFL)
    index.server.admin.set_faults([FaultRule("pinecone.delete", "lag", seconds=3600)])
    deliver_vectors()
    assert look(app, pg.version(NFL)).timed_out
    index.server.admin.flush()
    assert state(app, pg.version(NFL)) is Reached.VISIBLE


def test_a_server_without_the_header_leaves_it_at_confirmed(
    pg: DatabaseFixture,
    app: Application,
    index: PineconeHarness,
    deliver_vectors: Callable[[], None],
) -> None:
    index.server.admin.set_faults([FaultRule("pinecone.*", "bare")])
    pg.save(NFL)
    deliver_vectors()
    found = look(app, pg.version(NFL))
    assert (found.sinks["pinecone"].state, found.timed_out) == (Reached.CONFIRMED, False)
    assert found.sinks["pinecone"].reason == SILENT


def test_an_index_that_does_not_answer_is_queried_later(
    pg: DatabaseFixture,
    app: Application,
    index: PineconeHarness,
    deliver_vectors: Callable[[], None],
) -> None:
    pg.save(NFL)
    deliver_vectors()
    index.server.admin.set_faults([FaultRule("pinecone.query", "status", status=503)])
    found = look(app, pg.version(NFL))
    assert found.timed_out
    assert "503" in str(found.sinks["pinecone"].reason)
    index.server.admin.clear()
    assert state(app, pg.version(NFL)) is Reached.VISIBLE


def test_a_position_of_an_index_that_was_made_again_is_replaced(
    pg: DatabaseFixture, app: Application, deliver_vectors: Callable[[], None]
) -> None:
    """Its positions begin at 1, and would not reach the old one for long."""
    pg.save(NFL)
    deliver_vectors()
    pg.conn.execute("UPDATE visibility_mark SET mark = 10000000")
    assert look(app, pg.version(NFL)).timed_out
    pg.conn.execute("UPDATE visibility_mark SET written_at = now() - interval '11 minutes'")
    pg.save(league("nfl", tier="2"))
    deliver_vectors()
    assert state(app, pg.version(NFL)) is Reached.VISIBLE


def test_a_later_change_of_the_entity_does_not_hide_the_earlier_one(
    pg: DatabaseFixture, app: Application, deliver_vectors: Callable[[], None]
) -> None:
    """Both are delivered by one operation, which has the later version."""
    pg.save(NFL)
    mine = pg.version(NFL)
    pg.save(league("nfl", tier="2"))
    assert state(app, mine) is Reached.WAITING
    deliver_vectors()
    assert state(app, mine) is Reached.VISIBLE


def test_an_operation_that_waits_for_its_embedding_hands_its_version_over(
    pg: DatabaseFixture, app: Application, deliver_vectors: Callable[[], None]
) -> None:
    pg.save(NFL)
    deliver_vectors()
    pg.save(league("nfl", tier="2"))  # its text is the same
    mine = pg.version(NFL)
    pg.save(league("nfl", league_name="National Football League"))
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Superseded(op, "waits for its embedding", waits=True)])
    assert state(app, mine) is Reached.WAITING
    deliver_vectors()
    assert state(app, mine) is Reached.VISIBLE


def test_a_change_during_a_write_is_waited_for_alone(
    pg: DatabaseFixture, app: Application, database: Database
) -> None:
    pg.save(NFL)
    first = pg.version(NFL)
    embed(database)
    token, (op,) = pg.claim("pinecone")
    pg.save(league("nfl", tier="2"))
    assert state(app, first) is Reached.WAITING
    pg.settle(INDEX, token, [Synced(op, first)])
    assert state(app, first) is not Reached.WAITING
    assert state(app, pg.version(NFL)) is Reached.WAITING


def test_a_confirming_write_is_not_waited_for(
    pg: DatabaseFixture, app: Application, database: Database
) -> None:
    pg.save(NFL)
    embed(database)
    token, (op,) = pg.claim("pinecone")
    pg.settle(INDEX, token, [Synced(op, op.version, outcome_unknown=True)])
    assert pg.live("pinecone", "nfl").origin == "confirm"
    assert state(app, pg.version(NFL)) is not Reached.WAITING


def test_a_killed_worker_leaves_the_version_waiting(
    pg: DatabaseFixture, app: Application, deliver_vectors: Callable[[], None]
) -> None:
    """Before the settlement and after it."""
    pg.save(NFL)
    pg.claim("embedding")
    assert state(app, pg.version(NFL)) is Reached.WAITING
    pg.expire_leases()
    deliver_vectors()
    assert state(app, pg.version(NFL)) is Reached.VISIBLE


@pytest.mark.parametrize("point", [one for one in points.DELIVERY if one not in OPTIONAL])
def test_a_worker_killed_at_any_step_never_shows_what_is_not_there(
    pg: DatabaseFixture, app: Application, database: Database, index: PineconeHarness, point: str
) -> None:
    """Confirmation and position are written together, and the next worker writes both again."""
    index.server.admin.set_faults([FaultRule("pinecone.upsert", "lag", seconds=3600)])
    pg.save(NFL)
    embed(database)
    with pytest.raises(Killed):
        delivery(database, index.shared(), at=kill_at(point)).deliver_batch()
    settled = point in points.DELIVERED
    found = look(app, pg.version(NFL))
    assert found.sinks["pinecone"].state is (Reached.CONFIRMED if settled else Reached.WAITING)
    assert found.timed_out
    pg.expire_leases()
    deliver(database, index.shared())
    assert look(app, pg.version(NFL)).timed_out
    index.server.admin.flush()
    assert state(app, pg.version(NFL)) is Reached.VISIBLE


def test_dead_letters_fail_a_wait_until_they_are_retried(
    pg: DatabaseFixture, app: Application, deliver_vectors: Callable[[], None]
) -> None:
    pg.save(NFL)
    mine = pg.version(NFL)
    token, (op,) = pg.claim("embedding")
    pg.settle(
        TOPOLOGY.traits("embedding"), token, [Dead(op, op.version, ErrorKind.ITEM, "refused")]
    )
    found = look(app, mine)
    assert (found.failed, found.sinks["pinecone"].dead) == (True, 1)
    assert state(app, mine - 1) is not Reached.FAILED
    with pg.conn.transaction():
        retry_dead(pg.conn, dead_ids(pg.conn, Selection(), limit=10), app.topology)
    pg.save(league("nfl", tier="2"))
    assert state(app, mine) is Reached.WAITING
    deliver_vectors()
    assert state(app, mine) is Reached.VISIBLE


def test_a_version_that_does_not_exist_is_refused(pg: DatabaseFixture, app: Application) -> None:
    newest = newest_version(pg.conn)
    with pytest.raises(AltsyncError, match=f"no version {newest + 1} yet: the newest is {newest}"):
        look(app, newest + 1)


def test_a_sink_that_is_not_configured_is_refused(pg: DatabaseFixture, app: Application) -> None:
    with pytest.raises(ConfigurationError, match="neo4j"):
        altsync.wait(1, sinks=["neo4j"])


def test_versions_of_sinks_are_those_that_they_have_confirmed(
    pg: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    pg.save(NFL)
    before = pg.version(NFL)
    deliver(database, FakeGraph())
    pg.save(league("nba"))
    newest, sinks = confirmed_versions(pg.conn, TOPOLOGY, ["neo4j", "pinecone"])
    assert newest == newest_version(pg.conn)
    graph, vectors = sinks["neo4j"] or 0, sinks["pinecone"] or 0
    assert 0 < vectors < before <= graph < pg.version(league("nba"))
    embed(database)
    token, ops = pg.claim("pinecone")
    pg.settle(INDEX, token, [Synced(op, op.version) for op in ops])
    token, ops = pg.claim("neo4j")
    pg.settle(GRAPH, token, [Retry(op, ErrorKind.SINK, "down", 60.0) for op in ops])
    newest, sinks = confirmed_versions(pg.conn, TOPOLOGY, ["neo4j", "pinecone"])
    assert sinks["pinecone"] == newest
    assert (sinks["neo4j"] or newest) < newest
    monkeypatch.setattr(versions, "FAR_BEHIND", 0)
    assert confirmed_versions(pg.conn, TOPOLOGY, ["neo4j", "pinecone"])[1] == {
        "neo4j": None,
        "pinecone": newest,
    }


def test_a_program_reads_what_it_saved(
    pg: DatabaseFixture, app: Application, deliver_vectors: Callable[[], None]
) -> None:
    pg.save(NFL)
    saved = Changes(created=1, version=pg.version(NFL))
    with pytest.raises(altsync.WaitTimeout, match="pinecone: 1 operation waits"):
        altsync.wait(saved, sinks=["pinecone"], timeout=0)
    deliver_vectors()
    assert altsync.wait(saved) == {"embedding": "visible", "pinecone": "visible"}
    token, (op,) = pg.claim("neo4j")
    pg.settle(GRAPH, token, [Dead(op, op.version, ErrorKind.ITEM, "refused")])
    assert altsync.wait(saved, sinks=["pinecone"]) == {"pinecone": "visible"}


@pytest.mark.parametrize("json_too", [False, True])
def test_the_command_has_an_exit_status_for_each_end(
    pg: DatabaseFixture, app: Application, deliver_vectors: Callable[[], None], json_too: bool
) -> None:
    def run(*arguments: str) -> tuple[int, Any]:
        more = ["--json"] if json_too else []
        result = CliRunner().invoke(cli, ["wait", *arguments, *more])
        # The command logs to the runner's stderr, which is closed by now.
        logging.root.handlers[:] = [logging.NullHandler()]
        return result.exit_code, json.loads(result.stdout) if json_too else result.stdout

    pg.save(NFL)
    version = str(pg.version(NFL))
    code, out = run("--version", version, "--timeout", "0")
    assert code == 5
    assert (out["sinks"]["pinecone"]["waiting"] == 1) if json_too else ("waiting" in out)
    deliver_vectors()
    code, out = run("--sink", "pinecone")
    assert code == 0
    assert (out["sinks"]["pinecone"]["state"] == "visible") if json_too else ("visible" in out)
    pg.save(league("nba"))
    token, (op,) = pg.claim("embedding")
    pg.settle(
        TOPOLOGY.traits("embedding"), token, [Dead(op, op.version, ErrorKind.ITEM, "refused")]
    )
    assert run("--version", version)[0] == 0
    assert run()[0] == 4
    assert run("--version", str(10**18))[0] == 1
    assert run("--sink", "neo5j")[0] == 7


def test_seeding_waits_until_queries_show_its_lines(
    pg: DatabaseFixture,
    app: Application,
    index: PineconeHarness,
    deliver_vectors: Callable[[], None],
    tmp_path: Path,
) -> None:
    """``--wait`` alone ends at the confirmation, as ever."""

    def seed(*arguments: str) -> int:
        command = ["seed", "--all", "--dir", str(tmp_path), *arguments]
        result = CliRunner().invoke(cli, command)
        # The command logs to the runner's stderr, which is closed by now.
        logging.root.handlers[:] = [logging.NullHandler()]
        return result.exit_code

    write(tmp_path, "archetypes.jsonl", [archetype_line("a1", "team_sport")])
    write(tmp_path, "leagues/mine.jsonl", [league_line("nfl")])
    assert seed("--wait", "--timeout", "0") == 5
    index.server.admin.set_faults([FaultRule("pinecone.upsert", "lag", seconds=3600)])
    deliver_vectors()
    assert seed("--wait", "--timeout", "0") == 0
    assert seed("--wait=searchable", "--timeout", "0") == 5
    index.server.admin.flush()
    assert seed("--wait=searchable", "--timeout", "0") == 0
    assert seed("--wait=soon") == 2
    assert seed("--wait", "--wait=searchable") == 2
