"""Small servers that misbehave on purpose, for clients that are real."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.proxy import LOOPBACK, proxy

#: Seconds between two looks of a server's thread at whether it should end.
LOOK_SECONDS = 0.05

#: Seconds between two bytes of an answer that trickles.
TRICKLE_SECONDS = 0.05


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

    ``by_body`` goes before both: it returns None for a request that it leaves to them.
    ``silent`` makes it take requests and answer none until it is closed. ``trickles`` sends an
    answer without end, a byte at a time: of its ``head`` or of its ``body``.
    """

    def __init__(self) -> None:
        self.answer = Canned()
        self.by_path: dict[str, Canned] = {}
        self.by_body: Callable[[str, bytes], Canned | None] = lambda path, body: None
        self.silent = False
        self.trickles: str | None = None
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
                if outer.trickles is not None:
                    self._trickle(outer.trickles)
                    return
                canned = outer.by_body(self.path, body) or outer._answer_to(self.path)
                self.send_response(canned.status)
                for name, value in canned.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(canned.body)))
                self.end_headers()
                self.wfile.write(canned.body)

            def _trickle(self, part: str) -> None:
                start = b"HTTP/1.1 200 OK\r\nx-slow: "
                if part == "body":
                    start += (
                        b"1\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
                    )
                self.close_connection = True
                with suppress(OSError):  # the client has had enough
                    self.wfile.write(start)
                    while not outer._ended.wait(TRICKLE_SECONDS):
                        self.wfile.write(b" " if part == "body" else b"x")
                        self.wfile.flush()

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
    """Return a port without a listener."""
    with socket.create_server((LOOPBACK, 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def black_hole() -> Iterator[int]:
    """The port of a listener that accepts connections, takes what comes and never answers."""
    with proxy(LOOPBACK, closed_port()) as hole:
        hole.half_open = True
        yield hole.port
