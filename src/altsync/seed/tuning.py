"""Tune the interpreter during a seeding run. Each setting was measured."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Allocations between two garbage collections: the objects of a few batches. Lines make many
#: small objects without cycles. The default of 700 takes a quarter of the seeder's CPU time
#: (20,000 new rows: 1.17 s instead of 0.89 s).
GC_THRESHOLD = 100_000

#: GIL switch interval in seconds. The writer thread waits for the thread that prepares the next
#: batch some twenty times a batch. The default of 5 ms stalls it for up to a third of a run.
SWITCH_INTERVAL = 0.0002


@contextmanager
def tuned_interpreter() -> Iterator[None]:
    """Set the threshold and the interval for a block, then restore both."""
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(GC_THRESHOLD, *threshold[1:])
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
