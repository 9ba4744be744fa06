"""A small world for directed scenarios: every step happens when the scenario says so.

Leases, retries and confirming writes never fall due by themselves here; ``Scenario`` moves the
clock by changing the rows. So a scenario is the same on every machine.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import psycopg

from altsync import db
from altsync.catalogue.parts import Part
from altsync.contract import EMBEDDING
from altsync.delivery import Batch
from altsync.outbox.upkeep import backfill_page, purge_deleted
from tests import sports
from tests.faults import oracle
from tests.faults.audit_log import WatchedDatabase, speed_up, watch_versions
from tests.faults.drain import drain
from tests.faults.fault_plan import Fault, FaultPlan, NoFaults
from tests.faults.sandbox import NEO4J, PINECONE, POLICY, TOPOLOGY, Sandbox
from tests.faults.violations import Problem, Violation
from tests.faults.workload import Action, Kind

#: Nothing falls due by itself. The timeout is the lease, so that every call asks for it anew.
STILL = replace(
    POLICY,
    batch_size=50,
    lease=3600.0,
    timeout=3600.0,
    confirm_after=3600.0,
    backoff=0.001,
    breaker_cap=1.0,
)

#: Rounds of delivery after which what is live will stay so.
ROUNDS = 20

#: Seconds for another thread to get where it is waited for.
TIMEOUT = 20.0

#: Lets a session that says ``SET faults.pause = 'UPDATE league'`` stop inside a statement until
#: lock 1 is free: after its number is drawn (INSERT), or its row is locked (UPDATE).
PAUSE = """
CREATE FUNCTION faults_pause() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('faults.pause', true) = TG_OP || ' ' || TG_TABLE_NAME THEN
    PERFORM pg_advisory_xact_lock_shared(1);
  END IF;
  RETURN NEW;
END $$;
"""

PAUSE_ON = """
CREATE TRIGGER faults_pause BEFORE INSERT OR UPDATE ON {table}
FOR EACH ROW EXECUTE FUNCTION faults_pause()
"""


class WorkerCrash(BaseException):
    """The worker is gone in the middle of its work. Not an ``Exception``: no code handles it."""


def crash() -> None:
    """End the worker, from a hook."""
    raise WorkerCrash


class _Hooks:
    """The hooks of a delivery, also in the threads of its calls. One may run inside another."""

    def __init__(self) -> None:
        self._now: ContextVar[tuple[dict[str, Callable[[], object]], FaultPlan]] = ContextVar("now")

    @contextmanager
    def set(self, events: dict[str, Callable[[], object]], faults: FaultPlan) -> Iterator[None]:
        """Until the delivery is over."""
        before = self._now.set((events, faults))
        try:
            yield
        finally:
            self._now.reset(before)

    def reach(self, point: str) -> None:
        """The hook of ``Delivery(at=…)``."""
        event = self._now.get(({}, NoFaults()))[0].pop(point, None)
        if event is not None:
            event()

    @property
    def _faults(self) -> FaultPlan:
        return self._now.get(({}, NoFaults()))[1]

    def next(self, keys: Sequence[str]) -> Fault:
        """As the scene's weather says."""
        return self._faults.next(keys)

    def delay(self) -> float:
        """As the scene's weather says."""
        return self._faults.delay()


class Scenario:
    """One database, the simulated servers, and steps to take."""

    def __init__(self, sandbox: Sandbox, statements: Sequence[str] = ()) -> None:
        self.sandbox = sandbox
        self.sandbox.audit_log.follow_log()
        self._conn = psycopg.connect(sandbox.url, autocommit=True)
        watch_versions(self._conn)
        self._conn.execute(PAUSE)
        for table in (*sports.TYPES, "sync_operation"):
            self._conn.execute(PAUSE_ON.format(table=table))
        for statement in statements:
            self._conn.execute(statement)
        speed_up(self._conn, deadlock_timeout="50ms")
        self._database = WatchedDatabase(sandbox.url, name="scenario")
        self._hooks = _Hooks()
        self._deliveries = {
            sink: sandbox.delivery(
                sink, self._database, worker="scenario", faults=self._hooks, at=self._hooks.reach
            )
            for sink in TOPOLOGY.names
        }
        self._found: list[Violation] = []
        self._threads: list[threading.Thread] = []

    # --- steps --------------------------------------------------------------------------------

    def seed(self, part: Part, *lines: Mapping[str, Any], pause: str = "") -> None:
        """Load lines. ``pause``: stop inside the statement while ``holding_pause`` lasts."""
        with db.connect(self.sandbox.url, name=f"seeder {pause}") as conn:
            conn.execute(f"SET faults.pause = '{pause}'")
            self.sandbox.seeder("scenario", conn).do(Action(Kind.EDIT, part, tuple(lines)))

    def delete(self, part: Part, *seed_ids: str) -> None:
        """Mark entities as deleted."""
        with db.connect(self.sandbox.url, name="seeder") as conn:
            self.sandbox.seeder("scenario", conn).do(
                Action(Kind.TOMBSTONE, part, seed_ids=seed_ids)
            )

    def deliver(
        self,
        sink: str,
        at: Mapping[str, Callable[[], object]] | None = None,
        faults: FaultPlan | None = None,
    ) -> Batch:
        """One batch of a worker of its own; ``at`` says what happens at its named points, once.

        Everything pending is due, but for confirming writes. A worker that vanishes has claimed
        nothing.
        """
        self.make_due("origin <> 'confirm'")
        with self._hooks.set(dict(at or {}), faults or NoFaults()):
            try:
                return self._deliveries[sink].deliver_batch()
            except WorkerCrash:
                return Batch()

    def purge(self) -> None:
        """Remove deleted entities for good, without any grace."""
        with self._database.transaction() as conn:
            purge_deleted(conn, grace=0.0)

    def backfill(self, sink: str) -> None:
        """Ask for everything of one sink anew, at the version that it is at."""
        for entity_type in sports.TYPES:
            with self._database.transaction() as conn:
                backfill_page(conn, TOPOLOGY.traits(sink), entity_type, after=None, force=True)

    def lose_everything(self, sink: str) -> None:
        """The server behind a sink is reset."""
        server = self.sandbox.server(sink)
        server.lose_everything()
        server.close()

    def deliver_all(self) -> None:
        """Deliver everything that is due, but for confirming writes."""
        for _ in range(ROUNDS):
            if not sum(self.deliver(sink).claimed for sink in TOPOLOGY.names):
                return

    def poll(self) -> None:
        """Move exhausted operations to dead letters, as the relay does now and then."""
        self.sandbox.relay(self._database).poll(TOPOLOGY.names)

    def live(self, sink: str) -> int:
        """Operations of a sink that wait or are leased."""
        row = self._conn.execute(
            "SELECT count(*) FROM sync_operation WHERE finished_at IS NULL AND sink = %s", (sink,)
        ).fetchone()
        assert row is not None
        return int(row[0])

    def make_due(self, which: str = "true") -> None:
        """Let what is pending fall due, and open breakers be probed."""
        self._conn.execute(
            f"UPDATE sync_operation SET available_at = now() WHERE status = 'pending' AND {which}"
        )
        self._conn.execute("UPDATE sink_state SET open_until = now() WHERE state = 'open'")

    def expire_leases(self) -> None:
        """Let every lease end, and every probe."""
        self._conn.execute(
            "UPDATE sync_operation SET available_at = now() WHERE status = 'in_progress'"
        )
        self._conn.execute("UPDATE sink_state SET probe_until = now() WHERE state = 'probing'")

    def apply_delayed_writes(self) -> None:
        """Let the servers apply now what was late."""
        for sink in TOPOLOGY.names:
            server = self.sandbox.server(sink)
            server.apply_delayed(everything=True)
            server.close()

    # --- threads ------------------------------------------------------------------------------

    @contextmanager
    def holding_pause(self) -> Iterator[None]:
        """Keep a thread that pauses inside a statement there; let all threads end at the end."""
        self._conn.execute("SELECT pg_advisory_lock(1)")
        try:
            yield
        finally:
            self._conn.execute("SELECT pg_advisory_unlock(1)")
            for thread in self._threads:
                thread.join(TIMEOUT)
        assert not any(thread.is_alive() for thread in self._threads), "the scenario hangs"

    def start(self, step: Callable[[], object], *, waiting: int) -> None:
        """A step in a thread of its own; returns when so many sessions wait for a lock."""
        thread = threading.Thread(target=self._noting_errors, args=(step,))
        self._threads.append(thread)
        thread.start()
        self._until_waiting(waiting)

    def _noting_errors(self, step: Callable[[], object]) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  (the oracle says it)
            self._found.append(Violation(Problem.ERROR, f"{type(error).__name__}: {error}"))

    def _until_waiting(self, count: int) -> None:
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            row = self._conn.execute(
                """
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'
                  AND backend_type = 'client backend'
                """
            ).fetchone()
            if row and row[0] >= count:
                return
            time.sleep(0.005)
        raise AssertionError(f"{count} sessions should wait for a lock")

    # --- the end ------------------------------------------------------------------------------

    def check_invariants(self) -> None:
        """Look at what must hold at any time."""
        self._found += oracle.at_any_time(self.sandbox, (NEO4J, PINECONE))

    def drain(self) -> None:
        """Leases end, everything falls due, and the workers go on until nothing is live."""
        for _ in range(ROUNDS):
            self.expire_leases()
            self.make_due()
            if not sum(self.deliver(sink).claimed for sink in (EMBEDDING, NEO4J, PINECONE)):
                return

    def check(self, dead_keys: Set[str] = frozenset(), *, drained: bool = True) -> list[Violation]:
        """Return the oracle's violations, at rest and over the whole history."""
        if drained:
            rest = drain(self.sandbox, timeout=0.0, retry=False)
            if rest.calls_again:
                self._found.append(Violation(Problem.CALLS_AT_REST, str(rest.calls_again)))
        self._found += oracle.at_rest(self.sandbox, dead_keys)
        self.close()
        return [*self._found, *oracle.over_all(self.sandbox)]

    def close(self) -> None:
        """End every session."""
        self._database.close()
        self._conn.close()
