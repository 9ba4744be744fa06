"""Report a seeding run: counts and rejected lines."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from altsync.catalogue.parts import Part
from altsync.seed.lines import Rejected

#: Rejected lines that the terminal shows. The rejects file has all of them.
SHOWN = 20


@dataclass(slots=True)
class Counts:
    """Numbers of lines and entities of one part, or of a whole run."""

    processed: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    rejected: int = 0
    operations: int = 0

    def add(self, other: Counts) -> None:
        """Add another count to this one."""
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


@dataclass(slots=True)
class SeedReport:
    """The report of a run. Rejected lines are written to a file at once: memory stays flat.

    ``only_refusals``: the folder is created only when a line is rejected, as in a dry run.
    ``not_pruned`` is the reason why ``--prune`` deleted nothing.
    """

    folder: Path | None
    parts: dict[Part, Counts] = field(default_factory=dict)
    shown: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    only_refusals: bool = False
    not_pruned: str | None = None
    _rejects: IO[str] | None = None

    @property
    def total(self) -> Counts:
        """Return the counts of all parts together."""
        total = Counts()
        for counts in self.parts.values():
            total.add(counts)
        return total

    @property
    def rejects_file(self) -> Path | None:
        """Return the file of rejected lines, if there are any."""
        return self.folder / "rejects.jsonl" if self.folder and self._rejects else None

    def counts(self, part: Part) -> Counts:
        """Return the counts of a part, which the caller may change."""
        return self.parts.setdefault(part, Counts())

    def reject(self, part: Part, line: Rejected) -> None:
        """Count a rejected line, and write it to the file."""
        self.counts(part).rejected += 1
        if len(self.shown) < SHOWN:
            self.shown.append(line)
        if self.folder is None:
            return
        if self._rejects is None:
            self._rejects = _create(self.folder, "rejects.jsonl")
        entry = {**_as_json(line), "raw": line.raw}
        self._rejects.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def refused(self) -> list[dict[str, Any]]:
        """Return every rejected line without its text, from the rejects file."""
        if self.rejects_file is None or self._rejects is None:
            return [_as_json(line) for line in self.shown]
        if not self._rejects.closed:
            self._rejects.flush()
        with self.rejects_file.open(encoding="utf-8") as lines:
            entries = map(json.loads, lines)
            return [{name: entry[name] for name in _FIELDS} for entry in entries]

    def as_json(self) -> dict[str, Any]:
        """Return the counts in total and by part."""
        body: dict[str, Any] = asdict(self.total)
        body["parts"] = {part.value: asdict(counts) for part, counts in self.parts.items()}
        if self.not_pruned:
            body["not_pruned"] = self.not_pruned
        if self.notes:
            body["notes"] = self.notes
        if self.rejects_file:
            body["rejects_file"] = str(self.rejects_file)
        return body

    def close(self) -> None:
        """Close the rejects file, and write the run's report beside it."""
        if self.folder is not None and (self._rejects is not None or not self.only_refusals):
            text = json.dumps(self.as_json(), indent=2, ensure_ascii=False)
            with _create(self.folder, "report.json") as file:
                file.write(text + "\n")
        if self._rejects is not None:
            self._rejects.close()


#: Keys of a rejected line in JSON.
_FIELDS = ("file", "line", "field", "reason")


def _as_json(line: Rejected) -> dict[str, Any]:
    return dict(
        zip(_FIELDS, (line.file, line.number or None, line.field, line.reason), strict=True)
    )


def _create(folder: Path, name: str) -> IO[str]:
    """Create a file that only its owner may read, in a folder that only its owner may enter.

    Seeds may be confidential to other accounts of the machine. No link is followed: an existing
    file or link of this name is replaced, and a link in place of the folder is an error.
    """
    for parent in reversed(folder.parents):
        parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(directory, 0o700)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600, dir_fd=directory)
        return os.fdopen(descriptor, "w", encoding="utf-8")
    finally:
        os.close(directory)
