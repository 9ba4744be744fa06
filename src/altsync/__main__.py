"""The entry of ``altsync`` and ``python -m altsync``."""

from __future__ import annotations

from altsync.interrupts import end, interrupts_go_to


def main() -> None:
    """Run the command line."""
    with interrupts_go_to(end):
        from altsync.cli import main as run
    run()


if __name__ == "__main__":
    main()
