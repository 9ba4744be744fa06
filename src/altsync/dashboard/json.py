"""Data as JSON for the page, without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson
from starlette.responses import Response

from altsync import log


def to_json(value: Any) -> Any:
    """Return ``value`` as JSON types. Whole numbers of 2^53 and more become text for JavaScript."""
    match value:
        case None | bool() | float():
            return value
        case int():
            return value if abs(value) < 2**53 else str(value)
        case Enum():
            return to_json(value.value)
        case str():
            return log.redact(value)
        case datetime() | date():
            return value.isoformat()
        case Decimal():
            return float(value)
        case UUID():
            return str(value)
        case bytes():
            return f"{len(value)} bytes"
        case Mapping():
            return {log.redact(str(to_json(key))): to_json(member) for key, member in value.items()}
        case list() | tuple() | set() | frozenset():
            return [to_json(member) for member in value]
        case _ if is_dataclass(value):
            return {one.name: to_json(getattr(value, one.name)) for one in fields(value)}
        case _:
            return log.redact(str(value))


def answer(value: Any, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(orjson.dumps(to_json(value)), status, media_type="application/json")
