"""Count the changes of a write."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Changes:
    """The numbers of changed rows and enqueued operations.

    ``version``: the changes have this version or lower ones. ``altsync.wait`` takes it.
    """

    created: int = 0
    updated: int = 0
    deleted: int = 0
    operations: int = 0
    version: int = field(default=0, compare=False)

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.created + other.created,
            self.updated + other.updated,
            self.deleted + other.deleted,
            self.operations + other.operations,
            max(self.version, other.version),
        )
