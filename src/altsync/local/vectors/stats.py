"""Counters of requests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Stats:
    """Counters by operation since the start or the last reset.

    ``failures`` were the client's own errors. ``injected`` are fired faults, by operation and
    kind, as ``pinecone.upsert:cut``. ``records`` are vectors, matches, ids or texts.
    """

    requests: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    injected: Counter[str] = field(default_factory=Counter)
    bytes: Counter[str] = field(default_factory=Counter)
    records: Counter[str] = field(default_factory=Counter)
    tokens: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the counters as JSON."""
        return vars(self)


def stats_from_json(raw: Mapping[str, Any]) -> Stats:
    """Return the counters of a JSON answer."""
    names = ("requests", "failures", "injected", "bytes", "records")
    return Stats(**{name: Counter(raw[name]) for name in names}, tokens=int(raw["tokens"]))
