"""The imports of commands at their start: a start is as fast as its imports."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from altsports import commands
from altsync import cli, contract, declarations
from altsync.app import Application
from altsync.contract import Declaration
from tests.imports import OUTSIDE_SDKS, imported

#: Libraries that only a command which opens a connection or reads settings needs.
LIBRARIES = OUTSIDE_SDKS | {"psycopg", "pydantic_settings", "structlog"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        (),
        ("nonsense",),
        ("nonsense", "--json"),
        ("--nonsense",),
        ("--show-completion",),
    ],
)
def test_the_program_alone_imports_no_command(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    found = imported(*arguments, folder=tmp_path)
    assert found & LIBRARIES == set()
    assert found & {"altsync.app", "altsync.config", "altsync.db", "altsync.store"} == set()


def test_the_version_needs_neither_rich_nor_pydantic(tmp_path: Path) -> None:
    assert imported("--version", folder=tmp_path) & {"rich", "pydantic"} == set()


def test_completion_lists_commands_without_importing_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_ALTSYNC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "altsync re")
    monkeypatch.setenv("COMP_CWORD", "1")
    entry = Path(sys.executable).with_name("altsync")
    done = subprocess.run([entry], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.split() == ["revision", "relay", "retry", "resume", "relate", "reembed"]


@pytest.mark.parametrize(
    "command",
    sorted({*cli.LINES, *commands.LINES} - {"verify", "why", "seed", "plan"}),
)
def test_a_command_imports_no_sdk_before_it_runs(tmp_path: Path, command: str) -> None:
    """But for ``seed`` and ``plan``, whose options are the catalogue's parts."""
    assert imported(command, "--help", folder=tmp_path) & OUTSIDE_SDKS == set()


@pytest.mark.parametrize(
    "module",
    [
        "app",
        "config",
        "entities",
        "operations",
        "contract",
        "declarations",
        "db",
        "store",
        "outbox",
        "status",
        "doctor",
        "seed.loader",
    ],
)
def test_a_module_below_the_commands_imports_no_sdk(tmp_path: Path, module: str) -> None:
    assert imported(module=f"altsync.{module}", folder=tmp_path) & OUTSIDE_SDKS == set()


def test_the_models_import_no_sdk_of_a_sink(tmp_path: Path) -> None:
    """They are SQLModel, so SQLAlchemy comes with them."""
    found = imported(module="altsync.models", folder=tmp_path)
    assert found & (OUTSIDE_SDKS - {"sqlalchemy", "sqlmodel"}) == set()


def test_the_help_shows_the_first_line_of_every_command() -> None:
    found = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    first_lines = {name: one.help.split("\n\n")[0] for name, one in found.items()}
    assert first_lines == {**cli.LINES, **commands.LINES}


@pytest.mark.parametrize("name", declarations.SINKS)
def test_a_sinks_declaration_imports_no_sdk(tmp_path: Path, name: str) -> None:
    assert imported(module=f"altsync.sinks.{name}", folder=tmp_path) & OUTSIDE_SDKS == set()


@pytest.mark.parametrize("one", declarations.SINKS.values(), ids=declarations.SINKS)
def test_a_sink_has_the_functions_that_it_declares(one: Declaration) -> None:
    for path in (one.open, one.compare, one.show, one.check, one.price):
        assert not path or callable(contract.imported(path))


def test_a_process_that_serves_imports_every_sdk_before_its_threads_start() -> None:
    code = (
        "import sys\n"
        "from altsync.app import Application\n"
        "Application(serving=True)\n"
        "print(*sorted({'neo4j', 'numpy', 'openai', 'pinecone'} - set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("mode", ["local", "index", "off"])
def test_what_is_loaded_before_a_fork_is_what_delivery_opens(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALTSYNC_SIMILARITY", mode)
    asked: list[str] = []
    monkeypatch.setattr(importlib, "import_module", asked.append)
    Application().load()
    names = {
        "local": ["altsync.similarity.local"],
        "index": ["altsync.similarity.index"],
        "off": [],
    }
    both = [f"altsync.sinks.{n}.{m}" for n in ("neo4j", "pinecone") for m in ("write", "compare")]
    sinks = ["altsync.sinks.embedding.write", "altsync.verify.derived", *both]
    assert asked == [*sinks, *names[mode], "altsync.openai_embedder", "altsync.verify.run"]


@pytest.mark.parametrize("named", ["file", "variable", ".env"])
def test_another_catalogue_has_no_commands_of_the_shipped_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """And the help does not import it."""
    (tmp_path / "catalogue.py").write_text("raise RuntimeError('imported')\n")
    if named == "variable":
        monkeypatch.setenv("ALTSYNC_CATALOGUE", "catalogue:other")
    if named == ".env":
        (tmp_path / ".env").write_text("ALTSYNC_CATALOGUE=catalogue:other\n")
    monkeypatch.chdir(tmp_path)
    entry = Path(sys.executable).with_name("altsync")
    done = subprocess.run([entry, "--help"], capture_output=True, text=True, check=True)
    assert "similar" in done.stdout
    assert "archetypes" not in done.stdout
    refused = subprocess.run([entry, "leagues"], capture_output=True, text=True, check=False)
    assert "No such command 'leagues'" in refused.stderr
