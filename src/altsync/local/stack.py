"""The embedded stack as a whole: start, stop, show and reset all services."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from altsync.local.errors import LocalStackError
from altsync.local.records import RecordBook, write_private
from altsync.local.services.base import Service, ServiceStatus
from altsync.local.services.broker import Broker
from altsync.local.services.graph import Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors

__all__ = ["LocalStack", "ServiceStatus"]

Report = Callable[[ServiceStatus], None]

#: Bytes of the folder's path. SQLite opens paths of at most 512 bytes, and each service has
#: folders below.
LONGEST_PATH = 400

SERVICES: tuple[type[Service], ...] = (Postgres, Broker, Graph, Vectors)


def _silent(_status: ServiceStatus) -> None:
    pass


class LocalStack:
    """PostgreSQL, Redis, a graph and a vector server on loopback, with their data in one folder.

    The servers outlive the process that starts them. ``local.json`` in the folder has their
    records; ``local.env`` has their addresses for other commands, while they run.
    """

    def __init__(self, home: Path, kinds: Sequence[type[Service]] = SERVICES) -> None:
        self.home = home.absolute()
        self._kinds = kinds
        self._env_file = self.home / "local.env"
        self._state_file = self.home / "local.json"

    def up(self, report: Report = _silent) -> list[ServiceStatus]:
        """Start all services that do not run, and wait until each answers.

        ``report`` is called in this thread, for each service that answers. If one fails, or the
        call is interrupted, the services that it started are stopped. Raises ``LocalStackError``.
        """
        with self._exclusive():
            cancelled = threading.Event()
            services = self._services(cancelled)
            started_here = [service for service in services if not service.running]
            try:
                _start_together(services, report, cancelled)
            except BaseException:
                _stop_together(started_here)
                raise
            self._write_env(services)
            return [service.status() for service in services]

    def down(self, only: Collection[str] | None = None) -> list[ServiceStatus]:
        """Stop all services, or those named. If all are stopped, remove ``local.env``."""
        with self._exclusive():
            return self._down(only)

    def status(self) -> list[ServiceStatus]:
        """Return the state of each service now, without waiting."""
        return [service.status() for service in self._services()]

    def env(self) -> dict[str, str]:
        """Return the environment variables with the addresses and passwords of the services.

        Raises ``LocalStackError`` when the stack was never up.
        """
        return _environment(self._services())

    def reset(self) -> None:
        """Stop all services, and delete their data, passwords and ports."""
        with self._exclusive():
            self._down()
            for service in self._services():
                if service.folder.exists():
                    shutil.rmtree(service.folder)
            self._state_file.unlink(missing_ok=True)

    def logs(self) -> dict[str, Path]:
        """Return the path of each service's log, which may not exist yet."""
        return {service.name: service.log for service in self._services()}

    def _down(self, only: Collection[str] | None = None) -> list[ServiceStatus]:
        services = self._services()
        stopped = [service for service in services if only is None or service.name in only]
        if len(stopped) == len(services):
            self._env_file.unlink(missing_ok=True)
        _stop_together(stopped)
        return [service.status() for service in services]

    def _services(self, cancelled: threading.Event | None = None) -> list[Service]:
        book = RecordBook(self._state_file)
        return [kind(self.home / kind.name, book, cancelled=cancelled) for kind in self._kinds]

    def _write_env(self, services: Sequence[Service]) -> None:
        lines = [f"{name}={value}\n" for name, value in _environment(services).items()]
        write_private(self._env_file, "".join(lines))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Wait until no other command changes the stack."""
        if len(os.fsencode(self.home)) > LONGEST_PATH:
            raise LocalStackError(
                f"the path of ALTSYNC_HOME is longer than {LONGEST_PATH} bytes: name a shorter one"
            )
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignore = self.home / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")  # keeps passwords and data out of Git
            descriptor = os.open(self.home / "local.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise LocalStackError(f"{self.home} cannot be used: {error}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _start_together(
    services: Sequence[Service], report: Report, cancelled: threading.Event
) -> None:
    with ThreadPoolExecutor(max_workers=max(len(services), 1)) as pool:
        try:
            for done in as_completed([pool.submit(_start, service) for service in services]):
                report(done.result())
        except BaseException:
            cancelled.set()  # the other threads stop waiting, so the pool can close
            raise


def _start(service: Service) -> ServiceStatus:
    service.start()
    service.wait_ready()
    return service.status()


def _stop_together(services: Sequence[Service]) -> None:
    with ThreadPoolExecutor(max_workers=max(len(services), 1)) as pool:
        for done in as_completed([pool.submit(service.stop) for service in services]):
            done.result()


def _environment(services: Sequence[Service]) -> dict[str, str]:
    return {name: value for service in services for name, value in service.env.items()}
