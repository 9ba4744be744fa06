"""The violations that the oracle reports, and their texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

#: Errors of one kind that a report spells out.
SHOWN = 5


class Problem(StrEnum):
    """A kind of violation."""

    LOST = "lost"
    ORPHAN = "orphan"
    STALE = "stale"
    STATUS = "wrong status"
    SYNCED_IS_FALSE = "synced is false"
    LIVE = "live operations"
    TWO_LIVE = "two live operations"
    ATTEMPTS = "attempts"
    DEAD = "dead"
    VERSION_DOWN = "version went down"
    OLDER_OVER_NEWER = "older over newer"
    DEADLOCK = "deadlock"
    PAID_TWICE = "paid twice"
    CALLS_AT_REST = "calls at rest"
    ERROR = "error"
    VACUOUS = "vacuous"


@dataclass(frozen=True, slots=True)
class Violation:
    """One finding; ``key`` is the entity's, when it is about one."""

    what: Problem
    where: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.where}"


def summary(violations: Iterable[Violation]) -> str:
    """How many of each kind, and the first few of them."""
    listed = list(violations)
    counts = Counter(violation.what for violation in listed)
    lines = [f"{count} x {what}" for what, count in counts.most_common()]
    for what in counts:
        lines += [f"  {v}" for v in [v for v in listed if v.what is what][:SHOWN]]
    return "\n".join(lines)


def kinds(violations: Iterable[Violation]) -> set[Problem]:
    """Return the kinds of violations, without the places."""
    return {violation.what for violation in violations}
