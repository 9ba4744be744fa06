"""Confirmation of differences: a change in progress is no drift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

K = TypeVar("K")
F = TypeVar("F")

#: Number of rounds. An entity that changes in each of them is counted as pending.
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Observed(Generic[F]):
    """The state of an entity in PostgreSQL. Two are equal if their ``fact`` is.

    ``age`` is seconds since the sink confirmed it, None if unknown.
    """

    fact: F | None = None
    in_progress: bool = field(default=False, compare=False)
    age: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Confirmed(Generic[K]):
    """Differences of entities at rest, and the count of differences in progress."""

    drift: Mapping[K, Any]
    pending: int


def confirm(
    keys: Sequence[K],
    *,
    read: Callable[[Sequence[K]], Mapping[K, Observed[F]]],
    fetch: Callable[[Mapping[K, Observed[F]]], Mapping[K, Any]],
    compare: Callable[[K, F | None, Any], Any],
    grace: float = 0.0,
    wait: Callable[[float], Any] = lambda seconds: None,
) -> Confirmed[K]:
    """Return which of ``keys`` differ at rest. ``compare`` returns None for agreement.

    PostgreSQL is read before and after the sink. If both reads agree and no operation is live,
    then every change had been delivered when the sink was read:

        verify            | worker
        ------------------+---------------------------
        read PostgreSQL   |
        fetch from sink   |
                          | write to sink, settle
        read PostgreSQL   |   -> not equal: next round

    An index may show writes late. A recent entity is fetched again when ``grace`` seconds have
    passed since the sink confirmed it; only then ``wait`` is called.
    """
    drift: dict[K, Any] = {}
    pending = 0
    todo = list(keys)
    for _ in range(ROUNDS):
        before = read(todo)
        held = fetch({key: before.get(key, Observed()) for key in todo})
        after = read(todo)
        again: list[K] = []
        longest = 0.0
        for key in todo:
            first, second = before.get(key, Observed()), after.get(key, Observed())
            difference = compare(key, second.fact, held.get(key))
            if difference is None:
                continue
            if first.in_progress or second.in_progress:
                pending += 1
            elif first != second:
                again.append(key)
            elif second.age is not None and second.age < grace:
                again.append(key)
                longest = max(longest, grace - second.age)
            else:
                drift[key] = difference
        todo = again
        if not todo:
            break
        if longest:
            wait(longest)
    return Confirmed(drift, pending + len(todo))
