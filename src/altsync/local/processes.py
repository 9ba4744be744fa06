"""Server processes that outlive the command that started them, and finding them again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

#: Seconds by which two readings of one process' start may differ: Linux derives it from the
#: boot time, which the kernel rounds anew at every reading.
START_TOLERANCE_SECONDS = 2.0

#: Set in every server's environment to the folder it serves, so that one whose record is lost
#: can still be found.
MARKER = "ALTSYNC_LOCAL_SERVICE"

#: All that a server inherits. Keys of real services that happen to be set must not live on in
#: the environment of a process that runs for weeks.
INHERITED = ("PATH", "HOME", "TMPDIR", "LANG", "PYTHONPATH", "LD_LIBRARY_PATH")


@dataclass(frozen=True)
class Identity:
    """One process, told from a later one that got the same number."""

    pid: int
    #: Seconds since the epoch, as psutil reads it.
    started: float


class Detached(subprocess.Popen[bytes]):
    """A child that is meant to outlive this process, so nobody is warned that it does."""

    def __del__(self) -> None:
        pass


def spawn(command: Sequence[str], folder: Path, log: Path) -> Detached:
    """Start a server in a session of its own: the terminal's Ctrl-C does not reach it.

    Raises ``OSError`` when the program cannot be started at all.
    """
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    with log.open("ab") as output:
        return Detached(
            command,
            cwd=folder,
            env={**environment, MARKER: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


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
        if not same or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.NoSuchProcess:
        return None
    return process


def strays(folder: Path) -> Iterator[Identity]:
    """Servers of this folder, whoever recorded them."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARKER) == str(folder):
                yield Identity(process.pid, process.create_time())
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue


def terminate(identity: Identity, how: signal.Signals, patience: float) -> None:
    """Ask a process to end; after ``patience`` seconds end it by force."""
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
