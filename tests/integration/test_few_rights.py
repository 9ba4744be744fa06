"""Roles that lack a right: questions are answered, the rest says which right is missing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs
from structlog.typing import EventDict
from typer.testing import CliRunner, Result

from altsync.app import Application
from altsync.cli import app
from altsync.config import Settings
from altsync.local.services.postgres import Postgres
from altsync.relay import Relay
from altsync.revisions import own_revision
from altsync.sentences import Exit
from tests.conftest import DIMENSIONS
from tests.contract.doubles import closed_port
from tests.integration.database_fixture import TIMEOUT, DatabaseFixture, eventually, league
from tests.integration.few_rights import SCHEMA, SEQUENCES, TABLES, Role, role_that_lacks
from tests.integration.test_relay import Bell
from tests.integration.verifying import Site

#: One archetype.
SEED = '{"id":"a","archetype_name":"racing","display_name":"Racing","code_pattern":"R"}'

#: Commands that only read, and that answer from PostgreSQL alone.
READING = (
    "status --json",
    "failures --json",
    "leagues --json",
    "league nfl --json",
    "retry --all --dry-run --json",
    "discard --all --why x --dry-run --json",
    "seed --all --dry-run --json",
    "prune --older-than 30d --dry-run --json",
)

#: Commands that ask the graph and the index as well.
COMMANDS = (
    "why l001 --json",
    "similar l001 --json",
    "archetypes --json",
    "verify --grace 0 --json",
    "verify --grace 0 --repair --json",
)

#: Commands that write something for the entities of ``seeded``.
WRITING = (
    "migrate --json",
    "seed --all --json",
    "retry --all --json",
    "discard --all --why x --yes --json",
    "pause --all --json",
    "resume --all --json",
    "backfill --sink neo4j --json",
    "prune --older-than 30d --yes --json",
    "relate --all --json",
    "relate --key nfl --json",
    "reembed --yes --json",
)

#: Questions that need PostgreSQL before any other store.
QUESTIONS = (
    "why nfl --json",
    "search football --json",
    "similar nfl --json",
    "archetypes --json",
    "explore football --json",
    "examples football --json",
    "verify --json",
    "verify --repair --json",
    "reembed --json",
)


@pytest.fixture
def seeded(pg: DatabaseFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DatabaseFixture:
    """A league with dead and old operations, and stores that are away."""
    pg.save(league("nfl"))
    pg.conn.execute(
        "UPDATE sync_operation SET status = 'dead', finished_at = now() - interval '60 d', "
        "last_error = 'bad', error_kind = 'item'"
    )
    port = closed_port()
    for name, value in {
        "NEO4J_URI": f"bolt://127.0.0.1:{port}",
        "PINECONE_API_KEY": "key",
        "PINECONE_CONTROLLER_HOST": f"http://127.0.0.1:{port}",
        "OPENAI_API_KEY": "key",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1",
        "ALTSYNC_EMBEDDING_MODEL": "another-model",
        "ALTSYNC_EMBEDDING_DIMENSIONS": str(DIMENSIONS),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / "archetypes.jsonl").write_text(f"{SEED}\n")
    return pg


@pytest.fixture
def lacking(
    request: pytest.FixtureRequest,
    postgres: Postgres,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Role]:
    """The role of DATABASE_URL: it lacks what the test's parameter says."""
    with role_that_lacks(postgres, database_url, request.param) as role:
        monkeypatch.setenv("DATABASE_URL", role.url)
        yield role


def invoke(command: str) -> Result:
    result = CliRunner().invoke(app, command.split())
    assert "Traceback" not in result.output
    return result


def assert_denied(command: str, role: Role, right: str) -> None:
    """The command ends with one sentence that grants ``right`` to the role."""
    result = invoke(command)
    assert result.exit_code == (2 if command.startswith("verify") else Exit.DENIED), result.output
    (said,) = (line for line in result.stderr.splitlines() if line.startswith("altsync: "))
    assert "permission denied" in said
    assert f": {right}" in said
    assert said.endswith(f'TO "{role.name}"')
    if "--json" in command:
        body = json.loads(result.stdout)
        assert (body["kind"], body["exit"]) == ("denied", result.exit_code)
        assert body["error"] == said.removeprefix("altsync: ")


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("lacking", ["to write"], indirect=True)
@pytest.mark.parametrize("command", READING)
def test_a_role_that_may_only_read_asks(lacking: Role, command: str) -> None:
    result = invoke(command)
    assert result.exit_code == Exit.OK, result.output
    assert json.loads(result.stdout) is not None


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("lacking", ["to write"], indirect=True)
@pytest.mark.parametrize("command", WRITING)
def test_a_role_that_may_only_read_is_told_the_grant(lacking: Role, command: str) -> None:
    assert_denied(command, lacking, "GRANT SELECT, INSERT, UPDATE, DELETE ON ")


def test_a_role_that_may_only_read_asks_every_store(
    site: Site, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comparison that cannot be kept says which right is missing for that."""
    with role_that_lacks(postgres, site.pg.url, "to write") as role:
        monkeypatch.setenv("DATABASE_URL", role.url)
        for command in COMMANDS:
            result = invoke(command)
            assert result.exit_code == Exit.OK, (command, result.output)
            assert json.loads(result.stdout)
            if command.startswith("verify"):
                assert f'DELETE ON verify_run TO "{role.name}"\n' in result.stderr
        site.pg.conn.execute("DELETE FROM sync_operation")
        site.pg.conn.execute("UPDATE league SET neo4j_sync_status = 'pending'")
        site.drop_vector("l001")
        assert_denied("verify --grace 0 --repair --json", role, "GRANT SELECT, INSERT")


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("lacking", ["the schema"], indirect=True)
@pytest.mark.parametrize("command", [*READING, *WRITING, *QUESTIONS])
def test_a_role_without_the_schema_is_not_told_to_migrate(lacking: Role, command: str) -> None:
    """PostgreSQL itself says that the tables do not exist."""
    assert_denied(command, lacking, "GRANT USAGE, CREATE ON SCHEMA public ")


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("lacking", ["every table"], indirect=True)
@pytest.mark.parametrize("command", [*READING, *WRITING, *QUESTIONS])
def test_a_role_without_a_table_is_told_the_grant(lacking: Role, command: str) -> None:
    assert_denied(command, lacking, "GRANT SELECT, INSERT, UPDATE, DELETE ON ")


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(
    ("lacking", "command", "right"),
    [
        ("the sequence", "seed --all --json", "GRANT USAGE, SELECT, UPDATE ON SEQUENCE entity"),
        ("the sequence", "verify --json", "GRANT USAGE, SELECT, UPDATE ON SEQUENCE entity"),
        ("one table", "status --json", "GRANT SELECT, INSERT, UPDATE, DELETE ON sync_operation "),
        ("temporary tables", "seed --all --json", "GRANT TEMPORARY ON DATABASE "),
    ],
    indirect=["lacking"],
)
def test_each_right_has_its_grant(lacking: Role, command: str, right: str) -> None:
    assert_denied(command, lacking, right)


@pytest.mark.parametrize("lacking", ["the database"], indirect=True)
def test_a_role_that_may_not_connect_is_told_the_grant(lacking: Role) -> None:
    result = invoke("status --json")
    assert result.exit_code == Exit.DENIED
    database = lacking.admin.info.dbname
    assert result.stderr == (
        f'altsync: no connection to PostgreSQL: permission denied for database "{database}"; '
        f'GRANT CONNECT ON DATABASE "{database}" TO "{lacking.name}"\n'
    )


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize(
    ("lacking", "said"),
    [
        ("to write", "sink_state, spend, spend_day, sport_archetype, sync_operation"),
        ("the sequence", "permission denied for sequence entity_version: GRANT USAGE"),
        ("the schema", "permission denied for schema public: GRANT USAGE"),
        ("one table", "permission denied for table sync_operation: GRANT SELECT, INSERT"),
    ],
    indirect=["lacking"],
)
def test_doctor_names_the_right_that_is_missing(lacking: Role, said: str) -> None:
    """A schema at its head is of no use to a role that may not write to it."""
    result = invoke("doctor --json")
    assert result.exit_code == Exit.ERROR
    found = {one["name"]: one for one in json.loads(result.stdout)}
    assert found["PostgreSQL"]["health"] == "ok"
    assert found["Schema"]["health"] == "failed"
    assert said in found["Schema"]["detail"]
    assert found["Schema"]["detail"].endswith(f'TO "{lacking.name}"')


def warnings(log: list[EventDict]) -> list[str]:
    """Return the warnings: the object of each right that is missing, and its grant."""
    said = [one["error"] for one in log if one["log_level"] == "warning"]
    return [text.partition("permission denied for ")[2] for text in said]


@contextmanager
def running(relay: Relay) -> Iterator[None]:
    """The relay in a thread of its own, whether or not it may listen."""
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        yield
    finally:
        relay.stop()
        thread.join(TIMEOUT)
    assert not thread.is_alive()


def of_role(role: Role) -> Settings:
    """Settings of one sink that needs no other store to be woken for."""
    return Settings(
        database_url=SecretStr(role.url),
        openai_api_key=SecretStr("key"),
        altsync_sinks="embedding",
    )


def test_a_relay_waits_for_each_right_and_says_it_once(
    pg: DatabaseFixture, postgres: Postgres, database_url: str
) -> None:
    pg.save(league("nfl"))
    bell = Bell()

    def is_said_and_repeated(grant: str) -> bool:
        return (
            any(text.endswith(grant) for text in warnings(log)) and log[-1]["log_level"] == "debug"
        )

    with (
        role_that_lacks(postgres, database_url, "to write") as role,
        closing(Application(of_role(role))) as application,
        capture_logs() as log,
    ):
        role.grant("REVOKE ALL ON alembic_version FROM {role}")
        application.require_schema()
        with running(application.relay(bell)):
            for table in ("alembic_version", "sink_state"):
                grant = f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO "
                eventually(partial(is_said_and_repeated, f'{grant}"{role.name}"'))
                role.grant(f"{grant}{{role}}")
            role.grant(TABLES, SEQUENCES)
            bell.wait_for("embedding")
            eventually(lambda: "relay.recovered" in [one["event"] for one in log])
    # The look at the schema, and the relay for each right.
    assert [text.split()[1].rstrip(":") for text in warnings(log)] == [
        "alembic_version",
        "alembic_version",
        "sink_state",
    ]


def test_a_relay_waits_for_the_schema(
    pg: DatabaseFixture, postgres: Postgres, database_url: str
) -> None:
    with (
        role_that_lacks(postgres, database_url, "the schema") as role,
        closing(Application(of_role(role))) as application,
        capture_logs() as log,
    ):
        application.require_schema()
        with running(application.relay(Bell())):
            eventually(lambda: len(log) >= 3)
            role.grant(SCHEMA)
            eventually(lambda: "relay.recovered" in [one["event"] for one in log])
    grant = f'schema public: GRANT USAGE, CREATE ON SCHEMA public TO "{role.name}"'
    assert warnings(log) == [grant, grant]
    assert [one["event"] for one in log][:2] == ["schema.not_checked", "relay.disconnected"]


def test_a_worker_waits_for_a_right_and_says_it_once(
    pg: DatabaseFixture, postgres: Postgres, database_url: str
) -> None:
    pg.save(league("nfl"))
    with role_that_lacks(postgres, database_url, "to write") as role:
        with (
            closing(Application(of_role(role), serving=True)) as application,
            capture_logs() as log,
        ):
            for _ in range(3):
                assert application.deliver("embedding").claimed == 0
        assert [one["log_level"] for one in log] == ["warning", "debug", "debug"]
        assert f'TO "{role.name}"' in warnings(log)[0]
    assert {(op.status, op.attempts) for op in pg.ops()} == {("pending", 0)}


def test_doctor_asks_a_broker_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALTSYNC_BROKER_URL", f"amqp://127.0.0.1:{closed_port()}//")
    result = invoke("doctor --json")
    found = {one["name"]: one for one in json.loads(result.stdout)}
    assert found["Redis"]["health"] == "failed"
    assert "not asked" not in found["Redis"]["detail"]


def test_migrate_says_in_json_how_each_sink_stands(
    seeded: DatabaseFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sink that is away is a failure, with the document; one without its setting is none."""
    monkeypatch.setenv("DATABASE_URL", seeded.url)
    monkeypatch.setenv("ALTSYNC_SIMILARITY", "off")
    monkeypatch.delenv("PINECONE_API_KEY")
    result = invoke("migrate --json")
    assert result.exit_code == Exit.ERROR
    body = json.loads(result.stdout)
    assert body["schema"] == own_revision()
    assert {name: one["state"] for name, one in body["sinks"].items()} == {
        "neo4j": "failed",
        "pinecone": "disabled",
        "embedding": "ready",
    }
    assert "127.0.0.1" in body["sinks"]["neo4j"]["reason"]
    assert "PINECONE_API_KEY" in body["sinks"]["pinecone"]["reason"]
