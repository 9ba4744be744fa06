"""Units of requests, by the rule of the vendor.

A write takes one unit for each KB of the request, and 5 at least. A write over an existing record
is charged for the new and the existing data, a deletion for what is removed.
https://docs.pinecone.io/guides/cost/understand-cost
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


#: Bytes for which a question takes one read unit, and the fewest units of a question.
QUERY_BYTES, LEAST_QUERY_UNITS = 10**9, 0.25


def query_units(size: int) -> float:
    """Return the read units of a question to a namespace of so many bytes.

    https://docs.pinecone.io/guides/cost/understand-cost
    """
    return max(LEAST_QUERY_UNITS, size / QUERY_BYTES)


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
