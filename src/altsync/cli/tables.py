"""Texts and tables for terminals of any width and encoding."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import rich.table
import rich.text
from rich.box import HEAVY_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.style import Style

from altsync.wording import visible

#: Cells that every column of text has at least; narrower than that, rows become records.
NARROWEST = 8

#: Cells up to which a word is not broken, where there is room.
LONG_WORD = 12

#: Cells up to which a name that one may copy stays on one line, where there is room.
WHOLE_NAME = 36


#: What stands for altsync's own signs where the stream lacks them.
PLAIN = {"✔": "+", "✘": "x", "–": "-", "×": "x", "→": "->", "←": "<-", "…": "..."}


def shown(text: str) -> str:
    """Return a text as it can be shown: hidden signs, and those the stream lacks, as escapes.

    altsync's own marks and arrows have a plain form in place of an escape.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = visible(text)
    if encoding.lower().startswith("utf"):
        return text
    # Before the layout: the stream itself would replace them by longer ones afterwards.
    return "".join(_in(encoding, sign) for sign in text)


def _in(encoding: str, sign: str) -> str:
    try:
        return sign.encode(encoding).decode(encoding)
    except UnicodeEncodeError:
        return PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode()


class Text(rich.text.Text):
    """A styled text. Whatever it is made of, it does not steer the terminal."""

    def __init__(self, text: str = "", style: str | Style = "", **options: Any) -> None:
        super().__init__(shown(text), style, **options)

    def append(
        self, text: rich.text.Text | str, style: str | Style | None = None
    ) -> rich.text.Text:
        """Add a text."""
        return super().append(shown(text) if isinstance(text, str) else text, style)


class Table(rich.table.Table):
    """A table that shows every cell whole.

    Text is folded, and numbers never are. Where the columns do not fit side by side, each row
    becomes a record: one line for each cell.
    """

    def __init__(
        self,
        *columns: str,
        title: str | None = None,
        numbers: Collection[str] = (),
        names: Collection[str] = (),
        plain: bool = False,
    ) -> None:
        super().__init__(
            title=None if title is None else shown(title),
            title_justify="left",
            box=None if plain else HEAVY_HEAD,
            show_header=not plain,
        )
        self._plain = plain
        self._numbers = [name in numbers for name in columns]
        self._names = [name in names for name in columns]
        for name, number in zip(columns, self._numbers, strict=True):
            header = Text("" if plain else name, overflow="fold")
            self.add_column(header, justify="right" if number else "left", overflow="fold")

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row. A cell is a ``Text``, or a string, which is no markup."""
        made = (cell if isinstance(cell, rich.text.Text) else Text(str(cell)) for cell in cells)
        super().add_row(*made, **options)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render with widths of which every cell has its own."""
        widths = self._widths(self._room(options))
        if not self._plain and widths is not None and self._breaks_words(widths):
            self.pad_edge = False  # two cells more
            widths = self._widths(self._room(options))
        if widths is None and not self._plain:
            yield from self._records(console, options)
            return
        for place, column in enumerate(self.columns):
            column.width = widths[place] if widths else None
        yield from super().__rich_console__(console, options)

    def _room(self, options: ConsoleOptions) -> int:
        """Return the cells that are left for all columns together."""
        padding = sum(self._get_padding_width(place) for place in range(len(self.columns)))
        return options.max_width - self._extra_width - padding

    def _breaks_words(self, widths: Sequence[int]) -> bool:
        """Return whether a word that is no long one does not fit into its column."""
        return any(
            width < _longest_cell_word(column) <= LONG_WORD + 2
            for width, column in zip(widths, self.columns, strict=True)
        )

    def _widths(self, room: int) -> list[int] | None:
        """Return the width of each column, or nothing where they do not fit."""
        headers = [_plain(column.header) for column in self.columns]
        cells = [
            max((_length(_plain(cell)) for cell in column.cells), default=0)
            for column in self.columns
        ]
        wanted = [max(_length(header), cell) for header, cell in zip(headers, cells, strict=True)]
        floors = [
            max(_longest_word(header), cell if number else min(cell, NARROWEST))
            for header, cell, number in zip(headers, cells, self._numbers, strict=True)
        ]
        words = [
            max(floor, min(_longest_cell_word(column), LONG_WORD))
            for floor, column in zip(floors, self.columns, strict=True)
        ]
        whole = [
            max(floor, min(want, WHOLE_NAME)) if name else floor
            for floor, want, name in zip(words, wanted, self._names, strict=True)
        ]
        fitting = next((least for least in (whole, words, floors) if sum(least) <= room), None)
        return None if fitting is None else _shared(room, fitting, wanted)

    def _records(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        if self.title:
            yield Text(str(self.title), style="italic")
        headers = [" ".join(_plain(column.header).split()) for column in self.columns]
        rows = zip(*(column.cells for column in self.columns), strict=True)
        for place, row in enumerate(rows):
            if place:
                yield Text("")
            record = Table("name", "value", names=("name",), plain=True)
            for header, cell in zip(headers, row, strict=True):
                record.add_row(Text(header, style="dim"), cell)
            yield record


def _shared(room: int, floors: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Return the widths of columns: what is left goes to the narrowest that wants more."""
    widths = list(floors)
    for _ in range(room - sum(widths)):
        growing = [place for place, width in enumerate(widths) if width < wanted[place]]
        if not growing:
            break
        widths[min(growing, key=widths.__getitem__)] += 1
    return widths


def _plain(cell: Any) -> str:
    return cell.plain if isinstance(cell, rich.text.Text) else str(cell)


def _length(text: str) -> int:
    return max((cell_len(line) for line in text.expandtabs().split("\n")), default=0)


def _longest_cell_word(column: rich.table.Column) -> int:
    return max((_longest_word(_plain(cell)) for cell in column.cells), default=0)


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)
