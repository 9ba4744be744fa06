"""The projects of ``examples/`` and that of ``altsync init``, from seed to agreement."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"

#: Seconds that a project may take from nothing to agreement.
LONGEST = 600


def altsync(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command in a project, which finds its own catalogue and its own stack."""
    unset = ("ALTSYNC_CATALOGUE", "DATABASE_URL")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    return subprocess.run(
        [sys.executable, "-m", "altsync", *arguments],
        cwd=folder,
        env={**environment, "ALTSYNC_HOME": str(folder / ".altsync")},
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )


def work(folder: Path, entities: dict[str, int]) -> None:
    """Run the whole job, and see that every store agrees."""
    try:
        for first in (["local", "up"], ["migrate"]):
            assert altsync(folder, *first).returncode == 0
        plan: Any = json.loads(altsync(folder, "plan", "seed", "--all", "--json").stdout)["plan"]
        shown = altsync(folder, "demo", "--keep")
        assert shown.returncode == 0, shown.stdout + shown.stderr
        found: Any = json.loads(altsync(folder, "status", "--json").stdout)
        assert {name: one["total"] for name, one in found["entities"].items()} == entities
        spent = found["costs"]["spent"]
        for unit in ("tokens", "write_units"):
            assert plan[unit] == pytest.approx(sum(one[unit] for one in spent), rel=0.01)
        verified = altsync(folder, "verify", "--deep", "--json")
        assert (verified.returncode, json.loads(verified.stdout)["consistent"]) == (0, True)
        again = altsync(folder, "seed", "--all", "--json")
        assert json.loads(again.stdout)["operations"] == 0
    finally:
        altsync(folder, "local", "down")


@pytest.mark.slow
def test_a_project_of_init_runs_at_once(tmp_path: Path) -> None:
    made = altsync(tmp_path, "init", "corner-shop")
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "corner-shop"
    assert "corner-shop-products" in (folder / "catalogue.py").read_text()
    work(folder, {"brand": 3, "product": 10})
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout


@pytest.mark.slow
def test_beacons_reach_every_store(tmp_path: Path) -> None:
    folder = tmp_path / "navaids"
    shutil.copytree(EXAMPLES / "navaids", folder)
    work(folder, {"country": 214, "kind": 4, "navaid": 1275})


def test_init_does_not_write_over_anything(tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "mine.txt").write_text("mine")
    refused = altsync(tmp_path, "init", "shop")
    assert refused.returncode == 1
    assert "altsync: shop exists already: name another folder" in refused.stderr
    assert [file.name for file in (tmp_path / "shop").iterdir()] == ["mine.txt"]
    assert altsync(tmp_path, "init", "..").returncode == 1
