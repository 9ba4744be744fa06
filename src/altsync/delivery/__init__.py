"""Deliver operations to one sink: claim, read, write, settle."""

from __future__ import annotations

from altsync.delivery.batches import Delivery
from altsync.delivery.policy import Policy, full_jitter
from altsync.delivery.state import Batch, DrainResult

__all__ = ["Batch", "Delivery", "DrainResult", "Policy", "full_jitter"]
