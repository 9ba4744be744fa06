"""What every command shares: the application, and errors as exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import typer

from altsync import log
from altsync.app import Application
from altsync.cli.terminal import Exit, notes
from altsync.config import Settings, read_settings
from altsync.errors import AltsyncError


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
def application() -> Iterator[Application]:
    """The application of a command, closed at its end."""
    with command() as settings:
        app = Application(settings)
        try:
            yield app
        finally:
            app.close()


def _ended(text: str, code: Exit) -> typer.Exit:
    notes.print(f"altsync: {log.redact(text)}", style="red", markup=False)
    return typer.Exit(code)
