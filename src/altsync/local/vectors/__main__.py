"""Run the server: ``python -m altsync.local.vectors --data DIR --port N``."""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from altsync.addresses import is_loopback
from altsync.local.records import write_private
from altsync.local.vectors.app import Handler, build_app
from altsync.local.vectors.indexes import Indexes

#: Bytes of a request's line and headers, which have up to 1,000 ids of 512 characters.
MAX_HEAD = 1024 * 1024

#: Seconds that an idle connection stays open. Clients keep theirs for a minute or more.
KEEP_ALIVE_SECONDS = 300

#: Seconds for requests in progress when the server stops.
GRACE_SECONDS = 1


class CuttableProtocol(H11Protocol):
    """Passes the connection to each request, so that a fault can cut it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until a signal."""
    options = _options(arguments)
    with _locked(options.data):
        key = _key(options)
        indexes = Indexes(options.data)
        try:
            handler = Handler(key, lag=options.lag)
            uvicorn.Server(
                uvicorn.Config(
                    build_app(indexes, handler),
                    host=options.host,
                    port=options.port,
                    http=CuttableProtocol,
                    ws="none",
                    lifespan="off",
                    log_config=None,
                    access_log=False,
                    proxy_headers=False,
                    server_header=False,
                    timeout_keep_alive=KEEP_ALIVE_SECONDS,
                    timeout_graceful_shutdown=GRACE_SECONDS,
                    h11_max_incomplete_event_size=MAX_HEAD,
                )
            ).run()
        finally:
            indexes.close()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m altsync.local.vectors", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the database")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--api-key", help="the key that clients must send")
    parser.add_argument("--api-key-file", type=Path, help="a file with that key")
    parser.add_argument("--lag", type=float, default=0.0, help="seconds until a write can be read")
    options = parser.parse_args(arguments)
    if not (options.api_key or options.api_key_file) and not is_loopback(options.host):
        parser.error(
            f"{options.host} can be reached from outside: give a key with --api-key or "
            "--api-key-file"
        )
    return options


def _key(options: argparse.Namespace) -> str:
    """Return the key of the options, or of the data folder, where it is made if missing."""
    if options.api_key:
        return str(options.api_key)
    path: Path = options.api_key_file or options.data / "api.key"
    if options.api_key_file is None and not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    key = path.read_text().strip()
    if not key:
        sys.exit(f"{path} is empty")
    return key


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock the folder: a second server would not see the writes of the first in its memory."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"another vectors server uses {folder}")
    try:
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
