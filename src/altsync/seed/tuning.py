"""Tune the interpreter during a seeding run. Each setting was measured."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

#: Allocations between two garbage collections: the objects of a few batches. Lines make many
#: small objects without cycles, and the default of 700 costs a seventh of a run.
GC_THRESHOLD = 100_000

#: GIL switch interval in seconds. The default of 5 ms stalls the writer thread, which waits for
#: the thread of the next batch some twenty times a batch, up to a third of a run.
SWITCH_INTERVAL = 0.0002


@contextmanager
def tuned_interpreter() -> Iterator[None]:
    """Collect garbage rarely and switch threads early; restore both settings at the end."""
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(GC_THRESHOLD, *threshold[1:])
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
