"""How fast a sink drains, predicted from latency, batch size and concurrency.

Workers are customers of a closed queueing network: each thinks for as long as its remote calls
take, then asks for what all share, PostgreSQL and the processors. Mean value analysis of such a
network: Reiser and Lavenberg, Journal of the ACM 27 (1980), 313-322.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """What a batch costs without its sink, in seconds.

    ``batch`` and ``row`` are one worker's time for each batch and each row in it; ``shared`` is
    the part of it, from 0 to 1, in which no two workers get on at the same time.
    """

    batch: float
    row: float
    shared: float

    def own(self, size: int) -> float:
        """Seconds that one worker alone takes for a batch of ``size`` rows."""
        return self.batch + self.row * size


def costs(small: tuple[int, float], large: tuple[int, float], many: float) -> Costs:
    """Costs from measurements without latency.

    ``small`` and ``large`` are batch sizes with the rows per second of one worker; ``many`` is
    the rows per second of so many workers, with large batches, that more would not be faster.
    """
    (few, slow), (size, fast) = small, large
    row = (size / fast - few / slow) / (size - few)
    batch = max(0.0, size / fast - row * size)
    return Costs(batch, row, min(1.0, fast / many))


def throughput(known: Costs, *, latency: float, size: int, workers: int, calls: float = 1) -> float:
    """Rows per second of ``workers``, with batches of ``size`` rows.

    Each batch makes ``calls`` remote calls, one after the other, of ``latency`` seconds.
    """
    demand = known.own(size) * known.shared
    thinking = latency * calls + known.own(size) - demand
    waiting = 0.0
    batches = 0.0
    for customers in range(1, workers + 1):
        response = demand * (1 + waiting)
        batches = customers / (thinking + response)
        waiting = batches * response
    return batches * size


def workers_for(known: Costs, rate: float, *, latency: float, size: int, calls: float = 1) -> int:
    """Return the fewest workers that reach ``rate`` rows per second.

    Raises ``ValueError`` if no number does, because their shared part is the limit.
    """
    limit = size / (known.own(size) * known.shared)
    if rate >= limit:
        raise ValueError(f"one PostgreSQL like the one measured ends at {limit:,.0f} rows/s")
    workers = math.ceil(rate / (size / (latency * calls + known.own(size))))
    while throughput(known, latency=latency, size=size, workers=workers, calls=calls) < rate:
        workers += 1
    return workers
