"""Free TCP ports on one address."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Sequence

#: Below the ephemeral ports of Linux (32768) and macOS (49152). A client that retries the port of
#: a stopped server there can connect to itself, and then holds the port.
PORT_RANGE = range(20_000, 32_000)

#: Seconds between two checks of a port that is being released.
POLL_SECONDS = 0.02


def is_free(port: int, host: str) -> bool:
    """Return whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def become_free(wanted: Sequence[int], host: str, timeout: float) -> bool:
    """Return whether all these ports are free within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not all(is_free(port, host) for port in wanted):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def free_ports(count: int, host: str) -> tuple[int, ...]:
    """Return ``count`` different free ports."""
    candidates = random.sample(PORT_RANGE, len(PORT_RANGE))  # not a secret
    free = (port for port in candidates if is_free(port, host))
    return tuple(port for port, _ in zip(free, range(count), strict=False))


def accepts(port: int, host: str) -> bool:
    """Return whether a server accepts connections on the port."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False
