"""A random search in processes of its own, as a test runs it."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

#: The folder that ``tests`` is imported from.
ROOT = Path(__file__).resolve().parents[2]

#: Seconds that a run may take beyond what it was asked for, on a machine that is busy.
TIMEOUT = 180


def run(database_url: str, seconds: float, *more: str) -> tuple[int, str]:
    """A run in processes of its own; its exit status, and its report with how to repeat it."""
    seed = str(secrets.randbelow(10**6))
    command = [sys.executable, "-m", "tests.faults.random_processes"]
    options = ["--seconds", str(seconds), "--seed", seed, *more]
    done = subprocess.run(
        [*command, *options, "--database-url", database_url],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=seconds + TIMEOUT,
        check=False,
    )
    repeat = " ".join(["python", *command[1:], *options])
    return done.returncode, f"{done.stdout}\n{done.stderr}\nAgain: {repeat}"
