"""The package that the how-to builds, installed and used as any other sink."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from altsync.contract import SinkVersion, Written
from altsync.entities import EntityType
from tests import sports
from tests.contract.rows import MAKERS, MODEL, deleted
from tests.docs_blocks.blocks import ROOT, blocks_of

PAGE = ROOT / "docs" / "howto" / "add-a-sink.md"

LEAGUE = {
    "id": "f1",
    "league_name": "Formula 1",
    "sport_name": "Motorsport",
    "sport_archetype": "racing",
    "league_tag": "formula_1",
}
ARCHETYPE = {
    "id": "racing",
    "archetype_name": "racing",
    "display_name": "Racing",
    "code_pattern": "RaceEvent",
}


def blocks(language: str) -> list[str]:
    """Return the page's blocks of a language."""
    return [one.body for one in blocks_of(PAGE) if one.language == language]


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    """A folder in which the page's package is installed, as pip would leave it."""
    (described,) = blocks("toml")
    project = tomllib.loads(described)["project"]
    folder = tmp_path / "site-packages"
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    package = folder / "altsync_files"
    package.mkdir()
    for name, body in zip(("__init__", "write"), blocks("python"), strict=True):
        (package / f"{name}.py").write_text(body)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n{name} = {to}\n" for group, one in groups for name, to in one.items()]
    (info / "entry_points.txt").write_text("".join(lines))
    return folder


@pytest.mark.parametrize("entity_type", sports.TYPES)
def test_it_writes_reports_and_deletes(
    site_packages: Path, monkeypatch: pytest.MonkeyPatch, entity_type: EntityType, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(site_packages)
    for name in ("altsync_files", "altsync_files.write"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    sink = importlib.import_module("altsync_files.write").Sink(tmp_path / "files")
    row = MAKERS[entity_type]("one", 7)
    sink.setup()
    for _ in range(2):
        (outcome,) = sink.upsert([row], MODEL).outcomes
        assert isinstance(outcome, Written)
        assert (outcome.id, outcome.version) == (row.id, 7)
    assert list(sink.versions(entity_type)) == [SinkVersion(row.key, 7, row.content_hash)]
    sink.delete([deleted(row, 8)])
    assert list(sink.versions(entity_type)) == []
    sink.close()


class Installed:
    """altsync in a process of its own, with the page's package."""

    def __init__(self, process: subprocess.Popen[str], tmp_path: Path) -> None:
        self._process = process
        self.files = tmp_path / "files"
        self.seeds = tmp_path / "seeds"

    def ask(self, *arguments: Any) -> Any:
        """Return the answer to one line."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(arguments), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def run(self, *arguments: str, code: int = 0) -> Any:
        """Run a command with ``--json``."""
        result = self.ask(*arguments, "--json")
        assert result["code"] == code, result["output"]
        return json.loads(result["stdout"])

    def seed(self, **league: Any) -> None:
        """Load an archetype and a league."""
        lines = {"archetypes": ARCHETYPE, "leagues": LEAGUE | league}
        self.seeds.mkdir(exist_ok=True)
        for name, line in lines.items():
            (self.seeds / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
        self.run("seed", "--all", "--dir", str(self.seeds))

    def operations(self) -> dict[str, int]:
        """Return how many operations of the sink have which status."""
        counts = self.run("status")["operations"]["files"]
        return {name: counts[name] for name in ("pending", "dead") if counts[name]}

    def held(self) -> dict[str, Any]:
        """Return the league's file."""
        body: dict[str, Any] = json.loads((self.files / "league" / "formula_1.json").read_text())
        return body


@pytest.fixture
def installed(site_packages: Path, empty_database_url: str, tmp_path: Path) -> Iterator[Installed]:
    """A migrated installation whose only sink is the page's."""
    variables = {
        "DATABASE_URL": empty_database_url,
        "REDIS_URL": "redis://127.0.0.1:1",
        "ALTSYNC_SINKS": "files",
        "ALTSYNC_FILES_FOLDER": str(tmp_path / "files"),
        "ALTSYNC_SIMILARITY": "off",
        "PYTHONPATH": os.pathsep.join([str(site_packages), str(ROOT)]),
    }
    command = [sys.executable, "-m", "tests.contract.installed_sink"]
    with ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                command,
                env={**os.environ, **variables},
                cwd=tmp_path,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(process.kill)
        found = Installed(process, tmp_path)
        assert found.run("migrate")["sinks"] == {"files": {"state": "ready"}}
        yield found


def test_it_is_seeded_delivered_and_compared(installed: Installed) -> None:
    """As one that altsync brings: no name of it stands in altsync."""
    assert installed.ask("queues") == ["files"]
    installed.seed()
    assert installed.operations() == {"pending": 2}
    assert installed.ask("deliver") == ["files"]
    assert installed.operations() == {}
    assert installed.held()["league_name"] == "Formula 1"
    league = installed.run("status")["entities"]["league"]
    assert league["files"]["synced"] == 1

    assert installed.run("verify")["sinks"]["files"]["missing"] == 0
    why = installed.run("why", "formula_1", "--dir", str(installed.seeds))
    assert {check["store"]: check["agrees"] for check in why["checks"]}["files"] is True
    assert why["files"]["version"] == installed.held()["version"]
    assert installed.ask("ask", "session", "token")["sinks"] == ["files"]
    overview = installed.ask("ask", "overview", {})
    assert overview["sinks"]["files"]["state"] == "closed"
    stores = installed.ask("ask", "stores", {"key": "formula_1"})
    assert stores["held"]["files"] == [why["files"]["version"]]

    (installed.files / "league" / "formula_1.json").unlink()
    assert installed.run("verify", code=1)["sinks"]["files"]["missing"] == 1
    installed.run("verify", "--repair", code=1)
    installed.ask("deliver")
    assert installed.held()["league_name"] == "Formula 1"
    assert installed.run("verify")["sinks"]["files"]["missing"] == 0


def test_a_record_that_it_refuses_is_a_failure(installed: Installed) -> None:
    installed.seed(description="x" * 200_000)
    installed.ask("deliver")
    assert installed.operations() == {"dead": 1}
    (group,) = installed.run("failures")
    assert (group["sink"], group["sample_keys"]) == ("files", ["league formula_1"])
    assert "bytes are more than 100,000" in group["sample_reason"]
    why = installed.run("why", "formula_1", "--dir", str(installed.seeds))
    assert why["agrees"] is False
    assert why["reasons"][0].startswith("Files ")

    installed.seed(description="Short.")
    installed.ask("deliver")
    assert installed.operations() == {}
    assert installed.held()["description"] == "Short."
