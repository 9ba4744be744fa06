"""A relay and a Celery worker find Redis through its Sentinel, before and after a failover."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from redis.sentinel import MasterNotFoundError, Sentinel

from altsync.local.services.broker import Broker
from altsync.local.services.vectors import Vectors
from tests.contract.doubles import closed_port
from tests.integration.database_fixture import eventually

pytestmark = pytest.mark.slow

MASTER = "altsync-test"
PASSWORD = "a-password-of-redis"

#: Seconds for things that happen by themselves; far more than they need.
TIMEOUT = 120.0

ARCHETYPE = {"archetype_name": "racing", "display_name": "Racing", "code_pattern": "R"}


@contextmanager
def running(
    command: list[str], folder: Path, name: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own whose output is in a file."""
    with (
        (folder / f"{name}.log").open("wb") as log,
        subprocess.Popen(
            command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def master_of(watcher: Any) -> Any:
    """The address of the master that the Sentinel names; None while there is none."""
    try:
        return watcher.discover_master(MASTER)
    except (redis.RedisError, MasterNotFoundError):
        return None


@contextmanager
def servers(program: str, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    """A Redis with a replica, and a Sentinel that promotes it within seconds."""
    first, second, port = closed_port(), closed_port(), closed_port()
    shared = f"bind 127.0.0.1\nrequirepass {PASSWORD}\nmasterauth {PASSWORD}\ndir {folder}\n"
    files = {
        "first": f"{shared}port {first}\ndbfilename first.rdb\n",
        "second": f"{shared}port {second}\ndbfilename second.rdb\nreplicaof 127.0.0.1 {first}\n",
        "sentinel": (
            f"bind 127.0.0.1\nport {port}\ndir {folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {first} 1\n"
            f"sentinel auth-pass {MASTER} {PASSWORD}\n"
            f"sentinel down-after-milliseconds {MASTER} 1000\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        ),
    }
    with ExitStack() as stack:
        started = {}
        for name, text in files.items():
            path = folder / f"{name}.conf"
            path.write_text(text)
            mode = ["--sentinel"] if name == "sentinel" else []
            one = running([program, str(path), *mode], folder, name)
            started[name] = stack.enter_context(one)
        watcher: Any = Sentinel([("127.0.0.1", port)], socket_timeout=2)  # type: ignore[no-untyped-call]

        eventually(lambda: master_of(watcher) and watcher.discover_slaves(MASTER), TIMEOUT)
        watcher.address = f"sentinel://:{PASSWORD}@127.0.0.1:{port}"
        yield started["first"], watcher


def league(number: int) -> str:
    return json.dumps(
        {
            "id": f"l{number}",
            "league_name": f"League {number}",
            "sport_name": "Racing",
            "sport_archetype": "racing",
            "status": "active",
        }
    )


def test_seeds_are_delivered_before_and_after_a_failover(
    empty_database_url: str, redis_server: Broker, vectors_server: Vectors, tmp_path: Path
) -> None:
    if "fakeredis" in redis_server.flavour:
        pytest.skip("Sentinel is a part of Redis itself")
    seeds = tmp_path / "seeds"
    (seeds / "leagues").mkdir(parents=True)
    (seeds / "archetypes.jsonl").write_text(json.dumps({"id": "a", **ARCHETYPE}))
    with ExitStack() as stack:
        program = redis_server.command()[0]
        first, watcher = stack.enter_context(servers(program, tmp_path))
        before = master_of(watcher)
        env = {
            **os.environ,
            **vectors_server.env,
            "DATABASE_URL": empty_database_url,
            "ALTSYNC_BROKER_URL": watcher.address,
            "ALTSYNC_SENTINEL_MASTER": MASTER,
            "ALTSYNC_SINKS": "embedding",
            "ALTSYNC_SIMILARITY": "false",
        }

        def altsync(*arguments: str) -> dict[str, Any]:
            command = [sys.executable, "-m", "altsync", *arguments]
            done = subprocess.run(
                command, env=env, cwd=tmp_path, capture_output=True, timeout=TIMEOUT, check=False
            )
            assert done.returncode == 0, done
            return json.loads(done.stdout) if done.stdout else {}

        def seed(number: int) -> None:
            (seeds / "leagues" / f"{number}.jsonl").write_text(league(number))
            report = altsync("seed", "--all", "--wait", "--timeout", "100", "--json")
            assert report["created"] > 0

        altsync("migrate")
        relay = [sys.executable, "-m", "altsync", "relay"]
        worker = [sys.executable, "-m", "celery", "-A", "altsync.workers.app", "worker"]
        worker += ["--pool", "threads", "--concurrency", "1", "--loglevel", "info"]
        stack.enter_context(running(relay, tmp_path, "relay", env))
        stack.enter_context(running(worker, tmp_path, "worker", env))

        seed(1)
        first.kill()
        eventually(lambda: master_of(watcher) not in (None, before), TIMEOUT)
        seed(2)

        with psycopg.connect(empty_database_url) as conn:
            query = "SELECT count(*) FROM league WHERE embedding_sync_status = 'synced'"
            assert conn.execute(query).fetchone() == (2,)
