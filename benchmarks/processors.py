"""Seconds of processors that servers and workers take."""

from __future__ import annotations

import psutil
import psycopg


def processor_seconds(parent: psutil.Process) -> float:
    """What a process and all its descendants have taken, those that are no more included."""
    return float(sum(sum(one.cpu_times()[:4]) for one in [parent, *parent.children(True)]))


def server_seconds(url: str) -> float:
    """What the PostgreSQL server behind a URL has taken, on this machine."""
    with psycopg.connect(url) as conn:
        postmaster = psutil.Process(conn.info.backend_pid).parent()
        assert postmaster is not None
        return processor_seconds(postmaster)
