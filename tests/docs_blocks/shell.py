"""A shell that goes on from block to block, as a reader's terminal does."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

#: Seconds for one block; far more than any needs.
TIMEOUT = 120.0


@dataclass(frozen=True)
class Said:
    """The output of a block, of both streams together, and the exit status of its last command."""

    output: str
    code: int


class Shell:
    """A bash. ``/tmp`` in what is typed is a folder of its own, also in what it prints."""

    def __init__(self, env: Mapping[str, str], cwd: Path, scratch: Path) -> None:
        self._scratch = scratch
        self._number = 0
        (scratch / "tmp").mkdir(exist_ok=True)
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def run(self, code: str) -> Said:
        """Run a block in the shell itself, so that what it exports stays."""
        self._number += 1
        script = self._scratch / f"{self._number}.sh"
        output = self._scratch / f"{self._number}.out"
        script.write_text(code.replace("/tmp/", f"{self._scratch}/tmp/"))  # noqa: S108
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        watch = threading.Timer(TIMEOUT, self.close)
        watch.start()
        try:
            self._bash.stdin.write(f". {script} >{output} 2>&1 </dev/null; echo $?\n")
            self._bash.stdin.flush()
            answer = self._bash.stdout.readline()
        finally:
            watch.cancel()
        said = output.read_text(errors="replace").replace(f"{self._scratch}/tmp/", "/tmp/")  # noqa: S108
        assert answer, f"the shell ended, or took more than {TIMEOUT:g} s:\n{code}\n{said}"
        return Said(said, int(answer))

    def close(self) -> None:
        """End the shell and whatever it still runs."""
        if self._bash.poll() is None:
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait()
