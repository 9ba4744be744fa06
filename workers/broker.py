"""Asking a broker of any kind whether it answers."""

from __future__ import annotations

from kombu.connection import Connection


def ask(url: str, timeout: float) -> None:
    """Connect to a broker within ``timeout`` seconds. Raises kombu's own errors."""
    with Connection(url, connect_timeout=timeout) as connection:  # type: ignore[no-untyped-call]
        connection.ensure_connection(max_retries=1, timeout=timeout)
