"""Read JSONL files as a stream of lines. A bad line is rejected alone."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from gzip import BadGzipFile
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from altsync import projection
from altsync.catalogue.parts import Part
from altsync.seed import foreign
from altsync.seed.checking import KnownKeys, check
from altsync.seed.files import SeedFile, open_file
from altsync.seed.lines import Line, Raw, Rejected
from altsync.seed.listing import find_files
from altsync.seed.parsing import LINE_BYTES
from altsync.store.rows import HALF_HASH

if TYPE_CHECKING:
    from altsync.catalogue.catalogue import Catalogue

#: Finds the probable id of a line cheaply. It is only a hint: the stored fingerprint decides.
#: Control characters are excluded: such a line is not valid JSON.
_ID = re.compile(rb'"id"\s*:\s*"([^"\\\x00-\x1f]+)"')

_BOM = b"\xef\xbb\xbf"


def read(
    file: SeedFile,
    known: KnownKeys | None,
    progress: Callable[[int], None] = lambda size: None,
) -> Iterator[Line | Rejected]:
    """Yield every line of a file but blank ones, checked. ``progress`` gets bytes read."""
    for raw in read_raw(file, progress):
        yield check(raw, known)


def read_folder(folder: Path, catalogue: Catalogue) -> Iterator[Line | Rejected]:
    """Yield every line of a seed folder, checked by a catalogue's declarations.

    PostgreSQL is not read, so parents are not checked. Raises ``SeedError`` for a missing folder.
    """
    for part in catalogue.parts:
        for file in find_files(folder, part):
            yield from read(file, None)


def read_raw(file: SeedFile, progress: Callable[[int], None] = lambda size: None) -> Iterator[Raw]:
    """Yield every line of a file but blank ones. ``progress`` gets bytes read of the file.

    A file that cannot be read, or is not JSON lines, yields one line with a ``problem``. A file
    that breaks off yields such a line after the others.
    """
    number, is_gzip = 0, True
    try:
        with open_file(file) as (stream, packed):
            if packed is not None:
                is_gzip = packed.read(2) == b"\x1f\x8b"
                packed.seek(0)
            problem = _foreign(file, stream)
            if problem:
                yield _problem(file, 0, problem)
                return
            names = ",".join(file.part.line.model_fields)
            rule = file.part.entity_type.text_rule if file.part.entity_type else ""
            declared = f"{projection.PROJECTION_VERSION} {names} {file.defaults} {rule}\n"
            context = declared.encode()
            done = 0
            for number, (raw, size) in enumerate(_lines(stream), start=1):
                if packed is None:
                    progress(size)
                else:
                    progress(packed.tell() - done)
                    done = packed.tell()
                if number == 1:
                    raw = raw.removeprefix(_BOM)  # noqa: PLW2901
                # Compared before stripping: a cut line may end in white space.
                whole = size <= len(raw) + (len(_BOM) if number == 1 else 0)
                if raw.strip() or not whole:
                    raw = raw.rstrip(b"\r\n")  # noqa: PLW2901
                    found = _ID.search(raw) if whole else None
                    id_hint = found[1].decode("utf-8", "replace") if found else ""
                    fingerprint = projection.digest(context + raw)[:HALF_HASH]
                    yield Raw(file, number, raw, whole, id_hint, fingerprint)
    except (OSError, EOFError, zlib.error) as error:
        yield _problem(file, number + 1 if number else 0, _why_broken(error, is_gzip))


def _foreign(file: SeedFile, stream: BinaryIO) -> str | None:
    """Return why a file does not hold JSON lines. The stream is rewound."""
    head = stream.read(foreign.HEAD)
    stream.seek(0)
    whole = len(head) < foreign.HEAD
    return foreign.describe(head, whole=whole, compressed=file.compressed)


def _why_broken(error: Exception, is_gzip: bool) -> str:
    if not is_gzip and isinstance(error, BadGzipFile | EOFError):
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
    """Yield the lines of a part with this id, good or bad, in the order of a seeding run.

    Raises ``SeedError`` when the folder is not there. Parents are not checked. ``model`` is
    the embedding model, whose limit is checked.
    """
    needle = seed_id.encode()
    for file in find_files(folder, part):
        for raw in read_raw(file):
            # Skip other lines without parsing. An escape may spell the id differently.
            if needle not in raw.read and b"\\" not in raw.read:
                continue
            line = check(raw, None, model)
            if line.seed_id == seed_id:
                yield line


def _lines(stream: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Yield lines and their sizes. A line that is too long is cut, and its rest skipped."""
    while line := stream.readline(LINE_BYTES + len(_BOM) + len(b"\r\n")):
        size, end = len(line), line
        while end and not end.endswith(b"\n"):
            end = stream.readline(LINE_BYTES)
            size += len(end)
        yield line, size
