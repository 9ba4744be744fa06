"""altsync and the described script on the same servers: one run of each, and their ratio."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

from benchmarks.report import Measured
from benchmarks.whole import ROOT, Latency, Whole
from tests.acceptance.seeds import Line, league, write_leagues

#: The count that is the rate by the script's at the same latency.
TIMES_THE_SCRIPT = "× the script"

#: How a count begins that is a part's share of what a row takes of the processors.
MICROSECONDS = "µs a row"


def script(
    stack: Whole, what: str, rows: int, *, asleep: Latency | None = None, similarity: bool = False
) -> Measured:
    """The described script on leagues of its own, in a process and a database of its own.

    ``asleep``: every remote call is a sleep. ``similarity``: with its pass after seeding.
    """
    folder = write_leagues(stack.stack.folders.work / "script", rows)
    command = [sys.executable, "-m", "benchmarks.script", str(folder / "leagues/generated.jsonl")]
    if asleep:
        command += ["--asleep", *map(str, (asleep.neo4j, asleep.pinecone, asleep.openai))]
    if similarity:
        command.append("--similarity")
    with stack.database() as url:
        env = {**stack.stack.bare_env, **stack.env, "DATABASE_URL": url, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE)
    answer = json.loads(done.stdout)
    return Measured(what, answer["rows"], answer["seconds"], answer["counts"])


def delivered(stack: Whole, what: str, rows: int, line: Callable[[int], Line] = league) -> Measured:
    """New leagues until every store has them."""
    before, spent = stack.stack.remote_calls(), stack.processor_seconds()
    seconds = stack.deliver(rows, line)
    stack.stack.wait_until_recorded()
    counts: dict[str, float] = {"calls": stack.stack.remote_calls() - before}
    for part, now in stack.processor_seconds().items():
        counts[f"{MICROSECONDS} {part}"] = round(1e6 * (now - spent[part]) / rows)
    return Measured(what, rows, seconds, counts)


def beside(script_run: Measured, ours: Measured) -> Measured:
    """With its rate by that of the script at the same latency."""
    return replace(ours, counts={TIMES_THE_SCRIPT: ours.rate / script_run.rate, **ours.counts})
