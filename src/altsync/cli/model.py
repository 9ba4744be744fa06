"""``altsync model``: another embedding model beside the serving one, and their exchange."""

from __future__ import annotations

from typing import Annotated

import typer

from altsync.app import Application
from altsync.cli import terminal
from altsync.cli.bars import Bars
from altsync.cli.common import Json, application
from altsync.cli.once import App
from altsync.cli.status import age
from altsync.cli.tables import Table
from altsync.cli.terminal import Exit, answers, notes
from altsync.contract import EMBEDDING
from altsync.entities import Model
from altsync.errors import AltsyncError
from altsync.generations import Generation
from altsync.moves.state import begin, check_addable, fill, read_move
from altsync.status.moves import Addition, Progress, addition, progress
from altsync.wording import plural, sentences

model = App(no_args_is_help=True, help="Change the embedding model without a gap in searches.")

Yes = Annotated[bool, typer.Option("--yes", help="Do it.")]

#: Largest limit a minute.
MOST = 10**12


def named(one: Generation | Model) -> str:
    """Return a model with its dimensions, as people write it."""
    found = one.model if isinstance(one, Generation) else one
    return f"{found.name} ({found.dimensions} dimensions)"


@model.command()
def add(
    name: Annotated[str, typer.Argument(metavar="MODEL", help="The new model.")],
    dimensions: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Length of its vectors; by default the serving ones'."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Limit of its requests, over all workers.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, max=MOST, help="Limit of its tokens, over all workers.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it: this is what costs money.")] = False,
    as_json: Json = False,
) -> None:
    """Fill indexes of another model, behind all other work. Without --yes, only show the cost."""
    with application() as app:
        _require_vectors(app)
        with app.database.transaction() as conn:
            wanted = Model(name, dimensions or read_move(conn).serving.model.dimensions)
            check_addable(conn, wanted)
            found = addition(conn, wanted)
        _print_addition(found)
        enqueued = 0
        if yes:
            enqueued = _begin(app, wanted, requests_per_minute, tokens_per_minute)
        if as_json:
            terminal.print_json({**found.as_json(), "enqueued": enqueued})
        if not yes:
            notes.print("Nothing was changed: add --yes to do it.")
            raise typer.Exit(Exit.NOT_CONFIRMED)


def _require_vectors(app: Application) -> None:
    if not app.topology.vector:
        raise AltsyncError(
            "no sink of ALTSYNC_SINKS keeps vectors: altsync reembed changes the model"
        )
    reason = app.disabled_reason(EMBEDDING)
    if reason:
        raise AltsyncError(f"the new model cannot be asked: {reason}")


def _begin(app: Application, wanted: Model, requests: int | None, tokens: int | None) -> int:
    with app.database.transaction() as conn:
        begin(conn, app.topology, wanted, requests=requests, tokens=tokens)
    for sink, problem in app.set_up_shadows().items():
        if problem is not None:
            raise AltsyncError(
                f"{sink}: {problem}. Run altsync model add again when it is set right, or "
                "altsync model drop --yes"
            )
    with app.database.autocommit() as conn:
        state = progress(conn, app.topology)
    total = max((one.total for one in state.sinks.values()), default=0) if state else 0
    count = 0
    with Bars() as bars:
        task = bars.add_task("enqueue", total=total)
        for page in fill(app.database, app.topology):
            count += page
            bars.update(task, completed=count)
    notes.print(
        f"Due, behind all other work: {plural(count, 'entity', 'entities')}. "
        "altsync model status shows the progress."
    )
    return count


def _print_addition(found: Addition) -> None:
    notes.print(f"{named(found.model)}: {plural(found.entities, 'entity', 'entities')}.")
    notes.print(
        f"To be paid: {plural(found.texts, 'text')}, at most "
        f"{plural(found.most_tokens, 'token')} (their bytes); about {found.usual_tokens:,} for "
        "English."
        if found.texts
        else "To be paid: nothing, as every vector is stored already."
    )


@model.command()
def status(as_json: Json = False) -> None:
    """Show the serving model, the one beside it, and how far that is."""
    with application() as app:
        with app.database.autocommit() as conn:
            found = progress(conn, app.topology)
        if found is None:
            raise AltsyncError("no sink is registered: run altsync migrate")
        if as_json:
            terminal.print_json(found.as_json())
            return
        print_progress(found)


def print_progress(found: Progress) -> None:
    """Print the models and their progress."""
    answers.print(f"Serving: {named(found.serving)}.")
    if found.dropping is not None:
        answers.print(f"Dropping: {named(found.dropping)}. altsync model drop --yes ends it.")
    if found.shadow is None:
        return
    beside = "The former one" if found.state == "switched" else "Beside it"
    answers.print(f"{beside}: {named(found.shadow)}.")
    table = Table(
        *("sink", "done", "of", "waiting", "/min", "left"),
        title="Progress",
        numbers=("done", "of", "waiting", "/min", "left"),
    )
    for sink, one in found.sinks.items():
        left = "" if one.seconds_left is None else age(one.seconds_left)
        table.add_row(
            sink,
            f"{one.done:,}",
            f"{one.total:,}",
            f"{one.waiting:,}",
            f"{one.per_minute:,.0f}",
            left,
        )
    answers.print(table)
    answers.print(sentences(_next_step(found)))


def _next_step(found: Progress) -> str:
    if found.dead:
        return (
            f"{plural(found.dead, 'operation is', 'operations are')} dead: altsync failures shows "
            "why, altsync model verify --repair tries them again"
        )
    match found.state:
        case "switched":
            return "altsync model rollback returns to it, altsync model drop --yes removes it"
        case "ready" if found.verified is None:
            return "Nothing waits: altsync model verify compares it with PostgreSQL"
        case "ready":
            return f"Verified at {found.verified}: altsync model switch makes it the serving one"
        case _:
            return "Workers fill it behind all other work"
