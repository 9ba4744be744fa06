"""Adapt the load on a sink: increase it after quick answers, halve it after slow ones."""

from __future__ import annotations

import math
import threading
from collections import deque

#: Calls in flight before the first answer of a sink.
FIRST_IN_FLIGHT = 2

#: Smallest batch, in operations, for a slow sink.
LEAST_BATCH = 10

#: Growth of a batch after a quick answer, as a part of its full size.
REGROWTH = 0.1

#: Growth of requests beyond a size that was too large, as a part of it. Smaller than ``REGROWTH``:
#: each step too far costs refusals and waits.
STEP = 0.05

#: Refusals in a row after which a size is too large: two if it has not passed before, four if it
#: has. A sink that refuses half of its calls at random refuses four in a row once in sixteen.
REFUSALS_OF_NEW, REFUSALS_OF_PASSED = 2, 4

#: Number of requests for which a passed size is remembered: the limit may be lowered later.
REMEMBERED = 20


class AdaptiveConcurrency:
    """The load on one sink from one process: additive increase, multiplicative decrease.

    TCP finds the capacity of a network by the same rule: Chiu and Jain, "Analysis of the increase
    and decrease algorithms for congestion avoidance in computer networks" (1989). It sets the
    calls in flight, the size of batches, and the size of one request in tokens, bytes or records.
    An answer is slow after half the timeout: the next one of this size might not come in time. A
    single slow answer may be a server's first, and changes no batch. Threads may share it.
    """

    def __init__(self, *, in_flight: int, batch: int, timeout: float) -> None:
        self._most = in_flight
        self._full = batch
        self._slow = timeout / 2
        self._in_flight = min(FIRST_IN_FLIGHT, in_flight)
        self._batch = batch
        self._was_slow = False
        self._size = math.inf
        self._largest = 1.0
        self._passed: deque[float] = deque(maxlen=REMEMBERED)
        self._too_large = 1.0
        self._refused_in_a_row = 0
        self._lock = threading.Lock()

    @property
    def in_flight(self) -> int:
        """Return the calls of one batch that may be in flight at the same time; at least 1."""
        return self._in_flight

    @property
    def batch(self) -> int:
        """Return the number of operations to claim in one batch."""
        return self._batch

    @property
    def size(self) -> float:
        """Return the largest size of the next request; infinite before a refusal for the size."""
        return self._size

    def throttled(self, size: float) -> None:
        """Record that a request of ``size`` was refused; halve the next one after several in a row.

        Sinks also refuse for other reasons, so one refusal does not prove that the size is too
        large. Requests far below the limit do not count: a probe is a single record, and would
        reduce all later requests to single records.
        """
        with self._lock:
            self._largest = max(self._largest, size)
            if size <= min(self._size, self._largest) / 2:
                return
            has_passed = size <= max(self._passed, default=0.0)
            self._passed.append(0.0)
            self._refused_in_a_row += 1
            if self._refused_in_a_row < (REFUSALS_OF_PASSED if has_passed else REFUSALS_OF_NEW):
                return
            self._refused_in_a_row = 0
            self._too_large = size
            self._size = max(1.0, size / 2)

    def passed(self, size: float) -> None:
        """Let the next request grow, after one of ``size`` was answered.

        It grows by half of the distance to the size that was too large, as BIC does: Xu, Harfoush
        and Rhee, "Binary increase congestion control" (2004). Beyond this size it grows by steps.
        """
        with self._lock:
            self._passed.append(size)
            if size > min(self._size, self._largest) / 2:
                self._refused_in_a_row = 0
            if self._size < math.inf and size > self._size / 2:
                self._size += max(1.0, self._too_large * STEP, (self._too_large - self._size) / 2)
                if self._size > self._largest:
                    self._size = math.inf

    def answered(self, seconds: float) -> None:
        """Record that the calls of a wave were all answered, the last after ``seconds``."""
        if seconds > self._slow:
            self._slow_down(self._was_slow)
            return
        with self._lock:
            self._was_slow = False
            self._in_flight = min(self._most, self._in_flight + 1)
            self._batch = min(self._full, self._batch + max(1, int(self._full * REGROWTH)))

    def refused(self, seconds: float) -> None:
        """Record a failed call after ``seconds``; only a slow sink gets smaller batches."""
        if seconds > self._slow:
            self._slow_down(True)
            return
        with self._lock:
            self._in_flight = max(1, self._in_flight // 2)

    def _slow_down(self, smaller: bool) -> None:
        with self._lock:
            self._was_slow = True
            self._in_flight = max(1, self._in_flight // 2)
            if smaller:
                self._batch = min(self._full, max(LEAST_BATCH, self._batch // 2))
