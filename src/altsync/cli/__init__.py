"""The command line. Commands are thin: they build the application, call it, and print.

The module of a command is imported when the command runs, so that every other one starts at once.
"""

from __future__ import annotations

from typing import ClassVar

import typer

from altsync import __version__
from altsync.cli.ending import Command
from altsync.cli.lazy import Lazy, LazyGroup
from altsync.cli.once import App
from altsync.interrupts import end, interrupts_go_to

#: Commands in the order of the help, with the first line of the docstring of each.
LINES = {
    "init": "Write a project with a catalogue, seeds and settings of its own, ready to run.",
    "migrate": "Bring the schema to its head, then create constraints and indexes in the sinks.",
    "revision": "Draft a revision beside the catalogue, for what migrate refuses.",
    "seed": "Load JSONL seeds into PostgreSQL and its outbox, in one transaction per batch.",
    "wait": "Wait until queries of every store show the changes up to a version.",
    "watch": "Seed a folder now and whenever its files change, until Ctrl-C.",
    "plan": "Show what a command would change and cost. Nothing is written.",
    "relay": "Wake workers for what is due, until stopped. One is enough, two are safe.",
    "status": "Show entities per sink, operations and circuit breakers.",
    "why": "Show one entity's seed line, its operations, and what every store holds of it.",
    "failures": "List dead operations by reason, with examples.",
    "retry": "Retry dead operations, each at its entity's current version.",
    "discard": "Discard dead operations for good. The audit keeps who did it, and why.",
    "pause": "Stop delivery to a sink until it is resumed. Changes stay pending; nothing is lost.",
    "resume": "Resume delivery to a paused sink. Pending operations are delivered at once.",
    "verify": "Compare every store with PostgreSQL. Exit codes: 0 agree, 1 differ, 2 cannot tell.",
    "backfill": "Enqueue every entity for one sink again, behind all other work.",
    "prune": "Remove finished history: operations, batches, folders of seeding runs.",
    "relate": "Search for similar entities now, in this process, instead of after the next change.",
    "reembed": "Embed everything by the model of the settings. Without --yes, only show the cost.",
    "model": "Change the embedding model without a gap in searches.",
    "erase": "Remove an entity from every store, and write a receipt of what was found after.",
    "doctor": "Ask every configured service whether it answers.",
    "adopt": "Make a sink's store this installation's. The former owner's workers stop writing.",
    "dashboard": "Serve the web page, its JSON, health probes and metrics, until stopped.",
    "search": "Find entities by meaning: the index finds them, PostgreSQL checks and completes.",
    "similar": "Find entities like one: neighbours in graph and index, with the path to each.",
    "explore": "Find entities by meaning, each with its neighbourhood in the graph.",
    "graph": "Show what the graph has around one entity.",
    "demo": "Seed the embedded stack, wait until all stores agree, and query them.",
    "local": "Manage the embedded stack: every server, without Docker.",
}

#: Modules of commands that have no module of their own name.
MODULES = {
    **dict.fromkeys(
        ("migrate", "revision", "relay", "pause", "resume", "backfill", "doctor"), "operate"
    ),
    **dict.fromkeys(("failures", "retry", "discard"), "retry"),
    **dict.fromkeys(("search", "similar", "explore", "graph"), "queries"),
}

#: Commands whose options are those of the catalogue.
MADE = frozenset({"seed", "plan"})

#: Commands that a catalogue may replace.
REPLACEABLE = frozenset({"search", "similar", "explore", "graph"})


def catalogue_commands() -> dict[str, Lazy]:
    """Return the commands of the current catalogue."""
    from altsync.catalogue.named import commands

    found: dict[str, Lazy] = {}
    for one in commands():
        found |= one.load()
    return found


class _Commands(LazyGroup):
    """The group of all commands."""

    members: ClassVar = {
        name: Lazy(f"altsync.cli.{MODULES.get(name, name)}", name, line, made=name in MADE)
        for name, line in LINES.items()
    }
    more = staticmethod(catalogue_commands)
    replaceable = REPLACEABLE


app = App(
    name="altsync",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Keep Neo4j and Pinecone in step with PostgreSQL.",
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"altsync {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version."
    ),
    debug: bool = typer.Option(
        False, "--debug", help="Show the traceback of an error; may stand anywhere."
    ),
) -> None:
    pass


def main() -> None:
    """Run the ``altsync`` command."""
    app()


def seed_main() -> None:
    """Run ``python -m altsync.seed``."""
    with interrupts_go_to(end):
        from altsync.cli.seed import seed
    only_seed = App(pretty_exceptions_enable=False)
    only_seed.command(cls=Command)(seed())
    only_seed(prog_name="python -m altsync.seed")
