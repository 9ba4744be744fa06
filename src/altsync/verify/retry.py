"""Retries of reads: a comparison of thousands of reads survives one lost answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from altsync.errors import SinkFailure
from altsync.operations import ErrorKind

T = TypeVar("T")

#: Greatest number of attempts of a read.
TRIES = 4

#: Longest first pause in seconds. Each further one may be twice as long.
PAUSE = 0.5

#: Longest ``Retry-After`` in seconds. With a longer one, the sink counts as unavailable.
LONGEST = 60.0


def lost(failure: SinkFailure) -> bool:
    """Return whether the same read may succeed when it is repeated."""
    return failure.kind is not ErrorKind.ITEM


def hung(failure: SinkFailure) -> bool:
    """Return whether the read timed out, for a driver that repeats all other failures itself."""
    return failure.timed_out or failure.lock_conflict


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """A policy for reads: up to ``tries`` attempts, while ``worth`` returns true.

    ``wait`` waits between attempts. When it returns true, the run has to end.
    """

    wait: Callable[[float], Any]
    tries: int = TRIES
    worth: Callable[[SinkFailure], bool] = lost

    def __call__(self, call: Callable[[], T]) -> T:
        """Return the result of ``call``. Raises its last ``SinkFailure``."""
        for tried in range(1, self.tries):
            try:
                return call()
            except SinkFailure as failure:
                seconds = pause(failure, tried)
                if not self.worth(failure) or seconds > LONGEST or self.wait(seconds):
                    raise
        return call()


def pause(failure: SinkFailure, tried: int) -> float:
    """Return the seconds until the next attempt: ``Retry-After``, or else exponential."""
    if failure.retry_after is not None:
        return failure.retry_after
    bound = PAUSE * 2.0 ** (tried - 1)
    return random.uniform(bound / 2, bound)  # noqa: S311  (spreads load)
