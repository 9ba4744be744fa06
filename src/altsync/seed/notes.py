"""Notes of a seeding run about files and texts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from altsync.seed.lines import Line
from altsync.wording import plural

#: Lines with cut texts that a note names, for each file.
CUT_SHOWN = 5


@dataclass(slots=True)
class TextNotes:
    """Files without lines; empty and cut texts, by file."""

    without_lines: list[str] = field(default_factory=list)
    emptied: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    cut: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, line: Line) -> None:
        """Record the empty and cut texts of a line."""
        if line.emptied:
            self.emptied[line.file].update(line.emptied)
        if line.cut:
            self.cut[line.file].append(line.number)

    def sentences(self, model: str | None) -> Iterator[str]:
        """Yield a note for each file and kind. ``model`` is the embedding model."""
        for file in self.without_lines:
            yield f"{file}: holds no line"
        for file, fields in self.emptied.items():
            named = ", ".join(f"{name} ({count:,} times)" for name, count in fields.items())
            yield f"{file}: empty text is taken as absent: {named}"
        for file, numbers in self.cut.items():
            shown = ", ".join(f"{number:,}" for number in numbers[:CUT_SHOWN])
            more = f" and {len(numbers) - CUT_SHOWN:,} more" if len(numbers) > CUT_SHOWN else ""
            yield (
                f"{file}: {plural(len(numbers), 'text')} over the limit of {model} "
                f"{'is' if len(numbers) == 1 else 'are'} cut for the embedding: line {shown}{more}"
            )
