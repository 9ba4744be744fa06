"""Shared parts of commands: the application, settings, and arguments."""

from __future__ import annotations

import getpass
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from altsync import log
from altsync.app import Application
from altsync.cli import ending
from altsync.cli.terminal import notes
from altsync.config import Settings, read_settings
from altsync.contract import SinkTraits
from altsync.errors import AltsyncError
from altsync.wording import unknown

Json = Annotated[bool, typer.Option("--json", help="As JSON on stdout.")]

#: Seconds of each unit of a duration.
UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 604_800}

#: Longest duration in seconds, within the range of PostgreSQL's times.
LONGEST = 1000 * 365 * 86_400


@contextmanager
def command() -> Iterator[Settings]:
    """Read the settings and set up the log. The end of the command prints errors."""
    settings = read_settings()
    ending.line.role = settings.database_role
    # Commands are quiet unless a level is set.
    asked = "altsync_log_level" in settings.model_fields_set
    level = settings.altsync_log_level if asked else "WARNING"
    log.set_up(level=level, form=settings.altsync_log_format)
    if not asked:
        # The pool would log each attempt to connect. The last line of the command has the error.
        logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    for note in settings.notes:
        notes.print(note, style="yellow")
    yield settings


@contextmanager
def application(*, serving: bool = False) -> Iterator[Application]:
    """Open the application of a command. ``serving``: see ``Application``."""
    with command() as settings:
        app = Application(settings, serving=serving)
        try:
            yield app
        finally:
            app.close()


def known_sink(app: Application, sink: str) -> SinkTraits:
    """Return the traits of a sink by its name. Raises ``AltsyncError``."""
    try:
        return app.topology.traits(sink)
    except KeyError:
        raise AltsyncError(unknown("sink", sink, app.topology.names)) from None


def age(text: str) -> float:
    """Return the seconds of a duration such as 90s or 30d. Raises ``typer.BadParameter``."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?) ?([a-z]+)", text.strip().lower(), re.ASCII)
    if found is None or found[2] not in UNITS:
        raise typer.BadParameter(f"invalid duration {text!r}: use 90s, 15m, 2h, 30d or 4w")
    seconds = float(found[1]) * UNITS[found[2]]
    if seconds > LONGEST:
        raise typer.BadParameter(f"invalid duration {text!r}: it is longer than 1,000 years")
    return seconds


def operator() -> str:
    """Return the operator of a command: account and host."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = f"uid {os.getuid()}"  # an account without a name
    return f"{name}@{socket.gethostname()}"
