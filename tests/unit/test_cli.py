"""The command line without any server: help, wrong usage, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from altsync import __version__
from altsync.cli import app
from altsync.cli.terminal import Exit
from tests.contract.doubles import closed_port

SEEDS = {"archetypes.jsonl": '{"id":"a","archetype_name":"racing"}\n'}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Commands in a folder of their own, with a seed folder in it."""
    (tmp_path / "work" / "seeds").mkdir(parents=True)
    for name, text in SEEDS.items():
        (tmp_path / "work" / "seeds" / name).write_text(text)
    monkeypatch.chdir(tmp_path / "work")
    return CliRunner()


def _commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield path, command
    for name, child in getattr(command, "commands", {}).items():
        yield from _commands(child, (*path, name))


ALL = dict(_commands(typer.main.get_command(app)))


def test_the_commands_are_those_that_are_known() -> None:
    """A command that goes or comes is noticed, and documented."""
    assert {" ".join(path) for path in ALL} >= {
        "",
        "migrate",
        "seed",
        "relay",
        "status",
        "failures",
        "retry",
        "discard",
        "pause",
        "resume",
        "backfill",
        "prune",
        "reembed",
        "why",
        "doctor",
        "search",
        "similar",
        "archetypes",
        "explore",
        "examples",
        "leagues",
        "league",
        "graph",
        "graph archetype",
        "graph same-archetype",
        "graph cross-archetype",
        "demo",
        "local",
        "local up",
        "local down",
        "local status",
        "local env",
        "local reset",
        "local logs",
    }


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_every_command_explains_itself(run: CliRunner, path: tuple[str, ...]) -> None:
    """``--help`` works without any setting, and says what the command does."""
    result = run.invoke(app, [*path, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    lines = [line.strip() for line in result.stdout.splitlines() if line.strip()]
    assert len(lines) > 2
    assert lines[1].endswith(".") or len(lines[1]) > 20


def test_every_option_explains_itself() -> None:
    """No option of any command is without a word of help."""
    mute = [
        f"{' '.join(path)} {option.opts[0]}"
        for path, command in ALL.items()
        for option in command.params
        if not option.help
    ]
    assert mute == []


def test_the_version(run: CliRunner) -> None:
    """One line."""
    result = run.invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"altsync {__version__}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nonsense"], "nonsense"),
        (["seed"], "say what to seed"),
        (["seed", "--all", "--nonsense"], "--nonsense"),
        (["seed", "--all", "--limit", "-1"], "--limit"),
        (["seed", "--all", "--limit", "many"], "--limit"),
        (["seed", "--all", "--wait", "--timeout", "-1"], "--timeout"),
        (["seed", "--leagues", "--category", "triage"], "--category needs --examples or --all"),
        (["seed", "--all", "more"], "more"),
        (["retry"], "select dead operations by"),
        (["retry", "--older-than", "soon"], "invalid duration"),
        (["retry", "--newer-than", "7000000w"], "longer than"),
        (["retry", "--kind", "mean"], "--kind"),
        (["retry", "--reason", ""], "an empty reason"),
        (["discard", "--all"], "--why"),
        (["discard", "--all", "--why", " "], "say why"),
        (["discard", "--why", "gone"], "select dead operations by"),
        (["pause"], "name a sink: --sink or --all"),
        (["resume"], "name a sink: --sink or --all"),
        (["pause", "--sink", "neo4j", "--all"], "exclude each other"),
        (["prune"], "--older-than"),
        (["prune", "--older-than", "30m"], "younger than 1h"),
        (["prune", "--older-than", "-1d"], "invalid duration"),
        (["backfill"], "--sink"),
        (["why"], "Missing argument 'key'"),
        (["reembed", "more"], "more"),
        (["status", "--watch", "--every", "0"], "--every"),
        (["status", "--every", "often"], "--every"),
        (["failures", "--sink"], "--sink"),
        (["search"], "text"),
        (["search", "x", "--top-k", "0"], "--top-k"),
        (["search", "x", "--top-k", "10001"], "--top-k"),
        (["similar"], "tag"),
        (["similar", "ufc", "--top-k", "many"], "--top-k"),
        (["archetypes", "--limit", "0"], "--limit"),
        (["leagues", "--limit", "-1"], "--limit"),
        (["graph", "nonsense"], "nonsense"),
        (["local", "nonsense"], "nonsense"),
        (["doctor", "more"], "more"),
    ],
)
def test_wrong_usage_ends_with_two(run: CliRunner, arguments: list[str], said: str) -> None:
    """Before anything is looked up or connected, with a word on what was wrong."""
    result = run.invoke(app, arguments)
    assert result.exit_code == Exit.USAGE
    assert said in " ".join(result.stderr.replace("│", " ").split())
    assert result.stdout == ""


NEEDS_POSTGRES = [
    ["migrate"],
    ["seed", "--all"],
    ["seed", "--archetypes", "--dry-run"],
    ["status"],
    ["status", "--json"],
    ["status", "--watch"],
    ["failures"],
    ["failures", "--sink", "neo4j"],
    ["retry", "--all"],
    ["retry", "--entity", "ufc"],
    ["retry", "--reason", "locked", "--older-than", "2h", "--dry-run"],
    ["discard", "--sink", "neo4j", "--why", "gone"],
    ["pause", "--all"],
    ["resume", "--sink", "neo4j"],
    ["prune", "--older-than", "30d", "--dry-run"],
    ["backfill", "--sink", "neo4j"],
    ["search", "x"],
    ["similar", "ufc"],
    ["archetypes", "--json"],
    ["explore", "x"],
    ["examples", "x"],
    ["leagues", "--json"],
    ["league", "ufc"],
    ["graph", "archetype", "combat"],
    ["graph", "same-archetype", "ufc"],
    ["graph", "cross-archetype"],
    ["why", "formula_1"],
    ["reembed"],
    ["reembed", "--yes"],
]


@pytest.mark.parametrize("arguments", NEEDS_POSTGRES, ids=" ".join)
def test_a_missing_database_url_is_one_sentence(run: CliRunner, arguments: list[str]) -> None:
    """The variable is named, with what to do, and no traceback."""
    result = run.invoke(app, arguments)
    assert result.exit_code == Exit.SETTINGS
    said = " ".join(result.stderr.split())
    assert said.startswith("altsync: DATABASE_URL is not set. Start the embedded stack with")
    assert "Traceback" not in result.output
    if "--json" in arguments:
        assert json.loads(result.stdout)["kind"] == "settings"
    else:
        assert result.stdout == ""


def test_the_relay_needs_both_its_servers(run: CliRunner) -> None:
    """It says the first one that is missing."""
    result = run.invoke(app, ["relay"])
    assert result.exit_code == Exit.SETTINGS
    assert "_URL is not set. Start the embedded stack with" in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_a_database_that_is_not_there_is_one_sentence(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The password is not shown."""
    url = f"postgresql://someone:planted-secret@127.0.0.1:{closed_port()}/db"
    monkeypatch.setenv("DATABASE_URL", url)
    result = run.invoke(app, ["seed", "--all"])
    assert result.exit_code == Exit.UNAVAILABLE
    assert "altsync: no connection to PostgreSQL:" in result.stderr
    assert "planted-secret" not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("arguments", [*NEEDS_POSTGRES, ["doctor"]], ids=" ".join)
def test_a_wrong_setting_is_one_sentence(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    """The variable is named and its value is not."""
    monkeypatch.setenv("ALTSYNC_LEASE_SECONDS", "planted-secret")
    result = run.invoke(app, arguments)
    assert result.exit_code == Exit.SETTINGS
    assert "ALTSYNC_LEASE_SECONDS" in result.stderr
    assert "planted-secret" not in result.output
    assert "Traceback" not in result.output


def test_a_sink_that_does_not_exist_is_one_sentence(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named in the settings, or asked for."""
    result = run.invoke(app, ["backfill", "--sink", "kafka"])
    assert result.exit_code == Exit.ERROR
    assert "no sink 'kafka'; there are embedding, neo4j, pinecone" in result.stderr
    monkeypatch.setenv("ALTSYNC_SINKS", "neo4j,kafka")
    result = run.invoke(app, ["failures", "--sink", "neo4j"])
    assert result.exit_code == Exit.SETTINGS
    said = " ".join(result.stderr.split())
    assert "there is no sink 'kafka': no installed package declares it" in said


def test_doctor_looks_at_everything_and_says_what_is_missing(run: CliRunner) -> None:
    """Nothing is set: two services are missed, the sinks are disabled, and it ends with 1."""
    result = run.invoke(app, ["doctor", "--json"])
    assert result.exit_code == Exit.ERROR
    found = {one["name"]: (one["health"], one["detail"]) for one in json.loads(result.stdout)}
    assert {name: health for name, (health, _) in found.items()} == {
        "PostgreSQL": "failed",
        "Schema": "failed",
        "Redis": "failed",
        "Neo4j": "disabled",
        "Pinecone": "disabled",
        "Embedder": "disabled",
    }
    assert "DATABASE_URL is not set" in found["PostgreSQL"][1]
    assert found["Neo4j"][1] == "NEO4J_URI is not set"
    assert found["Pinecone"][1] == "PINECONE_API_KEY is not set"
    assert found["Embedder"][1] == "OPENAI_API_KEY is not set"


def test_the_local_stack_says_that_it_never_ran(run: CliRunner) -> None:
    """``local status`` needs nothing running, and starts nothing."""
    result = run.invoke(app, ["local", "status", "--json"])
    assert result.exit_code == 0
    assert {service["state"] for service in json.loads(result.stdout)} == {"stopped"}


def test_logs_of_an_unknown_service(run: CliRunner) -> None:
    """The sentence says which services there are."""
    result = run.invoke(app, ["local", "logs", "kafka"])
    assert result.exit_code == Exit.ERROR
    assert "no service 'kafka'; there are" in result.stderr


def test_exit_codes_are_those_of_the_reference() -> None:
    """Scripts rely on them."""
    assert {code.name: code.value for code in Exit} == {
        "OK": 0,
        "ERROR": 1,
        "USAGE": 2,
        "REJECTED": 3,
        "SINK_ERRORS": 4,
        "TIMED_OUT": 5,
        "NOT_CONFIRMED": 6,
        "SETTINGS": 7,
        "UNAVAILABLE": 8,
        "DENIED": 9,
        "SCHEMA": 10,
        "BUSY": 11,
        "FILE": 12,
        "BUG": 70,
        "INTERRUPTED": 130,
        "PIPE": 141,
    }


def test_migrating_a_database_that_is_not_there_is_one_sentence(
    run: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alembic's and SQLAlchemy's own errors stay inside."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://someone:x@127.0.0.1:{closed_port()}/db")
    result = run.invoke(app, ["migrate"])
    assert result.exit_code == Exit.UNAVAILABLE
    assert "altsync: no connection to PostgreSQL:" in result.stderr
    assert "Traceback" not in result.output
