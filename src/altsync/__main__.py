"""``python -m altsync``: the same as ``altsync``."""

from __future__ import annotations

from altsync.cli import main

if __name__ == "__main__":
    main()
