"""Each rule of the protocol is needed: without it the oracle reports what the rule is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import ablations
from tests.faults.ablations import ABLATIONS
from tests.faults.cases import CASES, PLAIN, Case, PlainCase
from tests.faults.sandbox import Sandbox
from tests.faults.scenario import STILL, Scenario
from tests.faults.violations import Violation, kinds, summary

each_case = pytest.mark.parametrize("case", CASES, ids=[case.rule for case in CASES])


def play(case: Case, url: str, folder: Path, ablate: str | None) -> list[Violation]:
    """Play a story, with all rules or without one."""
    with ablations.without(ablate) as ablation:
        sandbox = Sandbox(url, folder, ablation.rules_off, STILL)
        scenario = Scenario(sandbox, ablation.statements)
        try:
            case.steps(scenario)
            return scenario.check(case.dead_keys, drained=case.drained)
        finally:
            scenario.close()


@each_case
def test_with_every_rule_the_story_ends_well(case: Case, database_url: str, tmp_path: Path) -> None:
    """The story itself is harmless."""
    violations = play(case, database_url, tmp_path, ablate=None)
    assert not violations, summary(violations)


@pytest.mark.slow
@each_case
def test_without_its_rule_the_story_ends_badly(
    case: Case, database_url: str, tmp_path: Path
) -> None:
    """And the oracle says in what way."""
    violations = play(case, database_url, tmp_path, ablate=case.rule)
    assert case.problem in kinds(violations), summary(violations) or "nothing wrong"


@pytest.mark.parametrize("case", PLAIN, ids=[case.steps.__name__ for case in PLAIN])
def test_the_story_ends_well(case: PlainCase, database_url: str, tmp_path: Path) -> None:
    """Stories that more than one rule must see through."""
    scenario = Scenario(Sandbox(database_url, tmp_path, policy=case.policy))
    try:
        case.steps(scenario)
        violations = scenario.check(case.dead_keys)
    finally:
        scenario.close()
    assert not violations, summary(violations)


@pytest.mark.parametrize("rule", ABLATIONS)
def test_every_ablation_fits_the_code(rule: str) -> None:
    """A change of the code that breaks an ablation is found here, not only by the long proofs."""
    with ablations.without(rule):
        pass


def test_every_ablation_has_a_story() -> None:
    """No rule can be taken away unseen."""
    assert {case.rule for case in CASES} == set(ABLATIONS)
