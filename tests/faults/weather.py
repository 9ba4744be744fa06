"""What goes wrong on the way to a sink."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol


class Trouble(StrEnum):
    """What becomes of one call."""

    NONE = "none"
    #: The answer takes its time, within the client's timeout.
    SLOW = "slow"
    #: No connection: nothing is applied.
    DOWN = "down"
    #: The connection is reset: nothing is applied, which the client cannot know.
    LOST = "lost"
    #: Half is applied, then the server breaks.
    PARTIAL = "partial"
    #: Half is applied, then the client dies.
    KILLED = "killed"
    #: All is applied, and no answer comes in time.
    UNANSWERED = "unanswered"
    #: No answer comes in time, and all is applied later.
    LATE = "late"
    #: Asked to wait.
    THROTTLED = "throttled"
    #: The whole request is refused for one of its records.
    REFUSED = "refused"


class Weather(Protocol):
    """Decides what becomes of the next call."""

    def next(self, keys: Sequence[str]) -> Trouble:
        """The trouble of a call that carries ``keys``."""
        ...

    def lateness(self) -> float:
        """Seconds by which a late write is late."""
        ...


class Calm:
    """Everything works."""

    def next(self, keys: Sequence[str]) -> Trouble:
        """None."""
        return Trouble.NONE

    def lateness(self) -> float:
        """Nothing is late."""
        return 0.0


class Script:
    """The troubles of the next calls in their order, then calm."""

    def __init__(self, *troubles: Trouble, lateness: float = 0.0) -> None:
        self._troubles = list(troubles)
        self._lateness = lateness

    def next(self, keys: Sequence[str]) -> Trouble:
        """The next one of the script."""
        return self._troubles.pop(0) if self._troubles else Trouble.NONE

    def lateness(self) -> float:
        """As the script says."""
        return self._lateness


class Spell:
    """A call that carries one of ``keys`` always meets ``trouble``."""

    def __init__(self, trouble: Trouble, keys: Iterable[str]) -> None:
        self._trouble = trouble
        self._keys = frozenset(keys)

    def next(self, keys: Sequence[str]) -> Trouble:
        """The trouble, when one of the keys is there."""
        return self._trouble if self._keys & set(keys) else Trouble.NONE

    def lateness(self) -> float:
        """Nothing is late."""
        return 0.0


class Storm:
    """Trouble at random, planned outages, and records that are refused again and again.

    ``outages`` are (from, to) in seconds after ``began`` (``time.time()``). Late writes are at
    most ``most_late`` seconds late: what an echo is there to outlive.
    """

    #: How often each trouble comes, in calls of a thousand.
    ODDS: Mapping[Trouble, int] = {
        Trouble.SLOW: 40,
        Trouble.LOST: 15,
        Trouble.PARTIAL: 15,
        Trouble.KILLED: 5,
        Trouble.UNANSWERED: 15,
        Trouble.LATE: 80,
        Trouble.THROTTLED: 10,
    }

    #: One key of so many is a bad record for as long as the storm lasts.
    BAD_KEYS = 30

    def __init__(
        self,
        dice: random.Random,
        began: float,
        outages: Sequence[tuple[float, float]],
        most_late: float,
    ) -> None:
        self._dice = dice
        self._salt = f"{began}"
        self._began = began
        self._outages = outages
        self._most_late = most_late

    def next(self, keys: Sequence[str]) -> Trouble:
        """Down during an outage; else at random."""
        now = time.time() - self._began
        if any(start <= now < end for start, end in self._outages):
            return Trouble.DOWN
        if any(self._is_bad(key) for key in keys):
            return Trouble.REFUSED
        troubles = (Trouble.NONE, *self.ODDS)
        weights = (1000 - sum(self.ODDS.values()), *self.ODDS.values())
        return self._dice.choices(troubles, weights)[0]

    def _is_bad(self, key: str) -> bool:
        return random.Random(f"{self._salt}:{key}").randrange(self.BAD_KEYS) == 0

    def lateness(self) -> float:
        """Anything up to the most."""
        return self._dice.uniform(0.05, self._most_late)
