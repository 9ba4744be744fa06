"""Run PostgreSQL for root: as another account, from a copy of its programs.

PostgreSQL does not run as root, and other accounts cannot read a virtual environment below root's
home. The programs are copied once to a folder that only root may change.
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

#: The account that is made for the server. It owns the clusters only.
ACCOUNT = "altsync-postgres"

#: The account that is used if none can be made (a read-only /etc, no useradd).
FALLBACK_ACCOUNT = "nobody"

#: Folders for the copy; the first usable one is used. The last ones are for containers with a
#: read-only root file system.
BASES = (
    Path("/var/lib/altsync"),
    Path("/opt/altsync"),
    Path("/var/tmp/altsync-runtime"),  # noqa: S108  (owner and mode are checked)
    Path("/tmp/altsync-runtime"),  # noqa: S108
    Path("/dev/shm/altsync-runtime"),  # noqa: S108
)

#: Folders of the wheel that a server does not need.
_LEFT_OUT = frozenset({"include", "__pycache__"})

#: Seconds for ``postgres --version``.
_VERSION_SECONDS = 20.0


def account_for(data: Path) -> Account | None:
    """Return the account that runs a server on this folder; None for the present one.

    The owner of existing data runs the server. Raises ``LocalStackError``.
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
    """Return a copy of the wheel's installation that ``account`` can run.

    It is made, or completed, if needed. Raises ``LocalStackError``.
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
            _check_runs(copy, account)
        except OSError as error:
            reasons.append(f"{base}: {error.strerror or error}")
        else:
            return copy
    raise LocalStackError(
        "no folder can hold a copy of PostgreSQL that another account than root may run: "
        f"{'; '.join(reasons)}. Run altsync as an ordinary user"
    )


def _fingerprint(package: Path) -> str:
    """Return the wheel's version and a digest of its list of files."""
    try:
        wheel = distribution(package.name.replace("_", "-"))
        version, listing = wheel.version, wheel.read_text("RECORD") or ""
    except PackageNotFoundError:
        version, listing = "unknown", ""
    entries = sorted(line for line in listing.splitlines() if line.startswith(f"{package.name}"))
    kept = [line for line in entries if ".pyc," not in line and ".dist-info/" not in line]
    return f"{version}-{hashlib.sha256(chr(10).join(kept).encode()).hexdigest()[:12]}"


@contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Lock the folder. Raises ``OSError`` if another account than root may change it."""
    base = base.parent.resolve() / base.name
    with suppress(FileExistsError):
        base.mkdir(mode=0o755)
        base.chmod(0o755)  # whatever the umask
    # O_NOFOLLOW: in a folder such as /tmp, another account may have made a link.
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
    """Copy each file that is missing or has another size, atomically."""
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
    """Make a folder and its parents readable by every account, whatever the umask."""
    if not folder.exists():
        _make_open(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def _check_runs(installation: Path, account: Account) -> None:
    """Run a program as the account. Raises ``OSError``, for example on a noexec file system."""
    done = subprocess.run(  # noqa: S603
        [installation / "bin" / "postgres", "--version"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={},
        timeout=_VERSION_SECONDS,
        user=account.uid,
        group=account.gid,
        extra_groups=[],
    )
    if done.returncode != 0:
        raise OSError(f"{account.name} cannot run it: {done.stderr.strip()}")
