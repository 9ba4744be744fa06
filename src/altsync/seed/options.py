"""Options of a seeding run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from altsync.catalogue.parts import Part


@dataclass(frozen=True, slots=True)
class SeedOptions:
    """Options of a seeding run.

    ``only`` names the file to read, by the field that lines take from the name of their file.
    ``followed``: the caller reads ``changed_in_run`` to follow the delivery of the changes.
    ``cut_long``: texts over the model's limit are cut for the embedding, and not refused.
    ``prune_saved``: ``prune`` also deletes entities that programs have saved.
    ``allow_erased``: lines of erased entities are loaded.
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
    allow_erased: bool = False
