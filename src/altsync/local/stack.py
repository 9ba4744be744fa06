"""The embedded stack as one thing: all services up, down, looked at, or wiped."""

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
from altsync.local.services.graph import HEAP_MEGABYTES, Graph
from altsync.local.services.postgres import Postgres
from altsync.local.services.vectors import Vectors

__all__ = ["LocalStack", "ServiceStatus"]

Report = Callable[[ServiceStatus], None]

#: Bytes of the folder's path: SQLite opens no path of more than 512 bytes, and each service has
#: folders of its own below.
LONGEST_PATH = 400

SERVICES: tuple[type[Service], ...] = (Postgres, Broker, Graph, Vectors)


def _silent(_status: ServiceStatus) -> None:
    pass


class LocalStack:
    """PostgreSQL, Redis, a graph and a vectors server on loopback, durable under one folder.

    The servers go on when the process that started them ends. ``local.json`` in the folder
    remembers them, ``local.env`` tells other commands where they are while they are up.
    """

    def __init__(
        self,
        home: Path,
        kinds: Sequence[type[Service]] = SERVICES,
        *,
        heap_megabytes: int = HEAP_MEGABYTES,
    ) -> None:
        self.home = home.absolute()
        self._kinds = kinds
        self._heap_megabytes = heap_megabytes
        self._env_file = self.home / "local.env"
        self._state_file = self.home / "local.json"

    def up(self, report: Report = _silent) -> list[ServiceStatus]:
        """Start what does not run and wait until everything answers.

        ``report`` is called for each service as soon as it answers, in this thread. Services that
        this call started are stopped again when one of them fails or the call is interrupted.
        Raises ``LocalStackError``.
        """
        with self._exclusive():
            cancelled = threading.Event()
            services = self._services(cancelled)
            ours = [service for service in services if not service.running]
            try:
                _start_together(services, report, cancelled)
            except BaseException:
                _stop_together(ours)
                raise
            self._write_env(services)
            return [service.status() for service in services]

    def down(self, only: Collection[str] | None = None) -> list[ServiceStatus]:
        """Stop what runs, in an orderly way; take ``local.env`` away when nothing is left.

        ``only`` names the services to stop.
        """
        with self._exclusive():
            return self._down(only)

    def status(self) -> list[ServiceStatus]:
        """Return how the services are now. Start nothing and wait for nothing."""
        return [service.status() for service in self._services()]

    def env(self) -> dict[str, str]:
        """The variables by which clients find the services.

        Raises ``LocalStackError`` when the stack was never up.
        """
        return _environment(self._services())

    def reset(self) -> None:
        """Stop everything and delete all data, passwords and ports."""
        with self._exclusive():
            self._down()
            for service in self._services():
                if service.folder.exists():
                    shutil.rmtree(service.folder)
            self._state_file.unlink(missing_ok=True)

    def logs(self) -> dict[str, Path]:
        """Each service's log file; it may not exist yet."""
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
        services = [kind(self.home / kind.name, book, cancelled=cancelled) for kind in self._kinds]
        for service in services:
            if isinstance(service, Graph):
                service.heap_megabytes = self._heap_megabytes
        return services

    def _write_env(self, services: Sequence[Service]) -> None:
        lines = [f"{name}={value}\n" for name, value in _environment(services).items()]
        write_private(self._env_file, "".join(lines))

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One command at a time changes the stack; a second one waits for the first."""
        if len(os.fsencode(self.home)) > LONGEST_PATH:
            raise LocalStackError(
                f"the path of ALTSYNC_HOME is longer than {LONGEST_PATH} bytes: name a shorter one"
            )
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            ignore = self.home / ".gitignore"
            if not ignore.exists():
                ignore.write_text("*\n")  # passwords and data are nothing to commit
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
            cancelled.set()  # the others stop waiting, and the pool can close
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
