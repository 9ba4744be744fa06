"""PostgreSQL for root: an account to run it, and a copy of its programs that the account reads.

PostgreSQL does not run as root, and a virtual environment below root's home is closed to every
other account. The programs are copied once to a folder that root alone may change.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from altsync.local.errors import LocalStackError
from altsync.local.processes import Account

#: The account that is made for the server. It owns the clusters and nothing else.
ACCOUNT = "altsync-postgres"

#: The account without rights, where none can be made (a read-only /etc, no useradd).
FALLBACK_ACCOUNT = "nobody"

#: Folders for the copy, the first that can be used. The last ones are for containers whose root
#: file system is read-only.
BASES = (
    Path("/var/lib/altsync"),
    Path("/opt/altsync"),
    Path("/var/tmp/altsync-runtime"),  # noqa: S108  (owner and mode are checked)
    Path("/tmp/altsync-runtime"),  # noqa: S108
    Path("/dev/shm/altsync-runtime"),  # noqa: S108
)

#: Of the wheel: headers are not needed to run a server.
_LEFT_OUT = frozenset({"include", "__pycache__"})

#: Seconds for ``postgres --version``.
_TRY_SECONDS = 20.0


def account_for(data: Path) -> Account | None:
    """Return the account for a server on this folder; None for the present one.

    Data that are there are run by their owner. Raises ``LocalStackError``.
    """
    if os.geteuid() != 0:
        return None
    try:
        owner = data.lstat().st_uid
    except FileNotFoundError:
        return _own_account()
    if owner == 0:
        raise LocalStackError(
            f"{data} belongs to root, and PostgreSQL does not run as root: give it to an account "
            f"(chown -R -h {ACCOUNT} {data}), or delete it with altsync local reset"
        )
    try:
        entry = pwd.getpwuid(owner)
    except KeyError:
        raise LocalStackError(f"{data} belongs to uid {owner}, which has no account") from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _own_account() -> Account:
    for name in (ACCOUNT, None, FALLBACK_ACCOUNT):
        if name is None:
            _make_account()
        with suppress(KeyError):
            entry = pwd.getpwnam(name or ACCOUNT)
            return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise LocalStackError(
        "PostgreSQL does not run as root, and no account can be made for it: run altsync as an "
        "ordinary user"
    )


def _make_account() -> None:
    arguments = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    with suppress(OSError):
        subprocess.run(  # noqa: S603
            ["useradd", *arguments, "--shell", "/usr/sbin/nologin", ACCOUNT],  # noqa: S607
            capture_output=True,
            check=False,
        )


def open_copy(installation: Path, account: Account, bases: Sequence[Path] = BASES) -> Path:
    """Return a copy of an installation from the wheel that ``account`` can run.

    It is made when it is missing or incomplete. Raises ``LocalStackError``.
    """
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")
    reasons = []
    for base in bases:
        try:
            with _locked(base):
                root = base / f"postgresql-{_fingerprint(package)}"
                for source in (installation, libraries):
                    _copy_missing(source, root / source.relative_to(package.parent))
            copy = root / installation.relative_to(package.parent)
            _run(copy, account)
        except OSError as error:
            reasons.append(f"{base}: {error.strerror or error}")
        else:
            return copy
    raise LocalStackError(
        "no folder can hold a copy of PostgreSQL that another account than root may run: "
        f"{'; '.join(reasons)}. Run altsync as an ordinary user"
    )


def _fingerprint(package: Path) -> str:
    """A name for the wheel's content: its version and a digest of its list of files."""
    try:
        wheel = distribution(package.name.replace("_", "-"))
        version, listing = wheel.version, wheel.read_text("RECORD") or ""
    except PackageNotFoundError:
        version, listing = "unknown", ""
    own = sorted(line for line in listing.splitlines() if line.startswith(f"{package.name}"))
    compiled = [line for line in own if ".pyc," not in line and ".dist-info/" not in line]
    return f"{version}-{hashlib.sha256(chr(10).join(compiled).encode()).hexdigest()[:12]}"


@contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Hold the base folder for one writer; it must be root's alone to change."""
    base = base.parent.resolve() / base.name
    with suppress(FileExistsError):
        base.mkdir(mode=0o755)
        base.chmod(0o755)  # whatever the umask
    # O_NOFOLLOW: in a folder such as /tmp another account may have put a link there.
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(descriptor)
        if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError(f"it can be changed by other accounts than root (uid {found.st_uid})")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy_missing(source: Path, target: Path) -> None:
    """Copy the files that are missing or have another size, each in one step."""
    for folder, names, files in os.walk(source):
        names[:] = [name for name in names if name not in _LEFT_OUT]
        into = target / Path(folder).relative_to(source)
        _make_open(into)
        for name in files:
            original, copy = Path(folder, name), into / name
            wanted = original.stat()
            with suppress(FileNotFoundError):
                if copy.lstat().st_size == wanted.st_size:
                    continue
            descriptor, partial = tempfile.mkstemp(dir=into)
            with os.fdopen(descriptor, "wb") as writing, original.open("rb") as reading:
                shutil.copyfileobj(reading, writing)
                os.fchmod(descriptor, 0o755 if wanted.st_mode & stat.S_IXUSR else 0o644)
            Path(partial).replace(copy)


def _make_open(folder: Path) -> None:
    """Make a folder that every account may read, with those above it, whatever the umask."""
    if not folder.exists():
        _make_open(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def _run(installation: Path, account: Account) -> None:
    """Try the programs as the account: a file system may forbid it. Raises ``OSError``."""
    tried = subprocess.run(  # noqa: S603
        [installation / "bin" / "postgres", "--version"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={},
        timeout=_TRY_SECONDS,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    )
    if tried.returncode != 0:
        raise OSError(f"{account.name} cannot run it: {tried.stderr.strip()}")
