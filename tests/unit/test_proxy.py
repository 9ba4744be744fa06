"""The proxy that fault tests and benchmarks put between a client and its server."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.contract.doubles import closed_port
from tests.proxy import LOOPBACK, Proxy, proxy

#: Seconds after which a call that should have been answered is a failure.
TIMEOUT = 30.0


class Echo:
    """A server that answers each chunk with itself, and keeps what reached it."""

    def __init__(self) -> None:
        self.received = b""
        self._listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection = self._listener.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._echo, args=(connection,), daemon=True).start()

    def _echo(self, connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65_536):
                    self.received += data
                    connection.sendall(data)
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    """The server behind the proxy."""
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def relay(echo: Echo) -> Iterator[Proxy]:
    """The proxy in front of it."""
    with proxy(LOOPBACK, echo.port) as running:
        yield running


@pytest.fixture
def client(relay: Proxy) -> Iterator[socket.socket]:
    """A client of the proxy."""
    with socket.create_connection((LOOPBACK, relay.port), timeout=TIMEOUT) as connection:
        yield connection


def answer(client: socket.socket, request: bytes) -> bytes:
    """Return the answer to a request, or the part that came until the connection ended."""
    client.sendall(request)
    return read(client, len(request))


def read(client: socket.socket, size: int) -> bytes:
    """This many bytes, or what came until the connection ended."""
    data = b""
    while len(data) < size and (more := client.recv(65_536)):
        data += more
    return data


def test_everything_passes(client: socket.socket) -> None:
    """More than any buffer on the way holds, in order."""
    data = bytes(range(256)) * 40_000
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    assert read(client, len(data)) == data
    sender.join()


def test_a_delay_is_added_once_to_what_is_pipelined(relay: Proxy, client: socket.socket) -> None:
    """Forty requests without waiting for answers are late by one delay, not by forty."""
    relay.delay = 0.3
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    began = time.monotonic()
    for _ in range(40):
        client.sendall(b"x" * 1000)
    assert read(client, 40_000) == b"x" * 40_000
    assert relay.delay <= time.monotonic() - began < 40 * relay.delay


def test_a_slow_line(relay: Proxy, client: socket.socket) -> None:
    """Both ways take their time, and nothing is lost."""
    relay.bytes_per_second = 20_000
    began = time.monotonic()
    assert answer(client, b"x" * 2_000) == b"x" * 2_000
    assert time.monotonic() - began >= 2_000 / relay.bytes_per_second


def test_answers_are_held_back_and_come_later(
    echo: Echo, relay: Proxy, client: socket.socket
) -> None:
    """The request has reached the server all the same."""
    relay.stalled = True
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        answer(client, b"late")
    assert echo.received == b"late"
    relay.stalled = False
    client.settimeout(TIMEOUT)
    assert read(client, 4) == b"late"


def test_a_reset_and_an_orderly_end(relay: Proxy, client: socket.socket) -> None:
    """Every connection is cut at once, and the next one works."""
    assert answer(client, b"one") == b"one"
    relay.cut()
    with pytest.raises(ConnectionResetError):
        answer(client, b"two")
    with socket.create_connection((LOOPBACK, relay.port), timeout=TIMEOUT) as other:
        assert answer(other, b"three") == b"three"
        relay.cut(reset=False)
        assert other.recv(1) == b""
    assert relay.cuts == 2


def test_a_request_that_is_never_relayed(echo: Echo, relay: Proxy, client: socket.socket) -> None:
    """The client loses its connection, and the server hears nothing."""
    relay.cuts_on_request = True
    assert answer(client, b"unheard") == b""
    assert echo.received == b""


@pytest.mark.parametrize("parts", [(b"COMMIT",), (b"..COM", b"MIT..")])
def test_the_answer_to_a_marked_request_is_lost(
    echo: Echo, relay: Proxy, client: socket.socket, parts: tuple[bytes, ...]
) -> None:
    """It has been applied, whole or in pieces; later connections are left alone."""
    relay.cuts_answer_to = b"COMMIT"
    assert answer(client, b"BEGIN") == b"BEGIN"
    for part in parts[:-1]:
        assert answer(client, part) == part
    with pytest.raises(ConnectionResetError):
        answer(client, parts[-1])
    assert echo.received == b"BEGIN" + b"".join(parts)
    with socket.create_connection((LOOPBACK, relay.port), timeout=TIMEOUT) as other:
        assert answer(other, b"COMMIT") == b"COMMIT"
    assert relay.cuts == 1


def test_the_answer_to_a_marked_request_is_held_back(
    echo: Echo, relay: Proxy, client: socket.socket
) -> None:
    """Earlier requests are answered; the marked request has reached the server."""
    assert answer(client, b"COMMIT") == b"COMMIT"
    relay.stalls_answer_to = b"COMMIT"
    assert answer(client, b"BEGIN") == b"BEGIN"
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        answer(client, b"COMMIT")
    assert relay.stalled
    assert echo.received == b"COMMITBEGINCOMMIT"


def test_every_request_is_told_before_it_is_passed_on(
    echo: Echo, relay: Proxy, client: socket.socket
) -> None:
    """So that something can happen between any two of them."""
    seen: list[tuple[bytes, bytes]] = []
    relay.on_request = lambda data: seen.append((data, echo.received))
    for part in (b"one", b"two"):
        assert answer(client, part) == part
    assert seen == [(b"one", b""), (b"two", b"one")]


def test_a_connection_that_is_not_served(echo: Echo, relay: Proxy) -> None:
    """It is accepted, takes what comes, and nothing answers."""
    relay.half_open = True
    with (
        socket.create_connection((LOOPBACK, relay.port), timeout=0.2) as lost,
        pytest.raises(TimeoutError),
    ):
        answer(lost, b"hello")
    assert echo.received == b""


def test_a_server_that_is_not_there() -> None:
    """The client's connection ends without an answer."""
    with (
        proxy(LOOPBACK, closed_port()) as relay,
        pytest.raises(ConnectionResetError),  # at once, or when it is read from
        socket.create_connection((LOOPBACK, relay.port), timeout=TIMEOUT) as lost,
    ):
        lost.recv(1)
