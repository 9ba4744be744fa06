"""The record of each service between two commands."""

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
    """Ports, password and, while it runs, process of one service."""

    ports: tuple[int, ...]
    secret: str
    process: Identity | None = None


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically. Only its owner can read it, from the first byte on."""
    # Another account cannot make a link in advance: the name is random.
    descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(fresh).replace(path)


class RecordBook:
    """Records of services in one JSON file. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()

    def load(self, name: str) -> Record | None:
        """Return the record of a service, or None before its first start."""
        with self._lock:
            entry = self._read().get(name)
        if entry is None:
            return None
        process = entry["process"]
        return Record(
            tuple(entry["ports"]), entry["secret"], Identity(**process) if process else None
        )

    def save(self, name: str, record: Record) -> None:
        """Save a record. The file is complete on disk before this returns."""
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
