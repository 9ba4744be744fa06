"""Errors of the embedded stack."""

from __future__ import annotations

from altsync.errors import AltsyncError


class LocalStackError(AltsyncError):
    """A service of the embedded stack cannot be started, stopped or found."""
