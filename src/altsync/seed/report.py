"""What a seeding run did: counts, and the lines that it refused."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from altsync.seed.lines import Part
from altsync.seed.reader import Rejected

#: Refused lines that the terminal shows; all of them are in the rejects file.
SHOWN = 20


@dataclass(slots=True)
class Counts:
    """Lines and entities of one part, or of a whole run."""

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
class Report:
    """The run as a whole. Refused lines go to a file as they come: memory stays flat."""

    folder: Path | None
    parts: dict[Part, Counts] = field(default_factory=dict)
    shown: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    _rejects: IO[str] | None = None

    @property
    def total(self) -> Counts:
        """All parts together."""
        total = Counts()
        for counts in self.parts.values():
            total.add(counts)
        return total

    @property
    def rejects_file(self) -> Path | None:
        """Where the refused lines are, when there are any."""
        return self.folder / "rejects.jsonl" if self.folder and self._rejects else None

    def counts(self, part: Part) -> Counts:
        """The counts of a part, to add to."""
        return self.parts.setdefault(part, Counts())

    def reject(self, part: Part, line: Rejected) -> None:
        """Keep a refused line."""
        self.counts(part).rejected += 1
        if len(self.shown) < SHOWN:
            self.shown.append(line)
        if self.folder is None:
            return
        if self._rejects is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._rejects = (self.folder / "rejects.jsonl").open("w", encoding="utf-8")
        entry = {
            "file": line.file,
            "line": line.number,
            "field": line.field,
            "reason": line.reason,
            "raw": line.raw,
        }
        self._rejects.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def as_json(self) -> dict[str, Any]:
        """The counts as scripts read them, and by part."""
        body: dict[str, Any] = asdict(self.total)
        body["parts"] = {part.value: asdict(counts) for part, counts in self.parts.items()}
        if self.notes:
            body["notes"] = self.notes
        if self.rejects_file:
            body["rejects_file"] = str(self.rejects_file)
        return body

    def close(self) -> None:
        """Finish the rejects file, and leave the run's report beside it."""
        if self._rejects is not None:
            self._rejects.close()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.as_json(), indent=2, ensure_ascii=False)
            (self.folder / "report.json").write_text(text + "\n", encoding="utf-8")
