"""Exit statuses of every command, and what a failed one ends with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit statuses of every command."""

    OK = 0
    #: The command could not do its work; the message says why.
    ERROR = 1
    #: Wrong arguments (Typer's own).
    USAGE = 2
    #: The work was done, but some seed lines were refused, or --prune could delete nothing.
    REJECTED = 3
    #: The work was done, but a sink gave up on some of it.
    SINK_ERRORS = 4
    #: Waiting ended before every sink had arrived.
    TIMED_OUT = 5
    #: Nothing was changed: it would cost money or forget something, and --yes was not said.
    NOT_CONFIRMED = 6
    #: A setting is wrong or missing.
    SETTINGS = 7
    #: A store cannot be reached, or does not answer.
    UNAVAILABLE = 8
    #: A store refuses the login, or the role lacks a right.
    DENIED = 9
    #: The database has no tables of altsync, those of another release, or a wrong encoding.
    SCHEMA = 10
    #: PostgreSQL lacks a resource for now: a lock, a time limit, connections, its disk.
    BUSY = 11
    #: A file or the standard output cannot be read or written.
    FILE = 12
    #: An error that altsync has no sentence for.
    BUG = 70
    #: Ctrl-C.
    INTERRUPTED = 130
    #: The program that reads standard output has ended.
    PIPE = 141


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a failed command: a sentence without secrets, and the exit status."""

    text: str
    exit: Exit

    @property
    def kind(self) -> str:
        """The exit status by its name."""
        return self.exit.name.lower()
