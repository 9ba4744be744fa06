"""Limit the time of a whole call.

Clients limit each read only, so an answer that arrives byte by byte never exceeds their limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

C = TypeVar("C")
T = TypeVar("T")

_call = threading.local()


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of ``call``, or raise its error. Raises ``TimeoutError`` after ``seconds``.

    The call then continues in a daemon thread, where ``check`` raises from then on. The thread has
    the caller's context variables.
    """
    answers: list[tuple[T | None, BaseException | None]] = []
    over = threading.Event()

    def run() -> None:
        _call.over = over
        try:
            answers.append((call(), None))
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            answers.append((None, error))

    context = copy_context()
    thread = threading.Thread(target=context.run, args=(run,), name="limited-call", daemon=True)
    thread.start()
    thread.join(seconds)
    if not answers:
        over.set()
        raise TimeoutError
    value, error = answers[0]
    if error is not None:
        raise error
    return cast(T, value)


def check() -> None:
    """Raise ``TimeoutError`` in a call after its limit.

    Call it before each write: a write that begins after the limit may be applied after the lease.
    """
    over: threading.Event | None = getattr(_call, "over", None)
    if over is not None and over.is_set():
        raise TimeoutError


@dataclass(slots=True)
class _Generation(Generic[C]):
    """A client with the number of calls that use it. ``replaced``: later calls use another one."""

    client: C
    users: int = 0
    replaced: bool = False


class SharedClient(Generic[C]):
    """A client that threads share. If a call hangs, later calls get a new client.

    The old one is closed when its other calls have ended, which also ends the hanging call.
    """

    def __init__(self, opened: Callable[[], C], close: Callable[[C], object]) -> None:
        self._open = opened
        self._close = close
        self._lock = threading.Lock()
        self._current = _Generation(opened())

    def call(
        self,
        seconds: float,
        work: Callable[[C], T],
        *,
        broken: tuple[type[Exception], ...] = (),
    ) -> T:
        """Return the result of ``work``. Raises ``TimeoutError`` after ``seconds``.

        A client that raises one of ``broken`` is replaced like one that hangs.
        """
        replacing: tuple[type[Exception], ...] = (TimeoutError, *broken)
        with self._lock:
            used = self._current
            used.users += 1
        try:
            return within(seconds, lambda: work(used.client))
        except replacing:
            with self._lock:
                used.replaced = True
                if self._current is used:
                    self._current = _Generation(self._open())
            raise
        finally:
            with self._lock:
                used.users -= 1
                done = used.replaced and used.users == 0
            if done:
                # A client may wait for the server while it closes.
                closing = threading.Thread(target=self._close, args=(used.client,), daemon=True)
                closing.start()

    @property
    def current(self) -> C:
        """The client of the next call."""
        return self._current.client

    def close(self) -> None:
        """Close the current client."""
        self._close(self.current)
