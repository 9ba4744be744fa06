"""Generate logins where none is set."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path


def generated_login(file: Path) -> str:
    """Return the user and password of a private file, which is created if it is missing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"altsync:{secrets.token_urlsafe(18)}\n")
    return file.read_text().strip()
