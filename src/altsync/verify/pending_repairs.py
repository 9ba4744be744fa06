"""What a comparison finds and does nothing about before its share is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from altsync.contract import Drift
from altsync.entities import EntityType
from altsync.verify.report import Tally
from altsync.wording import plural

#: Finds that are remembered, of what may be removed and of what is above PostgreSQL; what is
#: beyond them is for the next run.
KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Ghost:
    """What a sink holds and PostgreSQL does not. ``namespace`` where the sink has them."""

    entity_type: EntityType
    key: str
    version: int
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Above:
    """An entity of which a sink holds a version above PostgreSQL's.

    ``version`` is the one to go above, 0 for none. ``absurd``: there is one that no sequence can
    have given out. ``edges`` are wrong relationships.
    """

    entity_type: EntityType
    id: UUID
    key: str
    version: int
    absurd: bool
    edges: int


@dataclass(slots=True)
class Waiting:
    """What waits for its share. ``strays`` are vectors in namespaces that are not theirs.

    ``all_above`` counts those that are not remembered, too.
    """

    ghosts: list[Ghost] = field(default_factory=list)
    strays: list[Ghost] = field(default_factory=list)
    above: list[Above] = field(default_factory=list)
    all_above: int = 0

    def add_ghosts(self, found: Sequence[Ghost]) -> None:
        """Remember ghosts up to a limit."""
        self.ghosts += found[: self._room]

    def add_strays(self, found: Sequence[Ghost]) -> None:
        """Remember vectors in wrong namespaces, up to the limit that ghosts have."""
        self.strays += found[: self._room]

    @property
    def _room(self) -> int:
        return max(0, KEPT - len(self.ghosts) - len(self.strays))

    def add_above(self, found: Sequence[Above]) -> None:
        """Count entities, and remember them up to a limit."""
        self.all_above += len(found)
        self.above += found[: max(0, KEPT - len(self.above))]


def refusal(waiting: Waiting, tally: Tally, held: int, compared: int, share: float) -> str | None:
    """Return why nothing of it is done, None when all of it may be.

    ``held`` are records of the sink, ``compared`` entities of PostgreSQL.
    """
    reasons = _too_many_above(waiting.all_above, tally, compared, share)
    reasons += _too_many_removed(tally, held, share)
    return " ".join(reasons) or None


def _too_many_above(count: int, tally: Tally, compared: int, share: float) -> list[str]:
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
    ghosts, strays = tally.kinds[Drift.GHOST], tally.kinds[Drift.WRONG_NAMESPACE]
    if ghosts + strays <= share * held:
        return []
    astray = f" or are in a wrong namespace ({strays:,})" if strays else ""
    return [
        f"Of {plural(held, 'record')} that {tally.sink} holds, {ghosts + strays:,} are not in "
        f"PostgreSQL{astray}: more than the {share:.1%} that may be removed. Nothing was removed. "
        "If they are to go, raise --max-delete; if not, see whether this is the right database."
    ]
