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

#: Least width of a column of text. When columns would be narrower, rows become records.
NARROWEST = 8

#: Longest word that is not broken, if there is room.
LONG_WORD = 12

#: Longest name that stays on one line, if there is room.
WHOLE_NAME = 36


#: Replacements of altsync's own signs in encodings that lack them.
PLAIN = {"✔": "+", "✘": "x", "–": "-", "×": "x", "→": "->", "←": "<-", "…": "..."}


def shown(text: str) -> str:
    """Return a text with escapes for control characters, and for signs outside the encoding.

    altsync's own marks and arrows are replaced by ``PLAIN``.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = visible(text)
    if encoding.lower().startswith("utf"):
        return text
    # Before the layout, as the stream would write longer escapes after it.
    return "".join(_in(encoding, sign) for sign in text)


def _in(encoding: str, sign: str) -> str:
    try:
        return sign.encode(encoding).decode(encoding)
    except UnicodeEncodeError:
        return PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode()


class Text(rich.text.Text):
    """A styled text without control characters."""

    def __init__(self, text: str = "", style: str | Style = "", **options: Any) -> None:
        super().__init__(shown(text), style, **options)

    def append(
        self, text: rich.text.Text | str, style: str | Style | None = None
    ) -> rich.text.Text:
        """Add a text."""
        return super().append(shown(text) if isinstance(text, str) else text, style)


class Table(rich.table.Table):
    """A table that never cuts a cell.

    Text is folded; numbers are not. When the columns do not fit side by side, each row becomes a
    record: one line for each cell.
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
        """Render with fitting widths, or as records."""
        widths = self._widths(self._available(options))
        if not self._plain and widths is not None and self._breaks_words(widths):
            self.pad_edge = False  # frees two cells
            widths = self._widths(self._available(options))
        if widths is None and not self._plain:
            yield from self._records(console, options)
            return
        for position, column in enumerate(self.columns):
            column.width = widths[position] if widths else None
        yield from super().__rich_console__(console, options)

    def _available(self, options: ConsoleOptions) -> int:
        """Return the width that all columns share."""
        padding = sum(self._get_padding_width(i) for i in range(len(self.columns)))
        return options.max_width - self._extra_width - padding

    def _breaks_words(self, widths: Sequence[int]) -> bool:
        """Return whether a word of ordinary length does not fit into its column."""
        return any(
            width < _longest_cell_word(column) <= LONG_WORD + 2
            for width, column in zip(widths, self.columns, strict=True)
        )

    def _widths(self, available: int) -> list[int] | None:
        """Return the width of each column, None when they do not fit."""
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
        fitting = next((least for least in (whole, words, floors) if sum(least) <= available), None)
        return None if fitting is None else _shared(available, fitting, wanted)

    def _records(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        if self.title:
            yield Text(str(self.title), style="italic")
        headers = [" ".join(_plain(column.header).split()) for column in self.columns]
        rows = zip(*(column.cells for column in self.columns), strict=True)
        for number, row in enumerate(rows):
            if number:
                yield Text("")
            record = Table("name", "value", names=("name",), plain=True)
            for header, cell in zip(headers, row, strict=True):
                record.add_row(Text(header, style="dim"), cell)
            yield record


def _shared(available: int, floors: Sequence[int], wanted: Sequence[int]) -> list[int]:
    """Return the widths of columns. Spare cells go to the narrowest column that wants more."""
    widths = list(floors)
    for _ in range(available - sum(widths)):
        growing = [i for i, width in enumerate(widths) if width < wanted[i]]
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
