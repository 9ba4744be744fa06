"""The model of throughput against what is measured."""

from __future__ import annotations

import statistics

from benchmarks.bench import Bench
from benchmarks.model import Costs, costs, throughput
from benchmarks.outboxes import BATCH, drain, fill
from benchmarks.report import Figure, Gate, Measured

NUMBER = 9
TITLE = "Throughput as predicted"

ROWS = 20_000

SMALL_BATCH = 100

#: Workers beyond which more are not faster on one machine.
MANY = 4

#: Latency of the one call of a batch (seconds), batch size, and workers.
CASES = (
    (0.02, BATCH, 1),
    (0.1, BATCH, 1),
    (0.02, SMALL_BATCH, 1),
    (0.02, SMALL_BATCH, 4),
    (0.1, BATCH, 4),
    (0.1, SMALL_BATCH, 8),
)

#: Median error that is good enough to plan by: machines of one kind differ by more.
ERROR = 0.25


def measure(bench: Bench) -> Figure:
    """Three runs without latency give the costs; the others are predicted from them."""
    small = _drained(bench, 0, SMALL_BATCH, 1)
    large = _drained(bench, 0, BATCH, 1)
    many = _drained(bench, 0, BATCH, MANY)
    known = costs((SMALL_BATCH, small.rate), (BATCH, large.rate), many.rate)
    checked = [_checked(bench, known, *case) for case in CASES]
    errors = [abs(one.counts["predicted"] / one.rate - 1) for one in checked]
    return Figure(
        NUMBER,
        TITLE,
        [large, small, many, *checked],
        [Gate("median error of the prediction", statistics.median(errors), ERROR, False)],
        [
            "Each batch makes one remote call, which is a sleep here: claim, sleep, settle.",
            f"Measured without latency: {known.batch * 1000:.1f} ms a batch, "
            f"{known.row * 1e6:.0f} µs a row, {known.shared:.0%} of it shared. "
            f"Largest error {max(errors):.0%}.",
        ],
    )


def _checked(bench: Bench, known: Costs, latency: float, size: int, workers: int) -> Measured:
    one = _drained(bench, latency, size, workers)
    predicted = throughput(known, latency=latency, size=size, workers=workers)
    counts = {"predicted": round(predicted), "error %": round(100 * (predicted / one.rate - 1))}
    return Measured(one.what, one.rows, one.seconds, counts)


def _drained(bench: Bench, latency: float, size: int, workers: int) -> Measured:
    crew = "1 worker" if workers == 1 else f"{workers} workers"
    what = f"{latency * 1000:.0f} ms a call, batch {size}, {crew}"
    with bench.doing(what), bench.database() as url:
        fill(url, ROWS)
        return Measured(what, ROWS, drain(url, workers, size, latency).seconds)
