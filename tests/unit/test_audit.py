"""The audit of locked packages fails for a weakness, and says when nothing could be asked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

AUDIT = Path(__file__).resolve().parents[2] / ".ci" / "audit"

FINE = {"name": "fine", "version": "1.0", "vulns": []}
WEAK = {
    "name": "weak",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["1.1"], "aliases": [], "description": ""}],
}
UNKNOWN = {"name": "unknown", "skip_reason": "not found"}


def audit(folder: Path, output: str) -> tuple[int, str]:
    """The script's exit status and words, when pip-audit prints ``output``."""
    stub = folder / "pip-audit"
    stub.write_text(f"#!{sys.executable}\nprint({output!r})\n")
    stub.chmod(0o755)
    done = subprocess.run(
        [sys.executable, AUDIT, str(stub)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([FINE, UNKNOWN], 0, "1 of 2 packages audited, 0 with a known weakness"),
        ([FINE, WEAK], 1, "weak 1.0: PYSEC-2026-1, fixed in 1.1"),
        ([UNKNOWN, UNKNOWN], 0, "not audited: the advisory service knows none of 2 packages"),
    ],
)
def test_only_a_known_weakness_fails(
    tmp_path: Path, packages: list[dict[str, Any]], code: int, words: str
) -> None:
    """Being told nothing is neither a success nor a failure, and is told."""
    status, said = audit(tmp_path, json.dumps({"dependencies": packages, "fixes": []}))
    assert (status, words in said) == (code, True), said


def test_no_report_is_told(tmp_path: Path) -> None:
    """As when there is no network."""
    assert audit(tmp_path, "") == (0, "not audited: pip-audit gave no report (no output)\n")
