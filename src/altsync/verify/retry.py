"""Reads that are repeated: one lost answer among thousands is no reason to know nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from altsync.errors import SinkFailure
from altsync.operations import ErrorKind

T = TypeVar("T")

#: Times that a read is asked for in all.
TRIES = 4

#: Seconds of the longest first pause; each further one may be twice as long.
PAUSE = 0.5

#: Seconds that a sink may ask to be left alone for; who asks for more is away.
LONGEST = 60.0


def lost(failure: SinkFailure) -> bool:
    """Return whether the same read may pass when it is asked for again."""
    return failure.kind is not ErrorKind.ITEM


def hung(failure: SinkFailure) -> bool:
    """Whether no answer came, for a driver that repeats by itself what was refused or cut off."""
    return failure.timed_out or failure.lock_conflict


@dataclass(frozen=True, slots=True)
class Patience:
    """Asks up to ``tries`` times, with a pause in between, while ``worth`` says so.

    Only for reads. ``wait`` is the run's own way to wait; when it answers true, the run is to
    end, and nothing is asked for any more.
    """

    wait: Callable[[float], Any]
    tries: int = TRIES
    worth: Callable[[SinkFailure], bool] = lost

    def __call__(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns at last. Raises ``SinkFailure``: the last one."""
        for tried in range(1, self.tries):
            try:
                return call()
            except SinkFailure as failure:
                seconds = pause(failure, tried)
                if not self.worth(failure) or seconds > LONGEST or self.wait(seconds):
                    raise
        return call()


def pause(failure: SinkFailure, tried: int) -> float:
    """Seconds until the next try: what the sink asks for, or else longer each time."""
    if failure.retry_after is not None:
        return failure.retry_after
    bound = PAUSE * 2.0 ** (tried - 1)
    return random.uniform(bound / 2, bound)  # noqa: S311  (spreads load, guards nothing)
