"""``python -m benchmarks``: measure the figures, show them, keep them, hold them to their gates."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, cast

import psutil
from rich.console import Console

from altsync import log
from benchmarks import figures
from benchmarks.bench import Bench
from benchmarks.machine import stolen_since, this_machine
from benchmarks.report import Figure, figure_table, summary
from benchmarks.results import Result, write_results


class FigureModule(Protocol):
    """A module of ``benchmarks.figures``."""

    NUMBER: int
    TITLE: str

    def measure(self, bench: Bench) -> Figure:
        """Measure it anew."""
        ...


def figure_modules() -> dict[int, FigureModule]:
    """Every figure that can be measured, by its number."""
    names = (module.name for module in pkgutil.iter_modules(figures.__path__))
    modules = [
        cast("FigureModule", importlib.import_module(f"benchmarks.figures.{n}")) for n in names
    ]
    return {module.NUMBER: module for module in sorted(modules, key=lambda m: m.NUMBER)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 1 with ``--check`` when a gate is not reached."""
    modules = figure_modules()
    asked = _parser(modules).parse_args(arguments)
    chosen = [modules[n] for n in asked.figure or modules]
    answers = Console(highlight=False)
    log.set_up(level="WARNING", form="json")
    with tempfile.TemporaryDirectory(prefix="altsync-bench-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL may run as another account
        with Bench(Path(folder), full=asked.full) as bench:
            results = [_measure(module, bench, answers, asked.json) for module in chosen]
    measured = [result.figure for result in results]
    answers.print(summary(measured))
    answers.print(str(results[-1].machine))
    return int(asked.check and not all(figure.reached for figure in measured))


def _measure(module: FigureModule, bench: Bench, answers: Console, file: Path | None) -> Result:
    bench.console.print(f"[bold]Figure {module.NUMBER}: {module.TITLE}")
    machine, before = this_machine(bench.postgres.flavour), psutil.cpu_times()
    figure = module.measure(bench)
    result = Result(figure, replace(machine, stolen=stolen_since(before)), bench.full)
    answers.print(figure_table(result.figure))
    if file:
        write_results(file, [result])  # now: a later figure may fail
    return result


def _parser(modules: dict[int, FigureModule]) -> argparse.ArgumentParser:
    titles = "; ".join(f"{number}: {module.TITLE}" for number, module in modules.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks", epilog=titles)
    parser.add_argument(
        "--figure", type=int, action="append", choices=list(modules), help="only this one; repeat"
    )
    parser.add_argument("--full", action="store_true", help="the largest sizes, too")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures in a file")
    parser.add_argument("--check", action="store_true", help="exit 1 when a gate is not reached")
    return parser


if __name__ == "__main__":
    sys.exit(main())
