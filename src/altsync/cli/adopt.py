"""``altsync adopt``: take over a graph or indexes that another installation has marked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from altsync.cli import terminal
from altsync.cli.common import Json, application, known_sink
from altsync.cli.operate import EverySink
from altsync.cli.terminal import notes
from altsync.errors import ConfigurationError


def adopt(
    sink: Annotated[str | None, typer.Option("--sink", help="The sink to take over.")] = None,
    everything: EverySink = False,
    as_json: Json = False,
) -> None:
    """Make a sink's store this installation's. The former owner's workers stop writing."""
    if (sink is None) is not everything:
        raise typer.BadParameter("name one sink with --sink, or give --all")
    with application() as app:
        if sink is not None:
            known_sink(app, sink)
            reason = app.disabled_reason(sink)
            if reason is not None:
                raise ConfigurationError(f"{sink} is switched off: {reason}")
        done = {name: app.adopt(name) for name in ([sink] if sink else app.enabled)}
        adopted = {name: former for name, former in done.items() if former is not None}
        if sink is not None and sink not in adopted:
            raise ConfigurationError(f"{sink} has no store of its own that could be adopted")
        if as_json:
            terminal.print_json(
                {"adopted": {n: [asdict(one) for one in former] for n, former in adopted.items()}}
            )
            return
        for name, former in adopted.items():
            whose = ", ".join(f"{one.id} of the database {one.database!r}" for one in former)
            notes.print(f"{name}: adopted{f' from {whose}' if whose else ''}", soft_wrap=True)
