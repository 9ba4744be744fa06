"""The way to a simulated server, where the weather happens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from tests.faults.ledger import Ledger, Result, Write
from tests.faults.weather import Trouble, Weather

#: Seconds that a call takes when the answer is slow; below every timeout used here.
SLOW = 0.15

#: Seconds to wait that a throttling server asks for.
RETRY_AFTER = 0.2

#: Exit status of a process that ended itself in the middle of something.
DIED = 42


class NoConnection(Exception):
    """Nothing was sent."""


class Reset(Exception):
    """The connection was cut before an answer came."""


class Broken(Exception):
    """The server answered with an error of its own."""


class NoAnswer(Exception):
    """The client's time ran out."""


class Throttled(Exception):
    """The server asks to wait for ``RETRY_AFTER`` seconds."""


class Refused(Exception):
    """The server refuses the request for a record of it."""


@dataclass(frozen=True, slots=True)
class Line:
    """The way to one simulated server: its ledger, the weather, and a check before each call."""

    ledger: Ledger
    weather: Weather
    before: Callable[[], None] = lambda: None

    def send(self, writes: Sequence[Write]) -> list[Result]:
        """One request. Raises the errors above."""
        self.before()
        trouble = self.weather.next([write.key for write in writes])
        self.ledger.note_call(trouble, len(writes))
        self.ledger.note_sent(trouble, writes)
        half = writes[: len(writes) // 2]
        match trouble:
            case Trouble.NONE:
                return self.ledger.write(writes)
            case Trouble.SLOW:
                time.sleep(SLOW)
                return self.ledger.write(writes)
            case Trouble.LATE:
                self.ledger.write_late(writes, self.weather.lateness())
                raise NoAnswer
            case Trouble.UNANSWERED:
                self.ledger.write(writes)
                raise NoAnswer
            case Trouble.PARTIAL:
                self.ledger.write(half)
                raise Broken
            case Trouble.KILLED:
                self.ledger.write(half)
                os._exit(DIED)
            case _:
                raise _error(trouble)

    def embed(self, text_hashes: Sequence[str]) -> None:
        """One paid request. Raises the errors above; what was answered in vain is paid, too."""
        self.before()
        trouble = self.weather.next(text_hashes)
        self.ledger.note_call(trouble, len(text_hashes))
        match trouble:
            case Trouble.NONE | Trouble.SLOW:
                time.sleep(SLOW if trouble is Trouble.SLOW else 0)
                self.ledger.pay(text_hashes)
            case Trouble.UNANSWERED | Trouble.LATE | Trouble.PARTIAL:
                self.ledger.pay(text_hashes)
                raise NoAnswer
            case Trouble.KILLED:
                self.ledger.pay(text_hashes)
                os._exit(DIED)
            case _:
                raise _error(trouble)


def _error(trouble: Trouble) -> Exception:
    errors: Mapping[Trouble, type[Exception]] = {
        Trouble.DOWN: NoConnection,
        Trouble.LOST: Reset,
        Trouble.THROTTLED: Throttled,
        Trouble.REFUSED: Refused,
    }
    return errors[trouble](f"simulated: {trouble}")


#: Every error of a call.
ERRORS = (NoConnection, Reset, Broken, NoAnswer, Throttled, Refused)


def failure(error: Exception) -> SinkFailure:
    """As a driver's error is translated at a sink's door."""
    reason = f"{type(error).__name__}: {error}"
    match error:
        case NoConnection():
            return SinkFailure(ErrorKind.SINK, reason)
        case Reset():
            return SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True)
        case Throttled():
            return SinkFailure(ErrorKind.SINK, reason, retry_after=RETRY_AFTER)
        case Refused():
            return SinkFailure(ErrorKind.ITEM, reason)
        case _:
            return SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True, suspect=True)
