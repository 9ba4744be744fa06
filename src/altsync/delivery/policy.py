"""The settings of delivery, and how long failed calls are waited for."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal

from altsync.costs.ledger import Pricing
from altsync.errors import LONGEST_WAIT


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings of delivery; times are in seconds. ``Settings`` explains each.

    ``max_cost_per_day`` is in dollars, over all workers and sinks.
    """

    batch_size: int = 500
    lease: float = 30.0
    timeout: float = 10.0
    max_attempts: int = 5
    max_lost_leases: int = 10
    backoff: float = 1.0
    backoff_cap: float = 300.0
    breaker_cap: float = 30.0
    confirm_after: float = 40.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    prices: Pricing | None = None
    max_cost_per_day: Decimal | None = None

    @property
    def longest_open(self) -> float:
        """Seconds for which a breaker may stay open at most."""
        return max(self.breaker_cap, LONGEST_WAIT)


def full_jitter(base: float, cap: float, attempts: int) -> float:
    """Return the seconds until the next try: uniform between 0 and an exponential bound.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.uniform(0, min(cap, base * 2.0 ** min(attempts, 30)))  # noqa: S311


def half_jitter(base: float, cap: float, attempts: int) -> float:
    """Return the seconds until the next try: uniform in the upper half of ``full_jitter``."""
    bound = min(cap, base * 2.0 ** min(attempts, 30))
    return random.uniform(bound / 2, bound)  # noqa: S311  (spreads load, guards nothing)
