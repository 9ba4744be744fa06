"""Recognise a file that is not JSON lines by its first bytes, and describe it. Pure."""

from __future__ import annotations

import codecs
import json
import re

import orjson

#: Bytes of a file that are examined.
HEAD = 1 << 16

#: Lines of the head that are examined for a JSON object.
LINES = 50

#: The end of every hint.
WANTED = "one JSON object a line is wanted, as UTF-8 text"

_ZIP = b"PK\x03\x04"

#: Bytes of a tar archive's first block.
_TAR_BLOCK = 512

#: The first bytes of well-known kinds of files. Sources: the formats' own documents, and
#: https://en.wikipedia.org/wiki/List_of_file_signatures
_MAGIC = (
    (_ZIP, "a zip archive or an office document"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "data compressed by bzip2"),
    (b"\xfd7zXZ\x00", "data compressed by xz"),
    (b"\x28\xb5\x2f\xfd", "data compressed by zstd"),
    (b"\x04\x22\x4d\x18", "data compressed by lz4"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a rar archive"),
    (b"PAR1", "a Parquet file"),
    (b"Obj\x01", "an Avro file"),
    (b"ORC", "an ORC file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"%PDF", "a PDF document"),
    (b"\xd0\xcf\x11\xe0", "an office document"),
    (b"\x89PNG", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
    (b"\x1e{", "a JSON text sequence (RFC 7464)"),
    (b"version https://git-lfs", "a pointer of Git LFS (git lfs pull fetches the file)"),
)

#: Longest mark first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)

#: A line that Git writes between two versions of a file that it could not merge.
_CONFLICT = re.compile(rb"^(?:<{7} .*|={7}|>{7} .*)\r?$", re.MULTILINE)

#: An object whose one field is a list of objects.
_WITHIN = re.compile(rb'\{\s*"[^"\\]*"\s*:\s*\[\s*\{.*\}\s*\]\s*\}', re.DOTALL)

_GZIP = b"\x1f\x8b"

#: An array whose first element is an object, or stands on the next line.
_ARRAY = re.compile(rb"\[\s*(?:\{|$)")

#: A line of YAML: a document's start, an item, or a name with its value.
_YAML = re.compile(rb"---|- \w+:|\w+:( |$)")


def describe(head: bytes, *, whole: bool, compressed: bool) -> str | None:
    """Describe a file that begins with ``head``; None for JSON lines, or possible ones.

    A bad line among whole objects is rejected alone, not the file. ``whole``: the head is all of
    the file. ``compressed``: the head was unpacked by gzip.
    """
    lines = [line.strip() for line in head.removeprefix(codecs.BOM_UTF8).splitlines()]
    if not whole and len(lines) > 1:
        lines.pop()  # its rest is not in the head
    lines = [line for line in lines if line][:LINES]
    what = _archive(head) or _almost(head, lines)
    closed = bool(lines) and lines[-1].startswith((b"]", b"}"))
    if what is None and (closed or not any(map(_is_object, lines))):
        what = _binary(head, compressed) or _text(head, lines)
    return f"the file is {what}; {WANTED}" if what else None


def _is_object(line: bytes) -> bool:
    """Return whether a line is a whole JSON object with something in it."""
    if not line.startswith(b"{"):
        return False
    try:
        return bool(orjson.loads(line))
    except orjson.JSONDecodeError:
        return False


def _archive(head: bytes) -> str | None:
    """Recognise archives, which may hold whole JSON lines, by a mark and a zero byte near it."""
    if b"\x00" not in head[len(_ZIP) : _TAR_BLOCK]:
        return None
    if head.startswith(_ZIP):
        return "a zip archive or an office document"
    return "a tar archive" if head[257:262] == b"ustar" else None


def _almost(head: bytes, lines: list[bytes]) -> str | None:
    """Recognise files that would be JSON lines after a simple change, such as removing commas."""
    *others, last = lines or [b""]
    if len(_CONFLICT.findall(head)) > 1:
        return "a merge with conflicts that Git left in it"
    if not others and _WITHIN.fullmatch(last) and _is_object(last) and len(orjson.loads(last)) == 1:
        return "an object around a JSON array (jq -c '.[][]' makes lines of it)"
    if others and b"\n" not in head:
        return "text whose lines end with CR alone (tr '\\r' '\\n' converts it)"
    if others and all(line.endswith(b",") and _is_object(line[:-1]) for line in others):
        return "JSON objects with commas between them (an array without brackets)"
    return None


def _binary(head: bytes, compressed: bool) -> str | None:
    if head.startswith(_GZIP):
        if compressed:
            return "compressed twice (gunzip it once)"
        return "compressed by gzip: end its name in .jsonl.gz"
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return _encoded(encoding)
    if b"\x00" in head:
        if not head.strip(b"\x00"):
            return "nothing but zero bytes, as a crash of the machine may leave it"
        for codec in ("utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"):
            if _is_json_in(codec, head):
                return _encoded(codec.upper().replace("-LE", "LE").replace("-BE", "BE"))
    return None


def _encoded(encoding: str) -> str:
    return f"{encoding} text (iconv -f {encoding} -t UTF-8 converts it)"


def _is_json_in(codec: str, head: bytes) -> bool:
    """Return whether the head is text in this encoding that begins as JSON does."""
    try:
        text = codecs.getincrementaldecoder(codec)().decode(head)
    except UnicodeDecodeError:
        return False
    return text.lstrip()[:1] in ("{", "[") and "\x00" not in text


def _text(head: bytes, lines: list[bytes]) -> str | None:
    if not lines:
        return None
    first, objects = lines[0], sum(line.startswith(b"{") for line in lines)
    if _ARRAY.match(first):
        return "a JSON array (jq -c '.[]' makes lines of it)"
    if first.startswith(b"{"):
        return _objects(lines)
    if objects:
        return None  # the lines that are no objects are rejected one by one
    if b"\x00" in head:
        return "binary data"
    if first.startswith(b"<"):
        return "HTML or XML"
    if _YAML.match(first):
        return "YAML or plain text"
    if _is_table(lines):
        return "a table (CSV)"
    return "not JSON lines: no line begins with '{'" if len(lines) > 1 else None


def _objects(lines: list[bytes]) -> str | None:
    """Describe objects that do not have a line each."""
    if len(lines) < 2:
        return None
    first, second = lines[:2]
    if all(line.startswith(b"{'") for line in lines):
        return "written with single quotes, as Python shows dictionaries"
    follows = not second.startswith(b"{") or first.endswith((b"[", b":"))
    if follows and _ends_early(first):
        return "JSON over several lines (jq -c . makes one line of each object)"
    return None


def _ends_early(line: bytes) -> bool:
    """Return whether a line is the beginning of a JSON value, and fails at its end."""
    try:
        json.loads(line.decode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        return error.pos >= len(error.doc)
    except (ValueError, RecursionError):
        return False
    return False


def _is_table(lines: list[bytes]) -> bool:
    """Return whether the first two lines have equally many of one separator."""
    for separator in (b",", b";", b"\t", b"|"):
        counts = {line.count(separator) for line in lines[:2]}
        if len(counts) == 1 and counts != {0}:
            return True
    return False
