"""Words of messages: numbers with their nouns, lists, and suggestions for what was mistyped."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping

#: Share of letters in common, from which a known word is suggested.
_LIKENESS = 0.6

#: Before and after a joiner: scripts and emoji whose forms depend on it.
_JOINED = "\u0590-\u1fff\u2100-\u2bff\ufe0f\U0001f000-\U0001faff"

#: Signs that steer a terminal, reorder text or take no room: C0 but tab and newline, DEL, C1, bidi
#: controls, zero-width signs, tags outside of flags, halves of surrogate pairs.
_HIDDEN = re.compile(
    "(?P<flag>\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f)"
    f"|(?<![{_JOINED}])[\u200c\u200d]|[\u200c\u200d](?![{_JOINED}])"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f]"
)

#: Known names that a sentence lists: types of seeded values may be thousands.
_LISTED = 20

#: Characters of one value in a list of fields.
_FIELD = 40


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a number and its noun: ``1 line``, ``1,200 lines``."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def visible(text: str) -> str:
    """Return a text whose hidden signs are written out, as ``\\x1b``. Tab and newline stay."""
    return _HIDDEN.sub(
        lambda found: found["flag"] or found[0].encode("unicode_escape").decode(),
        text.replace("\r\n", "\n"),
    )


def visible_json(document: str) -> str:
    """Return a JSON document in which hidden signs are JSON's own escapes."""
    return _HIDDEN.sub(lambda found: found["flag"] or _json_escape(found[0]), document)


def _json_escape(sign: str) -> str:
    # json.dumps leaves DEL, which is ASCII, as it is.
    return "\\u007f" if sign == "\x7f" else json.dumps(sign)[1:-1]


def one_line(text: object) -> str:
    """Return a text on one line, with every run of spaces as one and hidden signs visible."""
    return " ".join(visible(str(text)).split())


def sentences(*parts: str) -> str:
    """Join sentences. Each ends with one full stop, whatever its own end is."""
    ended = (
        part.strip().rstrip(".") + ("" if part.strip()[-1:] in "?!" else ".") for part in parts
    )
    return " ".join(ended)


def listed_fields(values: Mapping[str, object]) -> list[str]:
    """Return fields and values on one line, each value cut; nothing for none."""
    named = (f"{name}={shortened(str(value), _FIELD)}" for name, value in sorted(values.items()))
    line = ", ".join(named)
    return [line] if line else []


def shortened(text: str, length: int) -> str:
    """Return a text with an ellipsis in place of what is longer than ``length``."""
    return text if len(text) <= length else f"{text[:length]}…"


def version_differs(held: int, wanted: int) -> str:
    """Return how a store's version of an entity compares with another one of PostgreSQL."""
    return f"version {held}, {'ahead of' if held > wanted else 'behind'} PostgreSQL's {wanted}"


def listing(names: Iterable[str]) -> str:
    """Return names with commas between them."""
    return ", ".join(names)


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``; did you mean 'x'?``, or nothing when no known word is like it."""
    by_form = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), by_form, n=1, cutoff=_LIKENESS)
    return f"; did you mean {by_form[near[0]]!r}?" if near else ""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """Return the sentence on a name that is none of the known ones, which it lists."""
    names = list(known)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    listed = f"{listing(names[:_LISTED])}{more}" if names else "none"
    return f"no {what} {word!r}; there are {listed}{suggestion(word, names)}"
