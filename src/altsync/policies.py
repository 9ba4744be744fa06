"""Derive the policies of delivery and relay from the settings."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from altsync.config import Settings
from altsync.contract import EMBEDDING, SIMILARITY
from altsync.costs.prices import Prices, load_prices
from altsync.delivery import Policy
from altsync.outbox.enqueue import HOLD
from altsync.relay import RelayPolicy

#: Batches of entities that share one pass over their group: the pass costs as much for one batch.
SHARED_PASS = 4


@lru_cache
def prices_of(path: Path | None) -> Prices:
    """Return the table of prices, read once. Raises ``ConfigurationError``."""
    return load_prices(path)


def delivery_policy(settings: Settings, sink: str) -> Policy:
    """Return the policy of delivery to a sink."""
    paid = sink == EMBEDDING
    shared = sink == SIMILARITY and settings.altsync_similarity == "local"
    return Policy(
        batch_size=settings.altsync_batch_size * (SHARED_PASS if shared else 1),
        lease=settings.altsync_lease_seconds,
        timeout=settings.altsync_sink_timeout_seconds,
        max_attempts=settings.altsync_max_attempts,
        max_lost_leases=settings.altsync_max_lost_leases,
        backoff=settings.altsync_backoff_seconds,
        backoff_cap=settings.altsync_backoff_cap_seconds,
        breaker_cap=settings.altsync_breaker_cap_seconds,
        confirm_after=settings.confirm_after_seconds,
        requests_per_minute=settings.altsync_openai_requests_per_minute if paid else None,
        tokens_per_minute=settings.altsync_openai_tokens_per_minute if paid else None,
        prices=prices_of(settings.altsync_prices),
        max_cost_per_day=settings.altsync_max_cost_per_day,
    )


def relay_policy(settings: Settings) -> RelayPolicy:
    """Return the policy of the relay."""
    return RelayPolicy(
        poll=settings.altsync_poll_seconds,
        batch_size=settings.altsync_batch_size,
        wake_limit=settings.altsync_wake_limit,
        max_lost_leases=settings.altsync_max_lost_leases,
        purge_grace=settings.altsync_purge_grace_seconds,
        confirm_after=settings.confirm_after_seconds,
        lease=settings.altsync_lease_seconds,
        longest_retry=longest_retry(settings),
        longest_open=delivery_policy(settings, EMBEDDING).longest_open,
    )


def longest_retry(settings: Settings) -> float:
    """Return the longest time that an operation may wait, in seconds."""
    return max(
        HOLD,
        settings.altsync_backoff_cap_seconds,
        delivery_policy(settings, EMBEDDING).longest_open,
    )
