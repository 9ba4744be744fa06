"""What commands share: the application, errors as exit codes, arguments of the same kind."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import typer

from altsync import log
from altsync.app import Application
from altsync.cli.terminal import Exit, notes
from altsync.config import Settings, read_settings
from altsync.errors import AltsyncError, ConfigurationError
from altsync.records import SinkTraits

#: Seconds of each unit of an age.
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}

#: Longest age in seconds: PostgreSQL's times reach further back than anything here is old.
LONGEST = 1000 * 365 * 86_400


@contextmanager
def command() -> Iterator[Settings]:
    """Settings for a command; errors end it with a sentence and a code, never a traceback."""
    try:
        settings = read_settings()
        # Commands are quiet unless somebody has asked for more, or less.
        asked = "altsync_log_level" in settings.model_fields_set
        level = settings.altsync_log_level if asked else "WARNING"
        log.set_up(level=level, form=settings.altsync_log_format)
        yield settings
    except AltsyncError as error:
        raise _ended(" ".join(str(error).split()), Exit.ERROR) from None
    except psycopg.errors.UndefinedTable:
        raise _ended(
            "the database has no altsync tables: run altsync migrate", Exit.ERROR
        ) from None
    except psycopg.OperationalError as error:
        text = f"no connection to PostgreSQL: {' '.join(str(error).split())}"
        raise _ended(text, Exit.ERROR) from None
    except UnicodeEncodeError:
        # The shell hands on bytes as they are; no store takes them.
        raise _ended("an argument is no valid UTF-8", Exit.ERROR) from None
    except KeyboardInterrupt:
        raise _ended("interrupted", Exit.INTERRUPTED) from None


@contextmanager
def application(*, serving: bool = False) -> Iterator[Application]:
    """The application of a command, closed at its end. ``serving``: see ``Application``."""
    with command() as settings:
        app = Application(settings, serving=serving)
        try:
            yield app
        finally:
            app.close()


def _ended(text: str, code: Exit) -> typer.Exit:
    notes.print(f"altsync: {log.redact(text)}", style="red", markup=False)
    return typer.Exit(code)


def known_sink(app: Application, sink: str) -> SinkTraits:
    """The traits of a sink that somebody named. Raises ``ConfigurationError``."""
    try:
        return app.topology.traits(sink)
    except KeyError:
        known = ", ".join(app.topology.names)
        raise ConfigurationError(f"no sink {sink!r}; there are {known}") from None


def age(text: str) -> float:
    """Seconds of an age such as 90s, 15m, 2h, 30d or 4w. Raises ``typer.BadParameter``."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([a-z]+)", text.strip().lower(), re.ASCII)
    if found is None or found[2] not in UNITS:
        raise typer.BadParameter(f"{text!r} is no age: say 90s, 15m, 2h, 30d or 4w")
    seconds = float(found[1]) * UNITS[found[2]]
    if seconds > LONGEST:
        raise typer.BadParameter(f"{text!r} is longer than 1,000 years")
    return seconds


def person() -> str:
    """Who gives a command, for people: account and host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"  # an account that the machine has no name for
    return f"{name}@{socket.gethostname()}"
