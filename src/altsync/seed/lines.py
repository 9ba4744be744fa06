"""Lines of seed files: raw, checked and rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from altsync.catalogue.parts import Item
from altsync.seed.files import SeedFile

#: Characters of a refused line that the rejects file keeps.
RAW_LENGTH = 2000


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line, or a whole file (``number`` 0), that may not be loaded.

    ``seed_id`` is None when it could not be read.
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
        """Return file:line, or the file."""
        return f"{self.file}:{self.number}" if self.number else self.file


class Line(NamedTuple):
    """A line that may be loaded. ``read`` has the beginning of its bytes.

    ``item`` is None for a line that has been loaded with the same bytes before. ``emptied`` are
    optional fields with an empty text, which count as absent. ``cut``: its text is over the
    model's limit, and is cut when it is embedded.
    """

    file: str
    number: int
    seed_id: str
    item: Item | None
    read: bytes = b""
    emptied: tuple[str, ...] = ()
    cut: bool = False

    @property
    def place(self) -> str:
        """Return file:line."""
        return f"{self.file}:{self.number}"

    @property
    def raw(self) -> str:
        """Return the line as the rejects file shows it."""
        return shown(self.read)

    def reject(self, field: str, reason: str) -> Rejected:
        """Return the line as a rejected one."""
        return Rejected(self.file, self.number, field, reason, self.raw, self.seed_id)


class Raw(NamedTuple):
    """The bytes of a line without its end; ``whole``: ``read`` is not cut.

    ``id_hint`` is probably its id, or "". ``fingerprint`` is a hash of its bytes, of the file's
    defaults and of the declared fields. ``problem`` is the reason why the file cannot be
    read, or not beyond this line.
    """

    file: SeedFile
    number: int
    read: bytes
    whole: bool
    id_hint: str
    fingerprint: str
    problem: str | None = None

    def as_unchanged(self) -> Line:
        """Return the line of an entity that this line has written before."""
        return Line(self.file.label, self.number, self.id_hint, None, self.read[:RAW_LENGTH])


def shown(raw: bytes) -> str:
    """Return the beginning of a line as text."""
    return raw[:RAW_LENGTH].decode("utf-8", "backslashreplace").rstrip("\r\n")
