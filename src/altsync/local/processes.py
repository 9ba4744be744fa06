"""Start server processes that outlive the command, and find them later."""

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

#: Seconds by which two readings of a process' start may differ. Linux derives it from the boot
#: time, which the kernel rounds at every reading.
START_TOLERANCE_SECONDS = 2.0

#: The lock that a server and its children inherit. The system releases it when the last of them
#: ends, and it does not depend on a record.
LOCK = "process.lock"

#: Seconds until the system has released the lock and the ports of a killed server.
RELEASE_SECONDS = 3.0

#: The variables that a server inherits. Keys of real services must not stay in the environment of
#: a process that runs for weeks.
INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH")

#: Variables with paths of the caller, which another account cannot use.
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
    #: None for the account of this process.
    account: Account | None = None
    #: Descriptors that it inherits, under the same numbers.
    descriptors: Sequence[int] = ()
    #: Variables in addition to INHERITED.
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Identity:
    """A process id with its start, because the system reuses process ids."""

    pid: int
    #: Seconds since the epoch, as psutil reads it.
    started: float


class Detached(subprocess.Popen[bytes]):
    """A child that outlives this process, without the warning of ``Popen``."""

    def __del__(self) -> None:
        pass


def spawn(launch: Launch, folder: Path, log: Path) -> Detached:
    """Start a server in its own session, where the terminal's Ctrl-C does not reach it.

    Raises ``OSError`` if the program cannot be started, and ``BlockingIOError`` if another server
    uses the folder.
    """
    account = launch.account
    names = [n for n in INHERITED if n in os.environ and not (account and n in PERSONAL)]
    environment = {**{name: os.environ[name] for name in names}, **launch.environment}
    with _locked(folder) as lock, log.open("ab") as output:
        return Detached(
            launch.command,
            # Another account may have no access to the folder.
            cwd="/" if account else folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[lock, *launch.descriptors],
            # A change from root to another user drops every capability.
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Yield the folder's lock as a descriptor. A process that inherits it keeps the lock."""
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
    """Return the identity of a running process, or None."""
    try:
        return Identity(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def find(identity: Identity) -> psutil.Process | None:
    """Return the process; None if it has ended, even if its id was reused."""
    try:
        process = psutil.Process(identity.pid)
        same = abs(process.create_time() - identity.started) <= START_TOLERANCE_SECONDS
        zombie = process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    if same and zombie:
        with suppress(ChildProcessError):
            os.waitpid(identity.pid, os.WNOHANG)  # reaps the child, if this process started it
    return process if same and not zombie else None


def servers_of(folder: Path) -> list[Identity]:
    """Return all processes that hold the folder's lock."""
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


def terminate(identity: Identity, how: signal.Signals, timeout: float) -> None:
    """Send a signal to a process, and SIGKILL after ``timeout`` seconds. Wait for its end.

    Raises ``LocalStackError`` if the process belongs to another user.
    """
    for name in (how, signal.SIGKILL):
        process = find(identity)
        if process is None:
            return
        try:
            process.send_signal(name)
            process.wait(timeout)
        except psutil.NoSuchProcess:
            return
        except psutil.TimeoutExpired:
            continue
        except psutil.AccessDenied as error:
            raise LocalStackError(
                f"process {identity.pid} is another user's: run this as that user"
            ) from error
