"""The Java of this machine that runs a server: the oldest one that is new enough."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

#: Folders that hold one Java each, by the habits of Linux distributions.
SYSTEM_FOLDERS = ("/usr/lib/jvm", "/opt/java", "/opt")

#: Seconds for one `java -version`.
VERSION_SECONDS = 30


def find(program: str, oldest: int) -> Path | None:
    """Return `java` or `javac` of the oldest installation that is `oldest` or newer."""
    found = [(version, path) for version, path in _installed(program) if version >= oldest]
    return min(found, key=lambda one: one[0])[1] if found else None


def _installed(program: str) -> list[tuple[int, Path]]:
    """Return each installation once, in the order of preference among equal versions."""
    paths = dict.fromkeys(path.resolve() for path in _candidates(program) if path.is_file())
    versions = [(version_of(path), path) for path in paths]
    return [(version, path) for version, path in versions if version is not None]


def _candidates(program: str) -> Iterator[Path]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield Path(home) / "bin" / program
    on_path = shutil.which(program)
    if on_path:
        yield Path(on_path)
    for folder in SYSTEM_FOLDERS:
        yield from sorted(Path(folder).glob(f"*/bin/{program}"))
    packaged = importlib.util.find_spec("arcadedb_embedded")
    if packaged is not None and packaged.origin is not None:
        # The wheel of the embedded graph brings a runtime, without a compiler.
        yield Path(packaged.origin).parent / "jre" / "bin" / program


@cache
def version_of(path: Path) -> int | None:
    """Return the feature version of a `java` or `javac`, None when it does not run."""
    try:
        done = subprocess.run(
            [path, "-version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=VERSION_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # `openjdk version "17.0.15" …`, `javac 25.0.3`; before 9 it was 1.8.
    said = re.search(r'(?:version "|javac )(?:1\.)?(\d+)', done.stdout)
    return int(said[1]) if said and done.returncode == 0 else None
