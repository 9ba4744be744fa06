"""The embedded stack as a whole, seen by the real clients."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import neo4j
import psutil
import psycopg
import pytest
import redis
from openai import OpenAI
from pinecone import Pinecone, ServerlessSpec

from altsync.local import processes
from altsync.local.errors import LocalStackError
from altsync.local.processes import Identity
from altsync.local.records import RecordBook
from altsync.local.runtime import account_for
from altsync.local.services.base import ServiceStatus
from altsync.local.services.broker import Broker
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors
from altsync.local.stack import LocalStack

pytestmark = pytest.mark.slow

#: Seconds for things that happen by themselves; far more than they need.
TIMEOUT = 30.0

#: A command of its own that brings named services up.
UP = """
import sys
from pathlib import Path
from altsync.local.stack import SERVICES, LocalStack
LocalStack(Path(sys.argv[1]), [kind for kind in SERVICES if kind.name in sys.argv[2:]]).up()
"""

#: The same with a PostgreSQL that never gets ready.
UP_FOR_EVER = UP.replace(
    "LocalStack(Path",
    "from altsync.local.services.postgres import Postgres\n"
    "Postgres.answers = lambda self: False\n"
    "LocalStack(Path",
)

NAMES = ["postgresql", "redis", "graph", "vectors"]


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _states(statuses: list[ServiceStatus]) -> dict[str, str]:
    return {status.name: status.state for status in statuses}


def _pids(statuses: list[ServiceStatus]) -> dict[str, int | None]:
    return {status.name: status.pid for status in statuses}


def _listeners(pid: int) -> dict[int, str]:
    """Return the ports of a process and its children, with the address of each."""
    process = psutil.Process(pid)
    return {
        connection.laddr.port: connection.laddr.ip
        for one in (process, *process.children(recursive=True))
        for connection in one.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def _left_over(home: Path) -> list[Identity]:
    return [one for name in NAMES for one in processes.servers_of(home.absolute() / name)]


def _write(env: dict[str, str], value: str) -> None:
    """Put a value into each of the four services through its own client."""
    with psycopg.connect(env["DATABASE_URL"]) as session:
        session.execute("CREATE TABLE IF NOT EXISTS kept (value text)")
        session.execute("TRUNCATE kept")
        session.execute("INSERT INTO kept VALUES (%s)", [value])
    with redis.Redis.from_url(env["REDIS_URL"]) as broker:
        broker.set("kept", value)
    with _driver(env) as driver:
        driver.execute_query(
            "MERGE (k:Kept {id: 1}) SET k.value = $value",
            value=value,
            database_=env["NEO4J_DATABASE"],
        )
    with _pinecone(env) as client:
        if not client.has_index("kept"):
            client.create_index(
                "kept", dimension=2, spec=ServerlessSpec(cloud="aws", region="us-east-1")
            )
        client.index("kept").upsert(vectors=[("kept", [1.0, 2.0], {"value": value})])


def _read(env: dict[str, str]) -> list[str]:
    """The value that each of the four services holds."""
    with psycopg.connect(env["DATABASE_URL"]) as session:
        row = session.execute("SELECT value FROM kept").fetchone()
    with redis.Redis.from_url(env["REDIS_URL"], decode_responses=True) as broker:
        message = broker.get("kept")
    with _driver(env) as driver:
        records = driver.execute_query(
            "MATCH (k:Kept) RETURN k.value AS value", database_=env["NEO4J_DATABASE"]
        ).records
    with _pinecone(env) as client:
        vector = client.index("kept").fetch(ids=["kept"]).vectors["kept"]
    assert vector.metadata is not None
    return [str(row and row[0]), str(message), records[0]["value"], vector.metadata["value"]]


def _driver(env: dict[str, str]) -> neo4j.Driver:
    return neo4j.GraphDatabase.driver(
        env["NEO4J_URI"], auth=(env["NEO4J_USERNAME"], env["NEO4J_PASSWORD"])
    )


def _pinecone(env: dict[str, str]) -> Pinecone:
    return Pinecone(api_key=env["PINECONE_API_KEY"], host=env["PINECONE_CONTROLLER_HOST"])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with spaces, closed to others, and too long for a Unix socket."""
    return tmp_path_factory.mktemp("stack") / ("a long name " * 10).strip() / ".altsync"


@pytest.fixture(scope="module")
def stack(home: Path) -> Iterator[LocalStack]:
    """A stack that one test after the other finds up."""
    stack = LocalStack(home)
    yield stack
    stack.down()


@pytest.fixture
def env(stack: LocalStack) -> dict[str, str]:
    """The stack, up, and where its services are."""
    stack.up()
    return stack.env()


def test_every_client_works(env: dict[str, str]) -> None:
    """PostgreSQL, Redis, graph, vectors and embeddings answer the real clients."""
    _write(env, "first")
    assert set(_read(env)) == {"first"}
    with OpenAI(api_key=env["OPENAI_API_KEY"], base_url=env["OPENAI_BASE_URL"]) as client:
        answer = client.embeddings.create(model=env["ALTSYNC_EMBEDDING_MODEL"], input="league")
    assert len(answer.data[0].embedding) == 1536


def test_postgresql_is_set_up_as_altsync_needs_it(env: dict[str, str]) -> None:
    """A password over TCP, UTF-8, UTC, durable writes, and room for many workers."""
    with psycopg.connect(env["DATABASE_URL"]) as session:
        names = ("server_encoding", "TimeZone", "fsync", "max_connections", "synchronous_commit")
        shown = [session.execute(f"SHOW {name}").fetchone() for name in names]
        assert [row and row[0] for row in shown] == ["UTF8", "UTC", "on", "200", "on"]
        assert session.execute("SELECT current_database()").fetchone() == ("altsync",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(env["DATABASE_URL"].replace(":local-", ":wrong-"))


def test_up_again_changes_nothing(stack: LocalStack, env: dict[str, str]) -> None:
    """A second ``up`` leaves the same processes and addresses, and reports all four."""
    before = _pids(stack.status())
    heard: list[ServiceStatus] = []
    assert _pids(stack.up(heard.append)) == before
    assert sorted(status.name for status in heard) == sorted(NAMES)
    assert stack.env() == env


def test_status_says_what_runs_where(stack: LocalStack, env: dict[str, str]) -> None:
    """Name, flavour, state, process, address and log of each service."""
    statuses = stack.status()
    assert [status.name for status in statuses] == NAMES
    assert [status.flavour.split()[0] for status in statuses] == [
        "PostgreSQL",
        statuses[1].flavour.split()[0],
        "ArcadeDB",
        "altsync",
    ]
    assert set(_states(statuses).values()) == {"running"}
    assert statuses[0].address in env["DATABASE_URL"]
    assert all(status.log == stack.logs()[status.name] for status in statuses)
    assert all(status.log.is_file() for status in statuses)


def test_nothing_listens_beyond_loopback(stack: LocalStack, env: dict[str, str]) -> None:
    """Every port of every process of the stack is bound to a loopback address."""
    for status in stack.status():
        found = _listeners(status.pid or 0)
        assert int(status.address.rpartition(":")[2]) in found
        for address in found.values():
            assert ip_address(address.removeprefix("::ffff:")).is_loopback, status.name


def test_secrets_are_private(stack: LocalStack, env: dict[str, str]) -> None:
    """Files with passwords are the owner's alone, and no command line shows one."""
    files = ("local.json", "local.env", "graph/root.password", "vectors/api.key")
    for name in (*files, "postgresql/superuser.password", "redis/redis.conf"):
        assert stat.S_IMODE((stack.home / name).stat().st_mode) == 0o600
    secrets = {env["NEO4J_PASSWORD"], env["PINECONE_API_KEY"]}
    secrets |= {env[name].split(":")[2].split("@")[0] for name in ("DATABASE_URL", "REDIS_URL")}
    secrets.add((stack.home / "postgresql" / "superuser.password").read_text())
    for status in stack.status():
        command = " ".join(psutil.Process(status.pid).cmdline())
        assert not any(secret in command for secret in secrets)
        assert not any(secret in status.log.read_text() for secret in secrets)


def test_the_env_file_is_what_other_commands_read(stack: LocalStack, env: dict[str, str]) -> None:
    """``local.env`` holds exactly the variables, one for each line."""
    lines = (stack.home / "local.env").read_text().splitlines()
    assert dict(line.split("=", 1) for line in lines) == env
    assert (stack.home / ".gitignore").read_text() == "*\n"


def test_data_survive_kill_9_of_every_service(stack: LocalStack, env: dict[str, str]) -> None:
    """Killed services are seen as crashed, and ``up`` brings them back where they were."""
    _write(env, "before the crash")
    killed = stack.status()
    for status in killed:
        os.kill(status.pid or 0, signal.SIGKILL)
    _eventually(lambda: set(_states(stack.status()).values()) == {"crashed"})
    stack.up()
    assert set(_states(stack.status()).values()) == {"running"}
    assert stack.env() == env
    assert set(_read(env)) == {"before the crash"}


def test_only_the_crashed_service_is_started_again(stack: LocalStack, env: dict[str, str]) -> None:
    """The other services are left alone."""
    before = _pids(stack.status())
    os.kill(before["redis"] or 0, signal.SIGKILL)
    _eventually(lambda: _states(stack.status())["redis"] == "crashed")
    after = _pids(stack.up())
    assert {name for name in NAMES if after[name] != before[name]} == {"redis"}


def test_down_and_up_keep_data_and_ports(stack: LocalStack, env: dict[str, str]) -> None:
    """``down`` leaves no process and no ``local.env``; ``up`` brings everything back.

    Of two ``up`` at the same time, the second finds everything running. The graph goes on
    meanwhile: it has shown that it survives worse, and takes the longest to start.
    """
    _write(env, "kept")
    others = LocalStack(stack.home, [Postgres, Broker, Vectors])
    for _ in range(2):
        assert set(_states(others.down()).values()) == {"stopped"}
    assert _states(stack.status()) == dict.fromkeys(NAMES, "stopped") | {"graph": "running"}
    assert len(_left_over(stack.home)) == 1
    assert not (stack.home / "local.env").exists()

    with ThreadPoolExecutor(2) as pool:
        ups = [pool.submit(LocalStack(stack.home).up) for _ in range(2)]
        first, second = (up.result() for up in ups)
    assert _pids(first) == _pids(second)
    running = {one.pid for one in _left_over(stack.home)}
    # PostgreSQL's children hold its lock as well.
    assert {pid for pid in running if psutil.Process(pid).ppid() not in running} == set(
        _pids(first).values()
    )
    assert stack.env() == env
    assert set(_read(env)) == {"kept"}


def test_a_process_that_got_the_number_of_ours_is_left_alone(
    stack: LocalStack, env: dict[str, str]
) -> None:
    """A reused process number is neither taken for the service nor killed."""
    book = RecordBook(stack.home / "local.json")
    record = book.load("redis")
    assert record is not None
    stranger = Identity(os.getpid(), psutil.Process().create_time() - 3600)
    book.save("redis", replace(record, process=stranger))
    assert _states(stack.status())["redis"] == "crashed"
    stack.up()
    assert _states(stack.status())["redis"] == "running"
    # The server whose record was lost was found by its folder, and made room.
    assert len(processes.servers_of(stack.home / "redis")) == 1


def test_reset_deletes_everything(stack: LocalStack, env: dict[str, str]) -> None:
    """After a reset there are no processes, no data and no passwords."""
    _write(env, "doomed")
    stack.reset()
    assert _left_over(stack.home) == []
    assert not any((stack.home / name).exists() for name in (*NAMES, "local.json", "local.env"))
    with pytest.raises(LocalStackError, match="never started"):
        stack.env()
    assert set(_states(stack.status()).values()) == {"stopped"}


def test_the_stack_outlives_its_command_but_not_an_interrupted_one(tmp_path: Path) -> None:
    """Ctrl-C while starting leaves nothing behind; a finished command leaves a running stack."""
    home = tmp_path / "home"
    book = RecordBook(home / "local.json")
    command = [sys.executable, "-c", UP_FOR_EVER, str(home), "postgresql", "redis"]

    def spawned() -> bool:
        record = book.load("postgresql")
        return record is not None and record.process is not None

    interrupted = subprocess.Popen(command, stderr=subprocess.PIPE)
    _eventually(spawned)
    interrupted.send_signal(signal.SIGINT)
    # A server that is just starting may miss the signal that ends it, and is killed in the end.
    _, errors = interrupted.communicate(timeout=3 * Postgres.stop_seconds)
    assert (interrupted.returncode, b"KeyboardInterrupt" in errors) == (-signal.SIGINT, True)
    assert _left_over(home) == []
    assert not (home / "local.env").exists()

    subprocess.run([sys.executable, "-c", UP, str(home), "redis"], check=True, timeout=TIMEOUT)
    stack = LocalStack(home, [Broker])
    try:
        assert _states(stack.status()) == {"redis": "running"}
        with redis.Redis.from_url(stack.env()["REDIS_URL"]) as broker:
            assert broker.ping()
    finally:
        stack.down()


def test_a_service_that_cannot_start_takes_the_others_down(tmp_path: Path) -> None:
    """The error names the log and shows its end; nothing is left half started."""
    stack = LocalStack(tmp_path, [Postgres, Broker])
    data = tmp_path / "postgresql" / "data"
    data.mkdir(parents=True)
    if account := account_for(tmp_path / "none yet"):
        os.chown(data, account.uid, account.gid)
    with pytest.raises(LocalStackError, match="postgresql ended while it was starting") as caught:
        stack.up()
    assert str(stack.logs()["postgresql"]) in str(caught.value)
    assert "postgresql.conf" in str(caught.value)
    assert _left_over(tmp_path) == []
    assert "running" not in _states(stack.status()).values()
