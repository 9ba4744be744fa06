"""The progress bars of commands."""

from __future__ import annotations

from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from altsync.cli.terminal import notes


class Bars(Progress):
    """Progress bars on stderr: name, bar, count, and elapsed time."""

    def __init__(self, count: ProgressColumn | None = None, **options: Any) -> None:
        columns = (TextColumn("{task.description:<12}"), BarColumn(), count or MofNCompleteColumn())
        super().__init__(*columns, TimeElapsedColumn(), console=notes, **options)
        self._named: dict[str, TaskID] = {}

    def show(self, name: str, done: int, total: int) -> None:
        """Show how much of ``total`` is done in the bar of a name, which the first call creates."""
        if name not in self._named:
            self._named[name] = self.add_task(name, total=total)
        self.update(self._named[name], completed=done, total=max(done, total))

    def stop(self) -> None:
        """Stop, and end the line of the last bar.

        Rich's own method prints an empty line where stderr is no terminal and no bar was printed.
        """
        if self.disable:
            return
        self.live.stop()
        if self.tasks and not (self.console.is_interactive or self.live.transient):
            self.console.print()
