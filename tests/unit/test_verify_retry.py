"""Reads of a comparison that are asked for again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.verify.retry import LONGEST, PAUSE, TRIES, RetryPolicy, hung


class Line:
    """Answers 7 after so many failures, and counts the calls."""

    def __init__(self, failures: int, failure: SinkFailure) -> None:
        self.calls, self._failures, self._failure = 0, failures, failure

    def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._failure
        return 7


def away(**more: object) -> SinkFailure:
    """No answer, as a sink says it."""
    return SinkFailure(ErrorKind.SINK, "away", **more)  # type: ignore[arg-type]


def noting(waits: list[float]) -> Callable[[float], object]:
    """A way to wait that takes no time."""
    return waits.append


def test_what_answers_is_asked_once() -> None:
    """And nothing is waited for."""
    line, waits = Line(0, away()), list[float]()
    assert (RetryPolicy(noting(waits))(line), line.calls, waits) == (7, 1, [])


def test_pauses_grow_and_vary() -> None:
    """Each between half its bound and the whole of it."""
    line, waits = Line(TRIES - 1, away()), list[float]()
    assert RetryPolicy(noting(waits))(line) == 7
    bounds = [PAUSE * 2**n for n in range(TRIES - 1)]
    assert all(b / 2 <= w <= b for w, b in zip(waits, bounds, strict=True))


def test_it_ends() -> None:
    """The last failure is what is raised."""
    line, waits = Line(TRIES, away()), list[float]()
    with pytest.raises(SinkFailure, match="away"):
        RetryPolicy(noting(waits))(line)
    assert (line.calls, len(waits)) == (TRIES, TRIES - 1)


def test_a_sink_is_left_alone_for_as_long_as_it_asks() -> None:
    """Within reason."""
    line, waits = Line(1, away(retry_after=3.0)), list[float]()
    assert (RetryPolicy(noting(waits))(line), waits) == (7, [3.0])
    line = Line(1, away(retry_after=LONGEST + 1))
    with pytest.raises(SinkFailure):
        RetryPolicy(noting(waits))(line)
    assert (line.calls, waits) == (1, [3.0])


def test_a_run_that_ends_asks_no_more() -> None:
    """An event that is set answers at once."""
    stop = threading.Event()
    stop.set()
    line = Line(1, away(retry_after=LONGEST))
    with pytest.raises(SinkFailure):
        RetryPolicy(stop.wait)(line)
    assert line.calls == 1


def test_what_cannot_pass_is_asked_once() -> None:
    """A wrong request is not repeated; one that hung is, even by a driver with its own retries."""
    for failure, worth, calls in (
        (SinkFailure(ErrorKind.ITEM, "wrong"), None, 1),
        (away(outcome_unknown=True), hung, 1),
        (away(timed_out=True), hung, 2),
        (SinkFailure(ErrorKind.UNKNOWN, "met", lock_conflict=True), hung, 2),
    ):
        line = Line(9, failure)
        retry = RetryPolicy(lambda _: None, tries=2, **({"worth": worth} if worth else {}))
        with pytest.raises(SinkFailure):
            retry(line)
        assert line.calls == calls
