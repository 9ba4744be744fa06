"""Comparison of the table of vectors: digests first, then only the buckets that differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import numpy as np

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, Drift
from altsync.entities import EntityType, Row
from altsync.projection import namespace, vector_metadata
from altsync.protocols import Reads, StoredVector
from altsync.sinks.pgvector import write as pgvector
from altsync.sinks.pgvector.statements import ROW_DIGEST
from altsync.verify.comparison import Comparison, Difference, ahead_of, check_owner, differing
from altsync.verify.confirm import Observed, confirm
from altsync.verify.digests import row_digest
from altsync.verify.orphans import find_orphans, remove_orphans
from altsync.verify.pending_repairs import Orphan, PendingRepairs
from altsync.verify.report import Tally
from altsync.verify.retry import RetryPolicy, hung


@dataclass(frozen=True, slots=True)
class _Found:
    """A row of the index, and the version of its tombstone, 0 for none."""

    row: StoredVector | None
    tombstone: int = 0


def compare(run: Comparison, sink: pgvector.Sink, tally: Tally) -> None:
    """Compare every type of entity. Raises ``SinkFailure``."""
    check_owner(_retry(run), sink.check_owner)
    pending = PendingRepairs()
    for done, kind in enumerate(entity_types()):
        run.progress(tally.sink, done, len(entity_types()))
        if run.sampled is not None:
            _entities(run, sink, tally, pending, kind, run.sample_of(kind))
            continue
        modulus, buckets = _differing(run, sink, kind)
        _entities(
            run, sink, tally, pending, kind, run.entities(kind, sink.traits, modulus, buckets)
        )
        reads = Reads(ask=_retry(run))
        wanted = None if run.options.deep else buckets
        for page in sink.stored(kind, reads, modulus=modulus, buckets=wanted, with_values=False):
            pending.add_orphans(_orphans(run, sink, tally, kind, [one.key for one in page]))
    run.progress(tally.sink, len(entity_types()), len(entity_types()))
    _apply(run, sink, tally, pending)


def _apply(run: Comparison, sink: pgvector.Sink, tally: Tally, pending: PendingRepairs) -> None:
    """Do the pending repairs, if they are few enough."""

    def reset_versions(kind: EntityType, keys: list[str]) -> None:
        sink.reset_versions(kind, keys, run.highest)

    def remove(kind: EntityType, space: str, keys: list[str], version: int) -> None:
        # An invalid version would keep the row, and refuse a later entity of its key.
        sink.reset_versions(kind, keys, run.highest)
        sink.remove(kind, keys, version)

    counted = pending.orphans and run.options.repair
    reads = Reads(ask=_retry(run))
    held = sum(sink.count(kind, reads) for kind in entity_types()) if counted else 0
    if run.admits(tally, pending, held):
        run.overwrite(tally, sink.traits, pending.ahead_of_source, reset_versions)
        remove_orphans(run, tally, sink.traits, pending.orphans, remove)


def _retry(run: Comparison) -> RetryPolicy:
    return RetryPolicy(run.wait, tries=2, worth=hung)


def _differing(run: Comparison, sink: pgvector.Sink, kind: EntityType) -> tuple[int, list[int]]:
    """Return the number of buckets, and the buckets to list: differing ones, or all if deep."""
    if run.options.deep:
        return 1, [0]
    modulus = run.modulus(kind)
    held = _retry(run)(partial(sink.digest, kind, modulus))
    with run.database.autocommit() as conn:
        wanted = row_digest(conn, kind, modulus, digest=ROW_DIGEST, model=run.shadow)
    return modulus, differing(wanted, held)


def _entities(
    run: Comparison,
    sink: pgvector.Sink,
    tally: Tally,
    pending: PendingRepairs,
    kind: EntityType,
    listed: Iterator[list[UUID]],
) -> None:
    """Find entities that are missing, stale, ahead, misplaced or of another model."""
    deep = run.options.deep

    def read(ids: Sequence[UUID]) -> Mapping[UUID, Observed[Row]]:
        return run.observe(kind, ids, [tally.sink, EMBEDDING], with_vectors=deep)

    def fetch(observed: Mapping[UUID, Observed[Row]]) -> Mapping[UUID, _Found]:
        rows = {entity: one.fact for entity, one in observed.items() if one.fact is not None}
        keys = [row.key for row in rows.values()]
        found = _retry(run)(partial(sink.rows, kind, keys, with_values=deep))
        tombstones = _retry(run)(partial(sink.tombstones, kind, keys))
        return {e: _Found(found.get(r.key), tombstones.get(r.key, 0)) for e, r in rows.items()}

    for ids in listed:
        confirmed = confirm(
            ids,
            read=read,
            fetch=fetch,
            compare=lambda _, row, found: _difference(sink, row, found, run.highest, deep=deep),
            grace=0.0,  # a committed transaction is visible at once
            wait=run.wait,
        )
        tally.pending += confirmed.pending
        run.note(tally, sink.traits, kind, confirmed.drift, pending)


def _difference(
    sink: pgvector.Sink, row: Row | None, found: _Found | None, highest: int, *, deep: bool
) -> Difference | None:
    if row is None or row.deleted or found is None:
        return None  # listed as an orphan, if the index has it
    held = found.row
    # A tombstone above the row refuses it, as a newer row does: PostgreSQL was restored from a
    # backup that is older than the deletion.
    versions = (found.tombstone, (held.version or 0) if held else 0)
    ahead, invalid_version = ahead_of(row.version, versions, highest)
    if ahead:
        return Difference(Drift.AHEAD, version=ahead, invalid_version=invalid_version)
    if held is None:
        return Difference(Drift.MISSING, invalid_version=invalid_version)
    if invalid_version or (held.version or 0) < row.version:
        return Difference(Drift.STALE, invalid_version=invalid_version)
    if held.namespace != namespace(row):
        return Difference(Drift.WRONG_NAMESPACE)
    # Without a model, the embedding is missing: ``compare_embeddings`` reports it.
    if row.embedding_model is not None and held.metadata.get("model") != row.embedding_model:
        return Difference(Drift.WRONG_MODEL)
    if held.metadata.get("content_hash") != row.content_hash:
        return Difference(Drift.STALE)
    if deep and row.embedding_model is not None and _differs(sink, row, held):
        return Difference(Drift.STALE)
    return None


def _differs(sink: pgvector.Sink, row: Row, held: StoredVector) -> bool:
    """Return whether metadata or numbers differ from the row."""
    if dict(held.metadata) != vector_metadata(row, row.embedding_model or ""):
        return True
    if row.vector is None:
        return False  # drift of the embedding: there is no vector to compare with
    return not np.array_equal(np.asarray(held.values, "<f4"), sink.as_stored(row.vector))


def _orphans(
    run: Comparison, sink: pgvector.Sink, tally: Tally, kind: EntityType, keys: Sequence[str]
) -> list[Orphan]:
    def fetch(page: Sequence[str]) -> Mapping[str, int]:
        rows = _retry(run)(partial(sink.rows, kind, page))
        return {key: row.version or 0 for key, row in rows.items()}

    return find_orphans(run, tally, kind, keys, fetch)
