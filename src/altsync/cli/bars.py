"""The progress bars of commands."""

from __future__ import annotations

from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from altsync.cli.terminal import notes


class Bars(Progress):
    """Progress bars on stderr: name, bar, count, and elapsed time."""

    def __init__(self, count: ProgressColumn | None = None, **options: Any) -> None:
        columns = (TextColumn("{task.description:<12}"), BarColumn(), count or MofNCompleteColumn())
        super().__init__(*columns, TimeElapsedColumn(), console=notes, **options)

    def stop(self) -> None:
        """Stop, and end the line of the last bar.

        Rich's own method prints an empty line where stderr is no terminal and no bar was printed.
        """
        if self.disable:
            return
        self.live.stop()
        if self.tasks and not (self.console.is_interactive or self.live.transient):
            self.console.print()
