"""What is remembered of each service between two commands."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from altsync.local.errors import LocalStackError
from altsync.local.processes import Identity


@dataclass(frozen=True)
class Record:
    """One service: where it listens, its password, and its process while it runs."""

    ports: tuple[int, ...]
    secret: str
    process: Identity | None = None


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; only its owner can read it, from the first byte on."""
    # A name that no other account can have put a link at.
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(fresh).replace(path)


class RecordBook:
    """The records of some services in one JSON file; safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def load(self, name: str) -> Record | None:
        """The record of a service that was started before."""
        with self._lock:
            entry = self._read().get(name)
        if entry is None:
            return None
        process = entry["process"]
        return Record(
            tuple(entry["ports"]), entry["secret"], Identity(**process) if process else None
        )

    def save(self, name: str, record: Record) -> None:
        """Remember a service; the file is complete on disk before this returns."""
        with self._lock:
            entries = {**self._read(), name: asdict(record)}
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_private(self.path, json.dumps(entries, indent=2) + "\n")

    def _read(self) -> dict[str, Any]:
        try:
            entries = json.loads(self.path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise LocalStackError(f"{self.path} cannot be read ({error}); remove it") from error
        if not isinstance(entries, dict):
            raise LocalStackError(f"{self.path} is not a record of the local stack; remove it")
        return entries
