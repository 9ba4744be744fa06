"""The consoles of a command, and its JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import rich.text
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from altsync.cli.tables import shown
from altsync.exits import Exit as Exit  # noqa: PLC0414  (exported)
from altsync.wording import visible, visible_json


class Terminal(Console):
    """A console that prints texts literally: without markup or control characters.

    The end of the command handles a closed pipe.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> rich.text.Text:
        """Return a string as a text. Escapes are written before its width is measured."""
        return super().render_str(shown(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render, with control characters of other renderables as escapes."""
        for segment in super().render(renderable, options):
            if segment.control or (text := visible(segment.text)) == segment.text:
                yield segment
            else:
                yield Segment(text, segment.style)

    def on_broken_pipe(self) -> None:
        """Raise the error of the system."""
        raise BrokenPipeError


#: ``notes`` writes to stderr, so that stdout has the answer only.
notes = Terminal(stderr=True)
answers = Terminal()


def print_json(body: Any) -> None:
    """Print a JSON document on stdout."""
    sys.stdout.write(f"{_json(body, indent=2)}\n")


def print_json_line(body: Any) -> None:
    """Print a JSON document on one line of stdout."""
    sys.stdout.write(f"{_json(body)}\n")
    sys.stdout.flush()


def _json(body: Any, indent: int | None = None) -> str:
    # Every parser reads escapes, in any encoding of the terminal or pipe.
    is_utf8 = (sys.stdout.encoding or "utf-8").lower().startswith("utf")
    return visible_json(json.dumps(body, default=_to_text, ensure_ascii=not is_utf8, indent=indent))


def _to_text(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
