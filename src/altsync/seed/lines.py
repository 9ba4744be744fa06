"""Lines of seed files: as read, as checked, and as refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from altsync.catalogue.parts import Item
from altsync.seed.files import SeedFile

#: Characters of a refused line that the rejects file keeps.
RAW_LENGTH = 2000


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
    def place(self) -> str:
        """Return where it stands, as file:line."""
        return f"{self.file}:{self.number}"

    @property
    def raw(self) -> str:
        """Return the line as the rejects file keeps it."""
        return shown(self.read)

    def reject(self, field: str, reason: str) -> Rejected:
        """Return the line as one that may not be loaded."""
        return Rejected(self.file, self.number, field, reason, self.raw, self.seed_id)


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


def shown(raw: bytes) -> str:
    """The line as the rejects file keeps it."""
    return raw[:RAW_LENGTH].decode("utf-8", "backslashreplace").rstrip("\r\n")
