"""What every server of the embedded stack can do: start, be waited for, stop, be looked at."""

from __future__ import annotations

import secrets
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Literal, Self, TypeVar

from altsync.local import ports, processes
from altsync.local.errors import LocalStackError
from altsync.local.processes import Identity, Launch
from altsync.local.records import Record, RecordBook

LOOPBACK = "127.0.0.1"

#: Seconds between two looks whether a starting server answers.
LOOK_SECONDS = 0.05

#: Bytes after which a server's log starts anew, the old one kept beside it.
LOG_LIMIT = 10 * 1024 * 1024

#: Lines of a log that an error shows.
TAIL_LINES = 15

State = Literal["running", "stopped", "crashed"]


@dataclass(frozen=True)
class ServiceStatus:
    """One service as it is now. ``crashed``: it was started, not stopped, and is gone."""

    name: str
    flavour: str
    state: State
    pid: int | None
    address: str
    log: Path


class Service(ABC):
    """One server process, its folder and its record.

    Use it as a context manager to have it started, waited for, and stopped again.
    """

    name: ClassVar[str]
    #: Ports it listens on; the first is the one that clients use.
    port_count: ClassVar[int] = 1
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    #: Seconds for an orderly end before it is killed.
    stop_seconds: ClassVar[float] = 20.0
    #: Seconds until it must answer; a loaded CI machine needs many times the usual 1 to 4.
    ready_seconds: ClassVar[float] = 90.0

    def __init__(
        self,
        folder: Path,
        book: RecordBook | None = None,
        *,
        host: str = LOOPBACK,
        cancelled: threading.Event | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.log = self.folder / "server.log"
        self.host = host
        self._book = book or RecordBook(self.folder / "service.json")
        self._record = self._book.load(self.name)
        self._cancelled = cancelled or threading.Event()
        self._log_start = 0
        self._launched = False

    @property
    @abstractmethod
    def flavour(self) -> str:
        """Which server this is, with its version. Raises ``LocalStackError`` if not installed."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Return where clients connect, password included where the protocol has one."""

    @property
    @abstractmethod
    def env(self) -> Mapping[str, str]:
        """The variables by which clients find this service."""

    @abstractmethod
    def prepare(self) -> None:
        """Make the folder ready for the server; called before every start."""

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments; nothing secret, as every user may list processes."""

    @contextmanager
    def launching(self) -> Iterator[Launch]:
        """Return how the program is started; what it inherits stays open within the block."""
        yield Launch(self.command())

    @abstractmethod
    def answers(self) -> bool:
        """Whether the server serves its clients yet; quick, and asked again until it does."""

    @property
    def record(self) -> Record:
        """Ports, password and process. Raises ``LocalStackError`` before the first start."""
        if self._record is None:
            raise LocalStackError(f"{self.name} was never started in {self.folder}")
        return self._record

    @property
    def port(self) -> int:
        """The port that clients use."""
        return self.record.ports[0]

    @property
    def secret(self) -> str:
        """The generated password or key."""
        return self.record.secret

    @property
    def pid(self) -> int | None:
        """The process' number while it runs."""
        found = self._found()
        return found.pid if found else None

    @property
    def running(self) -> bool:
        """Return whether the recorded process is there, and is the one that was started."""
        return self._found() is not None

    def status(self) -> ServiceStatus:
        """Return how the service is now, without asking the server itself."""
        process = self._record.process if self._record else None
        state: State = "running" if self.running else "crashed" if process else "stopped"
        address = f"{self.host}:{self.port}" if self._record else ""
        return ServiceStatus(self.name, self.flavour, state, self.pid, address, self.log)

    def start(self) -> None:
        """Start the server unless it runs. Raises ``LocalStackError``.

        The port stays the one of last time when it is free.
        """
        self._launched = False
        if self.running:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._end_strays()
        self._claim()
        self._turn_log()
        self.prepare()
        self._launch()

    def wait_ready(self) -> None:
        """Return when the server answers.

        Raises ``LocalStackError`` with the end of the log when it does not, and when the start
        was cancelled. The server is left as it is then: ``stop`` it.
        """
        deadline = time.monotonic() + self.ready_seconds
        while not (self.running and self.answers()):
            if self._cancelled.wait(LOOK_SECONDS):
                raise LocalStackError(f"{self.name}: the start was cancelled")
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {self.ready_seconds:.0f} s")
            if self.running:
                continue
            if self._launched:
                raise self._failure("ended while it was starting")
            self.start()  # it ran when it was to be started, and ended just then

    def stop(self) -> None:
        """End the server if it runs, in an orderly way first. Raises ``LocalStackError``."""
        record = self._record
        if record and record.process:
            processes.terminate(record.process, self.stop_signal, self.stop_seconds)
        self._end_strays()
        if record and record.process:
            self._keep(replace(record, process=None))

    def __enter__(self) -> Self:
        return started(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _found(self) -> Identity | None:
        process = self._record.process if self._record else None
        return process if process and processes.find(process) else None

    def _claim(self) -> None:
        old = self._record
        if old and ports.become_free(
            old.ports, self.host, processes.RELEASE_SECONDS if old.process else 0
        ):
            self._keep(replace(old, process=None))
            return
        secret = old.secret if old else f"local-{secrets.token_urlsafe(24)}"
        self._keep(Record(ports.free_ports(self.port_count, self.host), secret))

    def _launch(self) -> None:
        if self._cancelled.is_set():
            raise LocalStackError(f"{self.name}: the start was cancelled")
        try:
            with self.launching() as launch:
                child = processes.spawn(launch, self.folder, self.log)
        except BlockingIOError as error:
            raise LocalStackError(f"another server works in {self.folder}") from error
        except OSError as error:
            raise LocalStackError(f"{self.name} cannot be started: {error}") from error
        self._launched = True
        identity = processes.identity_of(child.pid)
        self._keep(replace(self.record, process=identity))

    def _end_strays(self) -> None:
        for stray in processes.servers_of(self.folder):
            processes.terminate(stray, self.stop_signal, self.stop_seconds)

    def _keep(self, record: Record) -> None:
        self._record = record
        self._book.save(self.name, record)

    def _turn_log(self) -> None:
        if self._log_size() > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        self._log_start = self._log_size()

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _output(self) -> str:
        with suppress(FileNotFoundError), self.log.open("rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")
        return ""

    def _failure(self, what: str) -> LocalStackError:
        tail = "\n".join(f"  {line}" for line in self._output().splitlines()[-TAIL_LINES:])
        return LocalStackError(f"{self.name} {what}. Its log is {self.log}:\n{tail}")


S = TypeVar("S", bound=Service)


def started(service: S) -> S:
    """Start a service and wait for it; stop it again if that fails."""
    try:
        service.start()
        service.wait_ready()
    except BaseException:
        service.stop()
        raise
    return service
