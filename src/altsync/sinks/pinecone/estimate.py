"""Estimate the units of planned writes, by the packing and the rule of the vendor."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from altsync.contract import Usage
from altsync.costs.units import query_units, record_bytes, units
from altsync.entities import EntityType, Model, Row
from altsync.projection import namespace, vector_metadata
from altsync.sinks.pinecone.read import MAX_VECTORS
from altsync.sinks.pinecone.write import MAX_BYTES

#: Bytes of one number as JSON, with its comma: 12 on average.
PRINTED_BYTES = 12


@dataclass(slots=True)
class _Requests:
    """Requests to one namespace, the last of which is still open."""

    most: int
    records: int = 0
    charged: int = 0
    sent: int = 0
    closed_units: int = 0

    def add(self, charged: int, sent: int) -> None:
        """Add a record with the bytes that are charged for it, and those in the request."""
        if self.records and (self.records >= self.most or self.sent + sent > MAX_BYTES):
            self.closed_units = self.units()
            self.records = self.charged = self.sent = 0
        self.records += 1
        self.charged += charged
        self.sent += sent

    def units(self) -> int:
        """Return the write units of all requests."""
        return self.closed_units + (units(self.charged) if self.records else 0)


@dataclass(slots=True)
class Estimate:
    """The units and the storage of planned writes, and of the questions that follow them.

    ``batch`` is the most records that a worker claims at once. An existing record is taken to be
    as large as the new one.
    """

    batch: int
    _requests: dict[tuple[EntityType, str, bool], _Requests] = field(default_factory=dict)
    _stored: int = 0
    _records: dict[tuple[EntityType, str], int] = field(default_factory=lambda: defaultdict(int))
    _read: float = 0.0

    def hold(self, entity_type: EntityType, records: Mapping[str, int]) -> None:
        """Set how many records of a type each namespace has now."""
        for space, count in records.items():
            self._records[entity_type, space] += count

    def ask(self, row: Row, model: Model) -> None:
        """Add a question, whose units grow with its namespace. Its records are as large as this."""
        records = self._records[row.entity_type, namespace(row)]
        self._read += query_units(records * _size(row, model))

    def write(self, row: Row, model: Model) -> None:
        """Add a record that is to be written, over the one in its namespace if there is one."""
        space, size = namespace(row), _size(row, model)
        held = row.written_namespace
        # A renamed entity is a new record, and the one by its former key is removed.
        over = held == space and not row.former_keys
        if held is not None and not over:
            self._remove(row, size)
        if not over:
            self._stored += size
            self._records[row.entity_type, space] += 1
        sent = size + (PRINTED_BYTES - 4) * model.dimensions
        self._of(row, space, removing=False).add(size * (2 if over else 1), sent)

    def remove(self, row: Row, model: Model) -> None:
        """Add a record that is to be removed, if it was ever written."""
        if row.written_namespace is not None:
            self._remove(row, _size(row, model))

    def _remove(self, row: Row, size: int) -> None:
        self._stored -= size
        self._of(row, row.written_namespace or "", removing=True).add(size, 0)

    def _of(self, row: Row, space: str, *, removing: bool) -> _Requests:
        name = (row.entity_type, space, removing)
        if name not in self._requests:
            self._requests[name] = _Requests(min(self.batch, MAX_VECTORS))
        return self._requests[name]

    def usage(self) -> Usage:
        """Return the read and write units."""
        return Usage(
            read_units=math.ceil(self._read),
            write_units=sum(one.units() for one in self._requests.values()),
        )

    def stored_bytes(self) -> int:
        """Return the bytes that the indexes grow by."""
        return self._stored


def _size(row: Row, model: Model) -> int:
    return record_bytes(row.key, vector_metadata(row, model.name), model.dimensions)
