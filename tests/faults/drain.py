"""From trouble to rest: deliver until nothing is live, then once more."""

from __future__ import annotations

import time
from dataclasses import dataclass

from altsync.relay import Relay
from tests.faults.audit_log import WatchedDatabase
from tests.faults.roles import IDLE, retry_dead
from tests.faults.sandbox import TOPOLOGY, Sandbox

#: Times that everything dead is tried again before it may stay dead.
RETRIES_OF_DEAD = 3


@dataclass(frozen=True, slots=True)
class DrainResult:
    """How a drain ended: live operations left, seconds, and calls of a second drain."""

    live: int
    seconds: float
    calls_again: int


def drain(sandbox: Sandbox, *, timeout: float = 60.0, retry: bool = True) -> DrainResult:
    """Deliver in calm weather until nothing is live, or ``timeout`` seconds have passed.

    With ``retry``, what was given up on is enqueued anew, a few times.
    """
    began = time.monotonic()
    database = WatchedDatabase(sandbox.url, name="drain")
    try:
        deliveries = [sandbox.delivery(name, database, worker="drain") for name in TOPOLOGY.names]
        relay = sandbox.relay(database)
        retries = RETRIES_OF_DEAD if retry else 0

        def deliver() -> int:
            return sum(delivery.deliver_batch().claimed for delivery in deliveries)

        while True:
            if deliver() == 0 and not _wait(database, relay):
                if not (retries and retry_dead(database)):
                    break
                retries -= 1
            if time.monotonic() - began > timeout:
                break
        seconds = time.monotonic() - began
        before = _calls(sandbox)
        deliver()
        _let_late_writes_land(sandbox)
        return DrainResult(_live(database), seconds, _calls(sandbox) - before)
    finally:
        database.close()


def _wait(database: WatchedDatabase, relay: Relay) -> bool:
    """Return whether anything is live still; then some time passes."""
    if _live(database) == 0:
        return False
    relay.poll(TOPOLOGY.names)
    time.sleep(IDLE)
    return True


def _live(database: WatchedDatabase) -> int:
    with database.autocommit() as conn:
        row = conn.execute(
            "SELECT count(*) FROM sync_operation WHERE status IN ('pending', 'in_progress')"
        ).fetchone()
    assert row is not None
    return int(row[0])


def _calls(sandbox: Sandbox) -> int:
    count = 0
    for name in TOPOLOGY.names:
        server = sandbox.server(name)
        count += server.calls()
        server.close()
    return count


def _let_late_writes_land(sandbox: Sandbox) -> None:
    for name in TOPOLOGY.names:
        server = sandbox.server(name)
        time.sleep(max(0.0, server.delayed_until() - time.time()))
        server.apply_delayed()
        server.close()
