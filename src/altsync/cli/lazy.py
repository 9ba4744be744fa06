"""A group of commands that imports the module of a command when that command runs."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand

from altsync.cli.ending import Group
from altsync.cli.once import App
from altsync.interrupts import end, interrupts_go_to


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command: the module and name of its function or Typer, and its line in the help."""

    module: str
    name: str
    help: str

    def load(self, command: str) -> Any:
        """Import the command."""
        with interrupts_go_to(end):
            found = getattr(import_module(self.module), self.name)
        if isinstance(found, typer.Typer):
            group = typer.main.get_group(found)
            group.name = command
            return group
        alone = App(add_completion=False)
        alone.command(command)(found)
        return typer.main.get_command(alone)


class _Commands(UserDict[str, Any]):
    """Commands by name, each imported when it is looked up."""

    def __init__(self, members: Mapping[str, Lazy]) -> None:
        super().__init__()
        self.data = dict(members)

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, Lazy):
            found = self.data[name] = found.load(name)
        return found


class LazyGroup(Group):
    """The command line. Help and completion list commands without importing their modules."""

    members: ClassVar[Mapping[str, Lazy]]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands(self.members)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what a list of commands shows of one."""
        member = self.members.get(cmd_name)
        return member and TyperCommand(name=cmd_name, help=member.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that runs, imported, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and self.commands[str(name)], rest
