"""Set up structlog for every process, without secrets in its lines."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

from altsync.redaction import protect, redact
from altsync.wording import visible, visible_json

__all__ = ["debugging", "protect", "redact", "set_up"]


def _redacted(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for name, value in event.items():
        if name not in _STRUCTLOG_OWN:
            event[name] = _clean(value)
    return event


#: structlog's own keys.
_STRUCTLOG_OWN = frozenset({"_record", "_from_structlog", "exc_info"})


def _clean(value: Any) -> Any:
    match value:
        case str():
            return redact(value)
        case BaseException():
            return redact(f"{type(value).__name__}: {value}")
        case dict():
            return {name: _clean(member) for name, member in value.items()}
        case list() | tuple() | set():
            return [_clean(member) for member in value]
        case _:
            return value


def _visible(
    _logger: Any, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Escape control characters and line breaks of every text."""
    for name, value in event.items():
        if isinstance(value, str):
            text = visible(value)
            event[name] = text if name in _TRACEBACKS else text.replace("\n", "\\n")
    return event


#: Values with several lines.
_TRACEBACKS = frozenset({"exception", "stack"})


def _json(event: Any, **options: Any) -> str:
    return visible_json(json.dumps(event, **options))


def debugging() -> bool:
    """Return whether DEBUG lines are shown. Call it before logging each record of a batch."""
    return logging.getLogger("altsync").isEnabledFor(logging.DEBUG)


def set_up(*, level: str = "INFO", form: str = "auto") -> None:
    """Log to stderr. ``form`` is ``json``, ``console``, or ``auto``: console on a terminal."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # Tracebacks without local variables, which may hold keys and records.
    render: list[Any] = (
        [
            structlog.processors.format_exc_info,
            _redacted,
            _visible,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
        if console
        else [
            structlog.processors.format_exc_info,
            _redacted,
            structlog.processors.JSONRenderer(_json),
        ]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The pool warns of each try. The caller gets the error.
    logging.getLogger("psycopg.pool").setLevel(max(logging.ERROR, root.level))
    # Alembic logs its plug-ins at its import.
    for noisy in (
        "alembic.runtime.plugins",
        "httpx",
        "httpx2",
        "httpcore",
        "httpcore2",
        "openai",
        "pinecone",
        "neo4j",
    ):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
