"""The vector index: one index per type of entity, namespaces as declared.

The index has no conditional write, so an older version could overwrite a newer one when a
call is applied late. Vectors carry their version; the outbox repeats writes of unknown outcome.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar

import orjson
import pinecone

from altsync import deadline
from altsync.config import Settings
from altsync.contract import Answer, RecordOutcome, SinkTraits, Usage, Written
from altsync.costs.units import LEAST_UNITS, record_bytes, units, units_of_rows
from altsync.entities import EntityType, Model, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.projection import namespace, vector_metadata
from altsync.protocols import VectorStore
from altsync.sinks.pinecone import SINK
from altsync.sinks.pinecone.client import committed, limited
from altsync.sinks.pinecone.read import MAX_VECTORS, Reader, printed
from altsync.wording import plural

#: Bytes of the vectors in one upsert: the service's 2 MB, less the JSON around them.
MAX_BYTES = 2_000_000 - 10_000


class Sink(Reader):
    """Mirrors entities as vectors with metadata to filter on."""

    traits: ClassVar[SinkTraits] = SINK.traits

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """Cut rows into upserts, by namespace, count, and bytes as they are sent."""
        parts: list[Sequence[Row]] = []
        by_namespace: dict[str, list[Row]] = defaultdict(list)
        for row in rows:
            by_namespace[namespace(row)].append(row)
        for members in by_namespace.values():
            start = size = 0
            for place, row in enumerate(members):
                more = sent_bytes(row, model)
                if place > start and (size + more > MAX_BYTES or place - start >= MAX_VECTORS):
                    parts.append(members[start:place])
                    start, size = place, 0
                size += more
            parts.append(members[start:])
        return parts

    @limited
    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write vectors of one namespace in one request; delete them from former namespaces."""
        space = namespace(rows[0])
        vectors = [_sent(row, model) for row in rows]
        with self._translated_errors():
            index = self._index(rows[0].entity_type)
            self._guards[rows[0].entity_type].require()
            deadline.check()
            answer = index.upsert(vectors=vectors, namespace=space, timeout=self._timeout)
        if answer.has_errors or answer.upserted_count != len(rows):
            raise SinkFailure(
                ErrorKind.UNKNOWN,
                f"Pinecone took {answer.upserted_count} of {plural(len(rows), 'vector')}",
                outcome_unknown=True,
            )
        marks: dict[str, int] = {}
        _raise_mark(marks, space, committed(answer.response_info))
        moved = [row for row in rows if row.written_namespace not in (None, space)]
        calls = self._delete_keys(moved, lambda row: {row.written_namespace or ""}, marks)
        written = (Written(row.id, row.version, row.key, space) for row in rows)
        # The stored record of a row is about as large as its new one.
        size = sum(
            record_bytes(row.key, vector.metadata or {}, model.dimensions)
            * (1 if row.written_namespace is None else 2)
            for row, vector in zip(rows, vectors, strict=True)
        )
        spent = units(size) + LEAST_UNITS * calls
        return Answer(tuple(written), calls=1 + calls, marks=marks, write_units=spent)

    @limited
    def delete(self, rows: Sequence[Row]) -> Answer:
        """Delete vectors by id from the namespaces that hold them, or may after a late write."""
        marks: dict[str, int] = {}
        calls = self._delete_keys(
            rows,
            lambda row: {row.written_namespace, namespace(row), *row.stale_namespaces},
            marks,
        )
        outcomes: list[RecordOutcome] = [Written(row.id, row.version) for row in rows]
        spent = self._deletion_units(rows, calls)
        return Answer(tuple(outcomes), calls=calls, marks=marks, write_units=spent)

    def _deletion_units(self, rows: Sequence[Row], calls: int) -> int:
        model = Model(rows[0].embedding_model or "", self._dimensions)
        held = [row for row in rows if row.written_namespace is not None]
        return max(units_of_rows(held, model, times=1), LEAST_UNITS * calls)

    def most_usage(self, rows: Sequence[Row], model: Model, removing: bool) -> Usage:
        """Return an upper bound of what one call costs: every record is taken to exist."""
        spaces = {
            space
            for row in rows
            for space in (row.written_namespace, namespace(row), *row.stale_namespaces)
        }
        twice = units_of_rows(rows, model, times=2)
        return Usage(write_units=twice + LEAST_UNITS * len(spaces))

    def _delete_keys(self, rows: Sequence[Row], spaces_of: Any, marks: dict[str, int]) -> int:
        """Delete rows from namespaces; return the number of calls. Raise ``marks``."""
        by_space: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            for space in spaces_of(row) - {None}:
                by_space[space].append(row.key)
        calls = 0
        for space, keys in by_space.items():
            for start in range(0, len(keys), MAX_VECTORS):
                page = keys[start : start + MAX_VECTORS]
                _raise_mark(marks, space, self._delete_page(rows[0].entity_type, space, page))
                calls += 1
        return calls

    def _delete_page(self, entity_type: EntityType, space: str, keys: list[str]) -> int | None:
        """Delete keys; return the position of the deletion, if the server says it."""

        def delete(index: pinecone.Index) -> int | None:
            self._guards[entity_type].require()
            deadline.check()
            self._positions.last = None
            index.delete(ids=keys, namespace=space, timeout=self._timeout)
            return self._positions.last

        return self._if_present(entity_type, delete)

    def remove(self, entity_type: EntityType, space: str, keys: Sequence[str]) -> None:
        """Remove vectors from one namespace by id. Raises ``SinkFailure``."""
        for start in range(0, len(keys), MAX_VECTORS):
            self._delete_page(entity_type, space, list(keys[start : start + MAX_VECTORS]))


def _raise_mark(marks: dict[str, int], space: str, position: int | None) -> None:
    """Note the position of a write to a namespace, if the server says it."""
    if position is not None:
        marks[space] = max(position, marks.get(space, position))


def _sent(row: Row, model: Model) -> pinecone.Vector:
    """Return a vector for the SDK, with its numbers as JSON, not as Python's floats."""
    values: Any = orjson.Fragment(printed(row.vector or b""))
    return pinecone.Vector(id=row.key, values=values, metadata=vector_metadata(row, model.name))


def sent_bytes(row: Row, model: Model) -> int:
    """Return the bytes of one row in the body of an upsert."""
    metadata = orjson.dumps(vector_metadata(row, model.name))
    frame = len('{"id":"","values":,"metadata":},')
    return frame + len(row.key) + len(printed(row.vector or b"")) + len(metadata)


def open_sink(settings: Settings, vectors: VectorStore) -> Sink | None:
    """Return the sink, or None when PINECONE_API_KEY is not set."""
    if settings.pinecone_api_key is None:
        return None
    return Sink(
        settings.pinecone_api_key.get_secret_value(),
        host=settings.pinecone_controller_host,
        timeout=settings.altsync_sink_timeout_seconds,
        dimensions=settings.altsync_embedding_dimensions,
        cloud=settings.altsync_pinecone_cloud,
        region=settings.altsync_pinecone_region,
        prefix=settings.altsync_prefix,
        hosts=settings.pinecone_hosts,
    )
