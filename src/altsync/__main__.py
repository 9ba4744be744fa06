"""The entry of ``altsync`` and ``python -m altsync``. It imports nothing before it is asked."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Run the command line. Ctrl-C while it is imported ends with 130 and one line."""
    before = signal.signal(signal.SIGINT, _end)
    from altsync.cli import main as run

    signal.signal(signal.SIGINT, before)
    run()


def _end(_number: int, _frame: FrameType | None) -> None:
    # Not an exception: an extension that is being imported may turn it into another one.
    os.write(2, b"altsync: interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
