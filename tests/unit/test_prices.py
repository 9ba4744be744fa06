"""The table of prices, and the units that it prices."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from altsync.contract import Usage
from altsync.costs.prices import load_prices
from altsync.costs.units import LEAST_UNITS, record_bytes, units
from altsync.errors import ConfigurationError
from altsync.tokens import INPUT_LIMITS


def test_every_known_model_has_a_price() -> None:
    assert INPUT_LIMITS.keys() <= load_prices().tokens.keys()


def test_a_price_is_that_of_tokens_and_units() -> None:
    usage = Usage(tokens=1_000_000, read_units=1_000_000, write_units=500_000)
    assert load_prices().dollars(usage, "text-embedding-3-small") == Decimal("18.02")


def test_tokens_of_an_unknown_model_have_no_price() -> None:
    prices = load_prices()
    assert prices.dollars(Usage(tokens=1), "of-my-own") is None
    assert prices.dollars(Usage(write_units=250_000), "of-my-own") == Decimal(1)


def test_a_file_replaces_single_prices(tmp_path: Path) -> None:
    file = tmp_path / "prices.toml"
    file.write_text('[models."of-my-own"]\ndollars = 1\nper_tokens = 1000\n')
    prices = load_prices(file)
    assert prices.dollars(Usage(tokens=2000), "of-my-own") == 2
    assert prices.write_unit == load_prices().write_unit


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[model]\n", "unknown entry 'model': use batch, date, models"),
        ("[write_unit]\ndollars = 4\n", "write_unit.per_units: it must be a number"),
        ("[storage]\ndollars = -1\nper_gb_months = 1\n", "storage.dollars: it must be a number"),
        ("[storage]\ndollars = 1\nper_gb_months = 0\n", "storage.per_gb_months: it must be above"),
        ("[", "no valid TOML"),
        (None, "No such file"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, text: str | None, reason: str) -> None:
    file = tmp_path / "prices.toml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        load_prices(file)
    assert f"ALTSYNC_PRICES: {file}" in str(caught.value)
    assert reason in str(caught.value)


def test_a_request_has_a_unit_for_each_kilobyte_and_five_at_least() -> None:
    assert [units(size) for size in (1, 5000, 5001, 2_000_000)] == [LEAST_UNITS, 5, 6, 2000]


def test_a_record_is_its_id_its_numbers_and_its_metadata() -> None:
    metadata = {"name": "ä", "tags": ["a", "bc"], "year": 1999, "live": True}
    assert record_bytes("key", metadata, 4) == 3 + 16 + (4 + 2) + (4 + 3) + (4 + 8) + (4 + 1)
