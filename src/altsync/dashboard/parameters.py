"""The parameters of the dashboard's requests, each checked as it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from altsync.catalogue.current import current, entity_types
from altsync.entities import EntityType
from altsync.errors import AltsyncError
from altsync.operations import OPERATION_STATUSES
from altsync.wording import unknown


@dataclass(frozen=True, slots=True)
class Window:
    """A time range of the plot: ``slices`` slices of ``step`` seconds."""

    step: int
    slices: int


#: Time ranges of the page, by name. A phone's screen has room for 60 to 84 slices.
WINDOWS: Mapping[str, Window] = {
    "15m": Window(15, 60),
    "1h": Window(60, 60),
    "6h": Window(300, 72),
    "24h": Window(1200, 72),
    "7d": Window(7200, 84),
}


class BadRequest(AltsyncError):
    """A request with a missing or invalid parameter."""


def text_of(body: Mapping[str, Any], name: str) -> str | None:
    """Return a text, None for an empty one."""
    value = body.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise BadRequest(f"{name} must be text")
    return value


def required(query: Mapping[str, str], name: str) -> str:
    """Return a parameter that must not be empty."""
    value = query.get(name)
    if not value:
        raise BadRequest(f"{name} is missing")
    return value


def whole_number(query: Mapping[str, str], name: str) -> int | None:
    """Return a positive whole number, None for an empty one."""
    value = query.get(name)
    if not value:
        return None
    # The greatest bigint of PostgreSQL is 2**63 - 1.
    if not (value.isascii() and value.isdigit() and 0 < int(value) < 2**63):
        raise BadRequest(f"{name} must be a whole number above 0")
    return int(value)


def required_type(name: str | None) -> EntityType:
    """Return the entity type of this name."""
    if not name:
        raise BadRequest("entity is missing")
    kind = optional_type(name)
    assert kind is not None
    return kind


def optional_type(name: str | None) -> EntityType | None:
    """Return the entity type of this name, None for no name."""
    if name is None:
        return None
    try:
        return current().by_table[name]
    except LookupError:
        raise BadRequest(unknown("entity type", name, entity_types())) from None


def status_of(name: str | None) -> str | None:
    """Return the status of an operation, None for no name."""
    if name is not None and name not in OPERATION_STATUSES:
        raise BadRequest(unknown("status", name, OPERATION_STATUSES))
    return name


def window_of(name: str) -> Window:
    """Return the time range of this name."""
    if name not in WINDOWS:
        raise BadRequest(unknown("window", name, WINDOWS))
    return WINDOWS[name]
