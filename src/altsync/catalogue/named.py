"""Find the name of the catalogue without importing it, so that commands start fast."""

from __future__ import annotations

import os
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

#: The setting that names a catalogue, as ``module:name``.
SETTING = "ALTSYNC_CATALOGUE"

#: The catalogue's file in the working folder.
FILE = "catalogue.py"

#: The group of entry points whose ``default`` is the catalogue that is shipped.
GROUP = "altsync.catalogues"

#: The group of entry points of catalogues' commands, each named as the catalogue's module.
COMMANDS = "altsync.commands"


def reference() -> str | None:
    """Return the catalogue of this process as ``module:name``; None when there is none."""
    named = os.environ.get(SETTING) if SETTING in os.environ else _of_dotenv()
    if named:
        return named
    if Path(FILE).is_file():
        return "catalogue:catalogue"
    return next((one.value for one in entry_points(group=GROUP, name="default")), None)


def commands() -> list[EntryPoint]:
    """Return the entry points of the commands that come with the catalogue."""
    named = reference()
    module = named.partition(":")[0] if named else ""
    return [one for one in entry_points(group=COMMANDS) if one.name == module]


def _of_dotenv() -> str | None:
    file = Path(".env")
    try:
        may_name_one = file.is_file() and SETTING.encode() in file.read_bytes()
    except OSError:
        may_name_one = True  # file_value raises the error
    if not may_name_one:
        return None
    from altsync.environment import file_value

    return file_value(SETTING)
