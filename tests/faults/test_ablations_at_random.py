"""Random search finds what a rule is there for. In a file of its own, beside the longest others."""

from __future__ import annotations

import pytest

from tests.faults.searching import run
from tests.faults.violations import Problem

pytestmark = pytest.mark.slow

#: Seconds after which a search gives up. Each ends as soon as it has found what it looks for, most
#: within half a minute; on a machine that is busy a chapter finds it one time in five, and this
#: is enough for fifty chapters.
ENOUGH = 400

#: Rules without which random search alone finds the failure.
FOUND_AT_RANDOM = {
    "content_addressed_vectors": Problem.PAID_TWICE,
    "entity_locks": Problem.DEADLOCK,
    "one_live_operation": Problem.TWO_LIVE,
    "text_hash_compare": Problem.SYNCED_IS_FALSE,
    "version_guard": Problem.OLDER_OVER_NEWER,
}


@pytest.mark.parametrize("rule", FOUND_AT_RANDOM)
def test_random_search_finds_what_a_rule_is_for(database_url: str, rule: str) -> None:
    """Without the rule the run fails, in the expected way."""
    problem = FOUND_AT_RANDOM[rule]
    status, report = run(database_url, ENOUGH, "--ablate", rule, "--until", problem)
    assert (status, f"x {problem}" in report) == (1, True), report
