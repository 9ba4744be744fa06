"""Blocked matrix products of a batch of vectors with its group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from uuid import UUID

import numpy as np
import numpy.typing as npt

from altsync.similarity.groups import EmbeddedMember, GroupMember, SimilarEdge
from altsync.similarity.rules import Rules

Floats = npt.NDArray[np.float32]

#: Decimal places of a score, so that equal texts have equal scores: float32 products of the same
#: two vectors differ in the seventh place by their position in a block.
DECIMALS = 6


class BatchProducts:
    """The products of one batch with its group, block by block."""

    def __init__(
        self, batch: Sequence[EmbeddedMember], edges: Iterable[SimilarEdge], rules: Rules
    ) -> None:
        # In the order of keys, so that equal scores are chosen in that order.
        self._batch = sorted(batch, key=lambda one: one.key)
        self._vectors = _units([one.vector for one in self._batch])
        self._column = {one.id: i for i, one in enumerate(self._batch)}
        self._rules = rules
        self._linked: dict[UUID, set[int]] = defaultdict(set)
        for edge in edges:
            for entity, member in ((edge.source, edge.target), (edge.target, edge.source)):
                if entity in self._column:
                    self._linked[member].add(self._column[entity])

    def block(
        self, page: Sequence[tuple[GroupMember, bytes]]
    ) -> Iterator[tuple[UUID, UUID, float]]:
        """Yield (entity of the batch, member, score) of one page of members, in key order."""
        scores = _units([vector for _member, vector in page]) @ self._vectors.T
        chosen = scores > self._rules.enter
        for row, (member, _vector) in enumerate(page):
            if member.id in self._column:
                chosen[row, self._column[member.id]] = False  # no entity is its own neighbour
        chosen = self._within_reach(scores, chosen)
        for row, (member, _vector) in enumerate(page):
            for column in self._linked.get(member.id, ()):
                chosen[row, column] = True
        rows, columns = np.nonzero(chosen)
        rounded = np.round(scores[rows, columns].astype(np.float64), DECIMALS)
        for row, column, score in zip(
            rows.tolist(), columns.tolist(), rounded.tolist(), strict=True
        ):
            yield self._batch[column].id, page[row][0].id, score

    def _within_reach(self, scores: Floats, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Drop the pairs that are among the nearest of neither end.

        Without this, a thousand entities of nearly equal texts make a million pairs, of which only
        ten edges each are kept.
        """
        most = self._rules.top_k + 1
        if chosen.sum() <= most * sum(scores.shape):
            return chosen
        ranked = np.where(chosen, np.round(scores, DECIMALS), -np.inf)
        near = np.zeros_like(chosen)
        for axis in (0, 1):
            best = np.argsort(-ranked, axis=axis, kind="stable").take(range(most), axis=axis)
            np.put_along_axis(near, best, True, axis=axis)
        return near & chosen


def _units(vectors: Sequence[bytes]) -> Floats:
    """Return vectors (float32 little-endian) as rows of a matrix, each of length 1 or 0."""
    matrix = np.frombuffer(b"".join(vectors), "<f4").reshape(len(vectors), -1).astype(np.float32)
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    units: Floats = np.divide(matrix, lengths, out=np.zeros_like(matrix), where=lengths > 0)
    return units
