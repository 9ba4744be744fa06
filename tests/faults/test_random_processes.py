"""Real processes, killed at random, leave every sink equal to PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from tests.faults.random_processes import Report, vacuous
from tests.faults.searching import run
from tests.faults.violations import Problem, kinds
from tests.faults.workload import Workload


@pytest.mark.slow
def test_every_sink_equals_postgresql_after_random_kills(database_url: str) -> None:
    """Nothing lost, no orphan, nothing stale, no wrong status, no deadlock, and no call at rest.

    Long enough to meet what is rare, too.
    """
    status, report = run(database_url, 60)
    assert status == 0, report


def test_the_same_seed_gives_the_same_plan() -> None:
    """So a run can be repeated, but for what the scheduler does."""
    one, again, other = Workload(7), Workload(7), Workload(8)

    def plan(of: Workload) -> object:
        return list(islice(of.actions("seeder-1", 3), 50)), of.outages("neo4j", 1, 6.0)

    assert plan(one) == plan(again)
    assert plan(one) != plan(other)


def test_a_run_that_did_too_little_fails() -> None:
    """It would prove nothing."""
    full = Report(
        seed=1,
        fault_seconds=60.0,
        checks=5,
        kills=100,
        operations=5000,
        confirming_writes=10,
        texts=500,
        events={"operations.lease_lost": 2},
    )
    assert vacuous(full) == []
    for lacking in (
        replace(full, kills=3),
        replace(full, operations=80),
        replace(full, confirming_writes=0),
        replace(full, checks=0),
        replace(full, events={}),
    ):
        assert kinds(vacuous(lacking)) == {Problem.VACUOUS}
