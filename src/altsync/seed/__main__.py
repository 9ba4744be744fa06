"""``python -m altsync.seed``: the same as ``altsync seed``."""

from __future__ import annotations

from altsync.cli import seed_main

if __name__ == "__main__":
    seed_main()
