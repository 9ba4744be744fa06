"""The pipeline without similarity: JSONL lines to three stores, beside the described script."""

from __future__ import annotations

import os
import random

from benchmarks.bench import Bench
from benchmarks.beside import MICROSECONDS, TIMES_THE_SCRIPT, beside, delivered, script
from benchmarks.peers.beside_cocoindex import beside_cocoindex
from benchmarks.report import Figure, Gate, Measured, Part
from benchmarks.whole import Latency, Whole, every, whole
from tests.acceptance.kills import given_up, kill_process

NUMBER = 12
TITLE = "The pipeline without similarity, beside the described script and CocoIndex"

#: Leagues that altsync gets on the embedded servers: with the largest sizes, and else.
FULL_ROWS, ROWS = 20_000, 5_000

#: Leagues that altsync gets where remote calls are sleeps: ten batches for each of four workers.
ASLEEP_ROWS = 20_000

#: Leagues that the script gets, by the milliseconds of each call: some seconds' work.
SCRIPT_ROWS = {0: 300, 20: 100, 100: 30}

#: The latencies that gates are about.
GATED = every(0.02)

#: Latencies nearer to those of the real services: a graph nearby, an index and a model far away.
REAL = Latency(neo4j=0.02, pinecone=0.08, openai=0.15)

#: Processes of each sink's worker, and how many times the script's rate they must reach.
CREWS = {1: 100.0, 4: 400.0}

#: Workers that are killed, each while it waits for an embedding.
KILLS = 3

#: Leagues, and seconds of a call for embeddings, that leave work for the last of them.
KILLED_ROWS, KILLED_CALL = 10_000, 0.2

#: Settings for which a kill interrupts a batch, and recovery is short.
KILLED = {
    "ALTSYNC_BATCH_SIZE": "250",
    "ALTSYNC_LEASE_SECONDS": "3",
    "ALTSYNC_SINK_TIMEOUT_SECONDS": "2.5",
}

NOTES = (
    "One worker is one Celery process for each sink's queue (three altogether), four are four "
    "for each; the clock runs from the first line read until no operation is live, and then "
    "every store is counted by its own client.",
    "Embedded: ArcadeDB over Bolt through a relay that delays, the local vectors server with "
    "latencies of its own. These servers share the processors with altsync, and bound its rate.",
    "Asleep: the same relay, workers and sinks, PostgreSQL real, every remote call a sleep; a "
    "write to the graph sleeps for each of its two round trips. "
    "The gates against the script are about these, at 20 ms for each call: what "
    "altsync costs, not what the servers do.",
    "Similarity is off, and the script runs without its similarity pass: figure 5 has both.",
)


def measure(bench: Bench) -> Figure:
    """Script and altsync on the same servers, then asleep, then beside CocoIndex, then killed."""
    with whole(bench.folder / "pipeline") as stack:
        parts = [_embedded(bench, stack), _asleep(bench, stack), _killed(bench, stack)]
    parts.append(beside_cocoindex(bench))
    return Figure(
        NUMBER,
        TITLE,
        [measured for part in parts for measured in part.measured],
        [gate for part in parts for gate in part.gates],
        [*NOTES, *(note for part in parts for note in part.notes)],
    )


def _embedded(bench: Bench, stack: Whole) -> Part:
    scripts: dict[int, Measured] = {}
    for milliseconds, rows in SCRIPT_ROWS.items():
        latency = every(milliseconds / 1000)
        with bench.doing(f"the script, {latency}"):
            stack.slow(latency)
            scripts[milliseconds] = script(stack, f"script, embedded, {latency}", rows)
    measured = list(scripts.values())
    for processes in CREWS:
        stack.slow(every(0))
        with bench.doing(f"{processes} workers get warm"), stack.crew(processes):
            for milliseconds in SCRIPT_ROWS:
                latency = every(milliseconds / 1000)
                stack.slow(latency)
                what = f"altsync, {_workers(processes)}, embedded, {latency}"
                ours = delivered(stack, what, _rows(bench))
                measured.append(beside(scripts[milliseconds], ours))
            stack.assert_all_there()
    return Part(measured)


def _asleep(bench: Bench, stack: Whole) -> Part:
    measured: list[Measured] = []
    gates: list[Gate] = []
    bounds: list[str] = []
    for latency in (GATED, REAL):
        with bench.doing(f"the script asleep, {latency}"):
            slow = script(stack, f"script, asleep, {latency}", SCRIPT_ROWS[20], asleep=latency)
        measured.append(slow)
        for processes, times in CREWS.items():
            what = f"{_workers(processes)}, asleep, {latency}"
            with bench.doing(what), stack.sleeping_crew(processes, latency):
                ours = beside(slow, delivered(stack, f"altsync, {what}", ASLEEP_ROWS))
            measured.append(ours)
            bounds.append(_bound(ours))
            if latency == GATED:
                ratio = ours.counts[TIMES_THE_SCRIPT]
                gates.append(Gate(f"times the script's rate, {what}", ratio, times))
    return Part(measured, gates, bounds)


def _killed(bench: Bench, stack: Whole) -> Part:
    """Kill three workers while they embed, and count the texts that are embedded again."""
    chance = random.Random(5)
    stack.slow(Latency(neo4j=0, pinecone=0, openai=KILLED_CALL))
    with bench.doing(f"{KILLS} workers are killed"), stack.crew(2, KILLED) as workers:
        stack.stack.vectors.reset_stats()
        stack.seed(KILLED_ROWS)
        kills = [
            kill_process(stack.stack, [workers["embedding"]], chance, "embedding")
            for _ in range(KILLS)
        ]
        stack.stack.wait_until_drained()
        stack.assert_all_there()
        paid = stack.stack.vectors.stats().records["openai.embeddings"]
        in_flight = sum(kill.texts for kill in kills) + given_up(stack.stack)
    counts = {"texts paid": paid, "in flight when killed": in_flight}
    again = paid - KILLED_ROWS
    gate = Gate("texts paid again after three kills", again, in_flight, at_least=False)
    return Part([Measured(f"altsync, {KILLS} workers killed", KILLED_ROWS, 0.0, counts)], [gate])


def _bound(measured: Measured) -> str:
    """Return the rows per second that the processors allow, with any number of workers."""
    price = sum(n for what, n in measured.counts.items() if what.startswith(MICROSECONDS))
    processors = os.cpu_count() or 1
    return (
        f"A row takes {price:.0f} µs of processors in {measured.what}: {processors} of them cannot "
        f"pass {1e6 * processors / price:,.0f} rows/s."
    )


def _rows(bench: Bench) -> int:
    return FULL_ROWS if bench.full else ROWS


def _workers(processes: int) -> str:
    return "1 worker" if processes == 1 else f"{processes} workers"
