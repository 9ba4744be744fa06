"""JSONL files to checked lines, as a stream. A bad line costs itself and nothing else."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import orjson
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from altsync import projection
from altsync.catalogue.parts import KEY_PATTERN, SLUG_PATTERN, Item, Part
from altsync.entities import Content, EntityType
from altsync.seed import foreign
from altsync.seed.files import SeedFile, find_files, open_file
from altsync.store.rows import HALF_HASH
from altsync.tokens import INPUT_LIMITS, TooLong, most_tokens, too_long
from altsync.wording import unknown

if TYPE_CHECKING:
    from altsync.catalogue.catalogue import Catalogue
    from altsync.catalogue.lines import SeedLine

#: Bytes of the longest line. A seed is a record, not a file; longer ones are skipped unread.
LINE_BYTES = 1 << 20

#: Nesting that a seed may have. PostgreSQL and orjson stop at a few hundred.
DEPTH = 64

#: Characters of a refused line that the rejects file keeps.
RAW_LENGTH = 2000

#: Integers that JSON readers and PostgreSQL's bigint agree on.
INT64 = range(-(2**63), 2**63)

#: Types of values that cannot hold a number.
_NO_NUMBER = frozenset({str, bool, NoneType})

#: What is probably a line's id: cheap to find, and looked up, not trusted. Control characters,
#: which no database looks up, make the line a broken one.
_ID = re.compile(rb'"id"\s*:\s*"([^"\\\x00-\x1f]+)"')

_BOM = b"\xef\xbb\xbf"
_LONG_INTEGER = re.compile(rb"[:\[,]\s*-?\d{19}")
#: A string that never closes runs to the end, so that no quote is looked at twice.
_STRINGS_AND_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?$)|[\[\]{}]', re.DOTALL)


class Line(NamedTuple):
    """A line that may be loaded. ``read`` is what was read, or its beginning.

    ``item`` is None for a line that was loaded before, byte for byte, and need not be again.
    ``emptied`` are optional fields that hold an empty text, and were taken as absent.
    ``cut``: its text is over the model's limit, and is cut when it is embedded.
    """

    file: str
    number: int
    seed_id: str
    item: Item | None
    read: bytes = b""
    emptied: tuple[str, ...] = ()
    cut: bool = False

    @property
    def raw(self) -> str:
        """The line as the rejects file keeps it."""
        return _shown(self.read)

    @property
    def place(self) -> str:
        """Return where it stands, as file:line."""
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that may not be loaded, or a whole file, whose ``number`` is 0.

    ``seed_id`` is None when not even that could be read.
    """

    file: str
    number: int
    field: str | None
    reason: str
    raw: str
    seed_id: str | None = None

    def __str__(self) -> str:
        field = f"{self.field}: " if self.field else ""
        return f"{self.place}: {field}{self.reason}"

    @property
    def place(self) -> str:
        """Return where it stands, as file:line, or the file."""
        return f"{self.file}:{self.number}" if self.number else self.file


class Raw(NamedTuple):
    """A line as it stands in its file, without its end; ``whole``: ``read`` is all of it.

    ``id_hint`` is what is probably its id, or "". ``fingerprint`` is a hash of all that
    decides what it says. ``problem`` says why the file cannot be read, or not from here on.
    """

    file: SeedFile
    number: int
    read: bytes
    whole: bool
    id_hint: str
    fingerprint: str
    problem: str | None = None

    def as_unchanged(self) -> Line:
        """The line of an entity that is known to be as it says."""
        return Line(self.file.label, self.number, self.id_hint, None, self.read[:RAW_LENGTH])


class _Refused(Exception):
    def __init__(self, field: str | None, reason: str, seed_id: str | None = None) -> None:
        self.field, self.reason, self.seed_id = field, reason, seed_id


def read(
    file: SeedFile,
    known: KnownKeys | None,
    progress: Callable[[int], None] = lambda size: None,
) -> Iterator[Line | Rejected]:
    """Every line of a file, checked; blank ones are left out. ``progress`` gets bytes read."""
    for raw in read_raw(file, progress):
        yield check(raw, known)


def read_folder(folder: Path, catalogue: Catalogue) -> Iterator[Line | Rejected]:
    """Every line of a seed folder, checked by a catalogue's declarations without PostgreSQL.

    Parents are not looked up. Raises ``SeedError`` when the folder is not there.
    """
    for part in catalogue.parts:
        for file in find_files(folder, part):
            yield from read(file, None)


def read_raw(file: SeedFile, progress: Callable[[int], None] = lambda size: None) -> Iterator[Raw]:
    """Read every line of a file but the blank ones. ``progress`` gets bytes read of the file.

    A file that cannot be read, or is not JSON lines, comes to one line with its ``problem``. One
    that breaks off comes to such a line after those that were read.
    """
    number = 0
    try:
        with open_file(file) as (stream, packed):
            problem = _foreign(file, stream)
            if problem:
                yield _problem(file, 0, problem)
                return
            names = ",".join(file.part.line.model_fields)
            setting = f"{projection.PROJECTION_VERSION} {names} {file.defaults}\n".encode()
            done = 0
            for number, (raw, size) in enumerate(_lines(stream), start=1):
                if packed is None:
                    progress(size)
                else:
                    progress(packed.tell() - done)
                    done = packed.tell()
                if number == 1:
                    raw = raw.removeprefix(_BOM)  # noqa: PLW2901
                # Told from what was read: what is left of a cut line may look short, or blank.
                whole = size <= len(raw) + (len(_BOM) if number == 1 else 0)
                if raw.strip() or not whole:
                    raw = raw.rstrip(b"\r\n")  # noqa: PLW2901
                    found = _ID.search(raw) if whole else None
                    id_hint = found[1].decode("utf-8", "replace") if found else ""
                    fingerprint = projection.digest(setting + raw)[:HALF_HASH]
                    yield Raw(file, number, raw, whole, id_hint, fingerprint)
    except (OSError, EOFError, zlib.error) as error:
        yield _problem(file, number + 1 if number else 0, _why_broken(error, number))


def _foreign(file: SeedFile, stream: BinaryIO) -> str | None:
    """Why a file is not one of JSON lines. The stream is at its beginning again afterwards."""
    head = stream.read(foreign.HEAD)
    stream.seek(0)
    whole = len(head) < foreign.HEAD
    return foreign.describe(head, whole=whole, compressed=file.compressed)


def _why_broken(error: Exception, number: int) -> str:
    if isinstance(error, BadGzipFile) and not number:
        return "the file is not compressed by gzip: end its name without .gz"
    if isinstance(error, BadGzipFile | EOFError | zlib.error):
        return "the compressed data are broken, or end too early"
    reason = error.strerror if isinstance(error, OSError) else None
    return f"cannot be read: {reason or error}"


def _problem(file: SeedFile, number: int, reason: str) -> Raw:
    return Raw(file, number, b"", whole=False, id_hint="", fingerprint="", problem=reason)


def find(
    folder: Path, part: Part, seed_id: str, model: str | None = None
) -> Iterator[Line | Rejected]:
    """The lines of a part that give this id, good or bad, in the order of a seeding run.

    Raises ``SeedError`` when the folder is not there. Parents are not looked up. ``model`` embeds
    the texts.
    """
    needle = seed_id.encode()
    for file in find_files(folder, part):
        for raw in read_raw(file):
            # Cheap for all the other lines. A backslash may spell the id in another way.
            if needle not in raw.read and b"\\" not in raw.read:
                continue
            line = check(raw, None, model)
            if line.seed_id == seed_id:
                yield line


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Lines and their bytes; those too long are cut, and the rest of them skipped."""
    while line := stream.readline(LINE_BYTES + len(_BOM) + len(b"\r\n")):
        size, end = len(line), line
        while end and not end.endswith(b"\n"):
            end = stream.readline(LINE_BYTES)
            size += len(end)
        yield line, size


#: Keys of the entities that a line may name, by the field that names one.
KnownKeys = Mapping[str, frozenset[str]]


def check(
    raw: Raw,
    known: KnownKeys | None,
    model: str | None = None,
    *,
    cut_long: bool = False,
) -> Line | Rejected:
    """Return what a line says, or why it may not. ``known``: the parents that it may name.

    ``model`` embeds its text, which may not be over that model's limit unless it is cut.
    """
    file, number, read, whole, _supposed_id, _fingerprint, problem = raw
    if problem is not None:
        return Rejected(file.label, number, None, problem, "")
    try:
        data = _parse(read, whole=whole)
        emptied = _drop_empty(data, file.part)
        line = _validate(file.part.line, {**file.defaults, **data})
        item = line.item()
        if known is not None and file.part.entity_type:
            _check_parents(line, file.part.entity_type, known)
        over = _too_long(item, model) if may_be_too_long(raw, model) else None
        if over is not None and not cut_long:
            raise _Refused(_long_fields(item, over), str(over), line.id)
        return Line(file.label, number, line.id, item, read[:RAW_LENGTH], emptied, over is not None)
    except _Refused as refused:
        return Rejected(
            file.label, number, refused.field, refused.reason, _shown(read), refused.seed_id
        )


def _check_parents(line: SeedLine, entity_type: EntityType, known: KnownKeys) -> None:
    """Refuse a line that names a parent which is not loaded."""
    for parent in entity_type.parents:
        if parent.parent is None:
            continue
        key = getattr(line, parent.column)
        keys = known.get(parent.column, frozenset())
        if key is not None and key not in keys:
            raise _Refused(parent.column, unknown(parent.name, key, sorted(keys)), line.id)


def may_be_too_long(raw: Raw, model: str | None) -> bool:
    """Return whether a line's text may be over the limit: a text is shorter than its line."""
    limit = INPUT_LIMITS.get(model or "")
    return limit is not None and len(raw.read) > limit.tokens


def _too_long(item: Item, model: str | None) -> TooLong | None:
    """Return by how much the text of a line is over the model's limit."""
    if model is None or not isinstance(item, Content):
        return None
    return too_long(projection.embedding_text(item), model)


def _long_fields(item: Item, over: TooLong) -> str:
    """Name the longest fields of a text, as many as bring it over the limit."""
    assert isinstance(item, Content)
    sizes = {name: most_tokens(text) for name, text in projection.embedded_fields(item).items()}
    rest = sum(sizes.values())
    enough = rest * over.limit / over.tokens
    fields: list[str] = []
    for name in sorted(sizes, key=sizes.__getitem__, reverse=True):
        if rest <= enough:
            break
        fields.append(name)
        rest -= sizes[name]
    return ", ".join(fields)


def _shown(raw: bytes) -> str:
    """The line as the rejects file keeps it."""
    return raw[:RAW_LENGTH].decode("utf-8", "backslashreplace").rstrip("\r\n")


def _parse(raw: bytes, *, whole: bool) -> dict[str, Any]:
    if not whole or len(raw) > LINE_BYTES:
        raise _Refused(None, f"the line is longer than {LINE_BYTES:,} bytes")
    if _depth(raw) > DEPTH:
        raise _Refused(None, f"nested deeper than {DEPTH} levels")
    try:
        data = orjson.loads(raw)
    except orjson.JSONDecodeError:
        data = _parse_slowly(raw)
    if not isinstance(data, dict):
        raise _Refused(None, "not a JSON object")
    numbers = not _NO_NUMBER.issuperset(map(type, data.values()))
    escaped = b"\\u" in raw
    if escaped or (numbers and _LONG_INTEGER.search(raw)):
        _find_unstorable(_parse_slowly(raw))
    # A key that stands twice is kept once, so that its quotes are fewer. An escaped quote is none.
    if escaped or raw.count(b'"') != orjson.dumps(data).count(b'"'):
        _find_repeated(raw)
    return data


def _drop_empty(data: dict[str, Any], part: Part) -> tuple[str, ...]:
    """Take fields out that are null, or an empty text; returns those with an empty text."""
    values = data.values()
    gaps = [name for name in part.optional_lists if _has_gaps(data.get(name))]
    if None not in values and "" not in values and not gaps:
        return ()
    absent = [n for n, value in data.items() if n in part.optional and value in (None, "")]
    emptied = [name for name in absent if data.pop(name) is not None]
    for name in gaps:
        if "" in data[name]:
            emptied.append(name)
        data[name] = [one for one in data[name] if one not in (None, "")]
    return tuple(emptied)


def _has_gaps(values: Any) -> bool:
    return isinstance(values, list) and (None in values or "" in values)


class _Repeating(dict[str, Any]):
    """An object in which a key stands twice."""

    key = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(data := dict(pairs)) == len(pairs):
        return data
    repeating = _Repeating(data)
    repeating.key = Counter(name for name, _ in pairs).most_common(1)[0][0]
    return repeating


def _find_repeated(raw: bytes) -> None:
    """Refuse a line in which an object has a key twice: readers differ in which one they take."""
    data = json.loads(raw, object_pairs_hook=_object, parse_int=float)
    stack: list[tuple[str, Any]] = [("", data)]
    while stack:
        path, value = stack.pop()
        if isinstance(value, _Repeating):
            field = f"{path}.{value.key}" if path else value.key
            seed_id = data.get("id")
            known = isinstance(seed_id, str) and field != "id"
            reason = f"the key {value.key!r} stands twice; keep one of them"
            raise _Refused(field, reason, seed_id if known else None)
        if isinstance(value, dict):
            stack += ((f"{path}.{name}" if path else name, one) for name, one in value.items())
        elif isinstance(value, list):
            stack += ((f"{path}[{place}]", member) for place, member in enumerate(value))


def _depth(raw: bytes) -> int:
    """Return how deep brackets nest, outside strings. Cheap for the usual line, which has few."""
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
    """The standard library's parser: it reads what JSON forbids, so that it can be named."""
    try:
        raw.decode()
        data = json.loads(raw)
    except UnicodeDecodeError as error:
        raise _Refused(
            None, f"not UTF-8: byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line"
        ) from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            reason = f"not one JSON object: more follows it at column {error.colno}"
        else:
            # Some of the messages end with the preposition, too.
            said = error.msg.removesuffix(" at")
            reason = f"not JSON: {said} at column {error.colno}"
        raise _Refused(None, reason) from None
    except ValueError as error:  # an integer of thousands of digits
        raise _Refused(None, f"not JSON: {error}") from None
    _find_unstorable(data)
    return data


def _find_unstorable(data: Any) -> None:
    """Refuse what PostgreSQL or another JSON reader would not keep, and name where it is."""
    seed_id = data.get("id") if isinstance(data, dict) else None
    known = seed_id if isinstance(seed_id, str) and _storable(seed_id) else None
    stack: list[tuple[str, Any]] = [("", data)]
    while stack:
        path, value = stack.pop()
        reason = _unstorable(value)
        if reason:
            raise _Refused(path or None, reason, known)
        if isinstance(value, dict):
            for name, member in value.items():
                if not _storable(name):
                    raise _Refused(
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


def _validate(model: type[SeedLine], data: dict[str, Any]) -> SeedLine:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_context=False)
        seed_id = data.get("id")
        more = ""
        if others:
            fields = dict.fromkeys(_field(one["loc"]) for one in others)
            more = f" (and {len(others)} more: {', '.join(fields)})"
        raise _Refused(
            _field(first["loc"]) or None,
            _reason(first) + more,
            seed_id if isinstance(seed_id, str) else None,
        ) from None


def _field(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location)


def _reason(error: ErrorDetails) -> str:
    if len(error["loc"]) == 1 and error["input"] in (None, ""):
        absent = "null" if error["input"] is None else "empty"
        return f"Field required, and may not be {absent}"
    for pattern, wanted in _WANTED.items():
        if error["msg"].endswith(f"'{pattern}'"):
            given = str(error["input"])
            cut = given if len(given) <= GIVEN_SHOWN else f"{given[:GIVEN_SHOWN]}…"
            return f"{cut!r} is not allowed: use {wanted}"
    return error["msg"].removeprefix("Value error, ")


#: Characters that a refusal shows of a value.
GIVEN_SHOWN = 60

#: What the patterns of fields mean, for people.
_WANTED = {
    KEY_PATTERN: "letters, digits and _ . : -, at most 200, a letter or digit first",
    SLUG_PATTERN: "small letters, digits, _ and -, at most 64, a letter or digit first",
}
