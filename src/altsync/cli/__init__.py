"""The command line. Commands are thin: they build the application, call it, and print."""

from __future__ import annotations

import typer

from altsync import __version__
from altsync.cli import ask, dead, demo, local, operate
from altsync.cli.adopt import adopt
from altsync.cli.dashboard import dashboard
from altsync.cli.ending import Command, Group
from altsync.cli.once import App
from altsync.cli.prune import prune
from altsync.cli.reembed import reembed
from altsync.cli.relate import relate
from altsync.cli.seed import seed
from altsync.cli.verify import verify
from altsync.cli.why import why

app = App(
    name="altsync",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Keep Neo4j and Pinecone in step with PostgreSQL.",
)
app.add_typer(local.app, name="local")
app.command()(operate.migrate)
app.command()(seed)
app.command()(operate.relay)
app.command("status")(operate.show_status)
app.command()(why)
app.command()(dead.failures)
app.command()(dead.retry)
app.command()(dead.discard)
app.command()(operate.pause)
app.command()(operate.resume)
app.command()(verify)
app.command()(operate.backfill)
app.command()(prune)
app.command()(relate)
app.command()(reembed)
app.command()(operate.doctor)
app.command()(adopt)
app.command()(dashboard)
app.command()(ask.search)
app.command()(ask.similar)
app.command()(ask.archetypes)
app.command()(ask.explore)
app.command()(ask.examples)
app.command()(ask.leagues)
app.command()(ask.league)
app.add_typer(ask.graph, name="graph")
app.command()(demo.demo)


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
    """The ``altsync`` command."""
    app()


def seed_main() -> None:
    """``python -m altsync.seed``."""
    only_seed = App(pretty_exceptions_enable=False)
    only_seed.command(cls=Command)(seed)
    only_seed(prog_name="python -m altsync.seed")
