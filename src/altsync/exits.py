"""Exit statuses of commands."""

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
    #: The work was done, but operations of a sink are dead.
    SINK_ERRORS = 4
    #: The time limit ended before every sink was done.
    TIMED_OUT = 5
    #: Nothing was changed: it would cost money or delete data, and --yes is missing.
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
    #: An unexpected error.
    BUG = 70
    #: Ctrl-C.
    INTERRUPTED = 130
    #: The program that reads standard output has ended.
    PIPE = 141


@dataclass(frozen=True, slots=True)
class Failure:
    """The end of a failed command: a message without secrets, and the exit status."""

    text: str
    exit: Exit

    @property
    def kind(self) -> str:
        """The name of the exit status in lower case."""
        return self.exit.name.lower()
