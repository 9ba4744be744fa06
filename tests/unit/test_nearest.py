"""Completing an index's answer, with an index and rows made up for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from altsync.queries.nearest import Page, Search, cosines, largest
from altsync.queries.stores import MOST


@dataclass(frozen=True)
class Match:
    """An answer of an index."""

    key: str
    score: float


@dataclass
class Shelf:
    """An index of ``size`` keys, of which ``held`` are rows; ``unknown`` rows it lacks."""

    size: int
    held: set[str]
    unknown: dict[str, bytes] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)
    compared: list[int] = field(default_factory=list)

    def search(self, top_k: int) -> list[tuple[str, float]]:
        """The best rows."""
        return Search(vector(1, 0), self.query, self.read, str, self.rest).best(top_k)

    def query(self, count: int) -> list[Match]:
        """The best of all keys: k0, k1 …"""
        self.counts.append(count)
        return [Match(f"k{n}", 1 - n / 100_000) for n in range(min(count, self.size))]

    def read(self, keys: Sequence[str], limit: int) -> list[str]:
        """Return the matches that are rows."""
        return [key for key in keys if key in self.held | self.unknown.keys()][:limit]

    @contextmanager
    def rest(self, seen: Sequence[str]) -> Iterator[Iterable[Page]]:
        """Rows that were not seen, two to a page."""
        self.compared.append(len(seen))
        left = [(key, one) for key, one in self.unknown.items() if key not in seen]
        yield (left[i : i + 2] for i in range(0, len(left), 2))


def vector(*numbers: float) -> bytes:
    """As it is stored."""
    return np.asarray(numbers, "<f4").tobytes()


def test_one_question_when_the_best_hold() -> None:
    """Nothing is compared by hand."""
    shelf = Shelf(100, {f"k{n}" for n in range(100)})
    assert shelf.search(3) == [("k0", 1.0), ("k1", 0.99999), ("k2", 0.99998)]
    assert (shelf.counts, shelf.compared) == ([3], [])


def test_twice_as_much_until_enough_hold() -> None:
    """Keys that were seen are not read again."""
    shelf = Shelf(100, {"k1", "k4", "k9", "k30"})
    assert [key for key, _ in shelf.search(3)] == ["k1", "k4", "k9"]
    assert (shelf.counts, shelf.compared) == ([3, 6, 12], [])


def test_an_index_with_no_more_to_give_is_asked_no_more() -> None:
    """The rest is compared, the nearest first, in order with what the index scored."""
    shelf = Shelf(5, {"k2"}, {"far": vector(0, 1), "near": vector(2, 0), "half": vector(1, 1)})
    found = dict(shelf.search(3))
    assert list(found) == ["near", "k2", "half"]
    assert found == pytest.approx({"near": 1.0, "k2": 0.99998, "half": 0.5**0.5})
    assert (shelf.counts, shelf.compared) == ([3, 6], [5])


def test_an_index_gives_ten_thousand_at_most() -> None:
    """Whatever holds beyond them is compared."""
    shelf = Shelf(50_000, {"k49999"}, {"k49999": vector(1, 0)})
    assert dict(shelf.search(7)) == pytest.approx({"k49999": 1.0})
    assert shelf.counts[-1] == MOST
    assert max(shelf.counts) == MOST
    assert shelf.compared == [MOST]


def test_the_largest_of_many_pages() -> None:
    """Kept in order, however the pages come."""
    pages = [[(f"{p}-{n}", vector(1, p * 10 + n)) for n in range(10)] for p in (1, 0, 2)]
    assert list(largest(vector(1, 0), pages, 3)) == ["0-0", "0-1", "0-2"]
    assert largest(vector(1, 0), [], 3) == {}


def test_cosines() -> None:
    """By direction alone; nothing is like a vector without one."""
    found = cosines(vector(3, 4), [vector(6, 8), vector(-3, -4), vector(0, 0), vector(4, -3)])
    assert found == pytest.approx([1.0, -1.0, 0.0, 0.0], abs=1e-7)
    assert cosines(vector(1, 0), []) == []
