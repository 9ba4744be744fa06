"""The installed package has the files of the repository."""

from __future__ import annotations

import importlib
import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from alembic.script import ScriptDirectory

import altsync
from altsync.declarations import SINKS
from altsync.revisions import migrations_folder

ROOT = Path(__file__).parents[2]


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_in(root: Path, folder: str) -> set[str]:
    """Folders with an ``__init__.py``, as dotted names."""
    files = (root / folder).rglob("__init__.py")
    return {".".join(file.parent.relative_to(root).parts) for file in files}


def test_every_package_is_installed() -> None:
    """A folder that pyproject.toml does not list would be missing from a wheel.

    Migrations and seeds are beside ``src``, and packages of altsync where it is installed.
    """
    setuptools = project()["tool"]["setuptools"]
    beside = {name: folder for name, folder in setuptools["package-dir"].items() if name}
    mapped = {
        ".".join((name, *file.parent.relative_to(ROOT / folder).parts))
        for name, folder in beside.items()
        for file in (ROOT / folder).rglob("*.py")
        if name != "altsync.template"  # files to copy, and no packages
    }
    assert sorted(setuptools["packages"]) == sorted(
        packages_in(ROOT / "src", "altsync")
        | packages_in(ROOT / "src", "altsports")
        | set(beside)
        | mapped
    )


def test_every_folder_of_modules_is_a_package() -> None:
    """A folder without ``__init__.py`` would be found from the checkout and nowhere else."""
    for root in (ROOT / "src" / "altsync", ROOT / "workers"):
        folders = {file.parent for file in root.rglob("*.py")}
        assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_version_is_the_same_everywhere() -> None:
    """In the package, in pyproject.toml and in what is installed."""
    assert altsync.__version__ == project()["project"]["version"]


def test_the_package_says_that_it_is_typed() -> None:
    """py.typed is there and goes into the wheel."""
    assert (ROOT / "src" / "altsync" / "py.typed").is_file()
    assert "py.typed" in project()["tool"]["setuptools"]["package-data"]["altsync"]


def test_the_page_is_complete_and_loads_nothing_else() -> None:
    """Its files go into the wheel, each name in them is a file, and no other server is named."""
    assert project()["tool"]["setuptools"]["package-data"]["altsync.dashboard"] == ["static/*"]
    folder = ROOT / "src" / "altsync" / "dashboard" / "static"
    files = {file.name: file.read_text() for file in folder.iterdir()}
    for name, text in files.items():
        named = re.findall(r"/static/([\w.]+)", text) + re.findall(r'from "\./([\w.]+)"', text)
        assert set(named) <= files.keys(), name
        addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
        assert addresses <= {"http://www.w3.org/2000/svg"}, name
        assert "innerHTML" not in text and "insertAdjacentHTML" not in text, name


def test_the_commands_exist() -> None:
    """Every console script names a function that is there."""
    scripts = project()["project"]["scripts"]
    assert scripts.keys() == {"altsync"}
    for target in scripts.values():
        module, _, name = target.partition(":")
        assert callable(getattr(importlib.import_module(module), name))
    installed = {e.name for e in distribution("altsync").entry_points}
    assert installed >= scripts.keys()


def test_migrations_are_one_line_with_one_head() -> None:
    """Two heads would need a merge revision; the command line finds the same folder."""
    assert migrations_folder() == ROOT / "migrations"
    scripts = ScriptDirectory(str(ROOT / "migrations"))
    assert len(scripts.get_heads()) == 1
    assert scripts.get_bases() == ["0001"]
    location = project()["tool"]["alembic"]["script_location"]
    assert Path(location.replace("%(here)s", str(ROOT))) == ROOT / "migrations"


def test_every_sink_is_kept_independent() -> None:
    """import-linter knows each module of the sinks; a new one must be added there."""
    contracts = project()["tool"]["importlinter"]["contracts"]
    (independent,) = [c for c in contracts if c["type"] == "independence"]
    assert set(independent["modules"]) == {f"altsync.sinks.{name}" for name in SINKS}


def test_every_sink_is_declared_as_another_packages_would_be() -> None:
    group = project()["project"]["entry-points"]["altsync.sinks"]
    assert group == {name: f"altsync.sinks.{name}:SINK" for name in sorted(SINKS)}
