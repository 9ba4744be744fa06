"""Open the files of a seed folder."""

from __future__ import annotations

import gzip
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from altsync.catalogue.parts import Part

#: Ends of names of files with one JSON object a line.
SUFFIXES = (".jsonl", ".ndjson")

#: The same, compressed.
COMPRESSED = tuple(suffix + ".gz" for suffix in SUFFIXES)

#: Bytes that are read at once.
BUFFER = 1 << 16

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


@dataclass(frozen=True, slots=True)
class SeedFile:
    """A file of one part. ``label`` is its place in the folder, as messages show it."""

    part: Part
    path: Path
    label: str

    @property
    def compressed(self) -> bool:
        """Return whether its name is that of a file compressed by gzip."""
        return self.label.lower().endswith(".gz")

    @property
    def stem(self) -> str:
        """Return its name without suffixes, from which some lines take a field."""
        name = self.label.rpartition("/")[2]
        return name[: len(name) - len(suffix_of(name))].lower()

    @property
    def defaults(self) -> dict[str, str]:
        """Return the values of fields that its lines may leave out."""
        column = named_by(self.part)
        return {column: self.stem} if column else {}


@contextmanager
def open_file(file: SeedFile) -> Iterator[tuple[BinaryIO, BinaryIO | None]]:
    """Open a file: its lines, and, when it is compressed, also the stream of compressed bytes.

    Raises ``OSError`` when it is not a regular file any more, or cannot be opened.
    """
    # O_NONBLOCK: a file that was replaced by a named pipe would wait for its writer.
    descriptor = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise OSError(None, f"{kind_of(mode)}, not a regular file")
    except OSError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb", buffering=BUFFER) as stream:
        if file.compressed:
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield cast(BinaryIO, unpacked), stream
        else:
            yield stream, None


def named_by(part: Part) -> str | None:
    """Return the field that lines of a part take from the name of their file."""
    return part.entity_type.file_name_column if part.entity_type else None


def suffix_of(name: str) -> str:
    """Return the suffix that makes a name one of a seed file, as it is written; else ""."""
    for suffix in (*COMPRESSED, *SUFFIXES):
        if name.lower().endswith(suffix):
            return name[len(name) - len(suffix) :]
    return ""


def kind_of(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return next((name for test, name in _KINDS if test(mode)), "a special file")
