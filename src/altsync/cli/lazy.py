"""A group of commands that imports the module of a command when that command runs."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand

from altsync.cli.ending import Group
from altsync.cli.once import App
from altsync.interrupts import end, interrupts_go_to


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command: the module and name of its function or Typer, and its line in the help.

    ``made``: ``name`` is a function that returns the command's function.
    """

    module: str
    name: str
    help: str
    made: bool = False

    def load(self, command: str) -> Any:
        """Import the command."""
        with interrupts_go_to(end):
            found = getattr(import_module(self.module), self.name)
            if self.made:
                found = found()
        if isinstance(found, typer.Typer):
            group = typer.main.get_group(found)
            group.name = command
            return group
        alone = App(add_completion=False)
        alone.command(command)(found)
        return typer.main.get_command(alone)


class _Commands(UserDict[str, Any]):
    """Commands by name, each imported when it is looked up."""

    def __init__(self, find: Callable[[], Mapping[str, Lazy]]) -> None:
        self._find = find

    @cached_property
    def data(self) -> dict[str, Any]:  # type: ignore[override]
        """Return the commands."""
        return dict(self._find())

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, Lazy):
            found = self.data[name] = found.load(name)
        return found


class LazyGroup(Group):
    """The command line. Help and completion list commands without importing their modules.

    ``members`` are its own commands. ``more`` returns commands of the catalogue. They come after
    the members, and may replace the ``replaceable`` ones.
    """

    members: ClassVar[Mapping[str, Lazy]]
    more: ClassVar[Callable[[], Mapping[str, Lazy]]]
    replaceable: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = _Commands(lambda: self._all)

    @cached_property
    def _all(self) -> dict[str, Lazy]:
        more = type(self).more()
        taken = self.members.keys() - self.replaceable
        return {**self.members, **{n: one for n, one in more.items() if n not in taken}}

    def _member(self, name: str) -> Lazy | None:
        # Most commands are found without loading the catalogue.
        if name in self.members and name not in self.replaceable:
            return self.members[name]
        return self._all.get(name)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of the help."""
        return list(self._all)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a command for the help, without importing it."""
        member = self._member(cmd_name)
        return member and TyperCommand(name=cmd_name, help=member.help)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that runs, imported, and its arguments."""
        name, _shown, rest = super().resolve_command(ctx, args)
        member = self._member(str(name))
        return name, member and member.load(str(name)), rest
