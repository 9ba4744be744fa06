"""The processes of a run: forked, watched, killed at random, and started again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from altsync.contract import EMBEDDING
from tests.faults import roles
from tests.faults.connection import CRASHED
from tests.faults.roles import Phase, ProcessSpec
from tests.faults.sandbox import NEO4J, PINECONE, Sandbox
from tests.faults.workload import Workload

#: Seconds between two kills, on average.
KILL_EVERY = 0.7

#: Seconds between two looks after everybody.
LOOK = 0.02

Role = Callable[[Sandbox, Workload, Phase, ProcessSpec], None]

PROCESSES: tuple[tuple[Role, str, str | None], ...] = (
    (roles.seed, "seeder-1", None),
    (roles.seed, "seeder-2", None),
    (roles.sweep, "sweeper", None),
    *(
        (roles.work, f"{sink}-{number}", sink)
        for sink in (EMBEDDING, NEO4J, PINECONE)
        for number in (1, 2)
    ),
)


@dataclass(slots=True)
class ProcessPool:
    """Everybody who takes part, over all chapters of a run.

    Only plain forks: the process that starts a chapter has no threads and no pool.
    """

    sandbox: Sandbox
    workload: Workload
    kills: int = 0
    crashes: int = 0
    unexpected: Counter[int] = field(default_factory=Counter)
    _next_incarnation: int = 0
    _running: dict[int, tuple[Role, ProcessSpec]] = field(default_factory=dict)

    def play(self, phase: Phase, meanwhile: Callable[[], None]) -> None:
        """Let everybody work and die for one chapter, then end them all.

        ``meanwhile`` is called all the time and must be quick.
        """
        rng = self.workload.rng("kills", phase.number)
        next_kill = phase.began + rng.expovariate(1 / KILL_EVERY)
        try:
            for role, name, sink in PROCESSES:
                self._start(role, phase, ProcessSpec(name, sink, 0))
            while (now := time.time()) < phase.began + phase.seconds:
                self._restart_exited(phase)
                if now >= next_kill:
                    self._kill_one(rng)
                    next_kill = now + rng.expovariate(1 / KILL_EVERY)
                meanwhile()
                time.sleep(LOOK)
        finally:
            self._end()

    def _start(self, role: Role, phase: Phase, spec: ProcessSpec) -> None:
        self._next_incarnation += 1
        running = replace(spec, incarnation=self._next_incarnation)
        pid = os.fork()
        if pid == 0:
            self._live(role, phase, running)
        self._running[pid] = role, running

    def _live(self, role: Role, phase: Phase, spec: ProcessSpec) -> None:
        """The whole life of a child; never returns into its parent's code."""
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            role(self.sandbox, self.workload, phase, spec)
            status = 0
        except BaseException as error:  # noqa: BLE001  (noted; a child must not go on as its parent)
            self.sandbox.audit_log.note(
                "role.failed", role=spec.name, error=type(error).__name__, text=str(error)
            )
        finally:
            os._exit(status)

    def _restart_exited(self, phase: Phase) -> None:
        for pid in list(self._running):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                role, spec = self._running.pop(pid)
                self._count(os.waitstatus_to_exitcode(status))
                self._start(role, phase, spec)

    def _kill_one(self, rng: random.Random) -> None:
        victim = rng.choice(sorted(self._running))
        os.kill(victim, signal.SIGKILL)

    def _end(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
        for pid in self._running:
            _, status = os.waitpid(pid, 0)
            self._count(os.waitstatus_to_exitcode(status))
        self._running.clear()

    def _count(self, code: int) -> None:
        if code == -signal.SIGKILL:
            self.kills += 1
        elif code == CRASHED:
            self.crashes += 1
        else:
            self.unexpected[code] += 1
