"""Delivery of operations to one sink."""

from __future__ import annotations

from altsync.delivery.batches import Batch, Delivery, DrainResult
from altsync.delivery.policy import Policy, full_jitter

__all__ = ["Batch", "Delivery", "DrainResult", "Policy", "full_jitter"]
