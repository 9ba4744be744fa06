"""TLS that the settings require reaches every driver: nothing is said before the handshake.

A listener notes the first bytes that a real client sends, and hangs up.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from altsync import db, schema
from altsync.app import Application
from altsync.config import read_settings
from altsync.db import Database
from altsync.doctor import Health, check_services
from altsync.errors import SinkFailure
from altsync.sinks.neo4j import write as neo4j
from tests import sports

LOOPBACK = "127.0.0.1"

#: How a TLS record begins that carries a handshake (RFC 8446, 5.1).
HANDSHAKE = b"\x16\x03"

#: PostgreSQL's SSLRequest: 8 bytes long, code 80877103 (Frontend/Backend Protocol, 54.7).
SSL_REQUEST = (8).to_bytes(4) + (80877103).to_bytes(4)

#: A database without a client.
NOWHERE = f"postgresql://{LOOPBACK}:1/none"

#: Seconds that a client may take to say its first word.
TIMEOUT = 20.0


class Listener:
    """Answers SSLRequest by ``answer`` and hangs up after what comes next."""

    def __init__(self, listening: socket.socket, answer: bytes) -> None:
        self._listening = listening
        self._answer = answer
        self._said: list[bytes] = []
        self.port: int = listening.getsockname()[1]
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def heard(self) -> list[bytes]:
        """The client's messages; none when it did not connect or hung up."""
        self._thread.join()
        return self._said

    def _listen(self) -> None:
        with suppress(OSError):
            client, _ = self._listening.accept()
            self._listening.close()  # who tries again is refused at once
            with client:
                client.settimeout(TIMEOUT)
                self._said.append(client.recv(4096))
                if self._answer:
                    client.sendall(self._answer)
                    self._said.append(client.recv(4096))


@contextmanager
def listener(answer: bytes = b"") -> Iterator[Listener]:
    """A listener for one connection."""
    with socket.create_server((LOOPBACK, 0)) as listening:
        listening.settimeout(TIMEOUT)
        yield Listener(listening, answer)


def _pool(url: str) -> None:
    pool = Database(url)
    try:
        with pool.autocommit() as conn:
            conn.execute("SELECT 1")
    finally:
        pool.close()


def _session(url: str) -> None:
    db.connect(url).close()


def _migration(url: str) -> None:
    schema.migrate(url)


@pytest.mark.parametrize("connect", [_session, _migration])
@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_postgresql_is_asked_for_tls(
    connect: Callable[[str], None], mode: str, tmp_path: Path
) -> None:
    """By sessions and migrations: SSLRequest, then the handshake, and no name before it."""
    authority = tmp_path / "authority.pem"
    authority.touch()
    with listener(b"S") as server:
        url = f"postgresql://altsync:planted@{LOOPBACK}:{server.port}/db?sslmode={mode}"
        if mode == "require":
            with pytest.raises(Exception, match=r"(?i)ssl"):
                connect(url)
            said = server.heard()
            assert said[0] == SSL_REQUEST
            assert said[1].startswith(HANDSHAKE)
        else:
            with pytest.raises(Exception, match=r"authority\.pem"):
                connect(f"{url}&sslrootcert={authority}")
            assert server.heard()[:1] == [SSL_REQUEST]


def test_a_postgresql_without_tls_is_refused() -> None:
    """The requirement stays: after the refusal, nothing more is sent."""
    with listener(b"N") as server:
        url = f"postgresql://altsync:planted@{LOOPBACK}:{server.port}/db?sslmode=require"
        with pytest.raises(psycopg.OperationalError, match="does not support SSL"):
            _session(url)
        assert server.heard() == [SSL_REQUEST, b""]


def test_the_pool_asks_for_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """As sessions do."""
    monkeypatch.setattr(db, "CONNECT_TIMEOUT", 1)
    with listener(b"N") as server:
        url = f"postgresql://altsync:planted@{LOOPBACK}:{server.port}/db?sslmode=require"
        with pytest.raises(psycopg.OperationalError):
            _pool(url)
        assert server.heard() == [SSL_REQUEST, b""]


def test_the_broker_is_spoken_to_by_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Celery, which relay and workers send and receive with."""
    with listener() as server:
        monkeypatch.setenv("REDIS_URL", f"rediss://:planted@{LOOPBACK}:{server.port}/0")
        from altsync.workers.app import create  # the module makes an app of the settings it finds

        app = create(read_settings())
        with (
            app.connection_for_write() as connection,
            pytest.raises(Exception, match=r"SSL|EOF|refused"),
        ):
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        assert server.heard()[0].startswith(HANDSHAKE)


def test_the_doctor_asks_the_broker_by_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says so when it does not answer."""
    with listener() as server:
        monkeypatch.setenv("REDIS_URL", f"rediss://:planted@{LOOPBACK}:{server.port}/0")
        findings = {one.name: one for one in check_services(Application())}
        assert findings["Redis"].health is Health.FAILED
        assert "planted" not in str(findings)
        assert server.heard()[0].startswith(HANDSHAKE)


@pytest.mark.parametrize("scheme", ["bolt+s", "bolt+ssc", "neo4j+s"])
def test_the_graph_is_spoken_to_by_tls(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """With a certificate that is checked, or (+ssc) one that signed itself."""
    with listener() as server:
        monkeypatch.setenv("NEO4J_URI", f"{scheme}://{LOOPBACK}:{server.port}")
        monkeypatch.setenv("NEO4J_PASSWORD", "planted")
        monkeypatch.setenv("DATABASE_URL", NOWHERE)
        app = Application()
        sink = app.sink("neo4j")
        assert isinstance(sink, neo4j.Sink)
        with pytest.raises(SinkFailure):
            sink.find(sports.LEAGUE, "formula_1")
        app.close()
        assert server.heard()[0].startswith(HANDSHAKE)


def test_providers_are_spoken_to_by_tls() -> None:
    """Unless the settings name another address."""
    assert read_settings().openai_base_url.startswith("https://")
