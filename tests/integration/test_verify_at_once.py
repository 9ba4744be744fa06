"""Verifying while seeders and workers are busy: never a false alarm, and agreement at rest."""

from __future__ import annotations

import random
import threading

import pytest

from tests.integration.database_fixture import DatabaseFixture, league
from tests.integration.verifying import Site

pytestmark = pytest.mark.slow

#: Comparisons while others write.
ROUNDS = 12


@pytest.mark.parametrize("deep", [False, True])
def test_no_false_alarm_under_load(site: Site, deep: bool) -> None:
    """Edits, deletions, returns and deliveries all the while: nothing of it is drift."""
    over = threading.Event()
    errors: list[BaseException] = []

    def guarded(work: object) -> None:
        try:
            while not over.is_set():
                work()  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001  (raised in the test's own thread)
            errors.append(error)
            over.set()

    dice = random.Random(7)
    seeder = DatabaseFixture(site.pg.url)

    def seed() -> None:
        some = dice.sample(range(40), 4)
        seeder.save(*(league(f"l{n:03}", tier=str(dice.random())) for n in some[:3]))
        seeder.delete(league(f"l{some[3]:03}"))

    deliveries = [site.delivery(name) for name in ("embedding", "neo4j", "pinecone")]

    def work(delivery: object) -> None:
        delivery.deliver_batch()  # type: ignore[attr-defined]

    threads = [threading.Thread(target=guarded, args=(seed,))]
    threads += [
        threading.Thread(target=guarded, args=(lambda one=one: work(one),)) for one in deliveries
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in range(ROUNDS):
            assert site.drift(deep=deep) == {}
    finally:
        over.set()
        for thread in threads:
            thread.join()
        seeder.close()
    assert errors == []
    site.deliver()
    report = site.verify(deep=True)
    assert report.consistent
    assert sum(tally.pending for tally in report.tallies) == 0
