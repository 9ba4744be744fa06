"""Freshness: how old changes are when a sink confirms them, and an objective for it.

Pure functions. Ages are counted in buckets, so that percentiles cost no scan of history.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: Upper bounds of the buckets in seconds: ten a decade, from 10 ms to 9 days. The last bucket has
#: no bound. Usual objectives, as 5 s or 60 s, are bounds, so that their share is exact.
BOUNDS = tuple(
    round(step * 10.0**decade, 3)
    for decade in range(-2, 6)
    for step in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
)

#: Windows of burn rates, in seconds: a long one, and a short one that ends the alert early.
#: https://sre.google/workbook/alerting-on-slos/ (multiwindow, multi-burn-rate alerts)
WINDOWS = {"5m": 300, "30m": 1800, "1h": 3600, "6h": 21_600}

#: The window of percentiles and shares.
WINDOW = "1h"

#: Burn rates that alert, by their long and short window. They use 2 % of a budget of 30 days in
#: an hour, and 5 % in six hours.
ALERTS = {("1h", "5m"): 14.4, ("6h", "30m"): 6.0}

#: Percentiles that are shown.
PERCENTILES = (50, 95, 99)

#: Seconds of the units of an objective.
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

_OBJECTIVE = re.compile(r"(\w+)\s*=\s*(\d{1,6}(?:\.\d{1,6})?)\s*(ms|s|m|h)")

#: The share of changes that must meet an objective, unless the settings give another.
TARGET = 0.99

#: Changes by bucket.
Counts = Mapping[int, int]


def read_objectives(text: str) -> dict[str, float]:
    """Return the objectives of a text such as ``embedding=5s,similarity=2m`` in seconds, by sink.

    Raises ``ValueError``.
    """
    found: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        match = _OBJECTIVE.fullmatch(part)
        if match is None:
            raise ValueError("give sink=time,sink=time, with times as 250ms, 5s, 2m or 1h")
        name, seconds = match[1], float(match[2]) * UNITS[match[3]]
        if name in found:
            raise ValueError("one sink has two objectives: give one")
        if not 0 < seconds <= BOUNDS[-1]:
            raise ValueError("an objective must be above 0 and at most 222 hours")
        found[name] = seconds
    return found


def bucket_of(age: float) -> int:
    """Return the bucket of an age in seconds."""
    return bisect_left(BOUNDS, age)


def counted(ages: Iterable[float]) -> Counts:
    """Count ages in seconds by bucket."""
    return Counter(map(bucket_of, ages))


def _span(bucket: int) -> tuple[float, float]:
    """Return the bounds of a bucket; the last one is taken as empty."""
    lower = BOUNDS[bucket - 1] if bucket else 0.0
    return lower, BOUNDS[bucket] if bucket < len(BOUNDS) else lower


def percentile(counts: Counts, percent: float) -> float | None:
    """Return the age in seconds that ``percent`` of the changes do not exceed; None without any.

    Ages are taken as evenly spread within a bucket, so the result is off by a quarter at most.
    """
    wanted = sum(counts.values()) * percent / 100
    seen = 0
    for bucket in sorted(counts):
        lower, upper = _span(bucket)
        if counts[bucket] and seen + counts[bucket] >= wanted:
            return lower + (upper - lower) * max(0.0, wanted - seen) / counts[bucket]
        seen += counts[bucket]
    return None


def within(counts: Counts, seconds: float) -> float:
    """Return the number of changes not older than ``seconds``; exact if it is one of ``BOUNDS``."""
    found = 0.0
    for bucket, count in counts.items():
        lower, upper = _span(bucket)
        if bucket < len(BOUNDS) and upper <= seconds:
            found += count
        elif bucket < len(BOUNDS) and lower < seconds:
            found += count * (seconds - lower) / (upper - lower)
    return found


def share_within(counts: Counts, seconds: float, overdue: int = 0) -> float | None:
    """Return the share of changes that met an objective; None without any.

    ``overdue`` changes still wait, and are older than the objective already.
    """
    total = sum(counts.values()) + overdue
    return within(counts, seconds) / total if total else None


def burn_rate(share: float | None, target: float) -> float:
    """Return how many times faster than allowed the error budget is used; 0 without changes.

    ``target`` is the share that must meet the objective, below 1. At a rate of 1 the budget lasts
    exactly for its period.
    """
    return 0.0 if share is None else (1 - share) / (1 - target)


@dataclass(frozen=True, slots=True)
class Freshness:
    """The freshness of one sink. Times are in seconds.

    ``changes``, ``p50``, ``p95``, ``p99`` and ``share`` are of the last hour. ``objective`` is the
    age that a share of ``target`` must not exceed. ``burn`` are burn rates by window. ``overdue``
    counts changes that still wait, and are older than the objective.
    """

    changes: int = 0
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    objective: float | None = None
    target: float | None = None
    share: float | None = None
    overdue: int = 0
    burn: Mapping[str, float] | None = None

    @property
    def alerting(self) -> bool:
        """Return whether a pair of windows burns the budget too fast."""
        burn = self.burn or {}
        return any(
            burn.get(long, 0.0) > rate and burn.get(short, 0.0) > rate
            for (long, short), rate in ALERTS.items()
        )


def freshness_of(
    by_window: Mapping[str, Counts], objective: float | None, target: float, overdue: int = 0
) -> Freshness:
    """Return the freshness of a sink from its counts in each of ``WINDOWS``."""
    counts = by_window.get(WINDOW, {})
    p50, p95, p99 = (percentile(counts, percent) for percent in PERCENTILES)
    changes = sum(counts.values())
    if objective is None:
        return Freshness(changes, p50, p95, p99)
    shares = {name: share_within(by_window.get(name, {}), objective, overdue) for name in WINDOWS}
    burn = {name: burn_rate(share, target) for name, share in shares.items()}
    return Freshness(changes, p50, p95, p99, objective, target, shares[WINDOW], overdue, burn)
