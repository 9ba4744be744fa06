"""The numbers of delivery."""

from __future__ import annotations

import random
from dataclasses import dataclass

from altsync.errors import LONGEST_WAIT


@dataclass(frozen=True, slots=True)
class Policy:
    """The numbers of delivery; times are in seconds. See ``Settings`` for their meaning."""

    batch_size: int = 500
    lease: float = 30.0
    timeout: float = 10.0
    max_attempts: int = 5
    max_lost_leases: int = 10
    backoff: float = 1.0
    backoff_cap: float = 300.0
    breaker_cap: float = 30.0
    confirm_after: float = 40.0
    debounce: float = 0.2
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    @property
    def longest_open(self) -> float:
        """Seconds for which a breaker may stay open at most."""
        return max(self.breaker_cap, LONGEST_WAIT)


def full_jitter(base: float, cap: float, attempts: int) -> float:
    """Seconds until the next try: uniform between 0 and an exponential bound.

    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """
    return random.uniform(0, min(cap, base * 2.0 ** min(attempts, 30)))  # noqa: S311
