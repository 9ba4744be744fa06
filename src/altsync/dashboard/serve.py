"""The HTTP server of the dashboard."""

from __future__ import annotations

import signal
import socket

import uvicorn

from altsync.dashboard.access import AccessGuard
from altsync.errors import ConfigurationError

#: The default port. When it is taken, any free one is used.
DEFAULT_PORT = 8484

#: Length of the listen queue. A browser opens six connections at most.
BACKLOG = 128

#: Seconds that running requests get when the server stops.
GRACE_SECONDS = 3


def listen(host: str, port: int | None) -> socket.socket:
    """Return a listening socket. ``port`` None: the default port, or a free one if it is taken.

    Raises ``ConfigurationError`` when the address cannot be used.
    """
    try:
        if port is not None:
            return _bound(host, port)
        try:
            return _bound(host, DEFAULT_PORT)
        except OSError:
            return _bound(host, 0)
    except OSError as error:
        where = f"{host}, port {DEFAULT_PORT if port is None else port}"
        raise ConfigurationError(
            f"the dashboard cannot listen on {where}: {error.strerror or error}"
        ) from None


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    server = socket.socket(family, kind, protocol)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(BACKLOG)
    except OSError:
        server.close()
        raise
    return server


def address_of(server: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = server.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def server_of(app: AccessGuard) -> uvicorn.Server:
    """Return a server for the application."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
    )


def run(app: AccessGuard, server: socket.socket) -> None:
    """Serve until SIGTERM or Ctrl-C."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn stops in an orderly way, and then raises the signal again.
        signal.signal(number, lambda *_: None)
    server_of(app).run(sockets=[server])
