"""``altsync reembed``: change the embedding model, after showing the cost."""

from __future__ import annotations

from typing import Annotated

import typer

from altsync.cli import terminal
from altsync.cli.common import Json, application
from altsync.cli.costs import MaxCost, is_refused
from altsync.cli.planned import plan_bars, planner_of, to_be_paid
from altsync.cli.terminal import Exit, notes
from altsync.contract import EMBEDDING
from altsync.costs.planner import Plan as Costs
from altsync.planning import plan_reembed
from altsync.reembed import Plan, plan, start
from altsync.wording import plural, sentences


def reembed(
    yes: Annotated[bool, typer.Option("--yes", help="Do it: this is what costs money.")] = False,
    max_cost: MaxCost = None,
    as_json: Json = False,
) -> None:
    """Embed everything by the model of the settings. Without --yes, only show the cost."""
    with application() as app:
        with app.database.transaction() as conn:
            found = plan(conn, app.settings.wanted_model)
            planner = planner_of(app, conn, found.model.name)
            with plan_bars() as progress:
                plan_reembed(conn, planner, progress)
        costs = planner.plan()
        _print_plan(found, costs)
        if yes and not found.is_done and is_refused(costs, max_cost):
            raise typer.Exit(Exit.NOT_CONFIRMED)
        enqueued = 0
        if yes and not found.is_done:
            enqueued = sum(start(app.database, app.topology, found.model))
            notes.print(f"Due, behind all other work: {plural(enqueued, 'row')}.")
            reason = app.disabled_reason(EMBEDDING)
            if reason:
                notes.print(sentences(f"They wait: {reason}"))
        if as_json:
            body = {**found.as_json(), "plan": costs.as_json(), "enqueued": enqueued}
            terminal.print_json(body)
        if found.is_done or yes:
            return
        notes.print("Nothing was changed: altsync reembed --yes does it.")
        raise typer.Exit(Exit.NOT_CONFIRMED)


def _print_plan(plan: Plan, costs: Costs) -> None:
    if plan.model == plan.wanted:
        notes.print(f"The database wants {plan.wanted.name}, as the settings do.")
    else:
        notes.print(
            f"The database wants {plan.wanted.name}, the settings say {plan.model.name}.",
        )
    if plan.total == 0:
        notes.print("Every row is embedded by it.")
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in plan.rows.items() if count)
    notes.print(f"Not embedded by {plan.model.name}: {plural(plan.total, 'row')} ({kinds}).")
    if plan.in_progress:
        notes.print(f"In progress already: {plan.in_progress:,} of them.")
    notes.print(to_be_paid(costs))
