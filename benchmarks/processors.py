"""Seconds of processors that servers and workers take."""

from __future__ import annotations

import psutil
import psycopg


def processor_seconds(parent: psutil.Process) -> float:
    """Return the processor seconds of a process and all its descendants, ended ones included."""
    return float(sum(sum(one.cpu_times()[:4]) for one in [parent, *parent.children(True)]))


def server_seconds(url: str) -> float:
    """Return the processor seconds of the PostgreSQL server of a URL, on this machine."""
    with psycopg.connect(url) as conn:
        postmaster = psutil.Process(conn.info.backend_pid).parent()
        assert postmaster is not None
        return processor_seconds(postmaster)
