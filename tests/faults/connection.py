"""The way to a simulated server, where the weather happens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from tests.faults.fault_plan import Fault, FaultPlan
from tests.faults.server import Result, SimulatedServer, Write

#: Seconds that a call takes when the answer is slow; below every timeout used here.
SLOW = 0.15

#: Seconds to wait that a throttling server asks for.
RETRY_AFTER = 0.2

#: Exit status of a process that ended itself in the middle of something.
CRASHED = 42


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
class Connection:
    """The way to one simulated server: its ledger, the weather, and a check before each call."""

    server: SimulatedServer
    faults: FaultPlan
    before: Callable[[], None] = lambda: None

    def send(self, writes: Sequence[Write]) -> list[Result]:
        """One request. Raises the errors above."""
        self.before()
        fault = self.faults.next([write.key for write in writes])
        self.server.record_call(fault, len(writes))
        self.server.record_sent(fault, writes)
        half = writes[: len(writes) // 2]
        match fault:
            case Fault.NONE:
                return self.server.write(writes)
            case Fault.SLOW:
                time.sleep(SLOW)
                return self.server.write(writes)
            case Fault.LATE:
                self.server.write_delayed(writes, self.faults.delay())
                raise NoAnswer
            case Fault.UNANSWERED:
                self.server.write(writes)
                raise NoAnswer
            case Fault.PARTIAL:
                self.server.write(half)
                raise Broken
            case Fault.KILLED:
                self.server.write(half)
                os._exit(CRASHED)
            case _:
                raise _error(fault)

    def embed(self, text_hashes: Sequence[str]) -> None:
        """One paid request. Raises the errors above; what was answered in vain is paid, too."""
        self.before()
        fault = self.faults.next(text_hashes)
        self.server.record_call(fault, len(text_hashes))
        match fault:
            case Fault.NONE | Fault.SLOW:
                time.sleep(SLOW if fault is Fault.SLOW else 0)
                self.server.charge(text_hashes)
            case Fault.UNANSWERED | Fault.LATE | Fault.PARTIAL:
                self.server.charge(text_hashes)
                raise NoAnswer
            case Fault.KILLED:
                self.server.charge(text_hashes)
                os._exit(CRASHED)
            case _:
                raise _error(fault)


def _error(fault: Fault) -> Exception:
    errors: Mapping[Fault, type[Exception]] = {
        Fault.DOWN: NoConnection,
        Fault.LOST: Reset,
        Fault.THROTTLED: Throttled,
        Fault.REFUSED: Refused,
    }
    return errors[fault](f"simulated: {fault}")


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
            return SinkFailure(ErrorKind.SINK, reason, outcome_unknown=True, timed_out=True)
