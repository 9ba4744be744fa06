"""A namespace in memory: one float32 matrix, searched exactly by cosine."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from altsync.local.vectors.filters import Predicate
from altsync.local.vectors.limits import Vector, VectorRecord

#: Rows of a new namespace's matrix. A full matrix doubles.
FIRST_CAPACITY = 256

#: Share of rows above which scoring all of them is cheaper than copying the selected ones.
DENSE_SHARE = 0.25

#: Replaces a length of 0, so that a query without direction scores 0 everywhere.
TINY = np.float32(1e-30)

NO_VALUES: Vector = np.empty(0, np.float32)


class Namespace:
    """The visible records of one namespace. The lock of its index guards it."""

    def __init__(self, dimension: int) -> None:
        self._values: Vector = np.empty((FIRST_CAPACITY, dimension), np.float32)
        self._norms: Vector = np.empty(FIRST_CAPACITY, np.float32)
        self._ids: list[str] = []
        self._metadata: list[dict[str, Any] | None] = []
        self._row: dict[str, int] = {}
        self._sorted: list[str] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, records: Sequence[VectorRecord]) -> None:
        """Insert or replace records."""
        self._grow(len(self._ids) + len(records))
        for record in records:
            row = self._row.get(record.id)
            if row is None:
                row = self._row[record.id] = len(self._ids)
                self._ids.append(record.id)
                self._metadata.append(None)
                self._sorted = None
            self._values[row] = record.values
            self._norms[row] = np.linalg.norm(record.values)
            self._metadata[row] = None if record.metadata is None else dict(record.metadata)

    def remove(self, ids: Iterable[str]) -> None:
        """Delete records. The last row replaces each deleted row."""
        for one in ids:
            row = self._row.pop(one, None)
            if row is None:
                continue
            last = len(self._ids) - 1
            moved, metadata = self._ids.pop(), self._metadata.pop()
            if row != last:
                self._ids[row], self._metadata[row], self._row[moved] = moved, metadata, row
                self._values[row], self._norms[row] = self._values[last], self._norms[last]
            self._sorted = None

    def get(self, ids: Iterable[str], *, values: bool = True) -> list[VectorRecord]:
        """Return copies of the records with these ids, without the absent ones."""
        rows = [self._row[one] for one in ids if one in self._row]
        return [
            VectorRecord(
                self._ids[row],
                self._values[row].copy() if values else NO_VALUES,
                self._metadata[row],
            )
            for row in rows
        ]

    def page(self, prefix: str, after: str, size: int) -> list[str]:
        """Return the next ids in order that begin with ``prefix`` and follow ``after``."""
        if self._sorted is None:
            self._sorted = sorted(self._ids)
        start = bisect.bisect_right(self._sorted, after) if after else 0
        start = max(start, bisect.bisect_left(self._sorted, prefix))
        return [one for one in self._sorted[start : start + size] if one.startswith(prefix)]

    def nearest(
        self, query: Vector, size: int, predicate: Predicate | None
    ) -> list[tuple[str, float]]:
        """Return the ids of the nearest records with their cosines, best first, then by id."""
        rows = self._selected(predicate)
        scores = self._cosines(query, rows)
        best = np.arange(len(scores))
        if size < len(scores):
            best = np.argpartition(-scores, size - 1)[:size]
        ranked = sorted(best.tolist(), key=lambda one: (-scores[one], self._ids[rows[one]]))
        return [(self._ids[rows[one]], float(scores[one])) for one in ranked]

    def _selected(self, predicate: Predicate | None) -> np.ndarray[Any, np.dtype[np.intp]]:
        if predicate is None:
            return np.arange(len(self._ids))
        rows = (row for row, one in enumerate(self._metadata) if predicate(one or {}))
        return np.fromiter(rows, np.intp)

    def _cosines(self, query: Vector, rows: np.ndarray[Any, np.dtype[np.intp]]) -> Vector:
        count = len(self._ids)
        # float32 on both sides: numpy's product with a float64 query is 20 times slower.
        query = query.astype(np.float32, copy=False)
        if len(rows) > count * DENSE_SHARE:
            products = (self._values[:count] @ query)[rows]
        else:
            products = self._values[rows] @ query
        lengths = self._norms[:count][rows] * np.linalg.norm(query)
        cosines: Vector = np.clip(products / np.maximum(lengths, TINY), -1, 1)
        return cosines

    def _grow(self, count: int) -> None:
        if count <= len(self._norms):
            return
        capacity = max(count, len(self._norms) * 2)
        used = len(self._ids)
        values = np.empty((capacity, self._values.shape[1]), np.float32)
        norms = np.empty(capacity, np.float32)
        values[:used], norms[:used] = self._values[:used], self._norms[:used]
        self._values, self._norms = values, norms
