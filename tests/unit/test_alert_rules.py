"""The alert rules, evaluated by Prometheus' own promtool."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

OPS = Path(__file__).resolve().parents[2] / "ops"
RULES = OPS / "alerts.yml"
CASES = OPS / "alerts.test.yml"


def cases() -> list[dict[str, Any]]:
    """Every expectation of the file of tests."""
    tests = yaml.safe_load(CASES.read_text("utf-8"))["tests"]
    return [case for test in tests for case in test["alert_rule_test"]]


def test_every_rule_has_a_case_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    rules = sorted(rule["alert"] for group in groups for rule in group["rules"])
    firing = {case["alertname"] for case in cases() if case.get("exp_alerts")}
    silent = {case["alertname"] for case in cases() if not case.get("exp_alerts")}
    assert sorted(firing) == rules
    assert sorted(silent) == rules


def test_promtool_agrees_with_every_case() -> None:
    """Without promtool the test is skipped, but for CI."""
    promtool = shutil.which("promtool")
    if promtool is None and not os.environ.get("CI"):
        pytest.skip("promtool is not installed: it comes with Prometheus")
    assert promtool is not None, "promtool is not installed: .ci/run fetches it"
    ran = subprocess.run(
        [promtool, "test", "rules", CASES.name],
        cwd=OPS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
