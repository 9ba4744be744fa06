"""How much is asked of a sink at once: more while it answers well, half when it does not."""

from __future__ import annotations

import math
import threading
from collections import deque

#: Calls under way at once before a sink has shown what it bears.
FIRST_IN_FLIGHT = 2

#: Operations of one batch at least, however slowly a sink answers.
LEAST_BATCH = 10

#: By how much of its full size a batch grows again after a quick answer.
REGROWTH = 0.1

#: By how much of a size that was too large requests grow beyond it. Smaller than ``REGROWTH``:
#: each step too far costs refusals and waits.
STEP = 0.05

#: Refusals in a row after which a size is too large: two of one that has not passed, four of one
#: that has. A sink that refuses half of its calls at random refuses four in a row once in sixteen.
REFUSALS_OF_NEW, REFUSALS_OF_PASSED = 2, 4

#: Requests after which it is forgotten that one of a size has passed: the limit may be lower now.
REMEMBERED = 20


class AdaptiveConcurrency:
    """The pace of one sink in one process: additive increase, multiplicative decrease.

    The rule by which TCP finds the capacity of a network, for calls in flight and for the size
    of batches: Chiu and Jain, "Analysis of the increase and decrease algorithms for congestion
    avoidance in computer networks" (1989). An answer is slow after half the time that a call
    may take: the next one, just as large, might not come in time. One slow answer alone may be
    a server's first, and changes no batch. The size of one request follows the same rule, for
    limits that count tokens, bytes or records. Threads may share it.
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
        """Calls of one batch that may be under way at once; at least 1."""
        return self._in_flight

    @property
    def batch(self) -> int:
        """Operations to claim at once."""
        return self._batch

    @property
    def size(self) -> float:
        """Size of the next request at most; infinite until one was refused for its size."""
        return self._size

    def throttled(self, size: float) -> None:
        """Note that a request of ``size`` was refused; halve the next one's when that is why.

        It takes several refusals in a row: sinks refuse for other reasons too, and a size is
        only to blame when it is refused again. A request far below what may be sent was not
        refused for its size: probes are single records, and would leave single records to all
        that follows.
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

        By half of what is missing to the size that was too large, as BIC does: Xu, Harfoush and
        Rhee, "Binary increase congestion control" (2004); beyond it by steps.
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
        """Calls that went out together were all answered, the last after ``seconds``."""
        if seconds > self._slow:
            self._slow_down(self._was_slow)
            return
        with self._lock:
            self._was_slow = False
            self._in_flight = min(self._most, self._in_flight + 1)
            self._batch = min(self._full, self._batch + max(1, int(self._full * REGROWTH)))

    def refused(self, seconds: float) -> None:
        """The sink itself failed a call, after ``seconds``; small batches help a slow one only."""
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
