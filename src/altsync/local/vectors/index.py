"""One index: each write goes to disk first, then to memory, at once or after a lag."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from altsync.local.vectors.filters import Predicate
from altsync.local.vectors.limits import Vector, VectorRecord
from altsync.local.vectors.matrix import Namespace
from altsync.local.vectors.names import DEFAULT_NAMESPACE
from altsync.local.vectors.storage import Storage
from altsync.local.vectors.wire import Refused

Change = Callable[[], None]


class Index:
    """The records of one index. Thread-safe.

    Reads use memory, which is behind the disk by the lag of the writes, in seconds. Changes become
    visible in their order: one without a lag waits for an earlier one with a lag.
    """

    def __init__(self, name: str, dimension: int, storage: Storage) -> None:
        self.name = name
        self.dimension = dimension
        self._storage = storage
        self._lock = threading.Lock()
        self._loaded = False
        self._waiting: deque[tuple[float, Change]] = deque()
        self._ids: dict[str, int] = {}
        self._visible: dict[str, Namespace] = {}
        self._positions: dict[str, int] = {}

    def upsert(self, namespace: str, records: Sequence[VectorRecord], lag: float) -> int:
        """Insert or replace records; return the write's position.

        Create the namespace if it is new.
        """
        with self._opened():
            if namespace not in self._ids:
                self._ids[namespace] = self._storage.add_namespace(self.name, namespace)
                self._make_visible(lag, lambda: self._empty(namespace))
            written = self._storage.write(self._ids[namespace], records)
            self._make_visible(lag, lambda: self._visible[namespace].put(records))
            self._make_visible(lag, lambda: self._reach(namespace, written))
            return written

    def position(self, namespace: str) -> int:
        """Return the position up to which reads see the writes to a namespace."""
        with self._opened():
            return self._positions.get(namespace, 0)

    def flush(self) -> None:
        """Make every write visible now."""
        with self._opened():
            while self._waiting:
                self._waiting.popleft()[1]()

    def fetch(self, namespace: str, ids: Sequence[str]) -> list[VectorRecord]:
        """Return the records with these ids, without the absent ones."""
        with self._opened():
            visible = self._visible.get(namespace)
            return visible.get(ids) if visible else []

    def query(
        self,
        namespace: str,
        query: Vector,
        size: int,
        predicate: Predicate | None,
        *,
        values: bool,
    ) -> list[tuple[VectorRecord, float]]:
        """Return the nearest records and their cosines, best first; with values if wanted."""
        with self._opened():
            visible = self._visible.get(namespace)
            if not visible:
                return []
            best = visible.nearest(query, size, predicate)
            records = visible.get((one for one, _ in best), values=values)
            return [(record, score) for record, (_, score) in zip(records, best, strict=True)]

    def page(self, namespace: str, prefix: str, after: str, size: int) -> list[str]:
        """Return the next ids in order."""
        with self._opened():
            visible = self._visible.get(namespace)
            return visible.page(prefix, after, size) if visible else []

    def delete(self, namespace: str, ids: Sequence[str], lag: float) -> int:
        """Delete records; return the write's position, 0 where nothing can be.

        Absent ids are ignored. Raises ``Refused`` without the namespace.
        """
        with self._opened():
            namespace_id = self._existing(namespace)
            if namespace_id is None:
                return 0
            written = self._storage.remove(namespace_id, ids)
            self._make_visible(lag, lambda: self._visible[namespace].remove(ids))
            self._make_visible(lag, lambda: self._reach(namespace, written))
            return written

    def delete_all(self, namespace: str, lag: float) -> int:
        """Delete all records of a namespace, and keep it. Raises ``Refused`` without it."""
        with self._opened():
            namespace_id = self._existing(namespace)
            if namespace_id is None:
                return 0
            written = self._storage.clear(namespace_id)
            self._make_visible(lag, lambda: self._empty(namespace))
            self._make_visible(lag, lambda: self._reach(namespace, written))
            return written

    def drop_namespace(self, namespace: str, lag: float) -> None:
        """Delete a namespace with its records. Raises ``Refused`` without it."""
        with self._opened():
            namespace_id = self._existing(namespace)
            if namespace_id is not None:
                self._storage.drop_namespace(namespace_id)
                del self._ids[namespace]
                self._make_visible(lag, lambda: self._forget(namespace))

    def counts(self) -> dict[str, int]:
        """Return the number of visible records, by namespace."""
        with self._opened():
            return {name: len(visible) for name, visible in sorted(self._visible.items())}

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Hold the lock. Load the index if needed, and apply the changes that are due."""
        with self._lock:
            if not self._loaded:
                self._load()
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                self._waiting.popleft()[1]()
            yield

    def _load(self) -> None:
        self._ids = self._storage.namespaces(self.name)
        for namespace, namespace_id in self._ids.items():
            self._empty(namespace)
            self._visible[namespace].put(self._storage.read_all(namespace_id))
            self._positions[namespace] = self._storage.position(namespace_id)
        self._loaded = True

    def _make_visible(self, lag: float, change: Change) -> None:
        """Apply a change to memory after ``lag`` seconds, and after all earlier changes."""
        due = time.monotonic() + lag
        if self._waiting:
            due = max(due, self._waiting[-1][0])
        elif lag <= 0:
            change()
            return
        self._waiting.append((due, change))

    def _existing(self, namespace: str) -> int | None:
        """Return a namespace's id. The default one always exists, and may have none yet."""
        namespace_id = self._ids.get(namespace)
        if namespace_id is None and namespace != DEFAULT_NAMESPACE:
            raise Refused(404, "Namespace not found")
        return namespace_id

    def _empty(self, namespace: str) -> None:
        self._visible[namespace] = Namespace(self.dimension)

    def _reach(self, namespace: str, position: int) -> None:
        self._positions[namespace] = position

    def _forget(self, namespace: str) -> None:
        self._positions.pop(namespace, None)
        self._visible.pop(namespace, None)
