"""Words of messages: numbers with their nouns, lists, and suggestions for what was mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Share of letters in common, from which a known word is suggested.
_LIKENESS = 0.6


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a number and its noun: ``1 line``, ``1,200 lines``."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def one_line(text: object) -> str:
    """Return a text with every run of spaces as one, and no sign that steers a terminal."""
    joined = " ".join(str(text).split())
    if joined.isprintable():
        return joined
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def sentences(*parts: str) -> str:
    """Join sentences. Each ends with one full stop, whatever its own end is."""
    ended = (
        part.strip().rstrip(".") + ("" if part.strip()[-1:] in "?!" else ".") for part in parts
    )
    return " ".join(ended)


def listing(names: Iterable[str]) -> str:
    """Return names with commas between them."""
    return ", ".join(names)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing when no known word is like it."""
    by_form = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), by_form, n=1, cutoff=_LIKENESS)
    return f"; did you mean {by_form[near[0]]!r}?" if near else ""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """Return the sentence on a name that is none of the known ones; all of them are listed."""
    names = list(known)
    return f"no {what} {word!r}; there are {listing(names)}{suggestion(word, names)}"
