"""What a seeding run is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from altsync.catalogue.parts import Part


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """What a run is asked to do.

    ``only`` names, for fields that lines take from the name of their file, the file to read.
    ``followed``: the caller will ask the session how far the sinks are with what it changed.
    ``cut_long``: texts over the model's limit are cut when they are embedded, and not refused.
    ``prune_saved``: ``prune`` also deletes what programs have saved.
    """

    folder: Path
    parts: tuple[Part, ...]
    limit: int | None = None
    only: Mapping[str, str] = field(default_factory=dict)
    prune: bool = False
    yes: bool = False
    strict: bool = False
    dry_run: bool = False
    followed: bool = True
    cut_long: bool = False
    prune_saved: bool = False
