"""Find the rows nearest to a vector by the index, and check and complete them by PostgreSQL.

The index checks a part of the filter, and may lag. So it is queried for more until enough of its
matches pass in PostgreSQL. The rest is found by comparing the other vectors of PostgreSQL.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from altsync.queries.stores import MOST, Matchable

T = TypeVar("T")

Page = Sequence[tuple[str, bytes]]


@dataclass(frozen=True)
class Search(Generic[T]):
    """One search: the vector, and functions that read the two stores.

    ``query`` returns the best matches of the index, ``read`` the rows of some keys in their
    order, up to a limit, ``key`` the key of a row, and ``rest`` the stored vectors of all other
    rows that pass the filter.
    """

    vector: bytes
    query: Callable[[int], Sequence[Matchable]]
    read: Callable[[Sequence[str], int], Sequence[T]]
    key: Callable[[T], str]
    rest: Callable[[Sequence[str]], AbstractContextManager[Iterable[Page]]]

    def best(self, top_k: int) -> list[tuple[T, float]]:
        """Return rows and their scores, the best first: ``top_k``, or all if fewer pass."""
        scores: dict[str, float] = {}
        found: list[T] = []
        wanted = top_k
        while True:
            matches = self.query(wanted)
            new = [match for match in matches if match.key not in scores]
            scores |= {match.key: match.score for match in new}
            if new:
                found += self.read([match.key for match in new], top_k - len(found))
            if len(found) >= top_k:
                break
            if len(matches) < wanted or wanted == MOST:
                found += self._compared(scores, top_k - len(found))
                break
            wanted = min(wanted * 2, MOST)
        answers = [(row, scores[self.key(row)]) for row in found]
        return sorted(answers, key=lambda answer: (-answer[1], self.key(answer[0])))

    def _compared(self, scores: dict[str, float], count: int) -> Sequence[T]:
        """Return the best ``count`` rows that the index did not return; add their ``scores``."""
        with self.rest(list(scores)) as pages:
            best = largest(self.vector, pages, count)
        scores |= best
        return self.read(list(best), count) if best else []


def largest(vector: bytes, pages: Iterable[Page], count: int) -> dict[str, float]:
    """Return the ``count`` keys most similar to a vector with their scores, the best first."""
    best: list[tuple[float, str]] = []
    for page in pages:
        scores = cosines(vector, [one for _key, one in page])
        scored = zip(scores, (key for key, _one in page), strict=True)
        best = heapq.nlargest(count, [*best, *scored])
    return {key: score for score, key in best}


def cosines(vector: bytes, others: Sequence[bytes]) -> list[float]:
    """Return the cosine of a vector with each of the others (all float32 little-endian)."""
    if not others:
        return []
    one = np.frombuffer(vector, "<f4")
    matrix = np.frombuffer(b"".join(others), "<f4").reshape(len(others), -1)
    lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(one)
    products = matrix @ one
    found: list[float] = np.divide(
        products, lengths, out=np.zeros_like(products), where=lengths > 0
    ).tolist()
    return found
