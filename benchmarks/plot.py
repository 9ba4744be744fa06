"""Draw the figures of a results file as SVG that reads on light and dark pages alike.

``python -m benchmarks.plot [--results FILE] [--to FOLDER] [--png]``
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt

from benchmarks.report import Figure, Measured
from benchmarks.results import Result, read_results

RESULTS = Path(__file__).parent / "results.json"
IMAGES = Path(__file__).parents[1] / "docs" / "images"

#: Seen well on white and on near black: contrast of 4.5 or nearly so against both.
INK = "#7d8590"
OURS, OTHERS = "#2f9e6e", "#8a8fa3"

#: Figures whose measurements are rates to be compared, by number, with their files' names.
RATES = {
    1: "seeding",
    2: "seeding-again",
    3: "claim-and-settle",
    5: "everything-on",
    11: "similarity",
    12: "pipeline",
}

STYLE = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "font.size": 11,
    "svg.fonttype": "path",
    # The same file for the same results.
    "svg.hashsalt": "altsync",
}

Drawing = Callable[[Figure, Any], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what the file holds; figures without a drawing are left out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plot")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--to", type=Path, default=IMAGES)
    parser.add_argument("--png", action="store_true", help="PNG in place of SVG, to look at")
    asked = parser.parse_args(arguments)
    asked.to.mkdir(parents=True, exist_ok=True)
    for result in read_results(asked.results):
        drawing = drawing_of(result.figure.number)
        if drawing is not None:
            name, draw = drawing
            _save(result, draw, asked.to / f"{name}.{'png' if asked.png else 'svg'}")
    return 0


def drawing_of(number: int) -> tuple[str, Drawing] | None:
    """The file's name and the drawing of a figure."""
    if number in RATES:
        return RATES[number], draw_rates
    return {8: ("scale", draw_scale), 9: ("throughput", draw_prediction)}.get(number)


def _save(result: Result, draw: Drawing, file: Path) -> None:
    with mpl.rc_context(STYLE):
        figure = plt.figure(figsize=(8, 0.8 + 0.5 * max(5, len(result.figure.measured))))
        draw(result.figure, figure)
        machine = result.machine
        where = f"{machine.cpus} CPUs, load {machine.load:g}, {machine.postgresql}, {machine.date}"
        figure.text(0.01, 0.01, where, fontsize=8)
        figure.tight_layout(rect=(0, 0.04, 1, 1))
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, metadata=metadata, dpi=110)
        plt.close(figure)


def draw_rates(figure: Figure, canvas: Any) -> None:
    """Rows per second of each measurement, on a logarithmic axis when they are far apart."""
    rated = [one for one in figure.measured if one.rate]
    axes = canvas.add_subplot()
    colours = [OURS if one.what.startswith("altsync") else OTHERS for one in rated]
    bars = axes.barh([one.what for one in rated], [one.rate for one in rated], color=colours)
    axes.bar_label(bars, [f" {one.rate:,.0f}" for one in rated], color=INK)
    if max(one.rate for one in rated) > 30 * min(one.rate for one in rated):
        axes.set_xscale("log")
    axes.invert_yaxis()
    axes.margins(x=0.2, y=0.02)  # room for the labels
    if axes.get_xscale() == "linear":
        axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel("rows per second")
    canvas.suptitle(figure.title, x=0.01, ha="left", fontsize=12)
    _finish(axes)


def draw_scale(figure: Figure, canvas: Any) -> None:
    """Seconds and resident memory against rows, on logarithmic axes."""
    seconds, memory = canvas.subplots(1, 2)
    series = {
        "seeder": [one for one in figure.measured if one.what.startswith("seeding")],
        "worker": [one for one in figure.measured if one.what.startswith("embedding")],
    }
    for (name, members), colour in zip(series.items(), (OURS, OTHERS), strict=True):
        rows = [one.rows for one in members]
        seconds.plot(rows, [one.seconds for one in members], "o-", color=colour, label=name)
        memory.plot(rows, [one.counts["MB"] for one in members], "o-", color=colour, label=name)
    _linear(seconds, series["worker"])
    seconds.set_yscale("log")
    memory.set_ylim(0, 320)
    for axes, label in ((seconds, "seconds"), (memory, "MB resident at most")):
        axes.set_xscale("log")
        axes.set_xlabel("leagues")
        axes.legend(frameon=False, labelcolor=INK)
        axes.set_title(label, loc="left", fontsize=12)
        _finish(axes)


def _linear(axes: Any, members: Sequence[Measured]) -> None:
    """Return the time for ten times the rows, if it were exactly ten times as long."""
    first, last = members[0], members[-1]
    ends = [first.seconds, first.seconds * last.rows / first.rows]
    axes.plot([first.rows, last.rows], ends, ":", color=INK, label="linear")


def draw_prediction(figure: Figure, canvas: Any) -> None:
    """Measured against predicted rows per second."""
    axes = canvas.add_subplot()
    checked = [one for one in figure.measured if "predicted" in one.counts]
    names = [one.what for one in checked]
    places = range(len(checked))
    axes.barh(places, [one.rate for one in checked], height=0.4, color=OURS, label="measured")
    predicted = [one.counts["predicted"] for one in checked]
    axes.barh([p + 0.4 for p in places], predicted, height=0.4, color=OTHERS, label="predicted")
    axes.set_yticks([p + 0.2 for p in places], names)
    axes.invert_yaxis()
    axes.set_xlabel("rows per second")
    axes.legend(frameon=False, labelcolor=INK)
    canvas.suptitle(figure.title, x=0.01, ha="left", fontsize=12)
    _finish(axes)


def _finish(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    sys.exit(main())
