"""The costs of a day as a table, and the limit of one run."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import RenderableType

from altsync.cli import ending
from altsync.cli.tables import Table, Text
from altsync.costs.planner import Plan
from altsync.exits import Exit, Failure
from altsync.status.costs import Costs
from altsync.wording import dollars

MaxCost = Annotated[
    float | None,
    typer.Option("--max-cost", min=0, help="Refuse, before it writes, if it costs more dollars."),
]


def is_refused(plan: Plan, most: float | None, body: dict[str, Any] | None = None) -> bool:
    """Return whether a plan costs more than ``most`` dollars, and show an error with the figures.

    A plan without a known price is refused, too. The command ends with ``Exit.NOT_CONFIRMED``.
    """
    cost = plan.dollars
    if most is None or (cost is not None and cost <= most):
        return False
    reason = (
        f"the cost is not known, as {plan.model.name} has no price: name one in the file of "
        "ALTSYNC_PRICES"
        if cost is None
        else f"it would cost {dollars(cost)}, and --max-cost is {dollars(most)}: raise it, or do "
        "less at once"
    )
    failure = Failure(f"nothing was changed: {reason}", Exit.NOT_CONFIRMED)
    ending.show(failure, None, {**(body or {}), "plan": plan.as_json()})
    return True


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
