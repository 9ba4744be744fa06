"""``altsync model``: another embedding model beside the serving one, and their exchange."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from psycopg import errors

from altsync.app import Application
from altsync.cli import terminal
from altsync.cli.bars import Bars
from altsync.cli.common import Json, application
from altsync.cli.once import App
from altsync.cli.planned import plan_bars, planner_of, to_be_paid
from altsync.cli.status import age
from altsync.cli.tables import Table
from altsync.cli.terminal import Exit, answers, notes
from altsync.cli.verify import CANNOT_TELL, DRIFT, view
from altsync.contract import EMBEDDING
from altsync.entities import Model
from altsync.errors import AltsyncError
from altsync.generations import Generation
from altsync.moves.state import (
    MOST_BEHIND,
    ChangedMeanwhile,
    Move,
    begin,
    begin_drop,
    check_addable,
    end_drop,
    exchange,
    fill,
    note_verified,
    read_move,
    search_again,
    seconds_until_droppable,
    shadow_backlog,
)
from altsync.planning import plan_addition
from altsync.status.moves import Progress, progress
from altsync.verify.report import Options, Report
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
    name: Annotated[str, typer.Argument(help="The new model.")],
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
            planner = planner_of(app, conn, wanted.name, wanted.dimensions)
            with plan_bars() as bars:
                plan_addition(conn, planner, bars)
        costs = planner.plan()
        entities = sum(counts.written for counts in costs.types.values())
        notes.print(
            f"{wanted.name} ({wanted.dimensions} dimensions): "
            f"{plural(entities, 'entity', 'entities')}."
        )
        notes.print(to_be_paid(costs))
        enqueued = 0
        if yes:
            enqueued = _begin(app, wanted, requests_per_minute, tokens_per_minute)
        if as_json:
            body = {"model": asdict(wanted), "entities": entities, "plan": costs.as_json()}
            terminal.print_json({**body, "enqueued": enqueued})
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


@model.command()
def verify(
    repair: Annotated[
        bool, typer.Option("--repair", help="Enqueue differences; remove a few orphans.")
    ] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Compare every number, too.")] = False,
    grace: Annotated[
        float, typer.Option(min=0.0, help="Seconds that an index may lag behind its writes.")
    ] = Options().grace,
    as_json: Json = False,
) -> None:
    """Prove that the new indexes are complete. Exit codes: 0 complete, 1 differ, 2 cannot tell."""
    with application() as app:
        with app.database.autocommit() as conn:
            move = _require_shadow(read_move(conn))
            backlog = shadow_backlog(conn, app.topology)
        with Bars(transient=True, disable=as_json) as bars:
            report = app.verify_shadow(
                Options(repair=repair, deep=deep, grace=grace), progress=bars.show
            )
        complete = report.consistent and move.filled and not backlog.dead
        if complete:
            with app.database.transaction() as conn:
                note_verified(conn)
    if as_json:
        terminal.print_json({**report.as_json(), "complete": complete, "dead": backlog.dead})
    else:
        _print_verified(move, report, backlog.dead, complete=complete)
    if report.drifted or backlog.dead:
        raise typer.Exit(DRIFT)
    if not complete:
        raise typer.Exit(CANNOT_TELL)


def _print_verified(move: Move, report: Report, dead: int, *, complete: bool) -> None:
    answers.print(view(report))
    assert move.shadow is not None
    if complete:
        answers.print(
            f"The indexes of {named(move.shadow)} are complete. altsync model switch makes it the "
            "serving model."
        )
    elif not move.filled:
        answers.print("Not every entity is enqueued yet: run altsync model add again.")
    elif dead:
        answers.print(
            f"{plural(dead, 'operation is', 'operations are')} dead: altsync failures shows why."
        )


def _require_shadow(move: Move) -> Move:
    if move.shadow is None:
        raise AltsyncError("there is no model beside the serving one: run altsync model add")
    return move


@model.command()
def compare(
    questions: Annotated[
        Path, typer.Argument(help='JSONL: {"entity": "…", "text": "…", "where": {…}}.')
    ],
    top: Annotated[int, typer.Option(min=1, max=100, help="Answers of each question.")] = 10,
    as_json: Json = False,
) -> None:
    """Show how the answers of the two models differ: overlap and rank correlation."""
    from altsync.queries.compare import compare_answers, read_questions  # imports NumPy

    asked = read_questions(questions)
    with application() as app:
        with app.database.autocommit() as conn:
            found = _require_shadow(read_move(conn)).generations
        pair = app.stores_of(found), app.stores_of(found, shadow=True)
        with Bars(transient=True, disable=as_json) as bars:
            compared = list(bars.track(compare_answers(*pair, asked, top=top), total=len(asked)))
    overlap = sum(one.overlap for one in compared) / len(compared)
    ranked = [one.correlation for one in compared if one.correlation is not None]
    mean = sum(ranked) / len(ranked) if ranked else None
    if as_json:
        body = {"top": top, "overlap": overlap, "correlation": mean}
        terminal.print_json({**body, "questions": [asdict(one) for one in compared]})
        return
    table = Table(*("question", "overlap", "ranks"), title="Answers", numbers=("overlap", "ranks"))
    for one in sorted(compared, key=lambda one: one.overlap):
        ranks = "" if one.correlation is None else f"{one.correlation:.2f}"
        table.add_row(one.question.text, f"{one.overlap:.0%}", ranks)
    answers.print(table)
    shown = "" if mean is None else f", rank correlation {mean:.2f}"
    answers.print(f"{plural(len(compared), 'question')}: overlap at {top} {overlap:.0%}{shown}.")


Within = Annotated[
    float, typer.Option("--within", min=0.0, help="Seconds to wait until the new one is in step.")
]


@model.command()
def switch(within: Within = 60.0, as_json: Json = False) -> None:
    """Make the new model the serving one, for all processes at once."""
    with application() as app:
        with app.database.autocommit() as conn:
            move = _require_shadow(read_move(conn))
        if move.exchanged is not None:
            raise AltsyncError(
                f"{named(move.serving)} serves since {move.exchanged}: altsync model rollback "
                "returns to the former one"
            )
        if move.verified is None:
            raise AltsyncError("the new indexes are not verified: run altsync model verify first")
        _exchange(app, within, as_json=as_json)


@model.command()
def rollback(within: Within = 60.0, as_json: Json = False) -> None:
    """Return to the former model, for all processes at once. It costs nothing."""
    with application() as app:
        with app.database.autocommit() as conn:
            move = _require_shadow(read_move(conn))
        if move.exchanged is None:
            raise AltsyncError(f"{named(move.serving)} serves already: nothing was switched")
        _exchange(app, within, as_json=as_json)


#: Tries of an exchange that meets a long transaction, and the pause after each in seconds.
TRIES, PAUSE = 10, 0.5


def _exchange(app: Application, within: float, *, as_json: bool) -> None:
    _wait_in_step(app, within)
    for left in reversed(range(TRIES)):
        try:
            with app.database.transaction() as conn:
                done = exchange(conn, app.topology)
            break
        except (ChangedMeanwhile, errors.LockNotAvailable, errors.DeadlockDetected):
            if not left:
                raise
            time.sleep(PAUSE)
    assert done.shadow is not None
    searched = sum(search_again(app.database, app.topology))
    if as_json:
        with app.database.autocommit() as conn:
            found = progress(conn, app.topology)
        assert found is not None
        terminal.print_json({**found.as_json(), "searched": searched})
        return
    notes.print(f"{named(done.serving)} serves now. {named(done.shadow)} is kept in step.")
    if searched:
        notes.print(
            f"Similar entities are searched again: {plural(searched, 'entity', 'entities')}."
        )


def _wait_in_step(app: Application, within: float) -> None:
    """Wait until the shadow has delivered everything. Raises ``AltsyncError`` if it is far behind.

    The exchange itself enqueues the rest for the new serving indexes.
    """
    ends = time.monotonic() + within
    while True:
        with app.database.autocommit() as conn:
            backlog = shadow_backlog(conn, app.topology)
        if not backlog.total or (time.monotonic() > ends and backlog.total <= MOST_BEHIND):
            break
        if time.monotonic() > ends:
            raise AltsyncError(
                f"{plural(backlog.total, 'operation waits', 'operations wait')} for the model that "
                "is to serve: altsync model status shows the progress"
            )
        time.sleep(PAUSE)
    if backlog.dead:
        raise AltsyncError(
            f"{plural(backlog.dead, 'operation is', 'operations are')} dead, so the other indexes "
            "are incomplete: altsync failures shows why, altsync model verify --repair tries again"
        )


@model.command()
def drop(yes: Yes = False, as_json: Json = False) -> None:
    """Remove the indexes of the model that does not serve. Its vectors stay in PostgreSQL."""
    with application() as app:
        with app.database.autocommit() as conn:
            move = read_move(conn)
        leaving = move.dropping or _require_shadow(move).shadow
        assert leaving is not None
        if not yes:
            notes.print(f"The indexes of {named(leaving)} would be deleted: add --yes to do it.")
            raise typer.Exit(Exit.NOT_CONFIRMED)
        begin_drop(app.database, app.topology, app.settings.confirm_after_seconds)
        _await_calls(app)
        problems = {s: p for s, p in app.drop_indexes(leaving).items() if p is not None}
        if problems:
            listed = "; ".join(f"{sink}: {problem}" for sink, problem in problems.items())
            raise AltsyncError(f"{listed}. Run altsync model drop --yes again")
        with app.database.transaction() as conn:
            end_drop(conn, app.topology)
        if as_json:
            terminal.print_json(
                {
                    "dropped": {
                        "model": leaving.model.name,
                        "dimensions": leaving.model.dimensions,
                    },
                    "serving": move.serving.model.name,
                }
            )
        notes.print(f"Dropped: {named(leaving)}. {named(move.serving)} serves.")


def _await_calls(app: Application) -> None:
    """Wait until no call that has begun may still write the indexes."""
    with app.database.autocommit() as conn:
        seconds = seconds_until_droppable(conn)
    if seconds:
        notes.print(f"Waiting {seconds:.0f} s for calls that have begun…")
        time.sleep(seconds)


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
