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
from tests.faults.line import DIED
from tests.faults.plan import Plan
from tests.faults.roles import Casting, Chapter
from tests.faults.site import NEO4J, PINECONE, Site

#: Seconds between two kills, on average.
KILL_EVERY = 0.7

#: Seconds between two looks after everybody.
LOOK = 0.02

Role = Callable[[Site, Plan, Chapter, Casting], None]

CAST: tuple[tuple[Role, str, str | None], ...] = (
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
class Crew:
    """Everybody who takes part, over all chapters of a run.

    Only plain forks: whoever starts a chapter must have no threads and no pool.
    """

    site: Site
    plan: Plan
    kills: int = 0
    deaths: int = 0
    unexpected: Counter[int] = field(default_factory=Counter)
    _next_life: int = 0
    _alive: dict[int, tuple[Role, Casting]] = field(default_factory=dict)

    def play(self, chapter: Chapter, meanwhile: Callable[[], None]) -> None:
        """Let everybody work and die for one chapter, then end them all.

        ``meanwhile`` is called all the time and must be quick.
        """
        dice = self.plan.dice("kills", chapter.number)
        next_kill = chapter.began + dice.expovariate(1 / KILL_EVERY)
        try:
            for role, name, sink in CAST:
                self._start(role, chapter, Casting(name, sink, 0))
            while (now := time.time()) < chapter.began + chapter.seconds:
                self._restart_the_dead(chapter)
                if now >= next_kill:
                    self._kill_one(dice)
                    next_kill = now + dice.expovariate(1 / KILL_EVERY)
                meanwhile()
                time.sleep(LOOK)
        finally:
            self._end()

    def _start(self, role: Role, chapter: Chapter, casting: Casting) -> None:
        self._next_life += 1
        alive = replace(casting, incarnation=self._next_life)
        pid = os.fork()
        if pid == 0:
            self._live(role, chapter, alive)
        self._alive[pid] = role, alive

    def _live(self, role: Role, chapter: Chapter, casting: Casting) -> None:
        """The whole life of a child; never returns into its parent's code."""
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            role(self.site, self.plan, chapter, casting)
            status = 0
        except BaseException as error:  # noqa: BLE001  (noted; a child must not go on as its parent)
            self.site.diary.note(
                "role.failed", role=casting.name, error=type(error).__name__, text=str(error)
            )
        finally:
            os._exit(status)

    def _restart_the_dead(self, chapter: Chapter) -> None:
        for pid in list(self._alive):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                role, casting = self._alive.pop(pid)
                self._count(os.waitstatus_to_exitcode(status))
                self._start(role, chapter, casting)

    def _kill_one(self, dice: random.Random) -> None:
        victim = dice.choice(sorted(self._alive))
        os.kill(victim, signal.SIGKILL)

    def _end(self) -> None:
        for pid in self._alive:
            os.kill(pid, signal.SIGKILL)
        for pid in self._alive:
            _, status = os.waitpid(pid, 0)
            self._count(os.waitstatus_to_exitcode(status))
        self._alive.clear()

    def _count(self, code: int) -> None:
        if code == -signal.SIGKILL:
            self.kills += 1
        elif code == DIED:
            self.deaths += 1
        else:
            self.unexpected[code] += 1
