"""Where a figure was measured, so that a reader can tell what it is worth."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version

#: Packages whose versions decide what a figure comes to; peers are there or not.
PACKAGES = (
    *("altsync", "psycopg", "celery", "neo4j", "pinecone", "openai"),
    *("pgqueuer", "procrastinate", "cocoindex"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """Processors, versions, and how busy the machine was (load average of a minute) at first."""

    cpus: int
    python: str
    system: str
    postgresql: str
    load: float
    date: str
    packages: Mapping[str, str]

    def __str__(self) -> str:
        found = ", ".join(f"{name} {release}" for name, release in self.packages.items())
        return (
            f"{self.date}, {self.cpus} CPUs, load {self.load:.1f}, {self.system}, "
            f"Python {self.python}, {self.postgresql}; {found}"
        )


def this_machine(postgresql: str) -> Machine:
    """The machine as it is now; ``postgresql`` is the server's name and version."""
    return Machine(
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cpus(),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        postgresql=postgresql,
        load=round(os.getloadavg()[0], 2),
        date=datetime.now(UTC).date().isoformat(),
        packages={name: found for name in PACKAGES if (found := _version(name))},
    )


def _cpus() -> int:
    return os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
