"""Every error that altsync raises on purpose."""

from __future__ import annotations

import math

from altsync.records import ErrorKind


class AltsyncError(Exception):
    """Base of all errors; its text is written for the person at the terminal."""


class ConfigurationError(AltsyncError):
    """A setting is missing or wrong; the text names the setting and what to do."""


class SchemaError(ConfigurationError):
    """The database is not one that this release can use; the text says what to do."""


class SeedError(AltsyncError):
    """Seeding cannot go on: a folder is missing, a prune is refused, an archetype is in use."""


class SinkFailure(AltsyncError):
    """One call to a sink failed as a whole.

    Sinks translate their driver's errors into this at their own door; nobody else knows the
    drivers. ``unsure`` means that the write may have been applied, or may be applied later
    (a timeout, a reset, a 5xx after sending). ``suspect`` means that a record may
    be the cause: no answer came in time, or the sink broke over it.
    ``again`` means that the very same call may simply be repeated: two writers met on one lock.
    ``throttled`` means that a smaller call may pass: a limit by the minute, or one of size.
    ``retry_after`` is in seconds and comes from the sink's own answer.
    """

    def __init__(
        self,
        kind: ErrorKind,
        reason: str,
        *,
        unsure: bool = False,
        suspect: bool = False,
        again: bool = False,
        throttled: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.unsure = unsure
        self.suspect = suspect
        self.again = again
        self.throttled = throttled
        self.retry_after = retry_after


def seconds_of(header: str | None) -> float | None:
    """A ``Retry-After`` header in seconds; None for a date, nonsense or the past."""
    try:
        seconds = float(header or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
