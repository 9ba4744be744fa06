"""Ctrl-C while modules are imported, and handlers of it that are taken back."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

#: What ``--json`` prints after Ctrl-C.
_INTERRUPTED = (
    b'{"error": "interrupted", "kind": "interrupted", "exit": 130, "interrupted": true}\n'
)


@contextmanager
def interrupts_go_to(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Handle Ctrl-C by ``handler`` meanwhile; in a thread, which gets no signals, as before."""
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
    """End the process with 130 and one line, and the document of ``--json``, during imports.

    Not by an exception: an extension that is being imported may turn it into another one.
    """
    os.write(2, b"altsync: interrupted\n")
    if "--json" in sys.argv:
        with suppress(OSError):  # its reader has ended as well
            os.write(1, _INTERRUPTED)
    os._exit(130)
