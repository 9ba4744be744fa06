"""The vector index in PostgreSQL: one table per type of entity, guarded by version in SQL.

For installations without a vector service. The tables are in the database of ``PGVECTOR_URL``,
which may be the one that altsync's own tables are in. They need pgvector 0.8 or later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import orjson

from altsync import deadline
from altsync.config import Settings
from altsync.contract import (
    AlreadyNewer,
    Answer,
    Failed,
    RecordOutcome,
    SinkTraits,
    Written,
)
from altsync.db import Conn
from altsync.entities import EntityType, Model, Row
from altsync.errors import SinkFailure
from altsync.operations import ErrorKind
from altsync.projection import namespace, vector_metadata
from altsync.protocols import VectorStore
from altsync.sinks.pgvector import SINK
from altsync.sinks.pgvector.client import limited
from altsync.sinks.pgvector.filters import MARKS
from altsync.sinks.pgvector.read import BATCH, Reader, printed
from altsync.sinks.pgvector.statements import (
    DELETE,
    FORGET_DELETIONS,
    FORGET_TOMBSTONES,
    RESET_VERSIONS,
    UPSERT,
    VERSIONS_OF,
)

#: Bytes of vectors and metadata per statement, as they are sent.
MAX_BYTES = 4_000_000

#: Hours that a deletion is remembered, so that a late upsert finds it.
TOMBSTONE_HOURS = 24


class Sink(Reader):
    """Mirrors entities as rows with a vector; an older version never overwrites a newer one."""

    traits: ClassVar[SinkTraits] = SINK.traits

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """Cut rows into statements, by count and by bytes as they are sent."""
        parts: list[Sequence[Row]] = []
        start = size = 0
        for place, row in enumerate(rows):
            more = sent_bytes(row, model)
            if place > start and (size + more > MAX_BYTES or place - start >= BATCH):
                parts.append(rows[start:place])
                start, size = place, 0
            size += more
        return [*parts, rows[start:]] if rows else parts

    @limited
    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write rows in one statement. A newer version, or a tombstone of the same one, stays."""
        if model.dimensions != self._dimensions:
            raise SinkFailure(
                ErrorKind.SINK,
                f"the vectors of {model.name} have {model.dimensions:,} dimensions, and this "
                f"process was started with ALTSYNC_EMBEDDING_DIMENSIONS={self._dimensions}: set "
                "the same number everywhere",
            )
        kind = rows[0].entity_type
        unfit = {row.id: reason for row in rows if (reason := _unfit(row, self._dimensions))}
        fit = [row for row in rows if row.id not in unfit]
        written: set[str] = set()
        newer: dict[str, int] = {}
        if fit:
            self._require(kind)
            metadata = [_metadata(row, model.name) for row in fit]
            with self._transaction(kind) as conn:
                found = conn.execute(
                    self._statement(UPSERT, kind),
                    {
                        "model": model.name,
                        "keys": [row.key for row in fit],
                        "namespaces": [namespace(row) for row in fit],
                        "versions": [row.version for row in fit],
                        "hashes": [row.content_hash for row in fit],
                        "metadata": [orjson.dumps(one).decode() for one in metadata],
                        "embeddings": [printed(row.vector or b"") for row in fit],
                    },
                )
                written = {row[0] for row in found}
                refused = [row.key for row in fit if row.key not in written]
                newer = self._versions_of(conn, kind, refused)
                newer |= self._versions_of(conn, kind, refused, gone=True)
                deadline.check()

        def outcome(row: Row) -> RecordOutcome:
            if row.id in unfit:
                return Failed(row.id, ErrorKind.ITEM, unfit[row.id], final=True)
            if row.key in written:
                return Written(row.id, row.version, row.key, namespace(row))
            return AlreadyNewer(row.id, newer.get(row.key))

        return Answer(tuple(map(outcome, rows)), calls=1 if fit else 0)

    @limited
    def delete(self, rows: Sequence[Row]) -> Answer:
        """Remove the vectors, and keep the rows as tombstones for late upserts."""
        kind = rows[0].entity_type
        self._require(kind)
        versions = {row.key: row.version for row in rows}
        newer = self._delete(kind, versions)

        def outcome(row: Row) -> RecordOutcome:
            found = newer.get(row.key)
            return Written(row.id, row.version) if found is None else AlreadyNewer(row.id, found)

        return Answer(tuple(map(outcome, rows)))

    def _delete(self, kind: EntityType, versions: Mapping[str, int]) -> dict[str, int]:
        """Delete keys as of their versions; return the keys with newer versions, which stay."""
        with self._transaction(kind) as conn:
            numbers = {"keys": list(versions), "versions": list(versions.values())}
            deleted = {r[0] for r in conn.execute(self._statement(DELETE, kind), numbers)}
            newer = self._versions_of(conn, kind, [key for key in versions if key not in deleted])
            deadline.check()
        return newer

    def _versions_of(
        self, conn: Conn, kind: EntityType, keys: Sequence[str], *, gone: bool = False
    ) -> dict[str, int]:
        """Return the versions of living rows, or of tombstones."""
        if not keys:
            return {}
        statement = self._statement(VERSIONS_OF, kind)
        found = conn.execute(statement, {"keys": list(keys), "gone": gone})
        return dict(found.fetchall())

    @limited
    def remove(self, entity_type: EntityType, keys: Sequence[str], version: int) -> None:
        """Remove rows that are not above ``version``, and leave tombstones of it."""
        self._require(entity_type)
        self._delete(entity_type, dict.fromkeys(keys, version))

    @limited
    def reset_versions(self, entity_type: EntityType, keys: Sequence[str], highest: int) -> None:
        """Set versions above ``highest`` to 0, which would refuse every write."""
        self._require(entity_type)
        statement = RESET_VERSIONS.format(table=self._table(entity_type))
        with self._transaction(entity_type) as conn:
            conn.execute(statement, (list(keys), highest))

    @limited
    def forget_deletions(self, entity_type: EntityType, keys: Sequence[str]) -> None:
        """Remove the tombstones of ``keys``. Nothing may be on its way to them any more."""
        self._require(entity_type)
        statement = FORGET_DELETIONS.format(table=self._table(entity_type))
        with self._transaction(entity_type) as conn:
            conn.execute(statement, (list(keys),))

    @limited
    def forget_tombstones(self) -> None:
        """Remove old tombstones."""
        with self._transaction() as conn:
            kinds = self._kinds_in(conn)
        if not kinds:
            return
        self._guard.require()
        with self._transaction() as conn:
            for kind in kinds:
                statement = FORGET_TOMBSTONES.format(table=self._table(kind))
                conn.execute(statement, (TOMBSTONE_HOURS,))


def _unfit(row: Row, dimensions: int) -> str | None:
    """Return why a row's vector cannot be stored and found again; None when it can."""
    numbers = np.frombuffer(row.vector or b"", "<f4")
    if len(numbers) != dimensions:
        return f"its vector has {len(numbers):,} dimensions, and the table takes {dimensions:,}"
    if not np.isfinite(numbers).all() or not numbers.any():
        return "its vector has no direction (zeros, or no numbers), so nothing is near to it"
    return None


def _metadata(row: Row, model: str) -> dict[str, Any]:
    """Return a row's metadata without the fields that have columns."""
    known = vector_metadata(row, model)
    return {name: value for name, value in known.items() if name not in MARKS}


def sent_bytes(row: Row, model: Model) -> int:
    """Return the bytes of one row in a statement; of a deletion, those of its key."""
    if row.deleted:
        return len(row.key)
    metadata = orjson.dumps(_metadata(row, model.name))
    return len(row.key) + len(printed(row.vector or b"")) + len(metadata)


def open_sink(settings: Settings, vectors: VectorStore) -> Sink | None:
    """Return the sink, or None when PGVECTOR_URL is not set."""
    if settings.pgvector_url is None:
        return None
    return Sink(
        settings.pgvector_url.get_secret_value(),
        timeout=settings.altsync_sink_timeout_seconds,
        dimensions=settings.altsync_embedding_dimensions,
        kind=settings.altsync_pgvector_type,
        prefix=settings.altsync_prefix,
    )
