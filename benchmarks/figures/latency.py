"""One edited line on an idle system: the time until each store is synced."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from altsync import db
from altsync.app import Application
from altsync.circuit.sinks import wanted_model
from altsync.config import read_settings
from altsync.db import Conn
from altsync.entities import Model, Row
from altsync.outbox.enqueue import CHANNEL
from altsync.store.rows import read_rows
from benchmarks.bench import Bench
from benchmarks.loading import seed, seeding
from benchmarks.report import Figure, Gate, Measured
from benchmarks.whole import Whole, every, whole
from tests import sports
from tests.acceptance.seeds import league, write
from tests.acceptance.stack import LOOK, SINKS, TIMEOUT

NUMBER = 7
TITLE = "From the commit of one edited line until every store is synced"

#: Edits of one measurement: the 95th percentile needs some twenty beyond the median.
EDITS = 40

#: Seconds that each remote call takes beside what the local server needs.
LATENCIES = (0.0, 0.02)

#: Seconds between two reads of an edited league, far below the measured time.
GLANCE = 0.002

#: The wait may be this many times the league's own remote calls, one after the other. Only where
#: calls are remote: servers on the same machine answer faster than PostgreSQL commits.
TIMES_ITS_CALLS = 3.0

#: Seconds that an edit should take at most.
LONGEST = 0.5


@dataclass(frozen=True, slots=True)
class Edit:
    """One edit in seconds after its commit: when each sink was synced, and its steps on the way.

    ``woken`` is when the relay sent the wake-up, ``begun`` when a worker turned to it, ``done``
    when it had settled, and written down, its batch.
    """

    synced: Mapping[str, float]
    woken: Mapping[str, float]
    begun: Mapping[str, float]
    done: Mapping[str, float]


def measure(bench: Bench) -> Figure:
    """Edits one after the other, each after everything before it is at rest."""
    measured: list[Measured] = []
    gates: list[Gate] = []
    notes = [
        f"{EDITS} edits of a league's description, so that it is embedded anew; a relay and, for "
        "each sink, a Celery worker with one process. The clock starts at the seeder's NOTIFY.",
    ]
    with whole(bench.folder / "latency") as stack, stack.crew(processes=1):
        for seconds in LATENCIES:
            what = f"{1000 * seconds:g} ms per remote call"
            with bench.doing(f"{EDITS} edits, {what}"):
                stack.slow(every(seconds))
                calls = _own_calls(stack)
                edits = _edits(stack)
            measured += [_waited(sink, what, edits, calls) for sink in SINKS]
            last = [max(edit.synced.values()) for edit in edits]
            times = _p50(last) / sum(calls.values())
            if seconds:
                named = f"median wait by the sum of its own calls, {what}"
                gates.append(Gate(named, times, TIMES_ITS_CALLS, at_least=False))
            longest = f"seconds within which 95 of 100 are done, {what}"
            gates.append(Gate(longest, _p95(last), LONGEST, at_least=False))
            notes.append(f"{_shares(what, edits, calls)} All: {times:.1f} times its own calls.")
    return Figure(NUMBER, TITLE, measured, gates, notes)


def _waited(sink: str, what: str, edits: Sequence[Edit], calls: Mapping[str, float]) -> Measured:
    waits = [edit.synced[sink] for edit in edits]
    counts = {"p50 ms": 1000 * _p50(waits), "p95 ms": 1000 * _p95(waits)}
    return Measured(
        f"{sink}, {what}", len(edits), 0.0, {**counts, "its call ms": 1000 * calls[sink]}
    )


def _shares(what: str, edits: Sequence[Edit], calls: Mapping[str, float]) -> str:
    """Split the time to the last store: two rounds of relay, worker and batch."""
    embedded = [edit.done["embedding"] for edit in edits]
    parts: list[str] = []
    for sink, since in (("embedding", [0.0] * len(edits)), ("pinecone", embedded)):
        steps = {
            "to the wake-up": [e.woken[sink] - s for e, s in zip(edits, since, strict=True)],
            "to the worker": [e.begun[sink] - e.woken[sink] for e in edits],
            "batch": [e.done[sink] - e.begun[sink] for e in edits],
        }
        shown = ", ".join(f"{name} {1000 * _p50(waits):.0f}" for name, waits in steps.items())
        parts.append(f"{sink}: {shown} (its call {1000 * calls[sink]:.0f})")
    return f"{what}, steps to the last store, medians in ms: {'; '.join(parts)}."


def _edits(whole_stack: Whole) -> list[Edit]:
    stack = whole_stack.stack
    folder = stack.folders.work / "edited"
    edits: list[Edit] = []
    url = stack.addresses["DATABASE_URL"]
    with seeding(url) as seeder, db.connect(url) as watcher, db.connect(url) as listener:
        listener.execute(f"LISTEN {CHANNEL}")
        for number in range(EDITS):
            stack.wait_until_recorded()
            line = {**league(number), "description": f"Told anew at {time.time()}."}
            write(folder, "leagues/edited.jsonl", [line])
            with _hearing(listener) as heard:
                before = _last_batch(watcher)
                seed(seeder, folder)
            edits.append(_watch(line["id"], heard[0], before, watcher))
    return edits


@contextmanager
def _hearing(listener: Conn) -> Iterator[list[float]]:
    """The moment at which the first commit of the block notifies, as a clock shows it."""
    list(listener.notifies(timeout=0))  # those of the edit before
    heard: list[float] = []

    def hear() -> None:
        heard.extend(time.time() for _ in listener.notifies(timeout=TIMEOUT, stop_after=1))

    ear = threading.Thread(target=hear)
    ear.start()
    yield heard
    ear.join()


def _watch(seed_id: str, committed: float, before: int, watcher: Conn) -> Edit:
    """Look at one league until every sink has it."""
    synced: dict[str, float] = {}
    while len(synced) < len(SINKS):
        for sink in _synced(watcher, seed_id) - synced.keys():
            synced[sink] = time.time() - committed
        assert time.time() - committed < TIMEOUT, f"only {sorted(synced)} are synced"
        time.sleep(GLANCE)
    while len(steps := _steps(watcher, before)) < len(SINKS):
        time.sleep(LOOK)
    woken, begun, done = (
        {sink: step[place] - committed for sink, step in steps.items()} for place in range(3)
    )
    return Edit(synced, woken, begun, done)


def _synced(conn: Conn, seed_id: str) -> set[str]:
    """The sinks that have the league as it is now."""
    columns = ", ".join(f"{sink}_sync_status = 'synced'" for sink in SINKS)
    row = conn.execute(f"SELECT {columns} FROM league WHERE seed_id = %s", (seed_id,)).fetchone()
    assert row is not None
    return {sink for sink, synced in zip(SINKS, row, strict=True) if synced}


def _last_batch(conn: Conn) -> int:
    row = conn.execute("SELECT COALESCE(max(id), 0) FROM delivery_batch").fetchone()
    assert row is not None
    return int(row[0])


def _steps(conn: Conn, after: int) -> dict[str, tuple[float, float, float]]:
    """Of each sink's first batch after ``after``: last wake-up, beginning and end, as clocks show.

    Workers do not finish a batch of one in the moment that they begin it, so what the clocks of
    processes on one machine differ by does not matter.
    """
    rows = conn.execute(
        """
        SELECT DISTINCT ON (b.sink) b.sink, EXTRACT(epoch FROM s.last_wake_at)::float8,
               EXTRACT(epoch FROM b.finished_at)::float8 - b.seconds,
               EXTRACT(epoch FROM b.finished_at)::float8
        FROM delivery_batch b JOIN sink_state s USING (sink) WHERE b.id > %s ORDER BY b.sink, b.id
        """,
        (after,),
    )
    return {sink: (woken, begun, done) for sink, woken, begun, done in rows}


def _own_calls(stack: Whole) -> dict[str, float]:
    """The median seconds of each sink's own call for one league, by the product's clients."""
    settings = read_settings(**{name.lower(): value for name, value in stack.env.items()})
    with closing(Application(settings)) as app:
        with app.database.autocommit() as conn:
            model = Model(*(wanted_model(conn) or ("", 0)))
            ids = [row[0] for row in conn.execute("SELECT id FROM league LIMIT %s", (EDITS,))]
            rows = read_rows(conn, sports.LEAGUE, ids, with_vectors=True)
        embedder = app.stores().embedder
        graph, index = app.sink("neo4j"), app.sink("pinecone")
        assert embedder is not None and graph is not None and index is not None
        return {
            "embedding": _median_of(rows, lambda row: embedder.embed([f"again {row.key}"], model)),
            "neo4j": _median_of(rows, lambda row: graph.upsert([row], model)),
            "pinecone": _median_of(rows, lambda row: index.upsert([row], model)),
        }


def _median_of(rows: Sequence[Row], call: Callable[[Row], object]) -> float:
    """The median seconds of a call, made for each row after one that is not counted."""
    call(rows[0])
    return _p50([_timed(call, row) for row in rows])


def _timed(call: Callable[[Row], object], row: Row) -> float:
    started = time.perf_counter()
    call(row)
    return time.perf_counter() - started


def _p50(waits: Sequence[float]) -> float:
    return statistics.median(waits)


def _p95(waits: Sequence[float]) -> float:
    return statistics.quantiles(waits, n=20)[-1]
