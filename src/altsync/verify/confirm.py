"""From a first difference to drift: nothing is called so that may be a change under way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

K = TypeVar("K")
F = TypeVar("F")

#: Looks at an entity that changes all the while, before it is left as pending.
ROUNDS = 4


@dataclass(frozen=True, slots=True)
class Seen(Generic[F]):
    """What PostgreSQL holds of an entity: equal when nothing that matters has changed.

    ``age`` is seconds since the sink confirmed it, None when that is unknown.
    """

    fact: F | None = None
    in_progress: bool = field(default=False, compare=False)
    age: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Confirmed(Generic[K]):
    """Verdicts on entities that differ at rest, and how many differ under way."""

    drift: Mapping[K, Any]
    pending: int


def confirm(
    keys: Sequence[K],
    *,
    read: Callable[[Sequence[K]], Mapping[K, Seen[F]]],
    look: Callable[[Mapping[K, Seen[F]]], Mapping[K, Any]],
    judge: Callable[[K, F | None, Any], Any],
    grace: float = 0.0,
    wait: Callable[[float], Any] = lambda seconds: None,
) -> Confirmed[K]:
    """Which of ``keys`` differ at rest.

    PostgreSQL is read before and after the sink. Where it is the same, and no operation is under
    way, whatever was to be delivered had been when the sink was looked at. An index that shows
    writes late is looked at again when ``grace`` seconds have passed since it confirmed: only
    then is anything waited for. ``judge`` returns None for what agrees.
    """
    drift: dict[K, Any] = {}
    pending = 0
    todo = list(keys)
    for _ in range(ROUNDS):
        before = read(todo)
        held = look({key: before.get(key, Seen()) for key in todo})
        after = read(todo)
        again: list[K] = []
        longest = 0.0
        for key in todo:
            first, second = before.get(key, Seen()), after.get(key, Seen())
            verdict = judge(key, second.fact, held.get(key))
            if verdict is None:
                continue
            if first.in_progress or second.in_progress:
                pending += 1
            elif first != second:
                again.append(key)
            elif second.age is not None and second.age < grace:
                again.append(key)
                longest = max(longest, grace - second.age)
            else:
                drift[key] = verdict
        todo = again
        if not todo:
            break
        if longest:
            wait(longest)
    return Confirmed(drift, pending + len(todo))
