"""Ctrl-C in the first half second, while modules are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

INTERRUPTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)

module = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupting())
from altsync.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("module", "command"),
    [
        ("altsync.cli", "--version"),
        ("typer", "--version"),
        ("altsync.config", "status"),
        ("psycopg", "seed"),
        ("altsync.cli.why", "why"),
        ("altsync.cli.local", "local"),
        ("neo4j", "verify"),
        ("numpy", "verify"),
    ],
)
def test_an_interrupted_import_ends_with_one_line_and_130(module: str, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module, command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "altsync: interrupted\n")
