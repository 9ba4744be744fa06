"""The relay: it wakes workers for due operations. It imports no Celery.

It LISTENs for new operations, and polls for due retries, ended leases and lost notifications.
Wake-ups carry no work, so they may be lost, repeated or reordered.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

import psycopg
import structlog

from altsync.circuit.breaker import may_wake
from altsync.circuit.clock import Bounds, SetBack, set_back, set_deletions_back
from altsync.contract import Topology
from altsync.db import Conn, Database, Outage
from altsync.errors import LONGEST_WAIT
from altsync.operations import Dead, ErrorKind, Operation
from altsync.outbox import claim
from altsync.outbox.claim import Due, exhausted
from altsync.outbox.enqueue import CHANNEL
from altsync.outbox.settle import Plan, settle
from altsync.outbox.upkeep import forget_former_keys, purge_deleted
from altsync.sentences import describe

log = structlog.get_logger(__name__)

#: Seconds between two rounds of housekeeping.
HOUSEKEEPING = 60.0

#: Seconds before one more wake-up goes to workers that do not answer. Until then a broker that has
#: lost all messages is not noticed.
WAKE_TIMEOUT = 10.0

#: Seconds until the first try to reconnect to PostgreSQL.
FIRST_PAUSE = 0.5

#: Longest pause between two tries to reconnect to PostgreSQL, in seconds.
RECONNECT_CAP = 5.0

#: Seconds between two statements on the listening connection: an idle one that is cut off would
#: receive no notification and no error.
HEARTBEAT = 5.0


@dataclass(frozen=True, slots=True)
class RelayPolicy:
    """The settings of the relay; times are in seconds."""

    poll: float = 1.0
    batch_size: int = 500
    wake_limit: int = 4
    max_lost_leases: int = 10
    purge_grace: float = 3600.0
    confirm_after: float = 40.0
    lease: float = 30.0
    longest_retry: float = LONGEST_WAIT
    longest_open: float = LONGEST_WAIT


class Relay:
    """Wakes workers for the sinks in ``enabled`` until it is stopped."""

    def __init__(
        self,
        database: Database,
        listen: Callable[[], Conn],
        wake: Callable[[str], None],
        topology: Topology,
        enabled: Sequence[str],
        policy: RelayPolicy,
        housekeeping: Sequence[Callable[[], None]] = (),
        announce: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._listen = listen
        self._wake = wake
        self._topology = topology
        self._enabled = list(enabled)
        self._policy = policy
        self._housekeeping = housekeeping
        self._announce = announce
        self._stop = threading.Event()
        self._next_housekeeping = 0.0
        self._outage = Outage("relay.disconnected", "relay.recovered")
        self._pause = FIRST_PAUSE
        self._unwoken: set[str] = set()

    def stop(self) -> None:
        """Make ``run`` return soon. Safe in a signal handler."""
        self._stop.set()

    def run(self) -> None:
        """Wake workers until stopped. After any error of PostgreSQL, connect again."""
        while not self._stop.is_set():
            try:
                with self._listen() as conn:
                    conn.execute(f"LISTEN {CHANNEL}")
                    self._announce()
                    self._watch(conn)
            except psycopg.Error as error:
                self._outage.failed(error, retry_in=self._pause)
                self._stop.wait(self._pause)
                self._pause = min(RECONNECT_CAP, self._pause * 2)
        log.info("relay.stopped")

    def _watch(self, conn: Conn) -> None:
        next_full_poll = next_poll = 0.0
        next_beat = time.monotonic() + HEARTBEAT
        while not self._stop.is_set():
            wait = min(max(0.0, next_poll - time.monotonic()), HEARTBEAT)
            notified = {n.payload for n in conn.notifies(timeout=wait, stop_after=1)}
            notified |= {n.payload for n in conn.notifies(timeout=0)}
            if time.monotonic() >= next_beat:
                conn.execute(f"LISTEN {CHANNEL}")
                next_beat = time.monotonic() + HEARTBEAT
            sinks = sorted(notified & set(self._enabled))
            if not sinks and time.monotonic() < next_poll:
                continue
            # Frequent notifications of one sink must not delay the others.
            if not sinks or time.monotonic() >= next_full_poll:
                sinks = self._enabled
                next_full_poll = time.monotonic() + self._policy.poll
            first = next_poll == 0.0
            next_poll = time.monotonic() + self.poll(sinks)
            if first:  # every statement has succeeded once
                self._outage.ended()
                self._pause = FIRST_PAUSE
                log.info("relay.started", sinks=self._enabled)

    def poll(self, sinks: Sequence[str]) -> float:
        """Wake workers for due operations; return the seconds until the next poll."""
        wait = self._policy.poll
        cap = self._policy.batch_size * self._policy.wake_limit
        with self._database.autocommit() as conn:
            for due in claim.due(conn, sinks, cap):
                if due.due:
                    self._wake_for(conn, due)
                elif due.seconds_to_next is not None:
                    wait = min(wait, max(0.01, due.seconds_to_next))
        self._dead_letter_exhausted()
        self._keep_house()
        return wait

    def _wake_for(self, conn: Conn, due: Due) -> None:
        wanted = min(self._policy.wake_limit, -(-due.due // self._policy.batch_size))
        for _ in range(wanted):
            if not may_wake(
                conn,
                due.sink,
                wanted,
                WAKE_TIMEOUT,
                lease=self._policy.lease,
                longest=self._policy.longest_open,
            ):
                return
            self._send(due.sink)

    def _send(self, sink: str) -> None:
        try:
            self._wake(sink)
        except Exception as error:  # noqa: BLE001  (any broker; the work stays in the outbox)
            # One warning per sink: a broker may be unreachable for hours.
            write = log.debug if sink in self._unwoken else log.warning
            write("wake.failed", sink=sink, error=describe(error).text)
            self._unwoken.add(sink)
        else:
            if sink in self._unwoken:
                log.info("wake.recovered", sink=sink)
                self._unwoken.discard(sink)

    def _dead_letter_exhausted(self) -> None:
        """Move operations whose workers vanished too often to the dead letters."""
        with self._database.autocommit() as conn:
            found = exhausted(conn, self._policy.max_lost_leases)
        groups: dict[tuple[str, UUID], list[Operation]] = defaultdict(list)
        for sink, token, op in found:
            if sink in self._topology.names:
                groups[sink, token].append(op)
        for (sink, token), operations in groups.items():
            reason = f"{operations[0].attempts} workers in a row vanished while they had it"
            dead = [
                Dead(op, op.version, ErrorKind.LOST, reason, outcome_unknown=True)
                for op in operations
            ]
            plan = Plan(self._topology, self._policy.confirm_after)
            with self._database.transaction() as conn:
                settlement = settle(conn, self._topology.traits(sink), token, dead, plan)
            log.error("operations.dead_lettered", sink=sink, count=settlement.dead, reason=reason)

    def _shorten_waits(self) -> None:
        """Shorten impossibly long waits: they show that the database's clock was set back."""
        policy = self._policy
        bounds = Bounds(
            policy.lease, policy.longest_retry, policy.confirm_after, policy.longest_open
        )
        total = SetBack()
        with self._database.autocommit() as conn:
            while not self._stop.is_set():
                found = set_back(conn, self._topology.names, bounds)
                total += found
                if not found.operations:
                    break
            total += SetBack(deletions=set_deletions_back(conn))
        if total:
            log.warning(
                "clock.times_set_back",
                operations=total.operations,
                sinks=total.sinks,
                deletions=total.deletions,
                reason="they were further ahead than anything waits: was the clock set back?",
            )

    def _keep_house(self) -> None:
        if time.monotonic() < self._next_housekeeping:
            return
        self._next_housekeeping = time.monotonic() + HOUSEKEEPING
        self._shorten_waits()
        purged = 0
        while not self._stop.is_set():
            with self._database.transaction() as conn:
                count = purge_deleted(conn, self._policy.purge_grace)
            purged += count
            if count == 0:
                break
        if purged:
            log.info("entities.purged", count=purged)
        with self._database.transaction() as conn:
            forget_former_keys(conn, self._policy.purge_grace)
        for task in self._housekeeping:
            try:
                task()
            except psycopg.Error:
                raise
            except Exception:
                log.exception("housekeeping.failed")
