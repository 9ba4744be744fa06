"""Repairs that wait until the comparison has counted how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from altsync.contract import Drift
from altsync.entities import EntityType
from altsync.verify.report import Tally
from altsync.wording import plural

#: Greatest number of pending removals, and of pending overwrites. The next run finds the rest.
KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Orphan:
    """A record of a sink without an entity in PostgreSQL. Some sinks have no ``namespace``."""

    entity_type: EntityType
    key: str
    version: int
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class AheadOfSource:
    """An entity of which a sink holds a version above PostgreSQL's.

    ``version`` is the highest plausible one, 0 for none. ``invalid_version``: the sink holds one
    that the sequence cannot have produced. ``edges`` counts wrong relationships.
    """

    entity_type: EntityType
    id: UUID
    key: str
    version: int
    invalid_version: bool
    edges: int


@dataclass(slots=True)
class PendingRepairs:
    """Removals and overwrites. ``misplaced`` are vectors in wrong namespaces.

    ``ahead_count`` includes entities beyond ``KEPT``.
    """

    orphans: list[Orphan] = field(default_factory=list)
    misplaced: list[Orphan] = field(default_factory=list)
    ahead_of_source: list[AheadOfSource] = field(default_factory=list)
    ahead_count: int = 0

    def add_orphans(self, found: Sequence[Orphan]) -> None:
        """Add orphans up to the limit."""
        self.orphans += found[: self._free]

    def add_misplaced(self, found: Sequence[Orphan]) -> None:
        """Add vectors in wrong namespaces up to the limit, which orphans share."""
        self.misplaced += found[: self._free]

    @property
    def _free(self) -> int:
        return max(0, KEPT - len(self.orphans) - len(self.misplaced))

    def add_ahead_of_source(self, found: Sequence[AheadOfSource]) -> None:
        """Count entities, and add them up to the limit."""
        self.ahead_count += len(found)
        self.ahead_of_source += found[: max(0, KEPT - len(self.ahead_of_source))]


def refusal(
    pending: PendingRepairs, tally: Tally, held: int, compared: int, share: float
) -> str | None:
    """Return why no pending repair is done, None when all may be done.

    ``held`` counts records of the sink, ``compared`` entities of PostgreSQL.
    """
    reasons = _too_many_ahead(pending.ahead_count, tally, compared, share)
    reasons += _too_many_removed(tally, held, share)
    return " ".join(reasons) or None


def _too_many_ahead(count: int, tally: Tally, compared: int, share: float) -> list[str]:
    if count <= share * compared:
        return []
    return [
        f"Of {count:,} of {plural(compared, 'compared entity', 'compared entities')}, "
        f"{tally.sink} holds a version above PostgreSQL's: more than the {share:.1%} that may "
        "be written over. Nothing was written over or removed. Is this a restored backup, or the "
        "wrong database? If DATABASE_URL is wrong, set it right. After a restore, follow "
        "docs/howto/recover.md; if PostgreSQL's rows are to win as they are, raise --max-delete, "
        "up to 1."
    ]


def _too_many_removed(tally: Tally, held: int, share: float) -> list[str]:
    orphans, misplaced = tally.kinds[Drift.ORPHAN], tally.kinds[Drift.WRONG_NAMESPACE]
    if orphans + misplaced <= share * held:
        return []
    also = f" or are in a wrong namespace ({misplaced:,})" if misplaced else ""
    return [
        f"Of {plural(held, 'record')} that {tally.sink} holds, {orphans + misplaced:,} are not in "
        f"PostgreSQL{also}: more than the {share:.1%} that may be removed. Nothing was removed. "
        "To remove them, raise --max-delete. Otherwise check that this is the right database."
    ]
