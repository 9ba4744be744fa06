"""Celery messages: wake-ups, far fewer than batches, and bounded when no worker reads them."""

from __future__ import annotations

from benchmarks.bench import Bench, until
from benchmarks.loading import write_leagues
from benchmarks.report import Figure, Gate, Measured
from tests.acceptance.stack import SINKS, Stack

NUMBER = 4
TITLE = "Celery messages"

LEAGUES = 5_000

#: Seeding runs with a relay and without a worker, each with other edited leagues.
RUNS = 10

#: Wake-ups that may wait in a queue: what ``ALTSYNC_WAKE_LIMIT`` is when nothing else is set.
WAKE_LIMIT = 4


def measure(bench: Bench) -> Figure:
    """Messages are counted where they arrive: by the LPUSH commands that Redis has run."""
    stack = bench.stack
    stack.reset()
    stack.redis.config_resetstat()
    stack.start_relay()
    with bench.doing(f"{RUNS} seeding runs that no worker hears of"):
        unread = _unread(bench, stack)
    with bench.doing("draining what has gathered"):
        for sink in SINKS:
            stack.start_worker(sink)
        until(lambda: stack.live() == 0, "the drain", stack.running)
        stack.wait_until_recorded()
    batches = stack.number("SELECT count(*) FROM delivery_batch")
    operations = stack.number("SELECT sum(claimed) FROM delivery_batch")
    seconds = stack.rows(
        "SELECT EXTRACT(epoch FROM max(finished_at) - min(finished_at))::float8 FROM sync_operation"
    )[0][0]
    messages = _messages(stack)
    stack.kill_all()
    longest = unread.counts["longest queue"]
    drained = Measured(
        "operations drained after that",
        operations,
        seconds,
        {"batches": batches, "messages": messages},
    )
    return Figure(
        NUMBER,
        TITLE,
        [unread, drained],
        [
            Gate("longest queue that no worker read", longest, WAKE_LIMIT, False),
            Gate("messages for each batch", messages / batches, 1, False),
        ],
        ["Messages carry a sink's name. A task goes on from batch to batch until nothing is due."],
    )


def _unread(bench: Bench, stack: Stack) -> Measured:
    """Seed again and again with a relay, and without a worker that takes its wake-ups."""
    folder = bench.folder / "messages"
    longest = 0
    for run in range(RUNS):
        write_leagues(folder, LEAGUES, frozenset(range(run, LEAGUES, RUNS)))
        stack.seed("--leagues", "--dir", str(folder))
        until(lambda: _messages(stack) > 0, "the relay's wake-up", stack.running)
        longest = max([longest, *(int(str(stack.redis.llen(sink))) for sink in SINKS)])
    return Measured(
        "leagues seeded and edited, no worker",
        LEAGUES,
        0,
        {"runs": RUNS, "longest queue": longest, "messages": _messages(stack)},
    )


def _messages(stack: Stack) -> int:
    """Messages sent since the counters were set to zero."""
    commands = stack.redis.info("commandstats")
    assert isinstance(commands, dict)
    return int(commands.get("cmdstat_lpush", {}).get("calls", 0))
