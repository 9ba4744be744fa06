"""The loops of a run's processes, until each is killed or its parent is gone."""

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
from tests.faults.audit_log import WatchedDatabase
from tests.faults.connection import CRASHED
from tests.faults.fault_plan import RandomFaults
from tests.faults.sandbox import PURGE_GRACE, TOPOLOGY, Sandbox
from tests.faults.workload import Workload

#: Seconds by which a write may be late: longer than a lease, shorter than the wait of a
#: confirming write.
MOST_LATE = 1.4

#: Seconds between two polls of a process that has nothing to do.
IDLE = 0.03


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """One process: its name, what it does, and which life of it this is."""

    name: str
    sink: str | None
    incarnation: int


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of trouble: its number, when it began (``time.time()``), how long it lasts."""

    number: int
    began: float
    seconds: float


class Chaos:
    """Do nothing, sleep, or end the process at the named points of a delivery."""

    #: Of ten thousand points passed, how many end the process, and how many are slept at.
    CRASHES, LONG_SLEEPS, SHORT_SLEEPS = 20, 200, 150

    #: Seconds: within the lease, and beyond it.
    SHORT, LONG = (0.02, 0.3), (1.1, 1.7)

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def __call__(self, point: str) -> None:
        """The hook of ``Delivery(at=…)``."""
        number = self._rng.randrange(10_000)
        if number < self.CRASHES:
            os._exit(CRASHED)
        if number < self.CRASHES + self.LONG_SLEEPS:
            time.sleep(self._rng.uniform(*self.LONG))
        elif number < self.CRASHES + self.LONG_SLEEPS + self.SHORT_SLEEPS:
            time.sleep(self._rng.uniform(*self.SHORT))


def work(sandbox: Sandbox, workload: Workload, phase: Phase, spec: ProcessSpec) -> None:
    """A worker of one sink."""
    assert spec.sink is not None
    rng = workload.rng("worker", spec.name, spec.incarnation)
    outages = workload.outages(spec.sink, phase.number, phase.seconds)
    database = WatchedDatabase(sandbox.url, name=spec.name)
    delivery = sandbox.delivery(
        spec.sink,
        database,
        worker=f"{spec.name}:{os.getpid()}",
        faults=RandomFaults(rng, phase.began, outages, MOST_LATE),
        at=Chaos(rng),
    )
    for _ in _while_wanted():
        with _noted(sandbox, spec):
            if delivery.deliver_batch().claimed == 0:
                time.sleep(IDLE)


def seed(sandbox: Sandbox, workload: Workload, phase: Phase, spec: ProcessSpec) -> None:
    """A seeder: one small run after the other."""
    rng = workload.rng("seeding", spec.name, spec.incarnation)
    actions = workload.actions(spec.name, spec.incarnation)
    with db.connect(sandbox.url, name=spec.name) as conn:
        seeder = sandbox.seeder(spec.name, conn)
        for _ in _while_wanted():
            with _noted(sandbox, spec):
                seeder.do(next(actions))
            time.sleep(rng.uniform(0, 0.08))


def sweep(sandbox: Sandbox, workload: Workload, phase: Phase, spec: ProcessSpec) -> None:
    """The relay, and a person who retries, backfills and purges now and then."""
    rng = workload.rng("sweeper", spec.incarnation)
    database = WatchedDatabase(sandbox.url, name=spec.name)
    relay = sandbox.relay(database)
    for _ in _while_wanted():
        with _noted(sandbox, spec):
            relay.poll(TOPOLOGY.names)
            chore = rng.random()
            if chore < 0.05:
                retry_dead(database)
            elif chore < 0.08:
                backfill(database, rng)
            elif chore < 0.15:
                with database.transaction() as conn:
                    purge_deleted(conn, PURGE_GRACE)
        time.sleep(rng.uniform(0.02, 0.15))


def retry_dead(database: WatchedDatabase) -> int:
    """Enqueue everything anew that was given up on; returns how much that was."""
    with database.transaction() as conn:
        dead = dead_ids(conn)
        retry.retry_dead(conn, dead, TOPOLOGY)
    return len(dead)


def backfill(database: WatchedDatabase, rng: random.Random) -> None:
    """Enqueue all entities of one type for one sink."""
    sink = TOPOLOGY.traits(rng.choice(TOPOLOGY.names))
    entity_type = rng.choice(list(sports.TYPES))
    with database.transaction() as conn:
        backfill_page(conn, sink, entity_type, after=None, force=rng.random() < 0.5)


@contextmanager
def _noted(sandbox: Sandbox, spec: ProcessSpec) -> Iterator[None]:
    """An error of the product that a role sees is noted for the oracle, and life goes on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  (every one of them is a finding)
        sandbox.audit_log.note(
            "role.failed", role=spec.name, error=type(error).__name__, text=str(error)
        )
        time.sleep(IDLE)


def _while_wanted() -> Iterator[None]:
    """For as long as the process that started this one is there."""
    parent = os.getppid()
    while os.getppid() == parent:
        yield
