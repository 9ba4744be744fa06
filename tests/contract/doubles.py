"""Small servers that misbehave on purpose, for clients that are real."""

from __future__ import annotations

import json
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LOOPBACK = "127.0.0.1"

#: Seconds between two looks of a relay thread at whether it should end.
LOOK_SECONDS = 0.05

#: Bytes that the proxy reads at once; any size will do.
CHUNK = 65_536


@dataclass(frozen=True)
class Canned:
    """One HTTP answer, the same for every request."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


def json_answer(body: Any, status: int = 200, **headers: str) -> Canned:
    """An answer whose body is JSON; header names are given with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Canned(status, json.dumps(body).encode(), {"content-type": "application/json", **named})


class CannedServer:
    """Answers every request with ``answer``, or what ``by_path`` says for the path's start.

    ``silent`` makes it take requests and answer none until it is closed.
    """

    def __init__(self) -> None:
        self.answer = Canned()
        self.by_path: dict[str, Canned] = {}
        self.silent = False
        self.requests: list[tuple[str, bytes]] = []
        self._ended = threading.Event()
        self._server = ThreadingHTTPServer((LOOPBACK, 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(LOOK_SECONDS,))
        self._thread.start()

    @property
    def url(self) -> str:
        """The server's root."""
        return f"http://{LOOPBACK}:{self._server.server_port}"

    def close(self) -> None:
        """Stop listening and let silent requests go."""
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer_to(self, path: str) -> Canned:
        found = (answer for start, answer in self.by_path.items() if path.startswith(start))
        return next(found, self.answer)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.requests.append((self.path, body))
                if outer.silent:
                    outer._ended.wait()
                    self.close_connection = True
                    return
                canned = outer._answer_to(self.path)
                self.send_response(canned.status)
                for name, value in canned.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(canned.body)))
                self.end_headers()
                self.wfile.write(canned.body)

            do_GET = do_POST = do_DELETE = do_PATCH = _serve

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Keep quiet."""

        return Handler


@contextmanager
def canned_server() -> Iterator[CannedServer]:
    """A server that is closed at the end."""
    server = CannedServer()
    try:
        yield server
    finally:
        server.close()


def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def black_hole() -> Iterator[int]:
    """The port of a listener that accepts connections, takes what comes and never answers."""
    ended = threading.Event()
    taken: list[socket.socket] = []

    def accept() -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                taken.append(listener.accept()[0])

    with socket.create_server((LOOPBACK, 0)) as listener:
        listener.settimeout(LOOK_SECONDS)
        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            ended.set()
            thread.join()
            for connection in taken:
                connection.close()


class Proxy:
    """A TCP relay to a real server that can fall silent or cut, in the middle of a session.

    ``stalled`` keeps answers back; what clients send still reaches the server.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = (host, port)
        self._ended = threading.Event()
        self._listener = socket.create_server((LOOPBACK, 0))
        self._listener.settimeout(LOOK_SECONDS)
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()
        self.stalled = False
        self.cuts_on_request = False

    @property
    def port(self) -> int:
        """Where clients connect."""
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Cut everything and stop."""
        self._ended.set()
        for thread in list(self._threads):
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            with suppress(TimeoutError):
                client = self._listener.accept()[0]
                thread = threading.Thread(target=self._relay, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._upstream) as server:
            while not self._ended.is_set():
                ready, _, _ = select.select([client, server], [], [], LOOK_SECONDS)
                if server in ready and self.stalled:
                    ready.remove(server)
                    self._ended.wait(LOOK_SECONDS)
                if not all(self._pass_on(one, client, server) for one in ready):
                    return

    def _pass_on(self, one: socket.socket, client: socket.socket, server: socket.socket) -> bool:
        try:
            data = one.recv(CHUNK)
            if not data or (one is client and self.cuts_on_request):
                return False
            (server if one is client else client).sendall(data)
        except OSError:
            return False
        return True


@contextmanager
def proxy(host: str, port: int) -> Iterator[Proxy]:
    """A relay that is closed at the end."""
    relay = Proxy(host, port)
    try:
        yield relay
    finally:
        relay.close()
