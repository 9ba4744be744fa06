"""The script with sleeps as remote calls: its costs with PostgreSQL as the only server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

DIMENSIONS = 1536


def sleeping_embed(seconds: float) -> Callable[[str], Sequence[float]]:
    """An embedding client that answers the same vector after so many seconds."""
    vector = [1.0 / DIMENSIONS] * DIMENSIONS

    def embed(text: str) -> Sequence[float]:
        time.sleep(seconds)
        return vector

    return embed


class SleepingGraph:
    """A graph whose statements take so many seconds each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    @contextmanager
    def session(self) -> Iterator[SleepingGraph]:
        """Itself: a session costs nothing."""
        yield self

    def run(self, query: str, /, **parameters: Any) -> SleepingGraph:
        """Sleep."""
        time.sleep(self._seconds)
        return self

    def single(self) -> Mapping[str, Any]:
        """A node's id."""
        return {"node_id": "4:0:0"}


class SleepingIndex:
    """An index whose requests take so many seconds each."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def upsert(self, *, vectors: Sequence[Any]) -> None:
        """Sleep."""
        time.sleep(self._seconds)

    def query(self, **asked: Any) -> Any:
        """The pass queries a real index only: a sleeping one is empty."""
        raise NotImplementedError
