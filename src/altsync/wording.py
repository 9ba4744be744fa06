"""Parts of messages: numbers with nouns, lists, and suggestions for mistyped names."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal

#: Least similarity of a suggestion.
_LIKENESS = 0.6

#: Scripts and emoji whose forms depend on a joiner.
_JOINED = "\u0590-\u1fff\u2100-\u2bff\ufe0f\U0001f000-\U0001faff"

#: Control, bidi and invisible characters: C0 but tab and newline, DEL, C1, bidi controls,
#: zero-width characters, tags outside of flags, halves of surrogate pairs.
_HIDDEN = re.compile(
    "(?P<flag>\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f)"
    f"|(?<![{_JOINED}])[\u200c\u200d]|[\u200c\u200d](?![{_JOINED}])"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufeff\uffa0\ufff9-\ufffb\U0001d173-\U0001d17a"
    "\U000e0000-\U000e007f]"
)

#: Greatest number of names in a list: there may be thousands.
_LISTED = 20

#: Characters of one value in a list of fields.
_FIELD = 40


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """Return a number and its noun: ``1 line``, ``1,200 lines``."""
    return f"{count:,} {noun if count == 1 else nouns or f'{noun}s'}"


def visible(text: str) -> str:
    """Return a text with hidden characters as escapes, such as ``\\x1b``."""
    return _HIDDEN.sub(
        lambda found: found["flag"] or found[0].encode("unicode_escape").decode(),
        text.replace("\r\n", "\n"),
    )


def visible_json(document: str) -> str:
    """Return a JSON document with hidden characters as JSON escapes."""
    return _HIDDEN.sub(lambda found: found["flag"] or _json_escape(found[0]), document)


def _json_escape(sign: str) -> str:
    # json.dumps leaves DEL, which is ASCII, as it is.
    return "\\u007f" if sign == "\x7f" else json.dumps(sign)[1:-1]


def one_line(text: object) -> str:
    """Return a text on one line, with single spaces, and hidden characters as escapes."""
    return " ".join(visible(str(text)).split())


def sentences(*parts: str) -> str:
    """Join sentences. Each ends with one full stop, or its own ? or !."""
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
    """Return ``; did you mean 'x'?``, or "" if no known word is similar."""
    by_form = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(word.casefold(), by_form, n=1, cutoff=_LIKENESS)
    return f"; did you mean {by_form[near[0]]!r}?" if near else ""


def unknown(what: str, word: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name, with the known ones."""
    names = list(known)
    more = f" and {len(names) - _LISTED:,} more" if len(names) > _LISTED else ""
    listed = f"{listing(names[:_LISTED])}{more}" if names else "none"
    return f"no {what} {word!r}; there are {listed}{suggestion(word, names)}"


def dollars(amount: Decimal | float) -> str:
    """Return dollars: with cents, or with six decimals below a dollar."""
    return f"${amount:,.2f}" if amount >= 1 or not amount else f"${amount:.6f}"
