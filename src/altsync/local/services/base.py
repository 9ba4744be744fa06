"""A server of the embedded stack: start it, wait for it, stop it, show its state."""

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
from typing import ClassVar, Literal, Self, TypeVar

from altsync.local import ports, processes
from altsync.local.errors import LocalStackError
from altsync.local.processes import Launch
from altsync.local.records import Record, RecordBook

LOOPBACK = "127.0.0.1"

#: Seconds between two checks whether a starting server answers.
POLL_SECONDS = 0.05

#: Bytes of a log after which it is renamed at the next start.
LOG_LIMIT = 10 * 1024 * 1024

#: Last lines of the log that an error shows.
TAIL_LINES = 15

State = Literal["running", "stopped", "crashed"]


@dataclass(frozen=True)
class ServiceStatus:
    """The state of one service. ``crashed``: it was started, not stopped, and has ended."""

    name: str
    flavour: str
    state: State
    pid: int | None
    address: str
    log: Path


class Service(ABC):
    """One server process with its folder and record.

    As a context manager it starts the server, waits until it answers, and stops it.
    """

    name: ClassVar[str]
    #: Ports that it listens on. Clients use the first.
    port_count: ClassVar[int] = 1
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    #: Seconds from the stop signal to SIGKILL.
    stop_seconds: ClassVar[float] = 20.0
    #: Seconds until it must answer. An idle machine needs 1 to 4, a loaded one many times that.
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
        """The server's name and version. Raises ``LocalStackError`` if it is not installed."""

    @property
    @abstractmethod
    def url(self) -> str:
        """The address for clients, with the password if the protocol has one."""

    @property
    @abstractmethod
    def env(self) -> Mapping[str, str]:
        """The environment variables with the address and password of this service."""

    @abstractmethod
    def prepare(self) -> None:
        """Write the files that the server needs. Called before every start."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return the program and its arguments, without secrets: all users may list processes."""

    @contextmanager
    def launching(self) -> Iterator[Launch]:
        """Yield the launch. Descriptors that the server inherits stay open within the block."""
        yield Launch(self.command())

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server serves clients yet. Called until it does."""

    @property
    def record(self) -> Record:
        """The record of this service. Raises ``LocalStackError`` before the first start."""
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
        """The process id while the server runs."""
        process = self._record.process if self._record else None
        return process.pid if process and processes.find(process) else None

    @property
    def running(self) -> bool:
        """Return whether the recorded process runs."""
        return self.pid is not None

    def status(self) -> ServiceStatus:
        """Return the state of the process. The server itself is not called."""
        process = self._record.process if self._record else None
        state: State = "running" if self.running else "crashed" if process else "stopped"
        address = f"{self.host}:{self.port}" if self._record else ""
        return ServiceStatus(self.name, self.flavour, state, self.pid, address, self.log)

    def start(self) -> None:
        """Start the server unless it runs, on its former port if that is free.

        Raises ``LocalStackError``.
        """
        self._launched = False
        if self.running:
            return
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._end_unrecorded()
        self._take_ports()
        self._rotate_log()
        self.prepare()
        self._launch()

    def wait_ready(self) -> None:
        """Wait until the server answers.

        Raises ``LocalStackError`` with the end of the log if it does not, or if the start was
        cancelled. The caller then stops the server.
        """
        deadline = time.monotonic() + self.ready_seconds
        while not (self.running and self.answers()):
            if self._cancelled.wait(POLL_SECONDS):
                raise LocalStackError(f"{self.name}: the start was cancelled")
            if time.monotonic() > deadline:
                raise self._failure(f"did not answer within {self.ready_seconds:.0f} s")
            if self.running:
                continue
            if self._launched:
                raise self._failure("ended while it was starting")
            self.start()  # it still ran when ``start`` was called, and has ended since

    def stop(self) -> None:
        """Stop the server if it runs. Raises ``LocalStackError``."""
        record = self._record
        if record and record.process:
            processes.terminate(record.process, self.stop_signal, self.stop_seconds)
        self._end_unrecorded()
        if record and record.process:
            self._save(replace(record, process=None))

    def __enter__(self) -> Self:
        return started(self)

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_ports(self) -> None:
        old = self._record
        if old and ports.become_free(
            old.ports, self.host, processes.RELEASE_SECONDS if old.process else 0
        ):
            self._save(replace(old, process=None))
            return
        secret = old.secret if old else f"local-{secrets.token_urlsafe(24)}"
        self._save(Record(ports.free_ports(self.port_count, self.host), secret))

    def _launch(self) -> None:
        if self._cancelled.is_set():
            raise LocalStackError(f"{self.name}: the start was cancelled")
        try:
            with self.launching() as launch:
                child = processes.spawn(launch, self.folder, self.log)
        except BlockingIOError as error:
            raise LocalStackError(f"another server uses {self.folder}") from error
        except OSError as error:
            raise LocalStackError(f"{self.name} cannot be started: {error}") from error
        self._launched = True
        identity = processes.identity_of(child.pid)
        self._save(replace(self.record, process=identity))

    def _end_unrecorded(self) -> None:
        """End servers in this folder that no record names."""
        for server in processes.servers_of(self.folder):
            processes.terminate(server, self.stop_signal, self.stop_seconds)

    def _save(self, record: Record) -> None:
        self._record = record
        self._book.save(self.name, record)

    def _rotate_log(self) -> None:
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
    """Start a service and wait until it answers. Stop it if that fails."""
    try:
        service.start()
        service.wait_ready()
    except BaseException:
        service.stop()
        raise
    return service
