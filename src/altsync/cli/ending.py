"""How every command ends: one sentence for any error, JSON with ``--json``, an exit status."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from altsync.cli.once import OnceCommand
from altsync.exits import Exit, Failure
from altsync.interrupts import interrupts_go_to
from altsync.redaction import redact
from altsync.wording import one_line, suggestion

#: Options that every command understands, wherever they stand.
JSON, DEBUG = "--json", "--debug"


class _Line:
    """The facts of this process' command line that a report of an error needs."""

    as_json = False
    debug = False
    #: Whether the command prints each JSON document on one line.
    one_line = False
    #: PostgreSQL's account, once the settings are read.
    role: str | None = None
    #: Whether Ctrl-C was pressed.
    interrupted = False
    #: The last error that was shown.
    shown: str | None = None


line = _Line()


def attach(error: BaseException, body: dict[str, Any]) -> None:
    """Attach the work done before an error, for the error's JSON document."""
    error.__dict__["altsync_body"] = body


def report(error: BaseException, code: Exit | int | None = None, before: str = "") -> int:
    """Show an exception as a sentence, and as JSON with ``--json``; return the exit status."""
    failure = _describe(error)
    failure = replace(failure, text=f"{before}{failure.text}")
    if failure.exit is Exit.PIPE:
        return failure.exit
    if line.debug:
        text = "".join(traceback.format_exception(error))
        _say(redact(text.rstrip()), None)
    return show(failure, code, error.__dict__.get("altsync_body"))


def _describe(error: BaseException) -> Failure:
    # An import that Ctrl-C interrupts may raise anything, and leave the driver half imported.
    if line.interrupted or isinstance(error, KeyboardInterrupt):
        return Failure("interrupted", Exit.INTERRUPTED)
    from altsync.sentences import describe

    return describe(error, line.role)


def show(failure: Failure, code: Exit | int | None, body: dict[str, Any] | None) -> int:
    """Show a failure; return the exit status."""
    status = int(failure.exit if code is None else code)
    line.shown = failure.text
    _say(f"altsync: {failure.text}", "red")
    if line.as_json:
        document = {**(body or {}), "error": failure.text, "kind": failure.kind, "exit": status}
        if failure.exit is Exit.INTERRUPTED:
            document["interrupted"] = True
        from altsync.cli.terminal import print_json, print_json_line

        with suppress(OSError, ValueError):
            (print_json_line if line.one_line else print_json)(document)
    return status


def _say(text: str, style: str | None) -> None:
    from altsync.cli.terminal import notes

    # A failure of this output cannot be reported anywhere.
    with suppress(OSError, ValueError):
        notes.print(text, style=style, soft_wrap=True)


class _Ending:
    """A command that reports every error as a sentence."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **extra: Any) -> Any:
        """Run the command line, and end the process with its status."""
        if not extra.pop("standalone_mode", True):
            return super().main(args, *more, standalone_mode=False, **extra)  # type: ignore[misc]
        given = list(sys.argv[1:] if args is None else args)
        options = given[: given.index("--")] if "--" in given else given
        line.as_json, line.debug, line.role = JSON in options, DEBUG in options, None
        line.one_line, line.interrupted, line.shown = False, False, None
        kept = [one for one in options if one != DEBUG] + given[len(options) :]
        prepare_streams()
        with interrupts_go_to(_interrupt):
            status = _finish(
                lambda: super(_Ending, self).main(  # type: ignore[misc]
                    kept, *more, standalone_mode=False, **extra
                )
            )
        sys.exit(status)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; every error of its own becomes an exit status."""
        try:
            return super().invoke(ctx)  # type: ignore[misc]
        except (typer.Exit, typer.Abort, TyperException, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  (reported, whatever it is)
            raise typer.Exit(report(error)) from None


def _interrupt(number: int, frame: FrameType | None) -> None:
    line.interrupted = True
    signal.default_int_handler(number, frame)


class Group(_Ending, TyperGroup):
    """The command line with its commands."""


class Command(_Ending, OnceCommand):
    """A command line of one command."""


def _finish(run: Callable[[], Any]) -> int:
    try:
        returned = run()
        status = returned if isinstance(returned, int) else Exit.OK
        if status == Exit.INTERRUPTED and line.shown is None:
            # Typer turns an interrupt outside a command into this status, without a message.
            status = report(KeyboardInterrupt())
    except TyperException as error:
        status = _show_usage(error)
    except typer.Abort:
        _say("altsync: not confirmed, nothing was done", "red")
        status = Exit.ERROR
    except SystemExit as error:
        if isinstance(error.code, str):
            _say(error.code, "red")
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.__context__, BrokenPipeError):
            status = Exit.PIPE  # Typer and Rich end the process with 1 then
    except BaseException as error:  # noqa: BLE001  (reported, whatever it is)
        status = report(error)
    return _flush(status)


def _show_usage(error: TyperException) -> int:
    message = one_line(error.format_message())
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{error.format_message()}\n")
        return error.exit_code
    known = re.search(r"'(?P<word>[^']*)' is not one of (?P<known>.+?)\.?$", message)
    if known is not None:
        message = message.rstrip(".") + suggestion(
            known["word"], re.findall(r"'([^']*)'", known["known"])
        )
    path = getattr(getattr(error, "ctx", None), "command_path", "altsync")
    text = f"{message.rstrip('.')}{'' if message.endswith('?') else '.'} {path} --help says more."
    failure = Failure(redact(text), Exit.USAGE)
    return show(failure, error.exit_code, None)


def prepare_streams() -> None:
    """Escape characters that the encoding of an output stream lacks."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: >&-
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  (for the process)
        elif hasattr(stream, "reconfigure"):
            # It reads the position in the file, which fails if a parent process replaced the file.
            with suppress(OSError):
                stream.reconfigure(errors="backslashreplace")


def _flush(status: int) -> int:
    """Flush stdout. Otherwise Python may show a traceback when it ends."""
    try:
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        status = Exit.PIPE
    except (OSError, ValueError) as error:
        # Until Python 3.11.2 the buffer keeps unwritten text, so a flush repeats the same error.
        if _describe(error).text != line.shown:
            status = report(error)
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status
