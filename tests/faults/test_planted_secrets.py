"""Servers that repeat every secret in their errors: nothing that is shown contains one."""

from __future__ import annotations

import base64
import json
import struct
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import redis

from altsync.circuit.pause import pause
from altsync.local.ports import accepts, free_ports
from altsync.local.records import Record, RecordBook
from altsync.local.services.broker import Broker
from altsync.local.services.postgres import Postgres
from tests.acceptance.seeds import league, write
from tests.acceptance.stack import SINKS, Running, Stack, worker_arguments
from tests.contract.doubles import Canned, CannedServer, canned_server, json_answer
from tests.proxy import LOOPBACK

pytestmark = pytest.mark.slow

LEAGUES = 3

#: Words in the text of one of the new leagues, and in no other text.
NAME = f"League {LEAGUES:05}".encode()

#: Numbers of a vector.
DIMENSIONS = 1536

#: A secret of every client; none of them has a form by which it could be told.
SECRETS = {name: f"planted.{name}.7f3a9c" for name in ("postgres", "redis", "neo4j")} | {
    name: f"planted.{name}.7f3a9c.key" for name in ("pinecone", "openai")
}

#: Pages and questions of the dashboard that tell of failures.
PAGES = ("/", "/api/overview", "/api/failures", "/api/operations", "/metrics", "/readyz")


@dataclass(frozen=True)
class House:
    """A stack whose clients all have planted secrets, and a server that repeats them."""

    stack: Stack
    settings: Mapping[str, str]
    broker: redis.Redis
    server: CannedServer
    redis: Broker

    @property
    def env(self) -> dict[str, str]:
        """The environment of commands."""
        return {**self.stack.env, **self.settings}

    def start(self, name: str, module: str, *arguments: str) -> Running:
        """A process with the planted secrets."""
        return self.stack.start(name, module, *arguments, env=self.env)

    def repeat_secrets(self, status: int) -> None:
        """From now on every call is answered with this status, and with everything secret."""
        told = ", ".join(SECRETS.values())
        body = f'{{"error": {{"message": "no, {told}", "code": "{told}"}}, "status": {status}}}'
        self.server.answer = Canned(status, body.encode(), {"content-type": "application/json"})


@pytest.fixture
def house(stack: Stack, tmp_path: Path) -> Iterator[House]:
    """Planted secrets in PostgreSQL, Redis, Neo4j, Pinecone and OpenAI."""
    postgres = urlsplit(stack.addresses["DATABASE_URL"])
    with (
        role(stack, SECRETS["postgres"]) as name,
        redis_with_password(tmp_path / "redis", SECRETS["redis"]) as broker,
        canned_server() as server,
    ):
        client = redis.Redis(broker.host, broker.port, password=SECRETS["redis"])
        login = f"{name}:{SECRETS['postgres']}@{postgres.hostname}:{postgres.port}"
        settings = {
            "DATABASE_URL": postgres._replace(netloc=login).geturl(),
            "REDIS_URL": f"redis://:{SECRETS['redis']}@{broker.host}:{broker.port}/0",
            "NEO4J_URI": stack.addresses["NEO4J_URI"],
            "NEO4J_USERNAME": "unknown",
            "NEO4J_PASSWORD": SECRETS["neo4j"],
            "NEO4J_DATABASE": stack.addresses["NEO4J_DATABASE"],
            "PINECONE_API_KEY": SECRETS["pinecone"],
            "PINECONE_CONTROLLER_HOST": server.url,
            "OPENAI_API_KEY": SECRETS["openai"],
            "OPENAI_BASE_URL": f"{server.url}/v1",
            "ALTSYNC_EMBEDDING_MODEL": stack.addresses["ALTSYNC_EMBEDDING_MODEL"],
            "ALTSYNC_LOG_LEVEL": "DEBUG",
            "ALTSYNC_MAX_ATTEMPTS": "2",
            "ALTSYNC_BACKOFF_SECONDS": "0.05",
            "ALTSYNC_BREAKER_CAP_SECONDS": "0.2",
        }
        yield House(stack, settings, client, server, broker)
        stack.kill_all()
        client.close()


def redis_with_password(folder: Path, password: str, at: tuple[int, ...] = ()) -> Broker:
    """A Redis that asks for this password."""
    book = RecordBook(folder / "service.json")
    book.save("redis", Record(at or free_ports(1, LOOPBACK), password))
    return Broker(folder, book)


@contextmanager
def role(stack: Stack, password: str) -> Iterator[str]:
    """An account of PostgreSQL with this password."""
    as_superuser(stack, f"CREATE ROLE planted LOGIN SUPERUSER PASSWORD '{password}'")
    yield "planted"
    stack.kill_all()
    as_superuser(stack, "DROP ROLE planted")


def as_superuser(stack: Stack, statement: str) -> None:
    """Do what altsync's own role may not."""
    home = stack.folders.home
    server = Postgres(home / "postgresql", RecordBook(home / "local.json"))
    with psycopg.connect(server.superuser_url, autocommit=True) as conn:
        conn.execute(statement)


@pytest.mark.dies(1)
def test_no_secret_is_shown_anywhere(house: House, folder: Path) -> None:
    """Not in logs, tables, messages of Celery and their headers, commands or the dashboard."""
    stack = house.stack
    seed_so_that_every_sink_is_asked(house, folder)
    seen: dict[str, str] = {}
    with house.broker.pubsub() as events:  # type: ignore[no-untyped-call]
        events.psubscribe("*")
        relay = house.start("relay", "altsync", "relay")
        stack.until(lambda: all(house.broker.llen(sink) for sink in SINKS), "wake-ups in Redis")
        seen["messages"] = everything_in(house.broker)
        house.repeat_secrets(401)
        worker = house.start("worker", "celery", *worker_arguments(size=3))
        stack.until(lambda: broken(stack) == set(SINKS), "open breakers")
        house.repeat_secrets(400)
        # An index that takes nothing is at fault itself; texts are, where others pass.
        house.server.by_body = embed_other_texts
        stack.until(lambda: dead(stack) == {"embedding": 1}, "the dead")
        for sink in SINKS:
            pause(stack.postgres, sink, "until everything is read")
        seen["events"] = heard(events)
    seen["tables"] = tables(stack)
    seen |= commands(house)
    seen |= pages(house)
    lose_logins(house, relay, worker)
    seen |= {process.log.name: process.output for process in stack.running}

    assert "altsync.sync_batch" in seen["messages"]
    assert "task-succeeded" in seen["events"]
    for place in ("tables", "failures", "/api/failures", worker.log.name):
        assert "***" in seen[place], place
    assert [(place, form) for place, text in seen.items() for form in forms() if form in text] == []


def seed_so_that_every_sink_is_asked(house: House, folder: Path) -> None:
    """Leagues that wait for the index alone, and others that wait for their embeddings."""
    stack = house.stack
    processes = [stack.start_relay(), stack.start_worker()]
    lines = [league(number) for number in range(LEAGUES)]
    write(folder, "leagues/some.jsonl", lines)
    stack.seed("--leagues", "--dir", str(folder), "--wait")
    for process in processes:
        process.kill()
    edited = [{**line, "tier": "TIER9"} for line in lines]
    new = [league(LEAGUES + number) for number in range(LEAGUES)]
    write(folder, "leagues/some.jsonl", [*edited, *new])
    stack.seed("--leagues", "--dir", str(folder), env=house.env)


def embed_other_texts(path: str, body: bytes) -> Canned | None:
    """Answer a request for embeddings, unless it is about one of the new leagues."""
    if not path.endswith("/embeddings") or NAME in body:
        return None
    vector = base64.b64encode(struct.pack("<f", 1.0) * DIMENSIONS).decode()
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, _ in enumerate(json.loads(body)["input"])
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    return json_answer({"object": "list", "data": data, "model": "m", "usage": usage})


def broken(stack: Stack) -> set[str]:
    """Sinks whose breakers are not closed, each with a reason."""
    rows = stack.rows("SELECT sink FROM sink_state WHERE state <> 'closed' AND reason IS NOT NULL")
    return {row[0] for row in rows}


def dead(stack: Stack) -> dict[str, int]:
    """Operations that were given up on, by sink."""
    return dict(
        stack.rows("SELECT sink, count(*) FROM sync_operation WHERE status = 'dead' GROUP BY 1")
    )


def everything_in(broker: redis.Redis) -> str:
    """Every message that waits, with its headers and its body."""
    queued = (part for sink in SINKS for part in broker.lrange(sink, 0, -1))
    return "\n".join(plain(part.decode() if isinstance(part, bytes) else part) for part in queued)


def plain(text: str) -> str:
    """A message with its body, which Celery encodes."""
    try:
        return text + base64.b64decode(json.loads(text)["body"]).decode()
    except (ValueError, KeyError, TypeError):
        return text


def heard(events: redis.client.PubSub) -> str:
    """Return the events that workers have sent to monitors."""
    told = []
    while message := events.get_message(timeout=1.0):
        data = message["data"]
        told.append(plain(data.decode(errors="replace")) if isinstance(data, bytes) else "")
    return "\n".join(told)


def tables(stack: Stack) -> str:
    """Every row of every table."""
    found = stack.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = (row for (name,) in found for row in stack.rows(f"SELECT t::text FROM {name} t"))
    return "\n".join(row[0] for row in rows)


def commands(house: House) -> dict[str, str]:
    """Return the output that people see."""
    found = {}
    for command, code in (("status", 0), ("failures", 0), ("why league_00000", 0), ("verify", 1)):
        ended = house.stack.run(*command.split(), code=code, env=house.env)
        found[command] = ended.stdout + ended.stderr
    return found


def pages(house: House) -> dict[str, str]:
    """Return the dashboard's answers."""
    (port,) = free_ports(1, LOOPBACK)
    process = house.start("dashboard", "altsync", "dashboard", "--port", str(port))
    house.stack.until(lambda: accepts(port, LOOPBACK), "the dashboard")
    house.stack.until(lambda: "Sign in by " in process.output, "the dashboard's link")
    direct = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor()
    )
    direct.open(process.output.split("Sign in by ")[1].split()[0], timeout=60).close()
    found = {}
    for page in PAGES:
        with direct.open(f"http://{LOOPBACK}:{port}{page}", timeout=60) as answer:
            found[page] = answer.read().decode()
    process.end()
    return found


def lose_logins(house: House, relay: Running, worker: Running) -> None:
    """PostgreSQL and Redis refuse the passwords that they took before."""
    stack = house.stack
    as_superuser(stack, "ALTER ROLE planted PASSWORD 'another'")
    as_superuser(
        stack,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'planted'",
    )
    house.redis.stop()
    redis_with_password(house.redis.folder, "another", house.redis.record.ports).start()
    stack.until(lambda: "relay.disconnected" in relay.output, "a relay without PostgreSQL")
    stack.until(lambda: "invalid username-password" in worker.output, "a worker without Redis")


def forms() -> list[str]:
    """Every secret as it is, in a URL, and as logins are sent."""
    plain_forms = [*SECRETS.values(), *(quote(secret, safe="") for secret in SECRETS.values())]
    return [*plain_forms, *(base64.b64encode(s.encode()).decode() for s in SECRETS.values())]
