"""Write units of requests, by the rule of the vendor.

One unit for each KB of a request, and at least 5. A write over an existing record is charged for
the new and the existing data, a deletion for what is removed.
https://docs.pinecone.io/guides/manage-cost/understand-cost#write-units
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from altsync.entities import Model, Row
from altsync.projection import vector_metadata

#: Bytes of one write unit, and the fewest units of a request.
UNIT_BYTES, LEAST_UNITS = 1000, 5

#: Bytes of a number in a vector, and in metadata.
VALUE_BYTES, NUMBER_BYTES = 4, 8


def record_bytes(key: str, metadata: Mapping[str, Any], dimensions: int) -> int:
    """Return the bytes of a record: its id, its vector and its metadata."""
    fields = sum(len(name.encode()) + _value_bytes(value) for name, value in metadata.items())
    return len(key.encode()) + VALUE_BYTES * dimensions + fields


def _value_bytes(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    return 1 if isinstance(value, bool) else NUMBER_BYTES


def units(size: int) -> int:
    """Return the write units of one request of so many bytes."""
    return max(LEAST_UNITS, -(-size // UNIT_BYTES))


def units_of_rows(rows: Sequence[Row], model: Model, *, times: int) -> int:
    """Return the units of one request with these records, each counted so many times."""
    sizes = (
        record_bytes(row.key, vector_metadata(row, model.name), model.dimensions) for row in rows
    )
    return units(times * sum(sizes))
