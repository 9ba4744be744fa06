"""Fenced blocks of the pages, with what their authors say about running them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: The pages whose blocks are held to the rules.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

#: A block, the marker that may stand right before it, and nothing else of the page.
_BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>[^\n]+?) -->\n\n?)?"
    r"^(?P<indent> *)```(?P<language>\S*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)

_MARKER = re.compile(r"^ *<!-- not run\b.*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of a page. ``not_run`` is the reason that its marker gives, None without one."""

    page: Path
    line: int
    language: str
    body: str
    not_run: str | None
    #: Nothing but space stands between it and the block before.
    follows: bool

    @property
    def place(self) -> str:
        """Return its file and line, for people."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """Return the typed command, and the lines that must come back in this order (none: any)."""

    place: str
    code: str
    expected: tuple[str, ...]


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page, in order."""
    text = page.read_text()
    found = []
    end = -1
    for match in _BLOCK.finditer(text):
        indent = len(match["indent"])
        body = "".join(line[indent:] or "\n" for line in match["body"].splitlines(keepends=True))
        fence = match.start("indent")
        found.append(
            Block(
                page,
                text.count("\n", 0, fence) + 1,
                match["language"],
                body,
                match["reason"],
                end >= 0 and not text[end : match.start()].strip(),
            )
        )
        end = match.end()
    return found


def unknown_markers(page: Path) -> list[str]:
    """Markers that no block follows, or that give no reason."""
    text = page.read_text()
    used = sum(block.not_run is not None for block in blocks_of(page))
    found = _MARKER.findall(text)
    return found if len(found) != used else []


def commands_of(block: Block, output: Block | None) -> Iterator[Command]:
    """The commands of an ``sh`` or ``console`` block.

    ``output`` is the ``text`` block that shows what an ``sh`` block prints, if one follows.
    """
    if block.language == "sh":
        yield Command(block.place, block.body, _lines(output.body if output else ""))
        return
    parts = re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]
    for part in parts:
        code, _, expected = part.partition("\n")
        yield Command(block.place, code, _lines(expected))


def _lines(text: str) -> tuple[str, ...]:
    return tuple(text.splitlines())
