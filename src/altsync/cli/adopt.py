"""``altsync adopt``: take over a store that another installation has marked, or others' nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated

import typer

from altsync.app import Application
from altsync.cli import terminal
from altsync.cli.common import Json, application, known_sink
from altsync.cli.operate import EverySink
from altsync.cli.terminal import notes
from altsync.contract import Installation
from altsync.declarations import GRAPHS
from altsync.errors import ConfigurationError
from altsync.wording import plural

Nodes = Annotated[
    bool,
    typer.Option("--nodes", help="Nodes of the graph that altsync did not write, by their keys."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="With --nodes: only say how many.")]


def adopt(
    sink: Annotated[str | None, typer.Option("--sink", help="The sink to take over.")] = None,
    everything: EverySink = False,
    nodes: Nodes = False,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Make a sink's store this installation's. The former owner's workers stop writing."""
    if dry_run and not nodes:
        raise typer.BadParameter("--dry-run goes with --nodes")
    graph = GRAPHS[0]
    if nodes and (everything or sink not in (None, graph)):
        raise typer.BadParameter(f"--nodes takes over nodes of {graph} alone")
    if not nodes and (sink is None) is not everything:
        raise typer.BadParameter("name one sink with --sink, or give --all or --nodes")
    with application() as app:
        if nodes:
            _require_enabled(app, graph)
            _show_nodes(app.adopt_nodes(dry_run=dry_run), dry_run=dry_run, as_json=as_json)
            return
        if sink is not None:
            known_sink(app, sink)
            _require_enabled(app, sink)
        done = {name: app.adopt(name) for name in ([sink] if sink else app.enabled)}
        adopted = {name: former for name, former in done.items() if former is not None}
        if sink is not None and sink not in adopted:
            raise ConfigurationError(f"{sink} has no store of its own that could be adopted")
        _show_stores(adopted, as_json=as_json)


def _require_enabled(app: Application, sink: str) -> None:
    known_sink(app, sink)
    reason = app.disabled_reason(sink)
    if reason is not None:
        raise ConfigurationError(f"{sink} is switched off: {reason}")


def _show_stores(adopted: Mapping[str, list[Installation]], *, as_json: bool) -> None:
    if as_json:
        terminal.print_json(
            {"adopted": {n: [asdict(one) for one in former] for n, former in adopted.items()}}
        )
        return
    for name, former in adopted.items():
        whose = ", ".join(f"{one.id} of the database {one.database!r}" for one in former)
        notes.print(f"{name}: adopted{f' from {whose}' if whose else ''}", soft_wrap=True)


def _show_nodes(found: Mapping[str, int], *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        terminal.print_json({"would_adopt" if dry_run else "adopted_nodes": found})
        return
    by_label = ", ".join(f"{label} {count:,}" for label, count in found.items() if count)
    done = "would adopt" if dry_run else "adopted"
    text = f"{GRAPHS[0]}: {done} {plural(sum(found.values()), 'node')}"
    notes.print(f"{text}{f' ({by_label})' if by_label else ''}", soft_wrap=True)
    if by_label and not dry_run:
        retry = f"altsync retry --sink {GRAPHS[0]}"
        notes.print(f"{retry} writes those that were refused.", soft_wrap=True)
