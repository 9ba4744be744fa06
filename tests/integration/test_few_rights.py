"""A role that may only read: questions are answered, the rest says which right is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from typer.testing import CliRunner

from altsync.cli import app
from altsync.sentences import Exit
from tests.contract.doubles import closed_port

#: One archetype.
SEED = '{"id":"a","archetype_name":"racing","display_name":"Racing","code_pattern":"R"}'


@pytest.fixture
def reader(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yield the role of DATABASE_URL, which may only read."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        role = conn.info.user
        for objects in ("TABLES", "SEQUENCES"):
            conn.execute(f"REVOKE ALL ON ALL {objects} IN SCHEMA public FROM {role}")
            conn.execute(f"GRANT SELECT ON ALL {objects} IN SCHEMA public TO {role}")
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "archetypes.jsonl").write_text(f"{SEED}\n")
    yield role
    with psycopg.connect(database_url, autocommit=True) as conn:
        for objects in ("TABLES", "SEQUENCES"):
            conn.execute(f"GRANT ALL ON ALL {objects} IN SCHEMA public TO {role}")


@pytest.mark.usefixtures("reader")
@pytest.mark.parametrize("command", [["status"], ["failures"], ["leagues"]], ids=" ".join)
def test_a_role_that_may_only_read_asks(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == Exit.OK, result.output
    assert json.loads(result.stdout) is not None


@pytest.mark.parametrize(
    "command",
    [["seed", "--all"], ["pause", "--all"], ["prune", "--older-than", "30d"], ["resume", "--all"]],
    ids=" ".join,
)
def test_a_role_that_may_only_read_is_told_the_grant(reader: str, command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--json"])
    assert result.exit_code == Exit.DENIED, result.output
    assert "permission denied" in result.stderr
    assert ": GRANT " in result.stderr
    assert f'TO "{reader}"' in result.stderr
    assert json.loads(result.stdout)["kind"] == "denied"


def test_doctor_asks_a_broker_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTSYNC_BROKER_URL", f"amqp://127.0.0.1:{closed_port()}//")
    result = CliRunner().invoke(app, ["doctor", "--json"])
    found = {one["name"]: one for one in json.loads(result.stdout)}
    assert found["Redis"]["health"] == "failed"
    assert "not asked" not in found["Redis"]["detail"]
