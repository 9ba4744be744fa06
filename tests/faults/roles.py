"""What each process of a run does, until it is killed or its parent is gone."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from altsync import db, retry
from altsync.outbox.upkeep import backfill_page, purge_deleted
from altsync.retry import dead_ids
from tests import sports
from tests.faults.line import DIED
from tests.faults.plan import Plan
from tests.faults.site import PURGE_GRACE, TOPOLOGY, Site
from tests.faults.weather import Storm
from tests.faults.witness import WatchedDatabase

#: Seconds by which a write may be late: longer than a lease, and within the echo's horizon.
MOST_LATE = 1.4

#: Seconds between two looks of somebody who has nothing to do.
IDLE = 0.03


@dataclass(frozen=True, slots=True)
class Casting:
    """One process: its name, what it does, and which life of it this is."""

    name: str
    sink: str | None
    incarnation: int


@dataclass(frozen=True, slots=True)
class Chapter:
    """One stretch of trouble: its number, when it began (``time.time()``), how long it lasts."""

    number: int
    began: float
    seconds: float


class Chaos:
    """What happens at the named points of a delivery: nothing, a nap, or the end."""

    #: Of ten thousand points passed, how many end the process, and how many are slept at.
    DEATHS, LONG_NAPS, SHORT_NAPS = 20, 200, 150

    #: Seconds: within the lease, and beyond it.
    SHORT, LONG = (0.02, 0.3), (1.1, 1.7)

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice

    def __call__(self, point: str) -> None:
        """The hook of ``Delivery(at=…)``."""
        number = self._dice.randrange(10_000)
        if number < self.DEATHS:
            os._exit(DIED)
        if number < self.DEATHS + self.LONG_NAPS:
            time.sleep(self._dice.uniform(*self.LONG))
        elif number < self.DEATHS + self.LONG_NAPS + self.SHORT_NAPS:
            time.sleep(self._dice.uniform(*self.SHORT))


def work(site: Site, plan: Plan, chapter: Chapter, casting: Casting) -> None:
    """A worker of one sink."""
    assert casting.sink is not None
    dice = plan.dice("worker", casting.name, casting.incarnation)
    outages = plan.outages(casting.sink, chapter.number, chapter.seconds)
    database = WatchedDatabase(site.url, name=casting.name)
    delivery = site.delivery(
        casting.sink,
        database,
        worker=f"{casting.name}:{os.getpid()}",
        weather=Storm(dice, chapter.began, outages, MOST_LATE),
        at=Chaos(dice),
    )
    for _ in _while_wanted():
        with _noted(site, casting):
            if delivery.deliver_batch().claimed == 0:
                time.sleep(IDLE)


def seed(site: Site, plan: Plan, chapter: Chapter, casting: Casting) -> None:
    """A seeder: one small run after the other."""
    dice = plan.dice("seeding", casting.name, casting.incarnation)
    actions = plan.actions(casting.name, casting.incarnation)
    with db.connect(site.url, name=casting.name) as conn:
        seeder = site.seeder(casting.name, conn)
        for _ in _while_wanted():
            with _noted(site, casting):
                seeder.do(next(actions))
            time.sleep(dice.uniform(0, 0.08))


def sweep(site: Site, plan: Plan, chapter: Chapter, casting: Casting) -> None:
    """The relay, and a person who retries, backfills and purges now and then."""
    dice = plan.dice("sweeper", casting.incarnation)
    database = WatchedDatabase(site.url, name=casting.name)
    relay = site.relay(database)
    for _ in _while_wanted():
        with _noted(site, casting):
            relay.look(TOPOLOGY.names)
            chore = dice.random()
            if chore < 0.05:
                retry_dead(database)
            elif chore < 0.08:
                backfill(database, dice)
            elif chore < 0.15:
                with database.transaction() as conn:
                    purge_deleted(conn, PURGE_GRACE)
        time.sleep(dice.uniform(0.02, 0.15))


def retry_dead(database: WatchedDatabase) -> int:
    """Enqueue everything anew that was given up on; returns how much that was."""
    with database.transaction() as conn:
        dead = dead_ids(conn)
        retry.retry_dead(conn, dead, TOPOLOGY)
    return len(dead)


def backfill(database: WatchedDatabase, dice: random.Random) -> None:
    """Enqueue all entities of one type for one sink."""
    sink = TOPOLOGY.traits(dice.choice(TOPOLOGY.names))
    entity_type = dice.choice(list(sports.TYPES))
    with database.transaction() as conn:
        backfill_page(conn, sink, entity_type, after=None, force=dice.random() < 0.5)


@contextmanager
def _noted(site: Site, casting: Casting) -> Iterator[None]:
    """An error of the product that a role sees is noted for the oracle, and life goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (every one of them is a finding)
        site.diary.note(
            "role.failed", role=casting.name, error=type(error).__name__, text=str(error)
        )
        time.sleep(IDLE)


def _while_wanted() -> Iterator[None]:
    """For as long as the process that started this one is there."""
    parent = os.getppid()
    while os.getppid() == parent:
        yield
