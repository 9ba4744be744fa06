"""A PostgreSQL that accepts no changes: a standby, or a database that is set to read only."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from typer.testing import CliRunner, Result

from altsync.cli import app
from altsync.local import processes
from altsync.local.processes import Launch
from altsync.local.runtime import account_for, open_copy
from altsync.local.services.base import started
from altsync.local.services.postgres import Postgres
from altsync.sentences import Exit
from tests.integration.database_fixture import DatabaseFixture, eventually
from tests.integration.test_few_rights import READING, WRITING, seeded

__all__ = ["seeded"]


class Standby(Postgres):
    """A server that follows another one, and takes no writes."""

    def __init__(self, folder: Path, primary: Postgres) -> None:
        super().__init__(folder)
        self.primary = primary

    def url_of(self, url: str) -> str:
        """Return the address here of a database of the primary."""
        return url.replace(f":{self.primary.port}/", f":{self.port}/")

    def answers(self) -> bool:
        """Return whether it takes questions."""
        try:
            psycopg.connect(self.url_of(self.primary.superuser_url), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _make_cluster(self) -> None:
        """Copy the primary's files, as ``pg_basebackup`` does."""
        account = account_for(self.data)
        installation = self.primary._installation()
        if account is not None:
            installation = open_copy(installation, account)
        self.data.mkdir(mode=0o700)
        command = [str(installation / "bin" / "pg_basebackup"), "-w", "-R", "-c", "fast"]
        command += ["-X", "stream", "-d", self.primary.superuser_url]
        # The account need not pass through the folders above.
        folder = os.open(self.data, os.O_RDONLY)
        if account is not None:
            os.fchown(folder, account.uid, account.gid)
        command += ["-D", f"/proc/self/fd/{folder}" if account else str(self.data)]
        launch = Launch(command, account, [folder])
        done = processes.spawn(launch, self.folder, self.log).wait()
        os.close(folder)
        assert done == 0, self.log.read_text()


@pytest.fixture(scope="module")
def standby(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standby]:
    """A standby of the session's PostgreSQL, with all of its databases."""
    server = started(Standby(tmp_path_factory.mktemp("standby"), postgres))
    yield server
    server.stop()


@contextmanager
def read_only(pg: DatabaseFixture) -> Iterator[None]:
    """Have new sessions of the database read only."""
    name = pg.scalar("SELECT current_database()")
    pg.conn.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    yield
    pg.conn.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")


def invoke(command: str) -> Result:
    result = CliRunner().invoke(app, command.split())
    assert "Traceback" not in result.output
    return result


def finding(name: str) -> dict[str, str]:
    """Return doctor's finding of one service."""
    result = invoke("doctor --json")
    assert result.exit_code == Exit.ERROR
    found: dict[str, dict[str, str]] = {one["name"]: one for one in json.loads(result.stdout)}
    return found[name]


def assert_refused(command: str) -> None:
    """The command ends with one sentence that says to name another server."""
    result = invoke(command)
    assert result.exit_code == Exit.DENIED, result.output
    (said,) = (line for line in result.stderr.splitlines() if line.startswith("altsync: "))
    assert "the database accepts no changes; name its primary server in DATABASE_URL" in said


def test_a_standby_answers_questions_and_says_what_it_is(
    standby: Standby, seeded: DatabaseFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real one, that follows by streaming."""
    there = standby.url_of(seeded.url)
    monkeypatch.setenv("DATABASE_URL", there)
    name = urlsplit(there).path[1:]

    def has_followed() -> bool:
        with psycopg.connect(standby.url_of(standby.primary.superuser_url)) as conn:
            row = conn.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
        if row is None:
            return False
        with psycopg.connect(there) as conn:
            counted = conn.execute("SELECT count(*) FROM sync_operation WHERE status = 'dead'")
            return counted.fetchone() != (0,)

    eventually(has_followed)
    found = finding("PostgreSQL")
    assert found["health"] == "failed"
    assert found["detail"].endswith(
        "this is a standby, which accepts no changes; name its primary server in DATABASE_URL"
    )
    assert finding("Schema")["health"] == "ok"
    assert invoke("status --json").exit_code == Exit.OK
    assert_refused("seed --all --json")
    assert_refused("pause --all --json")
    assert_refused("migrate --json")


def test_doctor_says_that_a_database_is_read_only(
    seeded: DatabaseFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", seeded.url)
    with read_only(seeded):
        found = finding("PostgreSQL")
        assert found["health"] == "failed"
        assert "the database accepts no changes; end default_transaction_read" in found["detail"]
    assert finding("PostgreSQL")["health"] == "ok"


@pytest.mark.parametrize("command", READING)
def test_a_read_only_database_answers(
    seeded: DatabaseFixture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", seeded.url)
    with read_only(seeded):
        result = invoke(command)
    if command.startswith("seed"):  # it stages lines in temporary tables
        assert result.exit_code in (Exit.OK, Exit.DENIED)
        return
    assert result.exit_code == Exit.OK, result.output
    assert json.loads(result.stdout) is not None


@pytest.mark.parametrize("command", WRITING)
def test_a_read_only_database_refuses_changes_in_one_sentence(
    seeded: DatabaseFixture, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", seeded.url)
    with read_only(seeded):
        assert_refused(command)
