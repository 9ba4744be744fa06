"""Reports of deliveries: of one batch, and of one drain."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from altsync.operations import Settlement


@dataclass(slots=True)
class Batch:
    """One claimed batch and its settlement."""

    claimed: int = 0
    settlement: Settlement = field(default_factory=Settlement)
    calls: int = 0
    tokens: int = 0


@dataclass(slots=True)
class DrainResult:
    """The operations of one drain by their outcome.

    ``has_more``: its time ran out before the outbox was empty.
    """

    batches: int = 0
    claimed: int = 0
    synced: int = 0
    superseded: int = 0
    retried: int = 0
    dead: int = 0
    lost: int = 0
    remote_calls: int = 0
    tokens: int = 0
    seconds: float = 0.0
    has_more: bool = False

    def add(self, batch: Batch) -> None:
        """Count one more batch."""
        self.batches += 1
        self.claimed += batch.claimed
        self.remote_calls += batch.calls
        self.tokens += batch.tokens
        for name, count in asdict(batch.settlement).items():
            setattr(self, name, getattr(self, name) + count)
