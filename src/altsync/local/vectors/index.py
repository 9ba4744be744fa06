"""One index: writes go to the ledger first, then into memory, at once or after a lag."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from altsync.local.vectors.filters import Predicate
from altsync.local.vectors.ledger import Ledger
from altsync.local.vectors.limits import Vector, VectorRecord, check_metadata, check_not_zero
from altsync.local.vectors.matrix import Metric, Namespace
from altsync.local.vectors.names import DEFAULT_NAMESPACE
from altsync.local.vectors.wire import Refused

Change = Callable[[], None]


class Index:
    """The records of one index. Every method may be called from any thread.

    Reads see memory, which is behind the ledger by the lag of the writes. Changes show in the
    order they were made: one without a lag waits for an earlier one with a lag.
    """

    def __init__(self, name: str, dimension: int, metric: Metric, ledger: Ledger) -> None:
        self.name = name
        self.dimension = dimension
        self.metric = metric
        self._ledger = ledger
        self._lock = threading.RLock()
        self._waiting: deque[tuple[float, Change]] = deque()
        self._numbers: dict[str, int] | None = None
        self._visible: dict[str, Namespace] = {}

    def upsert(self, namespace: str, records: Sequence[VectorRecord], lag: float) -> None:
        """Insert or replace records; makes the namespace if it is new."""
        with self._open():
            number = self._number(namespace) or self._make(namespace, lag)
            self._ledger.write(number, records)
            self._show(lag, lambda: self._memory(namespace).put(records))

    def fetch(self, namespace: str, ids: Sequence[str]) -> list[VectorRecord]:
        """The records with these ids, without the absent ones."""
        with self._open():
            known = self._visible.get(namespace)
            return known.get(ids) if known else []

    def query(
        self,
        namespace: str,
        query: Vector,
        size: int,
        predicate: Predicate | None,
        *,
        values: bool,
    ) -> list[tuple[VectorRecord, float]]:
        """The nearest records and their scores, best first; with their values if wanted."""
        with self._open():
            known = self._visible.get(namespace)
            if not known:
                return []
            best = known.nearest(query, size, predicate)
            records = known.get((one for one, _ in best), values=values)
            return [(record, score) for record, (_, score) in zip(records, best, strict=True)]

    def matching(self, namespace: str, predicate: Predicate) -> list[str]:
        """The ids of records whose metadata match, sorted."""
        with self._open():
            known = self._visible.get(namespace)
            return known.matching(predicate) if known else []

    def page(self, namespace: str, prefix: str, after: str, size: int) -> list[str]:
        """The next ids in order."""
        with self._open():
            known = self._visible.get(namespace)
            return known.page(prefix, after, size) if known else []

    def delete(self, namespace: str, ids: Sequence[str], lag: float) -> None:
        """Delete records; absent ids are ignored. Raises ``Refused`` without the namespace."""
        with self._open():
            number = self._existing(namespace)
            if number is not None:
                self._ledger.remove(number, ids)
                self._show(lag, lambda: self._memory(namespace).remove(ids))

    def delete_all(self, namespace: str, lag: float) -> None:
        """Empty a namespace; it stays. Raises ``Refused`` if there is none."""
        with self._open():
            number = self._existing(namespace)
            if number is not None:
                self._ledger.clear(number)
                self._show(lag, lambda: self._replace(namespace))

    def update(
        self,
        namespace: str,
        ids: Sequence[str],
        lag: float,
        *,
        values: Vector | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Change records that exist: other values, or some metadata keys. Absent ones: nothing."""
        with self._open():
            number = self._number(namespace)
            if number is None:
                return
            changed = [
                _changed(record, values, metadata) for record in self._ledger.read(number, ids)
            ]
            self._ledger.write(number, changed)
            self._show(lag, lambda: self._memory(namespace).put(changed))

    def counts(self) -> dict[str, int]:
        """Records that can be read, by namespace."""
        with self._open():
            return {name: len(known) for name, known in sorted(self._visible.items())}

    def create_namespace(self, namespace: str, lag: float) -> None:
        """Make an empty namespace. Raises ``Refused`` if it exists."""
        with self._open():
            if namespace == DEFAULT_NAMESPACE or self._number(namespace) is not None:
                raise Refused(409, f"Namespace {namespace} already exists")
            self._make(namespace, lag)

    def drop_namespace(self, namespace: str, lag: float) -> None:
        """Delete a namespace with its records. Raises ``Refused`` if there is none."""
        with self._open():
            number = self._existing(namespace)
            if number is not None and self._numbers is not None:
                self._ledger.drop_namespace(number)
                del self._numbers[namespace]
                self._show(lag, lambda: self._forget(namespace))

    @contextmanager
    def _open(self) -> Iterator[None]:
        """The index, loaded, with everything shown that is due."""
        with self._lock:
            if self._numbers is None:
                self._load()
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                self._waiting.popleft()[1]()
            yield

    def _load(self) -> None:
        self._numbers = self._ledger.namespaces(self.name)
        for namespace, number in self._numbers.items():
            self._replace(namespace)
            self._visible[namespace].put(self._ledger.read_all(number))

    def _show(self, lag: float, change: Change) -> None:
        due = time.monotonic() + lag
        if self._waiting:
            due = max(due, self._waiting[-1][0])
        elif lag <= 0:
            change()
            return
        self._waiting.append((due, change))

    def _number(self, namespace: str) -> int | None:
        return (self._numbers or {}).get(namespace)

    def _existing(self, namespace: str) -> int | None:
        """The namespace's number; the default one always exists, even if nothing is in it."""
        number = self._number(namespace)
        if number is None and namespace != DEFAULT_NAMESPACE:
            raise Refused(404, "Namespace not found")
        return number

    def _make(self, namespace: str, lag: float) -> int:
        number = self._ledger.add_namespace(self.name, namespace)
        if self._numbers is not None:
            self._numbers[namespace] = number
        self._show(lag, lambda: self._replace(namespace))
        return number

    def _memory(self, namespace: str) -> Namespace:
        return self._visible[namespace]

    def _replace(self, namespace: str) -> None:
        self._visible[namespace] = Namespace(self.dimension, self.metric)

    def _forget(self, namespace: str) -> None:
        self._visible.pop(namespace, None)


def _changed(
    record: VectorRecord, values: Vector | None, metadata: Mapping[str, Any] | None
) -> VectorRecord:
    kept = record.metadata
    if metadata is not None:
        kept = check_metadata({**(kept or {}), **metadata})
    if values is not None:
        check_not_zero(values.reshape(1, -1), [record.id])
    return VectorRecord(record.id, record.values if values is None else values, kept)
