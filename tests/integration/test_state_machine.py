"""Any order of edits, deliveries, crashes, outages and repairs: every sink equals PostgreSQL.

A few orders are tried, the same each time; ``ALTSYNC_TEST_EXAMPLES=100`` tries as many others, and
``tests/faults/test_any_order.py`` others for a while. A failure prints

- commands that run the same order again, or the same search: with ``ALTSYNC_TEST_REPLAY=``,
  ``ALTSYNC_TEST_SEED=``. They hold as long as ``Machine`` and the version of Hypothesis stay what
  they are;
- the steps. They run as a test of this file, to be changed and stepped through::

      @pytest.mark.usefixtures("scene")
      def test_these_steps() -> None:
          state = Machine()
          ...  # the printed steps
          state.teardown()
"""

from __future__ import annotations

import os
import queue
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, reproduce_failure, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from altsync import retry
from altsync.contract import EMBEDDING, Failed, RecordOutcome
from altsync.db import Database
from altsync.delivery import batches, calls, policy, state
from altsync.entities import Content, EntityType, Model, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.outbox.upkeep import backfill_page
from altsync.protocols import Sink
from altsync.relay import Relay, RelayPolicy
from altsync.retry import Selection, dead_ids
from tests import points, sports
from tests.conftest import DIMENSIONS, MODEL, TOPOLOGY
from tests.integration.database_fixture import (
    CONFIRM_AFTER,
    LEASE,
    TIMEOUT,
    DatabaseFixture,
    delivery,
    embedding_sink,
    empty,
    eventually,
    example,
    key_of,
    league,
    type_of,
)
from tests.integration.fakes import Call, FakeEmbedder, FakeGraph, FakeIndex, FakeSink, Held

#: The requested number of orders, their seed, or one order that has failed. Read here,
#: before tests take the variables away.
ASKED_ORDERS = os.environ.get("ALTSYNC_TEST_EXAMPLES")
ASKED_SEED = os.environ.get("ALTSYNC_TEST_SEED")
REPLAYED = os.environ.get("ALTSYNC_TEST_REPLAY")

#: The text that Hypothesis prints to replay one example.
BLOB = re.compile(r"reproduce_failure\('[^']+', b'([^']+)'\)")

#: Orders of steps that are tried by default: about ten seconds.
ORDERS = 15

#: Steps of one order.
STEPS = 30

#: Seconds after which a write that was not answered has either been applied or never will be.
#: Less than a confirming write waits, which is the whole point of it.
LATEST = 30.0

#: Operations per batch.
BATCH = 3

#: Seconds between two steps: less than a lease, more than one, more than a confirming write waits.
SPANS = [10.0, 31.0, 45.0, 400.0]

#: Seconds of the first retry: more than a step takes, so that only ``advance_time`` makes it due.
BACKOFF = 8.0

#: A worker may die anywhere, but not sleep over a connection that others need.
SLEEPS = [p for p in points.DELIVERY if p not in (*points.CONNECTED, *points.DELIVERED)]

KEYS = ["a", "b", "e"]

TEXTS = ["one", "two", "three"]

FAULTS = [
    "none",
    "down",
    "throttled",
    "refuses a",
    "refuses e",
    "partly refused",
    "partly throttled",
    "raises",
    "lost",
    "applied",
    "late",
    "late and unknown",
]

#: Wake-ups of one sink that may be under way at once.
WAKE_LIMIT = 2

SINK = st.sampled_from(TOPOLOGY.names)
KEY = st.sampled_from(KEYS)
TEXT = st.sampled_from(TEXTS)


class Killed(BaseException):
    """An exception that nothing in delivery may catch."""


@dataclass(slots=True)
class Clock:
    """Delivery's clock: it goes on by itself, and jumps when time passes in the database."""

    ahead: float = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return time.monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        """Other writers are done at once here."""


class Longest:
    """Dice that always show the longest wait, so that a test takes the same course each time."""

    def uniform(self, low: float, high: float) -> float:
        """The higher of the two."""
        return max(low, high)

    def randrange(self, stop: int) -> int:
        """The last one: which record is tried first where none passed before."""
        return stop - 1


@dataclass(frozen=True, slots=True)
class Late:
    """A call that was given up on and is still under way."""

    sink: FakeSink
    call: Call
    until: float


class Sleeper:
    """A worker in a thread of its own that stops at a named point until it is told to go on."""

    def __init__(self, start: Callable[[Callable[[str], None]], Any], point: str) -> None:
        self._point = point
        self._said: queue.Queue[BaseException | str] = queue.Queue()
        self._go = threading.Event()
        self._dies = False
        self._thread = threading.Thread(target=self._run, args=(start,), daemon=True)
        self._thread.start()
        self.asleep = self._hear() == "asleep"

    def wake(self, *, dies: bool) -> None:
        """Go on to the end, or vanish."""
        self._dies = dies
        self._go.set()
        self._hear()
        self._thread.join(TIMEOUT)

    def _run(self, start: Callable[[Callable[[str], None]], Any]) -> None:
        try:
            start(self._at)
            self._said.put("done")
        except Killed:
            self._said.put("killed")
        except BaseException as error:  # noqa: BLE001  (raised again in the test's thread)
            self._said.put(error)

    def _at(self, point: str) -> None:
        if point == self._point and not self._go.is_set():
            self._said.put("asleep")
            self._go.wait()
            if self._dies:
                raise Killed

    def _hear(self) -> str:
        said = self._said.get(timeout=TIMEOUT)
        if isinstance(said, BaseException):
            raise said
        return said


@dataclass(slots=True)
class Site:
    """The state that all orders of steps share: database, two seeders' sessions, clock."""

    pg: DatabaseFixture
    other: DatabaseFixture
    database: Database
    clock: Clock = field(default_factory=Clock)


class Machine(RuleBasedStateMachine):
    """The steps, and what must hold after each of them."""

    site: Site

    def __init__(self) -> None:
        super().__init__()
        self.pg, self.database = self.site.pg, self.site.database
        empty(self.pg.conn)
        self.graph, self.index, self.embedder = FakeGraph(), FakeIndex(), FakeEmbedder()
        self.sinks: dict[str, Sink] = {
            EMBEDDING: embedding_sink(self.database, self.embedder),
            "neo4j": self.graph,
            "pinecone": self.index,
        }
        self.down: set[str] = set()
        self.late: list[Late] = []
        self.sleepers: list[Sleeper] = []
        self.wake_ups: list[str] = []
        self.cut_off = 0
        for fake in (self.graph, self.index):
            fake.size = 2
            self._follow(fake, "none")
        self._follow_embedder("none")

    # --- what people and seeders do ---------------------------------------------------------

    @rule(key=KEY, text=TEXT, variant=st.integers(0, 1))
    def save(self, key: str, text: str, variant: int) -> None:
        """Create, edit (the text, or what is not embedded) or re-create."""
        self.pg.save(_content(key, text, variant))

    @rule(key=KEY, text=TEXT, later=TEXT)
    def save_twice_at_once(self, key: str, text: str, later: str) -> None:
        """Two seeders meet over an entity: the second one waits, and has the last word."""
        with ThreadPoolExecutor(1) as pool:
            with self.pg.saving(_content(key, text, 0)):
                second = pool.submit(self.site.other.save, _content(key, later, 1))
                eventually(lambda: second.done() or self._waits(self.site.other))
            second.result(TIMEOUT)
        row = self.pg.row(_content(key, later, 1))
        assert row["description" if "description" in row else "input_text"] == later

    @rule(key=KEY)
    def delete(self, key: str) -> None:
        """Delete, if it is there."""
        self.pg.delete(_content(key, TEXTS[0], 0))

    @rule(sink=SINK)
    def retry_dead(self, sink: str) -> None:
        """A person retries what was given up on."""
        with self.pg.conn.transaction():
            dead = dead_ids(self.pg.conn, Selection(sink=sink))
            retry.retry_dead(self.pg.conn, dead, TOPOLOGY)

    @rule(
        sink=SINK,
        entity_type=st.sampled_from([sports.LEAGUE, sports.FEW_SHOT_EXAMPLE]),
        force=st.booleans(),
    )
    def backfill(self, sink: str, entity_type: EntityType, force: bool) -> None:
        """A person sends everything again."""
        with self.pg.conn.transaction():
            backfill_page(self.pg.conn, TOPOLOGY.traits(sink), entity_type, after=None, force=force)

    # --- what workers do ----------------------------------------------------------------------

    @rule(sink=SINK, fault=st.sampled_from(FAULTS))
    def deliver(self, sink: str, fault: str) -> None:
        """One batch, with something going wrong at the sink."""
        self._script(sink, fault)
        self._deliver(sink)
        self._script(sink, "none")

    @rule(sink=SINK)
    def drain(self, sink: str) -> None:
        """Batch after batch."""
        self._worker(sink).drain(TIMEOUT)

    @rule()
    def work(self) -> None:
        """All sinks in turn, as when nothing is wrong."""
        for sink in TOPOLOGY.names:
            self.drain(sink)

    @rule(sink=SINK, point=st.sampled_from(points.DELIVERY))
    def crash(self, sink: str, point: str) -> None:
        """A worker vanishes at a named point."""

        def at(reached: str) -> None:
            if reached == point:
                raise Killed

        with suppress(Killed):
            self._deliver(sink, at)

    @precondition(lambda self: len(self.sleepers) < 2)
    @rule(sink=SINK, point=st.sampled_from(SLEEPS))
    def fall_asleep(self, sink: str, point: str) -> None:
        """A worker stops at a named point, while the others go on."""
        sleeper = Sleeper(lambda at: self._deliver(sink, at), point)
        if sleeper.asleep:
            self.sleepers.append(sleeper)

    @precondition(lambda self: self.sleepers)
    @rule(which=st.integers(0, 1), dies=st.booleans())
    def wake_up(self, which: int, dies: bool) -> None:
        """It goes on, maybe with its lease long over; or it was never to wake again."""
        self.sleepers.pop(which % len(self.sleepers)).wake(dies=dies)

    # --- what goes on around them ---------------------------------------------------------------

    @rule(seconds=st.sampled_from(SPANS))
    def advance_time(self, seconds: float) -> None:
        """Leases end, retries and confirming writes fall due, and late writes are applied."""
        for late in list(self.late):
            if late.until < self._now() + seconds:
                self._land(late)
        self.pg.advance_time(seconds)
        self.site.clock.ahead += seconds

    @precondition(lambda self: self.late)
    @rule(which=st.integers(0, 3))
    def land(self, which: int) -> None:
        """A late write is applied, after its worker has stopped waiting for it."""
        self._land(self.late[which % len(self.late)])

    @rule(sink=SINK)
    def outage(self, sink: str) -> None:
        """A sink goes down, or comes back."""
        self.down ^= {sink}

    @rule()
    def look(self) -> None:
        """Two relays look: they wake workers, move exhausted operations to dead letters, purge."""
        before = Counter(self.wake_ups)
        for _ in range(2):
            relay = Relay(
                self.database,
                lambda: self.pg.conn,
                self.wake_ups.append,
                TOPOLOGY,
                TOPOLOGY.names,
                RelayPolicy(purge_grace=300.0, batch_size=BATCH, wake_limit=WAKE_LIMIT),
            )
            relay.poll(TOPOLOGY.names)
        sent = Counter(self.wake_ups) - before
        assert all(count <= WAKE_LIMIT for count in sent.values())

    @precondition(lambda self: self.wake_ups)
    @rule(which=st.integers(0, 7), again=st.booleans())
    def answer(self, which: int, again: bool) -> None:
        """A wake-up arrives, in any order, and maybe a second time later on."""
        place = which % len(self.wake_ups)
        self._deliver(self.wake_ups[place] if again else self.wake_ups.pop(place))

    @rule()
    def forget_wake_ups(self) -> None:
        """The broker loses everything."""
        self.wake_ups.clear()

    # --- what must hold after each step ---------------------------------------------------------

    @invariant()
    def all_is_well(self) -> None:
        """Each of these, after each step."""
        self._synced_is_never_false()
        self._nothing_is_forgotten()
        self._nothing_is_paid_twice()
        assert all(op.attempts <= 10 for op in self.pg.ops())

    def _synced_is_never_false(self) -> None:
        """For the guarded sink at once; for the other when nothing is under way any more."""
        live = self._live()
        moving = {(row.entity_type, row.key) for late in self.late for row in late.call.rows}
        for kind, key, row in self._rows():
            gone = row["deleted_at"] is not None
            if row["neo4j_sync_status"] == "synced":
                held = None if gone else Held(row["graph_version"], row["content_hash"])
                assert self.graph.living().get((kind, key)) == held, (kind, key, "graph")
            quiet = ("pinecone", row["id"]) not in live and (kind, key) not in moving
            if row["pinecone_sync_status"] == "synced" and quiet:
                held = None if gone else Held(row["version"], row["content_hash"])
                found = [h for (t, _, k), h in self.index.held.items() if (t, k) == (kind, key)]
                assert found == ([held] if held else []), (kind, key, "index")

    def _nothing_is_forgotten(self) -> None:
        """Each pending status has a live operation, and each failed one a dead letter."""
        live, dead = self._live(), self._dead()
        for kind, key, row in self._rows():
            for sink in TOPOLOGY.names:
                status, place = row[f"{sink}_sync_status"], (sink, row["id"])
                before = (EMBEDDING, row["id"])
                if status == "pending":
                    waits = sink == "pinecone" and (before in live or before in dead)
                    assert place in live or waits, (kind, key, sink)
                if status == "failed":
                    assert place in dead or place in live, (kind, key, sink)
                if place in dead and place not in live:
                    assert status == "failed", (kind, key, sink)

    def _nothing_is_paid_twice(self) -> None:
        """Unless an answer that was paid for never arrived."""
        assert sum(self.embedder.paid.values()) <= len(self.embedder.paid) + self.cut_off

    def teardown(self) -> None:
        """At rest every sink equals PostgreSQL, and there is nothing left to do."""
        for sleeper in self.sleepers:
            sleeper.wake(dies=False)
        self.sleepers.clear()
        self.down.clear()
        for _ in range(40):
            self.advance_time(SPANS[-1])
            self.look()
            for sink in TOPOLOGY.names:
                self.retry_dead(sink)
                self.drain(sink)
            if not self._live() and not self._dead():
                break
        self._assert_rest()
        calls = len(self.graph.calls) + len(self.index.calls) + len(self.embedder.requests)
        for sink in TOPOLOGY.names:
            self.drain(sink)
        again = len(self.graph.calls) + len(self.index.calls) + len(self.embedder.requests)
        assert again == calls

    def _assert_rest(self) -> None:
        assert self._live() == set()
        assert self._dead() == set()
        living: dict[Any, Held] = {}
        spaces: dict[Any, Held] = {}
        for kind, key, row in self._rows():
            assert {row[f"{sink}_sync_status"] for sink in TOPOLOGY.names} == {"synced"}
            if row["deleted_at"] is None:
                living[kind, key] = Held(row["graph_version"], row["content_hash"])
                space = row.get("category", "default")
                spaces[kind, space, key] = Held(row["version"], row["content_hash"])
                assert row["embedding_text_hash"] == row["text_hash"]
        assert self.graph.living() == living
        assert self.index.held == spaces

    # --- how ----------------------------------------------------------------------------------

    def _worker(self, sink: str, at: Callable[[str], None] = lambda point: None) -> Any:
        return delivery(
            self.database,
            self.sinks[sink],
            at,
            batch_size=BATCH,
            lease=LEASE,
            confirm_after=CONFIRM_AFTER,
            backoff=BACKOFF,
            backoff_cap=60.0,
        )

    def _deliver(self, sink: str, at: Callable[[str], None] = lambda point: None) -> None:
        self._worker(sink, at).deliver_batch()

    def _script(self, sink: str, fault: str) -> None:
        fake = self.sinks[sink]
        if isinstance(fake, FakeSink):
            self._follow(fake, fault)
        else:
            self._follow_embedder(fault)

    def _follow(self, fake: FakeSink, fault: str) -> None:
        def before(call: Call) -> None:
            if fake.traits.name in self.down or fault == "down":
                raise SinkFailure(ErrorKind.SINK, "down")
            match fault:
                case "throttled":
                    raise SinkFailure(ErrorKind.SINK, "slow down", retry_after=60.0)
                case "refuses a" | "refuses e" if fault[-1] in call.keys:
                    raise SinkFailure(ErrorKind.ITEM, "bad record")
                case "raises":
                    raise ZeroDivisionError
                case "lost":
                    raise _silence()
                case "late":
                    self.late.append(Late(fake, call, self._now() + LATEST))
                    raise _silence()
                case "late and unknown":
                    self.late.append(Late(fake, call, self._now() + LATEST))
                    raise SinkFailure(ErrorKind.UNKNOWN, "broken pipe", outcome_unknown=True)

        def after(call: Call) -> None:
            if fault == "applied":
                raise _silence()

        def answer(call: Call, outcomes: tuple[RecordOutcome, ...]) -> tuple[RecordOutcome, ...]:
            kind = ErrorKind.ITEM if fault == "partly refused" else ErrorKind.SINK
            if fault.startswith("partly"):
                return (Failed(outcomes[0].id, kind, fault), *outcomes[1:])
            return outcomes

        fake.before, fake.after, fake.answer = before, after, answer

    def _follow_embedder(self, fault: str) -> None:
        def before(texts: Any) -> None:
            if EMBEDDING in self.down or fault in ("down", "lost"):
                raise SinkFailure(ErrorKind.SINK, "down", timed_out=fault == "lost")
            if fault == "throttled":
                raise SinkFailure(ErrorKind.SINK, "slow down", retry_after=60.0)
            if fault.startswith("refuses") and any(TEXTS[0] in text for text in texts):
                raise SinkFailure(ErrorKind.ITEM, "bad text")
            if fault == "raises":
                raise ZeroDivisionError

        def after(texts: Any) -> None:
            if fault in ("applied", "late", "late and unknown"):
                self.cut_off += len(texts)
                raise _silence()

        self.embedder.before, self.embedder.after = before, after

    def _land(self, late: Late) -> None:
        self.late.remove(late)
        for row in late.call.rows:
            _apply_late(late.sink, late.call.action, row)

    def _waits(self, pg: DatabaseFixture) -> bool:
        """Return whether a session is held up by a lock."""
        with self.database.autocommit() as conn:
            found = conn.execute(
                "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'",
                (pg.conn.info.backend_pid,),
            ).fetchone()
        return found is not None

    def _now(self) -> float:
        return self.site.clock.ahead

    def _rows(self) -> Iterator[tuple[EntityType, str, dict[str, Any]]]:
        for key in KEYS:
            content = _content(key, TEXTS[0], 0)
            row = self.pg.find(content)
            if row is not None:
                yield type_of(content), key_of(content), row

    def _live(self) -> set[tuple[str, Any]]:
        return {(op.sink, op.entity_id) for op in self.pg.ops() if op.live}

    def _dead(self) -> set[tuple[str, Any]]:
        return {(op.sink, op.entity_id) for op in self.pg.ops() if op.status == "dead"}


def _content(key: str, text: str, variant: int) -> Content:
    """Leagues and examples; each has something that is embedded and something that is not."""
    if key in ("a", "b"):
        content: Content = league(
            key, league_name="Serie A", description=text, tier=f"TIER{variant}"
        )
    else:
        content = example(key, ("triage", "support")[variant], input_text=text)
    return content


def _silence() -> SinkFailure:
    return SinkFailure(
        ErrorKind.SINK, "did not answer in time", outcome_unknown=True, timed_out=True
    )


def _apply_late(sink: FakeSink, action: str, row: Row) -> None:
    if action == "delete":
        sink.remove(row)
    elif isinstance(sink, FakeIndex):
        sink.land(row)
    else:
        sink.apply(row, Model(MODEL, DIMENSIONS))


@pytest.fixture
def scene(
    pg: DatabaseFixture, database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """The fixture of ``Machine``: a database, sessions on it, and a clock that it sets."""
    with closing(DatabaseFixture(pg.url)) as other:
        site = Site(pg, other, database)
        for module in (batches, calls, state):
            monkeypatch.setattr(module, "time", site.clock)
        for module in (policy, calls):
            monkeypatch.setattr(module, "random", Longest())
        monkeypatch.setattr(Machine, "site", site, raising=False)
        yield site


def search(
    orders: int, number: int | None = None, replayed: str | None = None, *, shrink: bool = True
) -> None:
    """Try so many orders: those of a seed, or without one the same each time.

    Or ``replayed`` alone, which a failure has printed. ``shrink``: look for the shortest order that
    fails, which may take minutes. Needs ``scene``.
    """
    machine = type("Machine", (Machine,), {})  # marked below; steps are printed by this name
    if number is not None:
        machine = seed(number)(machine)
    if replayed is not None:
        machine = reproduce_failure(hypothesis.__version__, replayed.encode())(machine)
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=orders,
                stateful_step_count=STEPS,
                derandomize=number is None,
                database=None,
                deadline=None,
                print_blob=True,
                phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except BaseException as failure:
        for command in _commands(failure, orders, number):
            failure.add_note(command)
        raise


def _commands(failure: BaseException, orders: int, number: int | None) -> Iterator[str]:
    """How to see a failure again: this order alone, or all that were tried."""
    run = ".venv/bin/python -m pytest tests/integration/test_state_machine.py"
    printed = BLOB.search("\n".join(getattr(failure, "__notes__", [])))
    if printed:
        yield f"This order again: ALTSYNC_TEST_REPLAY={printed[1]} {run}"
    if number is not None:
        asked = f"ALTSYNC_TEST_SEED={number} ALTSYNC_TEST_EXAMPLES={orders}"
        yield f"The search again, for the shortest: {asked} {run}"


@pytest.mark.usefixtures("scene")
def test_any_order_of_steps_ends_in_agreement() -> None:
    """Whatever happens in whatever order."""
    if ASKED_SEED is None and ASKED_ORDERS is not None:
        number: int | None = secrets.randbelow(10**6)
    else:
        number = int(ASKED_SEED) if ASKED_SEED is not None else None
    search(int(ASKED_ORDERS or ORDERS), number, REPLAYED)
