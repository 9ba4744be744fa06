"""Server processes that outlive the command that started them, and finding them again."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from altsync.local.errors import LocalStackError

#: Seconds by which two readings of one process' start may differ: Linux derives it from the
#: boot time, which the kernel rounds anew at every reading.
START_TOLERANCE_SECONDS = 2.0

#: Held by a server and its children as long as one of them lives: an inherited lock cannot be
#: lost with a record, and the system releases it however they end.
LOCK = "process.lock"

#: Seconds that the system may take to release the lock and the ports of a killed server.
RELEASE_SECONDS = 3.0

#: All that a server inherits. Keys of real services that happen to be set must not live on in
#: the environment of a process that runs for weeks.
INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH")

#: What is the caller's own, and of no use to another account.
PERSONAL = frozenset({"HOME", "TMPDIR", "PYTHONPATH", "LD_LIBRARY_PATH"})


@dataclass(frozen=True)
class Account:
    """An account of this machine that runs a server for root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Launch:
    """A program to start. Nothing in ``command`` is secret: every account may list processes."""

    command: Sequence[str]
    #: None runs it as this process' own account.
    account: Account | None = None
    #: Descriptors that it inherits under their numbers.
    descriptors: Sequence[int] = ()
    #: Variables beside those of INHERITED.
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """One process, told from a later one that got the same number."""

    pid: int
    #: Seconds since the epoch, as psutil reads it.
    started: float


class Detached(subprocess.Popen[bytes]):
    """A child that is meant to outlive this process, so no warning is given that it does."""

    def __del__(self) -> None:
        pass


def spawn(launch: Launch, folder: Path, log: Path) -> Detached:
    """Start a server in a session of its own: the terminal's Ctrl-C does not reach it.

    Raises ``OSError`` when the program cannot be started, and ``BlockingIOError`` when another
    server works in this folder.
    """
    account = launch.account
    names = [n for n in INHERITED if n in os.environ and not (account and n in PERSONAL)]
    environment = {**{name: os.environ[name] for name in names}, **launch.environment}
    with _locked(folder) as lock, log.open("ab") as output:
        return Detached(
            launch.command,
            # The folder may be closed to another account.
            cwd="/" if account else folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[lock, *launch.descriptors],
            # Leaving root drops every capability.
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """The folder's lock as a descriptor; what inherits it keeps the lock."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + RELEASE_SECONDS
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield descriptor
    finally:
        os.close(descriptor)


def identity_of(pid: int) -> Identity | None:
    """The process that has this number now, if any."""
    try:
        return Identity(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def find(identity: Identity) -> psutil.Process | None:
    """The very process that was recorded; ``None`` when it is gone or its number was reused."""
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.started) <= START_TOLERANCE_SECONDS
        dead = process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    if same and dead:
        with suppress(ChildProcessError):
            os.waitpid(identity.pid, os.WNOHANG)  # ours to reap, when this process started it
    return process if same and not dead else None


def servers_of(folder: Path) -> list[Identity]:
    """All processes that hold the folder's lock, recorded by any process."""
    lock = folder / LOCK
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return []
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return list(_holders(str(lock.resolve())))
    finally:
        os.close(descriptor)
    return []


def _holders(lock: str) -> Iterator[Identity]:
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and any(one.path == lock for one in process.open_files()):
                yield Identity(process.pid, process.create_time())
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue


def terminate(identity: Identity, how: signal.Signals, patience: float) -> None:
    """Ask a process to end; after ``patience`` seconds end it by force.

    Raises ``LocalStackError`` when it is another program's.
    """
    for name, seconds in ((how, patience), (signal.SIGKILL, patience)):
        process = find(identity)
        if process is None:
            return
        try:
            process.send_signal(name)
            process.wait(seconds)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            continue
        except psutil.AccessDenied as error:
            raise LocalStackError(
                f"process {identity.pid} is another user's: run this as that user"
            ) from error


def listeners(identity: Identity) -> Mapping[int, str]:
    """Ports on which a process and its children listen, and the address of each."""
    process = find(identity)
    if process is None:
        return {}
    found: dict[int, str] = {}
    for one in (process, *process.children(recursive=True)):
        for connection in one.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                found[connection.laddr.port] = connection.laddr.ip
    return found
