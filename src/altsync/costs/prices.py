"""The table of prices: of tokens by model, of read and write units, and of storage."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal, InvalidOperation
from importlib.resources import files
from pathlib import Path
from typing import Any

from altsync.contract import Usage
from altsync.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Prices:
    """Prices in dollars: of one token by model, of one unit, and of a GB for a month.

    ``batch_factor`` is the part of a token's price that OpenAI's Batch API charges. ``date`` is
    the day of the table.
    """

    date: date
    tokens: Mapping[str, Decimal]
    batch_factor: Decimal
    read_unit: Decimal
    write_unit: Decimal
    gb_month: Decimal

    def dollars(self, usage: Usage, model: str) -> Decimal | None:
        """Return the price of units; None if tokens are of a model without a price."""
        token = self.tokens.get(model, None if usage.tokens else Decimal())
        if token is None:
            return None
        return (
            usage.tokens * token
            + usage.read_units * self.read_unit
            + usage.write_units * self.write_unit
        )


def load_prices(path: Path | None = None) -> Prices:
    """Return the packaged prices, with those of a file in their place.

    Raises ``ConfigurationError``, which names the file and the entry.
    """
    packaged = files("altsync.costs").joinpath("prices.toml")
    prices = _read(tomllib.loads(packaged.read_text("utf-8")), None, "the packaged prices")
    if path is None:
        return prices
    place = f"ALTSYNC_PRICES: {path}"
    try:
        body = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{place}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{place}: no valid TOML: {error}") from None
    return _read(body, prices, place)


def _read(body: Mapping[str, Any], base: Prices | None, place: str) -> Prices:
    known = {"date", "models", "batch", "read_unit", "write_unit", "storage"}
    if unknown := sorted(body.keys() - known):
        raise ConfigurationError(
            f"{place}: unknown entry {unknown[0]!r}: use {', '.join(sorted(known))}"
        )
    zero = Decimal()
    prices = base or Prices(date.min, {}, zero, zero, zero, zero)
    models = {
        name: _price(entry, "per_tokens", f"{place}: models.{name}")
        for name, entry in body.get("models", {}).items()
    }
    changes: dict[str, Any] = {"tokens": {**prices.tokens, **models}}
    if "date" in body:
        changes["date"] = body["date"]
    if "batch" in body:
        changes["batch_factor"] = _number(body["batch"], "factor", f"{place}: batch")
    for entry, per, field in (
        ("read_unit", "per_units", "read_unit"),
        ("write_unit", "per_units", "write_unit"),
        ("storage", "per_gb_months", "gb_month"),
    ):
        if entry in body:
            changes[field] = _price(body[entry], per, f"{place}: {entry}")
    return replace(prices, **changes)


def _price(entry: Any, per: str, place: str) -> Decimal:
    number = _number(entry, per, place)
    if not number:
        raise ConfigurationError(f"{place}.{per}: it must be above 0")
    return _number(entry, "dollars", place) / number


def _number(entry: Any, name: str, place: str) -> Decimal:
    value = entry.get(name) if isinstance(entry, Mapping) else None
    try:
        if isinstance(value, bool):
            raise InvalidOperation
        number = Decimal(str(value))
        if not number.is_finite() or number < 0:
            raise InvalidOperation
    except InvalidOperation:
        raise ConfigurationError(f"{place}.{name}: it must be a number, such as 0.02") from None
    return number
