"""How much is asked of a sink at once: more while it answers well, half when it does not."""

from __future__ import annotations

import math
import threading

#: Calls under way at once before a sink has shown what it bears.
FIRST_IN_FLIGHT = 2

#: Operations of one batch at least, however slowly a sink answers.
LEAST_BATCH = 10

#: By how much of its full size a batch grows again after a quick answer.
REGROWTH = 0.1

#: By how much of the largest request that was tried the next one grows after an answer. Smaller
#: than ``REGROWTH``: each step too far costs a refusal and a wait.
STEP = 0.05


class Pace:
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
        """Halve the size of the next request, after one of ``size`` was refused.

        A request far below what may be sent was not refused for its size: probes are single
        records, and would leave single records to all that follows.
        """
        with self._lock:
            self._largest = max(self._largest, size)
            if size > min(self._size, self._largest) / 2:
                self._size = max(1.0, size / 2)

    def passed(self, size: float) -> None:
        """Let the next request grow by a step, after one of ``size`` was answered."""
        with self._lock:
            if self._size < math.inf and size > self._size / 2:
                self._size += max(1.0, self._largest * STEP)
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
