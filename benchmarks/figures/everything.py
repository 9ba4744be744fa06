"""Measure the whole pipeline with everything on, beside the script with its own pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.bench import Bench, medians
from benchmarks.beside import TIMES_THE_SCRIPT, beside, delivered, script
from benchmarks.loading import unlike_league
from benchmarks.report import Figure, Gate, Measured
from benchmarks.whole import EVERYTHING_ON, Whole, every, whole
from tests.acceptance.seeds import Line, league

NUMBER = 5
TITLE = "The whole pipeline with everything on, beside the described script"

#: New leagues of a first load, and what a full run adds, without latency.
ROWS, FULL_ROWS = 3_000, 20_000

#: Milliseconds of each remote call, and how many times the script's rate altsync must reach.
TIMES = {0: 20.0, 20: 150.0}

#: Leagues that the script gets, by the milliseconds of each call: half a minute's work. Twelve of
#: each archetype are enough for ten neighbours.
SCRIPT_ROWS = {0: 200, 20: 60}

#: Everything on by similarity off: the least.
ON_BY_OFF = 0.8

#: Operations of the graph for a new league: one, and a fifth for leagues that gain a neighbour
#: after they were written.
GRAPH_OPERATIONS = 1.2

#: First loads of a kind, of which the median counts: an odd number.
LOADS = 3

#: Counts of a load.
BY_OFF, OPERATIONS, QUESTIONS = "× similarity off", "neo4j operations a league", "questions"

NOTES = (
    "Everything on: the settings as they are when nothing is set, ALTSYNC_SIMILARITY=local among "
    "them. Similarity off: ALTSYNC_SIMILARITY=off and nothing else.",
    "Each load begins with empty stores and warm processes: a relay, and for each sink a Celery "
    "worker with one process. The clock runs from the first line read until no operation is live, "
    "of similarity neither; then every store is counted by its own client, and the graph must "
    "have as many SIMILAR_TO as PostgreSQL. The median load of three counts; of the largest size "
    "there is one.",
    "Leagues alike have texts of one pattern: each has ten neighbours, the most that a league may "
    "have, among hundreds that are near enough, and the graph gets ten relationships with it. "
    "Leagues unlike are made of random words of the real seeds, and have none: what similarity "
    "costs a catalogue is between the two. The real seeds are near the second.",
    "All are on the embedded servers, ArcadeDB over Bolt and the local vectors server, behind the "
    "latency named; they share the processors with altsync and with the script. Nothing sleeps in "
    "the place of a server here: figure 12 has that.",
    "The script asks the index one question for each league, and writes each match in a Cypher of "
    "its own and a row of its own, as its guide says; its seconds hold both passes.",
    "Questions are what the vectors server answered beside upserts, and what workers wrote down "
    "as calls of similarity. Operations of the graph are those that workers have claimed.",
)


@dataclass(frozen=True, slots=True)
class Load:
    """A first load: how many leagues, and the milliseconds of each remote call meanwhile.

    ``alike``: each has ten neighbours. Else none has any.
    """

    rows: int
    milliseconds: int
    alike: bool = True

    def __str__(self) -> str:
        kind = "alike" if self.alike else "unlike"
        return f"{self.rows:,} leagues {kind}, {every(self.milliseconds / 1000)}"

    @property
    def line(self) -> Callable[[int], Line]:
        """Return the maker of a league by its number."""
        return league if self.alike else unlike_league


def measure(bench: Bench) -> Figure:
    """The script, then first loads with similarity off, then the same with everything on."""
    loads = [Load(ROWS, milliseconds) for milliseconds in TIMES]
    loads.append(Load(ROWS, 0, alike=False))
    if bench.full:
        loads.append(Load(FULL_ROWS, 0))
    with whole(bench.folder / "off") as stack:
        scripts = {milliseconds: _script(bench, stack, milliseconds) for milliseconds in TIMES}
        off = _loaded(bench, stack, "similarity off", {}, loads)
    with whole(bench.folder / "on") as stack:  # a graph of its own: nothing of the former loads
        on = _loaded(bench, stack, "everything on", EVERYTHING_ON, loads)
    on = {load: _by_off(load, on, off) for load in loads}
    on, off = (
        {
            load: beside(scripts[load.milliseconds], one) if load.alike else one
            for load, one in kind.items()
        }
        for kind in (on, off)
    )
    measured = [one for load in loads for one in (on[load], off[load])]
    return Figure(NUMBER, TITLE, [*measured, *scripts.values()], _gates(on), NOTES)


def _script(bench: Bench, stack: Whole, milliseconds: int) -> Measured:
    latency = every(milliseconds / 1000)
    with bench.doing(f"the script with its similarity pass, {latency}"):
        stack.slow(latency)
        what = f"script with its similarity pass, {latency}"
        return script(stack, what, SCRIPT_ROWS[milliseconds], similarity=True)


def _loaded(
    bench: Bench, stack: Whole, what: str, settings: Mapping[str, str], loads: Sequence[Load]
) -> dict[Load, Measured]:
    """First loads by one crew with these settings."""
    stack.slow(every(0))
    measured: dict[Load, Measured] = {}
    with bench.doing(f"{what}: workers get warm"), stack.crew(1, settings):
        for load in loads:
            stack.slow(every(load.milliseconds / 1000))
            run = partial(_load, stack, f"altsync, {what}, {load}", load)
            with bench.doing(f"{what}: {load}"):
                (measured[load],) = medians(run, times=LOADS if load.rows == ROWS else 1)
    return measured


def _load(stack: Whole, what: str, load: Load) -> Measured:
    """One first load, with its calls and writes."""
    stack.empty()
    one = delivered(stack, what, load.rows, load.line)
    stack.assert_all_there()
    answered = stack.stack.vectors.stats().requests
    questions = sum(answered[name] for name in ("pinecone.query", "pinecone.fetch"))
    claimed = stack.stack.number("SELECT sum(claimed) FROM delivery_batch WHERE sink = 'neo4j'")
    counts = {
        OPERATIONS: claimed / load.rows,
        "SIMILAR_TO": stack.similar(),
        QUESTIONS: questions + stack.stack.remote_calls("similarity"),
    }
    return replace(one, counts={**counts, **one.counts})


def _by_off(load: Load, on: Mapping[Load, Measured], off: Mapping[Load, Measured]) -> Measured:
    """With its rate by that of the same load with similarity off."""
    return replace(on[load], counts={BY_OFF: on[load].rate / off[load].rate, **on[load].counts})


def _gates(on: Mapping[Load, Measured]) -> list[Gate]:
    by_off = [
        Gate(f"everything on by similarity off, {load}", one.counts[BY_OFF], ON_BY_OFF)
        for load, one in on.items()
        if load.milliseconds == 0
    ]
    by_script = [
        Gate(
            f"everything on by the script with its pass, embedded servers, {load}",
            one.counts[TIMES_THE_SCRIPT],
            TIMES[load.milliseconds],
        )
        for load, one in on.items()
        if load.rows == ROWS and load.alike
    ]
    most = max(one.counts[OPERATIONS] for one in on.values())
    questions = sum(one.counts[QUESTIONS] for one in on.values())
    return [
        *by_off,
        *by_script,
        Gate("neo4j operations for a new league, everything on", most, GRAPH_OPERATIONS, False),
        Gate("remote calls of similarity in a first load", questions, 0, False),
    ]
