"""``altsync plan``: what a command would change and cost. Nothing is written."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from altsync.app import Application
from altsync.cli.common import Json, application, known_sink
from altsync.cli.once import App
from altsync.cli.planned import plan_bars, plan_view, planner_of
from altsync.cli.seed import plan_seed
from altsync.cli.terminal import answers, print_json
from altsync.costs.planner import Plan
from altsync.planning import plan_backfill, plan_reembed

ModelOption = Annotated[
    str | None, typer.Option("--model", help="As if this model embedded the texts.")
]
Dimensions = Annotated[
    int | None, typer.Option("--dimensions", min=1, help="As if vectors had so many numbers.")
]


def reembed(
    model: ModelOption = None, dimensions: Dimensions = None, as_json: Json = False
) -> None:
    """Plan ``altsync reembed``: everything by the model of the settings, or by another one."""
    with application() as app, app.database.transaction() as conn:
        name = model or app.settings.altsync_embedding_model
        planner = planner_of(app, conn, name, dimensions)
        with plan_bars() as progress:
            plan_reembed(conn, planner, progress)
        _show(app, planner.plan(), as_json)


def backfill(
    sink: Annotated[str, typer.Option("--sink", help="The sink to fill.")],
    force: Annotated[
        bool, typer.Option("--force", help="Also what the sink has confirmed already.")
    ] = False,
    model: ModelOption = None,
    dimensions: Dimensions = None,
    as_json: Json = False,
) -> None:
    """Plan ``altsync backfill``: every entity for one sink again."""
    with application() as app:
        traits = known_sink(app, sink)
        with app.database.transaction() as conn:
            planner = planner_of(app, conn, model, dimensions)
            with plan_bars() as progress:
                plan_backfill(conn, planner, traits, force=force, progress=progress)
            _show(app, planner.plan(), as_json)


def _show(app: Application, plan: Plan, as_json: bool) -> None:
    if as_json:
        print_json(plan.as_json())
        return
    for part in plan_view(app, plan):
        answers.print(part)


def plan() -> Any:
    """Return the group of commands, of which ``seed`` has the options of the catalogue."""
    group = App(
        no_args_is_help=True,
        help="Show what a command would change and cost. Nothing is written.",
    )
    group.command("seed")(plan_seed())
    group.command()(reembed)
    group.command()(backfill)
    return group
