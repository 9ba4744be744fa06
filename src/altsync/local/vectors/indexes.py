"""All indexes of the server."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from altsync.local.vectors.index import Index
from altsync.local.vectors.storage import Storage
from altsync.local.vectors.wire import Refused

#: The field that an index for Pinecone's Vectors API has, and the only one.
VALUES_FIELD = "_values"


class Indexes:
    """Definitions of indexes by name, and the indexes that are loaded. Thread-safe.

    Each method but ``names`` and ``close`` raises ``Refused`` for a wrong name.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._storage = Storage(folder / "vectors.sqlite3")
        self._lock = threading.Lock()
        self._definitions = self._storage.definitions()
        self._loaded: dict[str, Index] = {}

    def close(self) -> None:
        """Close the file."""
        self._storage.close()

    def names(self) -> list[str]:
        """Return the names of all indexes, sorted."""
        with self._lock:
            return sorted(self._definitions)

    def definition(self, name: str) -> dict[str, Any]:
        """Return the definition of an index."""
        with self._lock:
            return self._defined(name)

    def define(self, name: str, body: dict[str, Any]) -> None:
        """Create an index. The name must be new."""
        with self._lock:
            if name in self._definitions:
                raise Refused(409, f"Resource {name} already exists")
            self._save(name, body)

    def redefine(self, name: str, body: dict[str, Any]) -> None:
        """Replace the definition of an index."""
        with self._lock:
            self._defined(name)
            self._save(name, body)

    def drop(self, name: str) -> None:
        """Delete an index with its records."""
        with self._lock:
            self._defined(name)
            self._storage.drop_definition(name)
            del self._definitions[name]
            self._loaded.pop(name, None)

    def index(self, name: str) -> Index:
        """Return an index. Its records are loaded at its first use."""
        with self._lock:
            if name not in self._loaded:
                dimension = self._defined(name)["schema"]["fields"][VALUES_FIELD]["dimension"]
                self._loaded[name] = Index(name, dimension, self._storage)
            return self._loaded[name]

    def flush(self) -> None:
        """Make every write visible now."""
        with self._lock:
            loaded = list(self._loaded.values())
        for index in loaded:
            index.flush()

    def _defined(self, name: str) -> dict[str, Any]:
        if name not in self._definitions:
            raise Refused(404, f"Resource {name} not found")
        return self._definitions[name]

    def _save(self, name: str, body: dict[str, Any]) -> None:
        self._storage.define(name, body)
        self._definitions[name] = body
