"""Faults between a worker and a sink."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol


class Fault(StrEnum):
    """The outcome of one call."""

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


class FaultPlan(Protocol):
    """Decides what becomes of the next call."""

    def next(self, keys: Sequence[str]) -> Fault:
        """The trouble of a call that carries ``keys``."""
        ...

    def delay(self) -> float:
        """Seconds by which a late write is late."""
        ...


class NoFaults:
    """Everything works."""

    def next(self, keys: Sequence[str]) -> Fault:
        """None."""
        return Fault.NONE

    def delay(self) -> float:
        """Nothing is late."""
        return 0.0


class FaultSequence:
    """The troubles of the next calls in their order, then calm."""

    def __init__(self, *faults: Fault, delay: float = 0.0) -> None:
        self._faults = list(faults)
        self._lateness = delay

    def next(self, keys: Sequence[str]) -> Fault:
        """The next one of the script."""
        return self._faults.pop(0) if self._faults else Fault.NONE

    def delay(self) -> float:
        """As the script says."""
        return self._lateness


class KeyFaults:
    """A call that carries one of ``keys`` always meets ``fault``."""

    def __init__(self, fault: Fault, keys: Iterable[str]) -> None:
        self._fault = fault
        self._keys = frozenset(keys)

    def next(self, keys: Sequence[str]) -> Fault:
        """The trouble, when one of the keys is there."""
        return self._fault if self._keys & set(keys) else Fault.NONE

    def delay(self) -> float:
        """Nothing is late."""
        return 0.0


class RandomFaults:
    """Trouble at random, planned outages, and records that are refused again and again.

    ``outages`` are (from, to) in seconds after ``began`` (``time.time()``). Late writes are at
    most ``most_late`` seconds late: a confirming write must outlive that.
    """

    #: How often each trouble comes, in calls of a thousand.
    ODDS: Mapping[Fault, int] = {
        Fault.SLOW: 40,
        Fault.LOST: 15,
        Fault.PARTIAL: 15,
        Fault.KILLED: 5,
        Fault.UNANSWERED: 15,
        Fault.LATE: 80,
        Fault.THROTTLED: 10,
    }

    #: One key of so many is a bad record for as long as the storm lasts.
    BAD_KEYS = 30

    def __init__(
        self,
        rng: random.Random,
        began: float,
        outages: Sequence[tuple[float, float]],
        most_late: float,
    ) -> None:
        self._rng = rng
        self._salt = f"{began}"
        self._began = began
        self._outages = outages
        self._most_late = most_late

    def next(self, keys: Sequence[str]) -> Fault:
        """Down during an outage; else at random."""
        now = time.time() - self._began
        if any(start <= now < end for start, end in self._outages):
            return Fault.DOWN
        if any(self._is_bad(key) for key in keys):
            return Fault.REFUSED
        faults = (Fault.NONE, *self.ODDS)
        weights = (1000 - sum(self.ODDS.values()), *self.ODDS.values())
        return self._rng.choices(faults, weights)[0]

    def _is_bad(self, key: str) -> bool:
        return random.Random(f"{self._salt}:{key}").randrange(self.BAD_KEYS) == 0

    def delay(self) -> float:
        """Anything up to the most."""
        return self._rng.uniform(0.05, self._most_late)
