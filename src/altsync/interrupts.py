"""Handle Ctrl-C while modules are imported, and in a block."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

#: The output of ``--json`` after Ctrl-C.
_INTERRUPTED = (
    b'{"error": "interrupted", "kind": "interrupted", "exit": 130, "interrupted": true}\n'
)


@contextmanager
def interrupts_go_to(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Call ``handler`` on Ctrl-C within the block. In a thread, do nothing: it gets no signals."""
    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def end(_number: int, _frame: FrameType | None) -> None:
    """End the process with status 130, one line, and the document of ``--json``.

    An exception would not do: an extension that is being imported may replace it by another one.
    """
    os.write(2, b"altsync: interrupted\n")
    if "--json" in sys.argv:
        with suppress(OSError):  # the reader of the output may have ended
            os.write(1, _INTERRUPTED)
    os._exit(130)
