"""Parse the bytes of a line to a JSON object that PostgreSQL can store. Pure."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from types import NoneType
from typing import Any

import orjson

#: Bytes of the longest line. A seed is a record, not a file; longer ones are skipped unread.
LINE_BYTES = 1 << 20

#: Levels of nesting that a seed may have. PostgreSQL and orjson accept a few hundred.
DEPTH = 64

#: Integers that JSON readers and PostgreSQL's bigint agree on.
INT64 = range(-(2**63), 2**63)

#: Types of values that cannot hold a number.
_NO_NUMBER = frozenset({str, bool, NoneType})

_LONG_INTEGER = re.compile(rb"[:\[,]\s*-?\d{19}")

#: An unclosed string extends to the end, so that no quote is matched twice.
_STRINGS_AND_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?$)|[\[\]{}]', re.DOTALL)


class Refused(Exception):
    """A line is refused, because of a field if one is named."""

    def __init__(self, field: str | None, reason: str, seed_id: str | None = None) -> None:
        self.field, self.reason, self.seed_id = field, reason, seed_id


def parse(raw: bytes, *, whole: bool) -> dict[str, Any]:
    """Return the object of a line. Raises ``Refused``."""
    if not whole or len(raw) > LINE_BYTES:
        raise Refused(None, f"the line is longer than {LINE_BYTES:,} bytes")
    if _depth(raw) > DEPTH:
        raise Refused(None, f"nested deeper than {DEPTH} levels")
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError:
        data = _parse_slowly(raw)
    if not isinstance(data, dict):
        raise Refused(None, "not a JSON object")
    numbers = not _NO_NUMBER.issuperset(map(type, data.values()))
    escaped = b"\\u" in raw
    if escaped or (numbers and _LONG_INTEGER.search(raw)):
        _find_unstorable(_parse_slowly(raw))
    # A repeated key is parsed once, so the object has fewer quotes than the line.
    if escaped or raw.count(b'"') != orjson.dumps(data).count(b'"'):
        _find_repeated(raw)
    return data


class _Repeating(dict[str, Any]):
    """An object with a repeated key."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(data := dict(pairs)) == len(pairs):
        return data
    repeating = _Repeating(data)
    repeating.key = Counter(name for name, _ in pairs).most_common(1)[0][0]
    return repeating


def _find_repeated(raw: bytes) -> None:
    """Refuse a line in which an object repeats a key: parsers differ in the value they take."""
    data = json.loads(raw, object_pairs_hook=_object, parse_int=float)
    stack: list[tuple[str, Any]] = [("", data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, _Repeating):
            field = f"{path}.{value.key}" if path else value.key
            seed_id = data.get("id")
            has_id = isinstance(seed_id, str) and field != "id"
            reason = f"the key {value.key!r} stands twice; keep one of them"
            raise Refused(field, reason, seed_id if has_id else None)
        if isinstance(value, dict):
            stack += ((f"{path}.{name}" if path else name, one) for name, one in value.items())
        elif isinstance(value, list):
            stack += ((f"{path}[{place}]", member) for place, member in enumerate(value))


def _depth(raw: bytes) -> int:
    """Return how deep brackets nest outside strings, or 0 for a line with few brackets."""
    if raw.count(b"[") + raw.count(b"{") <= DEPTH:
        return 0
    depth = deepest = 0
    for token in _STRINGS_AND_BRACKETS.finditer(raw):
        if token[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in (b"]", b"}"):
            depth -= 1
    return deepest


def _parse_slowly(raw: bytes) -> Any:
    """Parse with the standard library, which accepts NaN and names the position of errors."""
    try:
        raw.decode()
        data = json.loads(raw)
    except UnicodeDecodeError as error:
        raise Refused(
            None, f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        ) from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            reason = f"not one JSON object: more follows it at column {error.colno}"
        else:
            # Some of the messages end with "at".
            message = error.msg.removesuffix(" at")
            reason = f"not JSON: {message} at column {error.colno}"
        raise Refused(None, reason) from None
    except ValueError as error:  # an integer of thousands of digits
        raise Refused(None, f"not JSON: {error}") from None
    _find_unstorable(data)
    return data


def _find_unstorable(data: Any) -> None:
    """Refuse values that PostgreSQL or other JSON parsers would not keep, with their field."""
    seed_id = data.get("id") if isinstance(data, dict) else None
    known = seed_id if isinstance(seed_id, str) and _storable(seed_id) else None
    stack: list[tuple[str, Any]] = [("", data)]
    while stack:
        path, value = stack.pop()
        reason = _unstorable(value)
        if reason:
            raise Refused(path or None, reason, known)
        if isinstance(value, dict):
            for name, member in value.items():
                if not _storable(name):
                    raise Refused(
                        path or None,
                        "a field's name holds a character that no database stores",
                        known,
                    )
                stack.append((f"{path}.{name}" if path else name, member))
        elif isinstance(value, list):
            stack += ((f"{path}[{place}]", member) for place, member in enumerate(value))


def _storable(text: str) -> bool:
    return "\x00" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _unstorable(value: Any) -> str | None:
    if isinstance(value, str) and not _storable(value):
        return "holds \\u0000 or half a surrogate pair, which no database stores"
    if isinstance(value, float) and not math.isfinite(value):
        return "not a finite number"
    if isinstance(value, int) and not isinstance(value, bool) and value not in INT64:
        return "an integer beyond 64 bits; write it as a string"
    return None
