"""A namespace in memory: one float32 matrix, searched exactly."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np

from altsync.local.vectors.filters import Predicate
from altsync.local.vectors.limits import Vector, VectorRecord

Metric = Literal["cosine", "dotproduct", "euclidean"]

#: Rows that a new namespace has room for; the room doubles when it is full.
FIRST_ROOM = 256

#: Share of rows above which scoring all of them is cheaper than copying the chosen ones.
DENSE_SHARE = 0.25

#: In place of a length of zero, so that a query without direction scores 0 everywhere.
TINY = np.float32(1e-30)

NO_VALUES: Vector = np.empty(0, np.float32)


class Namespace:
    """What can be read of one namespace. Its index' lock guards it."""

    def __init__(self, dimension: int, metric: Metric) -> None:
        self._metric = metric
        self._values: Vector = np.empty((FIRST_ROOM, dimension), np.float32)
        self._norms: Vector = np.empty(FIRST_ROOM, np.float32)
        self._ids: list[str] = []
        self._metadata: list[dict[str, Any] | None] = []
        self._at: dict[str, int] = {}
        self._sorted: list[str] | None = None

    def __len__(self) -> int:
        return len(self._ids)

    def put(self, records: Sequence[VectorRecord]) -> None:
        """Insert or replace records."""
        self._make_room(len(self._ids) + len(records))
        for record in records:
            at = self._at.get(record.id)
            if at is None:
                at = self._at[record.id] = len(self._ids)
                self._ids.append(record.id)
                self._metadata.append(None)
                self._sorted = None
            self._values[at] = record.values
            self._norms[at] = np.linalg.norm(record.values)
            self._metadata[at] = None if record.metadata is None else dict(record.metadata)

    def remove(self, ids: Iterable[str]) -> None:
        """Delete records; the last row takes the place of each."""
        for one in ids:
            at = self._at.pop(one, None)
            if at is None:
                continue
            last = len(self._ids) - 1
            moved, metadata = self._ids.pop(), self._metadata.pop()
            if at != last:
                self._ids[at], self._metadata[at], self._at[moved] = moved, metadata, at
                self._values[at], self._norms[at] = self._values[last], self._norms[last]
            self._sorted = None

    def get(self, ids: Iterable[str], *, values: bool = True) -> list[VectorRecord]:
        """The records with these ids, without the absent ones; copies, empty if not wanted."""
        positions = [self._at[one] for one in ids if one in self._at]
        return [
            VectorRecord(
                self._ids[at], self._values[at].copy() if values else NO_VALUES, self._metadata[at]
            )
            for at in positions
        ]

    def matching(self, predicate: Predicate) -> list[str]:
        """The ids of the records whose metadata match, sorted."""
        return sorted(
            one
            for one, metadata in zip(self._ids, self._metadata, strict=True)
            if predicate(metadata or {})
        )

    def page(self, prefix: str, after: str, size: int) -> list[str]:
        """The next ids in order, that start with the prefix and come after the given one."""
        if self._sorted is None:
            self._sorted = sorted(self._ids)
        start = bisect.bisect_right(self._sorted, after) if after else 0
        start = max(start, bisect.bisect_left(self._sorted, prefix))
        return [one for one in self._sorted[start : start + size] if one.startswith(prefix)]

    def nearest(
        self, query: Vector, size: int, predicate: Predicate | None
    ) -> list[tuple[str, float]]:
        """The ids of the best records with their scores, best first, equal scores by id."""
        chosen = self._chosen(predicate)
        scores = self._scores(query, chosen)
        if not len(scores):
            return []
        # Euclidean scores are squared distances: the least is the best.
        order = scores if self._metric == "euclidean" else -scores
        best = np.arange(len(order))
        if size < len(order):
            best = np.argpartition(order, size - 1)[:size]
        ranked = sorted(best.tolist(), key=lambda one: (order[one], self._ids[chosen[one]]))
        return [(self._ids[chosen[one]], float(scores[one])) for one in ranked]

    def _chosen(self, predicate: Predicate | None) -> np.ndarray[Any, np.dtype[np.intp]]:
        if predicate is None:
            return np.arange(len(self._ids))
        positions = (at for at, known in enumerate(self._metadata) if predicate(known or {}))
        return np.fromiter(positions, np.intp)

    def _scores(self, query: Vector, chosen: np.ndarray[Any, np.dtype[np.intp]]) -> Vector:
        count = len(self._ids)
        # float32 on both sides: with a float64 query numpy leaves its fast path.
        query = query.astype(np.float32, copy=False)
        products: Vector
        if len(chosen) > count * DENSE_SHARE:
            products = (self._values[:count] @ query)[chosen]
        else:
            products = self._values[chosen] @ query
        if self._metric == "dotproduct":
            return products
        norms, length = self._norms[:count][chosen], np.linalg.norm(query)
        scores: Vector
        if self._metric == "euclidean":
            scores = np.maximum(norms**2 + length**2 - 2 * products, 0)
        else:
            scores = np.clip(products / np.maximum(norms * length, TINY), -1, 1)
        return scores

    def _make_room(self, count: int) -> None:
        room = len(self._norms)
        if count <= room:
            return
        room = max(count, room * 2)
        used = len(self._ids)
        values = np.empty((room, self._values.shape[1]), np.float32)
        norms = np.empty(room, np.float32)
        values[:used], norms[:used] = self._values[:used], self._norms[:used]
        self._values, self._norms = values, norms
