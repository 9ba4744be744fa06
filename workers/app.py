"""``celery -A workers.app``: the app of ``altsync.workers``."""

from __future__ import annotations

from altsync.workers.app import app

__all__ = ["app"]
