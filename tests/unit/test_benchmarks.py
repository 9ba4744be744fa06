"""The benchmarks' own arithmetic: gates, files, and the model of throughput."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.__main__ import figure_modules
from benchmarks.bench import medians
from benchmarks.machine import Machine
from benchmarks.model import Costs, costs, throughput, workers_for
from benchmarks.report import Figure, Gate, Measured, figure_from_json, figure_table
from benchmarks.results import Result, read_results, write_results

HERE = Machine(2, "3.11", "Linux", "PostgreSQL 18", 0.1, "2026-01-31", {"altsync": "0.1.0"})

#: 10 ms a batch, 0.1 ms a row, half of it at a time when no other process runs.
COSTS = Costs(0.01, 0.0001, 0.5)


def figure(number: int = 1, value: float = 2.0) -> Figure:
    """A figure with one gate, which 1 does not reach and 2 does."""
    measured = [Measured("COPY", 100, 2.0), Measured("altsync", 100, 4.0, {"operations": 200})]
    return Figure(number, "Seeding", measured, [Gate("ratio", value, 2.0)], ["a note"])


def test_rates_and_gates() -> None:
    """Rows by seconds; a gate at its limit is reached, from either side."""
    assert [one.rate for one in figure().measured] == [50.0, 25.0]
    assert Measured("counted only", 100, 0).rate == 0
    assert [figure(value=value).reached for value in (1.9, 2.0, 2.1)] == [False, True, True]
    assert [Gate("", v, 2, at_least=False).reached for v in (1.9, 2.0, 2.1)] == [True, True, False]


def test_figures_come_back_from_json() -> None:
    """As they were."""
    assert figure_from_json(figure().to_json()) == figure()
    assert figure().to_json()["measured"][0]["rate"] == 50.0
    assert figure().to_json()["gates"][0]["reached"] is True


def test_results_replace_their_own_figures_only(tmp_path: Path) -> None:
    """In the order of their numbers."""
    file = tmp_path / "new" / "results.json"
    assert read_results(file) == []
    write_results(file, [Result(figure(2), HERE, full=False), Result(figure(1), HERE, full=False)])
    write_results(file, [Result(figure(2, value=1.0), HERE, full=True)])
    kept = read_results(file)
    assert [(r.figure.number, r.figure.reached, r.full) for r in kept] == [
        (1, True, False),
        (2, False, True),
    ]
    assert kept[0].machine == HERE


def test_the_table_tells_what_is_missed() -> None:
    """With the rate against the first one's."""
    console = Console(width=120)
    with console.capture() as shown:
        console.print(figure_table(figure(value=1.0)))
    for text in ("altsync", "25", "0.50", "operations 200", "MISSED", "≥ 2", "a note"):
        assert text in shown.get()


def test_medians_are_of_runs_that_take_turns() -> None:
    """Neither the longest nor the shortest, of each; one run of each after the other."""
    order: list[str] = []

    def run(what: str, seconds: list[float]) -> Measured:
        order.append(what)
        return Measured(what, 1, seconds.pop())

    slow, fast = [9.0, 5.0, 7.0], [1.0, 3.0, 2.0]
    found = medians(lambda: run("slow", slow), lambda: run("fast", fast))
    assert [one.seconds for one in found] == [7.0, 2.0]
    assert order == ["slow", "fast"] * 3


def test_one_worker_waits_for_its_calls() -> None:
    """Its own time and its calls', one after the other."""
    assert throughput(COSTS, latency=0, size=100, workers=1) == pytest.approx(100 / 0.02)
    assert throughput(COSTS, latency=0.08, size=100, workers=1) == pytest.approx(100 / 0.1)
    assert throughput(COSTS, latency=0.04, size=100, workers=1, calls=2) == pytest.approx(100 / 0.1)


def test_many_workers_wait_for_each_other() -> None:
    """Never faster than what they share, nor than each of them alone."""
    alone = throughput(COSTS, latency=0.08, size=100, workers=1)
    rates = [throughput(COSTS, latency=0.08, size=100, workers=w) for w in range(1, 200)]
    assert all(more >= fewer - 1e-6 for fewer, more in pairwise(rates))
    assert all(rate <= w * alone + 1e-6 for w, rate in enumerate(rates, start=1))
    assert rates[-1] == pytest.approx(100 / 0.01, rel=0.01)


def test_costs_are_found_again() -> None:
    """From the rates that they make."""
    rates = [throughput(COSTS, latency=0, size=size, workers=1) for size in (100, 500)]
    found = costs((100, rates[0]), (500, rates[1]), rates[1] / COSTS.shared)
    assert (found.batch, found.row, found.shared) == pytest.approx((0.01, 0.0001, 0.5))


def test_workers_for_a_rate() -> None:
    """The fewest that reach it; no number reaches more than what they share gives."""
    wanted = workers_for(COSTS, 4000, latency=0.08, size=100)
    reached = [throughput(COSTS, latency=0.08, size=100, workers=w) for w in (wanted - 1, wanted)]
    assert reached[0] < 4000 <= reached[1]
    with pytest.raises(ValueError, match="10,000 rows/s"):
        workers_for(COSTS, 10_000, latency=0.08, size=100)


def test_figures_without_their_peers_are_listed() -> None:
    """The list of figures needs nothing but altsync itself."""
    assert list(figure_modules()) == sorted(figure_modules())
