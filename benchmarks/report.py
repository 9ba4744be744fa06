"""The results of a figure: measurements and gates, as text and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Measured:
    """One thing done in a run: ``rows`` in ``seconds``, and whatever else was counted."""

    what: str
    rows: int
    seconds: float
    counts: Mapping[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Rows per second; 0 where no time was taken."""
        return self.rows / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True)
class Gate:
    """A number with a target that it must reach, at least or at most."""

    what: str
    value: float
    wanted: float
    at_least: bool = True

    @property
    def reached(self) -> bool:
        """Return whether the value is as wanted."""
        return self.value >= self.wanted if self.at_least else self.value <= self.wanted


@dataclass(frozen=True, slots=True)
class Part:
    """The results of one part of a figure."""

    measured: Sequence[Measured]
    gates: Sequence[Gate] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. The first measurement is the baseline that the others are compared with."""

    number: int
    title: str
    measured: Sequence[Measured]
    gates: Sequence[Gate]
    notes: Sequence[str] = ()

    @property
    def reached(self) -> bool:
        """Return whether every gate is reached."""
        return all(gate.reached for gate in self.gates)

    def to_json(self) -> dict[str, Any]:
        """The figure as it is kept, with what can be computed from it for other readers."""
        body = asdict(self)
        for entry, measured in zip(body["measured"], self.measured, strict=True):
            entry["rate"] = measured.rate
        for entry, gate in zip(body["gates"], self.gates, strict=True):
            entry["reached"] = gate.reached
        return body


def figure_from_json(body: Mapping[str, Any]) -> Figure:
    """The figure as it was kept."""
    return Figure(
        body["number"],
        body["title"],
        [Measured(m["what"], m["rows"], m["seconds"], m["counts"]) for m in body["measured"]],
        [Gate(g["what"], g["value"], g["wanted"], g["at_least"]) for g in body["gates"]],
        body["notes"],
    )


def figure_table(figure: Figure) -> RenderableType:
    """Measurements, gates and notes of a figure."""
    notes = [Text(f"  {note}", style="dim") for note in figure.notes]
    gates = [_gates(figure)] if figure.gates else []
    return Group(_measurements(figure), *gates, *notes, Text())


def _measurements(figure: Figure) -> Table:
    table = Table(title=f"Figure {figure.number}: {figure.title}", title_justify="left")
    for name in ("", "rows", "seconds", "rows/s", "× first", "counted"):
        table.add_column(name, justify="left" if name in ("", "counted") else "right")
    baseline = figure.measured[0].rate if figure.measured else 0.0
    for one in figure.measured:
        ratio = f"{one.rate / baseline:,.2f}" if baseline and one.rate else ""
        seconds = f"{one.seconds:,.3f}" if one.seconds else ""
        rate = f"{one.rate:,.0f}" if one.rate else ""
        counted = ", ".join(f"{name} {number(value)}" for name, value in one.counts.items())
        table.add_row(one.what, f"{one.rows:,}", seconds, rate, ratio, counted)
    return table


def _gates(figure: Figure) -> Table:
    table = Table("gate", "value", "wanted", "")
    for gate in figure.gates:
        verdict = Text("reached", "green") if gate.reached else Text("MISSED", "bold red")
        sign = "≥" if gate.at_least else "≤"
        table.add_row(gate.what, number(gate.value), f"{sign} {number(gate.wanted)}", verdict)
    return table


def summary(figures: Sequence[Figure]) -> Table:
    """One line for each figure."""
    table = Table("figure", "", "gates reached", title="Summary", title_justify="left")
    for figure in figures:
        reached = sum(gate.reached for gate in figure.gates)
        style = "green" if figure.reached else "bold red"
        verdict = Text(f"{reached} of {len(figure.gates)}" if figure.gates else "", style)
        table.add_row(str(figure.number), figure.title, verdict)
    return table


def number(value: float) -> str:
    """A number for people: whole ones whole, others with three digits that count."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
