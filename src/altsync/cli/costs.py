"""The costs of a day as a table, and the limit of one run."""

from __future__ import annotations

from rich.console import RenderableType

from altsync.cli.tables import Table, Text
from altsync.status.costs import Costs
from altsync.wording import dollars


def cost_table(costs: Costs | None) -> list[RenderableType]:
    """Return the cost of the day by sink and origin, and the cap. Nothing before the first cost."""
    if costs is None or (not costs.spent and costs.cap is None):
        return []
    numbers = ("tokens", "read\nunits", "write\nunits", "dollars")
    table = Table(
        *("sink", "origin", *numbers),
        title=f"Cost of {costs.day.day} (UTC)",
        numbers=numbers,
        names=("sink", "origin"),
    )
    for one in costs.spent:
        units = (f"{number:,}" for number in (one.tokens, one.read_units, one.write_units))
        table.add_row(one.sink, one.origin, *units, dollars(one.dollars))
    return [table, Text(_note(costs), style="red" if costs.left == 0 else "")]


def _note(costs: Costs) -> str:
    day = costs.day
    parts = [f"Spent {dollars(day.dollars)}"]
    if day.reserved:
        parts.append(f"reserved by calls without a recorded outcome {dollars(day.reserved)}")
    if costs.cap is None:
        parts.append("no cap is set (ALTSYNC_MAX_COST_PER_DAY)")
    else:
        parts.append(f"cap {dollars(costs.cap)}, left {dollars(costs.left or 0)}")
    return f"{'; '.join(parts)}. The day ends at 00:00 UTC."
