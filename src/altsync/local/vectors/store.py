"""All indexes of the server."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from altsync.local.vectors.index import Index
from altsync.local.vectors.ledger import Ledger
from altsync.local.vectors.wire import Refused

#: The reserved field that an index made for the Vectors API has, and nothing else.
VALUES_FIELD = "_values"


class Store:
    """The definitions of the indexes, and each index, loaded when it is first used."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(folder / "vectors.sqlite3")
        self._lock = threading.Lock()
        self._definitions = self._ledger.definitions()
        self._indexes: dict[str, Index] = {}

    def close(self) -> None:
        """Let go of the file."""
        self._ledger.close()

    def names(self) -> list[str]:
        """The indexes, sorted."""
        with self._lock:
            return sorted(self._definitions)

    def definition(self, name: str) -> dict[str, Any]:
        """Return what is known of an index. Raises ``Refused`` if there is none."""
        with self._lock:
            return self._defined(name)

    def define(self, name: str, body: dict[str, Any]) -> None:
        """Make an index. Raises ``Refused`` if there is one of that name."""
        with self._lock:
            if name in self._definitions:
                raise Refused(409, f"Resource {name} already exists")
            self._save(name, body)

    def redefine(self, name: str, body: dict[str, Any]) -> None:
        """Change what is known of an index. Raises ``Refused`` if there is none."""
        with self._lock:
            self._defined(name)
            self._save(name, body)

    def drop(self, name: str) -> None:
        """Delete an index and all it holds. Raises ``Refused`` if there is none."""
        with self._lock:
            self._defined(name)
            self._ledger.drop_definition(name)
            del self._definitions[name]
            self._indexes.pop(name, None)

    def index(self, name: str) -> Index:
        """An index to work with. Raises ``Refused`` if there is none."""
        with self._lock:
            if name not in self._indexes:
                field = self._defined(name)["schema"]["fields"][VALUES_FIELD]
                self._indexes[name] = Index(name, field["dimension"], field["metric"], self._ledger)
            return self._indexes[name]

    def _defined(self, name: str) -> dict[str, Any]:
        if name not in self._definitions:
            raise Refused(404, f"Resource {name} not found")
        return self._definitions[name]

    def _save(self, name: str, body: dict[str, Any]) -> None:
        self._ledger.define(name, body)
        self._definitions[name] = body
