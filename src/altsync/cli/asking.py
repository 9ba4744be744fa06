"""What commands that ask questions share: the stores, their options, how an answer is shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from altsync import log
from altsync.cli import terminal
from altsync.cli.common import application
from altsync.cli.terminal import answers, notes

if TYPE_CHECKING:
    from altsync.queries import Stores, Unavailable

#: Matches that one question may have: the vector index gives no more.
MOST = 10_000

Question = Annotated[str, typer.Argument(help="What to look for, in plain words.")]
EntityName = Annotated[
    str | None, typer.Option("--entity", help="The type of entity, as in product.")
]
Where = Annotated[
    list[str] | None,
    typer.Option("--where", help="Only entities whose field has this value: field=value."),
]
TopK = Annotated[int, typer.Option("--top-k", min=1, max=MOST, help="Answers at most.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=MOST, help="Answers at most.")]


@contextmanager
def asked_stores() -> Iterator[Stores]:
    """Open the stores for a question."""
    with application() as app:
        # A store that is away is told of once, in a sentence; its driver would say it at length.
        log.set_up(level="ERROR", form=app.settings.altsync_log_format)
        yield app.stores()


def read_where(pairs: Sequence[str] | None) -> dict[str, str]:
    """Return the fields and values of ``--where``. Raises ``typer.BadParameter``."""
    found: dict[str, str] = {}
    for pair in pairs or ():
        field, equals, value = pair.partition("=")
        if not (field.strip() and equals):
            raise typer.BadParameter(f"invalid filter {pair!r}: use --where field=value")
        if field.strip() in found:
            raise typer.BadParameter(f"--where names {field.strip()} twice: give it once")
        found[field.strip()] = value
    return found


def say_unavailable(missing: Sequence[Unavailable]) -> None:
    """Name the stores that could not be asked."""
    for one in missing:
        reason = " ".join(log.redact(one.reason).split())
        notes.print(f"{one.store} could not be asked: {reason}", style="yellow")


def show(
    found: Sequence[Any],
    view: Callable[[Any], RenderableType],
    as_json: bool,
    form: Callable[[Any], dict[str, Any]] = asdict,
) -> None:
    """Show answers, as JSON by ``form`` or for people by ``view``."""
    if as_json:
        terminal.print_json([form(one) for one in found])
    elif found:
        answers.print(view(found))
    else:
        notes.print("Nothing matches.")
