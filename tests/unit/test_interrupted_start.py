"""Ctrl-C in the first half second, while modules are imported."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

INTERRUPTED = """
import os, runpy, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

module, entry = sys.argv.pop(1), sys.argv.pop(1)
sys.meta_path.insert(0, Interrupting())
runpy.run_module(entry, run_name="__main__", alter_sys=True)
"""


def interrupted(module: str, *command: str, entry: str = "altsync") -> tuple[int, str, str]:
    """Return how a command ends whose import of a module is interrupted, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, entry, *command],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("altsync.cli", "--version"),
        ("typer", "--version"),
        ("altsync.config", "status"),
        ("psycopg", "seed"),
        ("altsync.cli.why", "why"),
        ("altsync.cli.local", "local"),
        ("altsync.app", "verify"),
        ("psycopg_pool", "verify"),
    ],
)
def test_an_interrupted_import_ends_with_one_line_and_130(module: str, command: str) -> None:
    assert interrupted(module, command) == (130, "", "altsync: interrupted\n")


@pytest.mark.parametrize("module", ["altsync.cli", "typer", "psycopg"])
def test_the_entry_of_the_seeder_ends_in_the_same_way(module: str) -> None:
    ended = interrupted(module, "--all", entry="altsync.seed")
    assert ended == (130, "", "altsync: interrupted\n")


@pytest.mark.parametrize(
    ("entry", "command"),
    [("altsync", ("status", "--json")), ("altsync.seed", ("--all", "--json"))],
)
@pytest.mark.parametrize("module", ["altsync.cli", "psycopg", "psycopg_pool"])
def test_an_interrupted_import_prints_the_document_that_was_asked_for(
    entry: str, command: tuple[str, ...], module: str
) -> None:
    code, stdout, stderr = interrupted(module, *command, entry=entry)
    assert (code, stderr) == (130, "altsync: interrupted\n")
    assert json.loads(stdout) == {
        "error": "interrupted",
        "kind": "interrupted",
        "exit": 130,
        "interrupted": True,
    }
