"""Every error that altsync raises on purpose."""

from __future__ import annotations

import math
from collections.abc import Collection

from altsync.entities import EntityType
from altsync.operations import ErrorKind

#: Longest wait of a breaker or a retry that no setting limits, in seconds. It also limits a sink's
#: Retry-After: proxies often send a day, and one call per interval costs little.
LONGEST_WAIT = 300.0

#: Seconds above which a wait is ignored as nonsense: 30 days.
MAX_PLAUSIBLE_WAIT = 30 * 86_400.0


class AltsyncError(Exception):
    """Base of all errors; its text is written for the operator."""


class ConfigurationError(AltsyncError):
    """A setting is missing or wrong; the text names the setting and what to do."""


class SchemaError(ConfigurationError):
    """The database does not fit this release; the text names the command to run."""


class SeedError(AltsyncError):
    """Seeding cannot continue: a folder is missing, a prune is refused, a parent is in use."""


class SaveError(AltsyncError):
    """``altsync.save`` or ``altsync.delete`` refuses an entity, and has written nothing.

    ``entity`` is the name of its class. ``field`` is the wrong field, if one alone is wrong.
    """

    def __init__(self, entity: str, field: str | None, reason: str) -> None:
        super().__init__(f"{entity}.{field}: {reason}" if field else f"{entity}: {reason}")
        self.entity = entity
        self.field = field
        self.reason = reason


class WaitTimeout(AltsyncError, TimeoutError):
    """``altsync.wait`` ended before every sink showed the version."""


class WaitFailed(AltsyncError):
    """A change that ``altsync.wait`` waited for is a dead letter."""


class SinkFailure(AltsyncError):
    """One call to a sink failed as a whole.

    A sink's module translates its driver's errors into this; no other module imports a driver.
    ``outcome_unknown``: the write may have been applied, or may be applied later (a timeout, a
    reset, a 5xx after sending). ``timed_out``: no answer in time, or a 5xx, so a record may be the
    cause. ``lock_conflict``: two writers met on one lock, so the same call may be repeated.
    ``throttled``: a smaller call may pass. ``retry_after`` is in seconds, from the sink's answer;
    see ``plausible_wait``. ``only``: the types of records that fail; the others may go on.
    ``charged``: the provider may charge for the call, although its outcome is known.
    """

    def __init__(
        self,
        kind: ErrorKind,
        reason: str,
        *,
        outcome_unknown: bool = False,
        timed_out: bool = False,
        lock_conflict: bool = False,
        throttled: bool = False,
        retry_after: float | None = None,
        only: Collection[EntityType] = (),
        charged: bool = False,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.outcome_unknown = outcome_unknown
        self.timed_out = timed_out
        self.lock_conflict = lock_conflict
        self.throttled = throttled
        self.retry_after = plausible_wait(retry_after)
        self.only = frozenset(only)
        self.charged = charged

    @property
    def maybe_charged(self) -> bool:
        """Return whether the provider may charge for the call: then it counts as spent."""
        return self.charged or self.outcome_unknown or self.timed_out


def plausible_wait(seconds: float | None) -> float | None:
    """Return the wait of a sink's answer, at most ``LONGEST_WAIT``; None for nonsense."""
    if seconds is None or not math.isfinite(seconds) or not 0 <= seconds <= MAX_PLAUSIBLE_WAIT:
        return None
    return min(seconds, LONGEST_WAIT)


def seconds_of(header: str | None) -> float | None:
    """Return a ``Retry-After`` header in seconds; None for nonsense, and for a date.

    With a date, the clocks of two machines would decide how long to wait.
    """
    try:
        return plausible_wait(float(header or ""))
    except ValueError:
        return None
