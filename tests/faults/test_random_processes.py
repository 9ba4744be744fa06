"""Real processes, killed at random, leave every sink equal to PostgreSQL."""

from __future__ import annotations

import secrets
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest

from tests.faults.plan import Plan
from tests.faults.random_processes import Report, vacuous
from tests.faults.verdicts import Wrong, kinds

#: The folder that ``tests`` is imported from.
ROOT = Path(__file__).resolve().parents[2]

#: Seconds that a run may take beyond what it was asked for, on a machine that is busy.
PATIENCE = 180

#: Seconds in which a search finds what it looks for, also on a machine that is busy. It ends
#: there; most take less than a minute.
ENOUGH = 120

#: Rules without which random search alone finds the failure.
FOUND_AT_RANDOM = {
    "content_addressed_vectors": Wrong.PAID_TWICE,
    "entity_locks": Wrong.DEADLOCK,
    "one_live_operation": Wrong.TWO_LIVE,
    "text_hash_compare": Wrong.SYNCED_IS_FALSE,
    "version_guard": Wrong.OLDER_OVER_NEWER,
}


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
        timeout=seconds + PATIENCE,
        check=False,
    )
    repeat = " ".join(["python", *command[1:], *options])
    return done.returncode, f"{done.stdout}\n{done.stderr}\nAgain: {repeat}"


def test_every_sink_equals_postgresql_whoever_was_killed(database_url: str) -> None:
    """Nothing lost, no ghost, nothing stale, no wrong status, no deadlock, and no call at rest."""
    status, report = run(database_url, 10)
    assert status == 0, report


@pytest.mark.slow
def test_every_sink_equals_postgresql_after_a_long_run(database_url: str) -> None:
    """The same for longer, which must meet what is rare, too."""
    status, report = run(database_url, 60)
    assert status == 0, report


@pytest.mark.slow
@pytest.mark.parametrize("rule", FOUND_AT_RANDOM)
def test_random_search_finds_what_a_rule_is_for(database_url: str, rule: str) -> None:
    """Without the rule the run fails, in the expected way."""
    wrong = FOUND_AT_RANDOM[rule]
    status, report = run(database_url, ENOUGH, "--ablate", rule, "--until", wrong)
    assert (status, f"x {wrong}" in report) == (1, True), report


def test_the_same_seed_gives_the_same_plan() -> None:
    """So a run can be repeated, but for what the scheduler does."""
    one, again, other = Plan(7), Plan(7), Plan(8)

    def plan(of: Plan) -> object:
        return list(islice(of.actions("seeder-1", 3), 50)), of.outages("neo4j", 1, 6.0)

    assert plan(one) == plan(again)
    assert plan(one) != plan(other)


def test_a_run_that_did_too_little_fails() -> None:
    """It would prove nothing."""
    full = Report(
        seed=1,
        trouble_seconds=60.0,
        checks=5,
        kills=100,
        operations=5000,
        echoes=10,
        texts=500,
        events={"operations.lease_lost": 2},
    )
    assert vacuous(full) == []
    for lacking in (
        replace(full, kills=3),
        replace(full, operations=80),
        replace(full, echoes=0),
        replace(full, checks=0),
        replace(full, events={}),
    ):
        assert kinds(vacuous(lacking)) == {Wrong.VACUOUS}
