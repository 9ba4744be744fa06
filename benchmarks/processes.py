"""Work in a process of its own, and the memory that it takes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

P = ParamSpec("P")
T = TypeVar("T")


def in_own_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result of a function in a fresh interpreter."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def peak_megabytes(pid: int | None = None) -> float:
    """The most memory that a process, this one by default, has had resident.

    Not by getrusage: Linux counts what the parent had at the fork, too.
    """
    if sys.platform == "linux":
        lines = Path(f"/proc/{pid or 'self'}/status").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
        return round(int(kilobytes) / 1024, 1)
    return round(float(psutil.Process(pid).memory_info().rss) / 2**20, 1)
