"""From trouble to rest: deliver until nothing is live, then once more."""

from __future__ import annotations

import time
from dataclasses import dataclass

from altsync.relay import Relay
from tests.faults.roles import IDLE, retry_dead
from tests.faults.site import TOPOLOGY, Site
from tests.faults.witness import WatchedDatabase

#: Times that everything dead is tried again before it may stay dead.
REVIVALS = 3


@dataclass(frozen=True, slots=True)
class Rest:
    """How a drain ended: live operations left, seconds, and calls of a second drain."""

    live: int
    seconds: float
    calls_again: int


def drain(site: Site, *, patience: float = 60.0, revive: bool = True) -> Rest:
    """Deliver in calm weather until nothing is live, or ``patience`` seconds have passed.

    With ``revive``, what was given up on is enqueued anew, a few times.
    """
    began = time.monotonic()
    database = WatchedDatabase(site.url, name="drain")
    try:
        deliveries = [site.delivery(name, database, worker="drain") for name in TOPOLOGY.names]
        relay = site.relay(database)
        revivals = REVIVALS if revive else 0

        def deliver() -> int:
            return sum(delivery.deliver_batch().claimed for delivery in deliveries)

        while True:
            if deliver() == 0 and not _wait(database, relay):
                if not (revivals and retry_dead(database)):
                    break
                revivals -= 1
            if time.monotonic() - began > patience:
                break
        seconds = time.monotonic() - began
        before = _calls(site)
        deliver()
        _let_late_writes_land(site)
        return Rest(_live(database), seconds, _calls(site) - before)
    finally:
        database.close()


def _wait(database: WatchedDatabase, relay: Relay) -> bool:
    """Whether anything is live still; then some time passes."""
    if _live(database) == 0:
        return False
    relay.look(TOPOLOGY.names)
    time.sleep(IDLE)
    return True


def _live(database: WatchedDatabase) -> int:
    with database.autocommit() as conn:
        row = conn.execute(
            "SELECT count(*) FROM sync_operation WHERE status IN ('pending', 'in_progress')"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _calls(site: Site) -> int:
    count = 0
    for name in TOPOLOGY.names:
        ledger = site.ledger(name)
        count += ledger.calls()
        ledger.close()
    return count


def _let_late_writes_land(site: Site) -> None:
    for name in TOPOLOGY.names:
        ledger = site.ledger(name)
        time.sleep(max(0.0, ledger.late_until() - time.time()))
        ledger.land()
        ledger.close()
