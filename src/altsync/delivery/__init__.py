"""Delivery of operations to one sink."""

from __future__ import annotations

from altsync.delivery.batches import Batch, Delivery, Drained
from altsync.delivery.policy import Policy, full_jitter

__all__ = ["Batch", "Delivery", "Drained", "Policy", "full_jitter"]
