"""SIGKILL for workers amid their work, and what they held when it came."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from tests.acceptance.stack import GOODBYE, Running, Stack


@dataclass(frozen=True)
class Kill:
    """One SIGKILL: its victim, operations that were live, those it held, and texts among them."""

    pid: int
    live: int
    held: int
    texts: int


def kill_process(
    stack: Stack, workers: Sequence[Running], chance: random.Random, sink: str | None
) -> Kill:
    """Freeze a process that delivers (to ``sink``), look at what it holds, and kill it."""

    def delivering() -> list[psutil.Process]:
        leases = stack.leases(sink)
        processes = (one for w in workers for one in psutil.Process(w.pid).children())
        return [one for one in processes if one.pid in leases and not _is_dead(one)]

    victim = chance.choice(stack.until(delivering, "a process that delivers"))
    victim.suspend()
    kill = _look(stack, victim.pid, {victim.pid})
    victim.kill()
    # Or it would be chosen again, with the leases that it left. Its parent may reap it later.
    stack.until(lambda: _is_dead(victim), "the end of a killed process", GOODBYE)
    return kill


def kill_worker(stack: Stack, worker: Running) -> Kill:
    """The same with a worker and all its processes at once."""
    stack.until(stack.leases, "a process that delivers")
    os.killpg(worker.pid, signal.SIGSTOP)
    family = {one.pid for one in psutil.Process(worker.pid).children()}
    kill = _look(stack, worker.pid, family)
    worker.kill()
    return kill


def given_up(stack: Stack) -> int:
    """Texts whose request took longer than a worker waits, as it may on a machine this busy."""
    return stack.number("SELECT sum(retried + lost) FROM delivery_batch WHERE sink = 'embedding'")


def _is_dead(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _look(stack: Stack, pid: int, family: set[int]) -> Kill:
    """Return the work that is left, and the part of it that stopped processes hold."""

    def held(sink: str | None = None) -> int:
        return sum(count for one, count in stack.leases(sink).items() if one in family)

    return Kill(pid, stack.live(), held(), held("embedding"))
