"""Stories of several sessions that wait for each other's locks."""

from __future__ import annotations

from altsync.entities import entity_id
from tests import sports
from tests.faults.sandbox import NEO4J, PINECONE
from tests.faults.scenario import Scenario
from tests.faults.scenarios import edit, example, league, synced


def _example(number: int) -> str:
    return str(example(number)["id"])


def a_seeder_draws_its_number_and_waits(scenario: Scenario) -> None:
    """Another one draws a higher number and commits first."""
    synced(scenario)
    with scenario.holding_pause():
        scenario.start(
            lambda: scenario.seed(sports.LEAGUES, league(mark="1"), pause="INSERT league"),
            waiting=1,
        )
        edit(scenario, mark="2")
    scenario.drain()


def a_worker_settles_what_a_seeder_changes(scenario: Scenario) -> None:
    """The seeder has the entity and wants its operation; the worker settles both."""
    synced(scenario)
    edit(scenario, mark="1")
    with scenario.holding_pause():
        scenario.start(
            lambda: scenario.seed(sports.LEAGUES, league(mark="2"), pause="UPDATE league"),
            waiting=1,
        )
        scenario.start(lambda: scenario.deliver(NEO4J), waiting=2)
    scenario.drain()


def a_worker_extends_its_lease_on_what_a_seeder_changes(scenario: Scenario) -> None:
    """The worker has the operations in the order of their own numbers, the seeder in another."""
    pair = sorted((0, 1), key=lambda number: entity_id("league", f"leagues-{number:02}"))
    synced(scenario, *(league(number) for number in pair))
    for number in reversed(pair):
        scenario.seed(sports.LEAGUES, league(number, mark="1"))

    def change_both() -> None:
        changes = [league(number, mark="2") for number in pair]
        scenario.start(
            lambda: scenario.seed(sports.LEAGUES, *changes, pause="UPDATE sync_operation"),
            waiting=1,
        )

    with scenario.holding_pause():
        scenario.start(lambda: scenario.deliver(NEO4J, at={"read": change_both}), waiting=2)
    scenario.drain()


def a_worker_moves_what_a_seeder_changes(scenario: Scenario) -> None:
    """The rows lie in another order than that of their ids."""
    ordered = sorted(range(10), key=lambda number: entity_id("few_shot_example", _example(number)))
    halves = ordered[5:], ordered[:5]
    for category in ("betting", "markets"):
        for half in halves:
            moved = [example(number, category=category) for number in half]
            scenario.seed(sports.EXAMPLES, *moved)
        if category == "betting":
            scenario.deliver_all()

    def change_all() -> None:
        changes = [example(number, category="markets", mark="1") for number in ordered]
        scenario.start(
            lambda: scenario.seed(sports.EXAMPLES, *changes, pause="UPDATE few_shot_example"),
            waiting=1,
        )

    with scenario.holding_pause():
        scenario.start(lambda: scenario.deliver(PINECONE, at={"read": change_all}), waiting=2)
    scenario.drain()


def two_seeders_take_the_same_rows(scenario: Scenario) -> None:
    """Each has them in another order."""
    synced(scenario, league(0), league(1))
    lines = [league(0, mark="1"), league(1, mark="1")]
    others = [league(1, mark="2"), league(0, mark="2")]
    with scenario.holding_pause():
        scenario.start(
            lambda: scenario.seed(sports.LEAGUES, *lines, pause="UPDATE league"), waiting=1
        )
        scenario.start(lambda: scenario.seed(sports.LEAGUES, *others), waiting=2)
    scenario.drain()
