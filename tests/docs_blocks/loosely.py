"""Compare output with a page, but for what differs from run to run."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: Texts that differ between runs: times, how long things took, and numbers of four digits or more
#: (ports, processes, versions).
_UNSTABLE = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?", r"\\d{4}-\\d\\d-\\d\\d[ T][\\d:.]+"),
    (r"\d{8}T\d{6}", r"\\d{8}T\\d{6}"),
    (r"\d+:\d\d:\d\d", r"\\d+:\\d\\d:\\d\\d"),
    (r"\d+ s\b", r"\\d+ s"),
    (r"\d{4,}", r"\\d+"),
)

#: Lines of a table that hold nothing.
_FRAME = re.compile(r"^[\s┏┳┓┡╇┩└┴┘━─├┼┤╺╸┃│]*$")


def first_missing(expected: Sequence[str], output: str) -> str | None:
    """The first line shown that does not come, in the order shown; None when all do.

    ``…`` stands for anything in a line, and, alone in one, for any lines. The ends of lines do
    not matter: a longer path may push a word to the next one.
    """
    said, at = _plain(output), 0
    for line in expected:
        if line.strip() in {"…", ""} or _FRAME.match(line):
            continue
        found = pattern_of(line).search(said, at)
        if found is None:
            return line
        at = found.end()
    return None


def pattern_of(line: str) -> re.Pattern[str]:
    """Return the pattern of a shown line, split at spaces."""
    text = re.escape(_plain(line)).replace(r"\ ", " ").replace(r"\-", "-")
    for unstable, meant in _UNSTABLE:
        text = re.sub(unstable, meant, text)
    return re.compile(rf"(?<!\S){text.replace('…', '.*?')}(?!\S)")


def _plain(line: str) -> str:
    return " ".join(line.split())
