"""``python -m altsync.seed``: the same as ``altsync seed``."""

from __future__ import annotations

from altsync.interrupts import end, interrupts_go_to

if __name__ == "__main__":
    with interrupts_go_to(end):
        from altsync.cli import seed_main
    seed_main()
