"""Comparison of the vector index. It cannot aggregate, so all vectors are listed and fetched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, Drift
from altsync.entities import EntityType, Row
from altsync.projection import namespace
from altsync.protocols import Reads, StoredVector
from altsync.sinks.pinecone import read, write
from altsync.sinks.vectors import content_differs, is_current
from altsync.store.rows import read_rows
from altsync.verify.comparison import PAGE, Comparison, Difference, check_owner, differing
from altsync.verify.confirm import Observed, confirm
from altsync.verify.digests import version_digest
from altsync.verify.orphans import remove_orphans
from altsync.verify.pending_repairs import Orphan, PendingRepairs
from altsync.verify.report import Tally
from altsync.verify.retry import RetryPolicy
from altsync.verify.sql import EntitySnapshot

#: Sums of versions stay within 64 bits.
PRIME = 1_000_000_007

#: A vector by its key and namespace.
Location = tuple[str, str]


def price_of_listing(namespaces: Sequence[int]) -> Reads:
    """Return the price of listing and fetching namespaces of so many records each."""
    reads = Reads()
    for records in namespaces:
        for start in range(0, records, read.FETCH_IDS):
            reads.listed()
            reads.fetched(min(read.FETCH_IDS, records - start))
    return reads


def compare(run: Comparison, sink: write.Sink, tally: Tally) -> None:
    """Compare every type of entity. Raises ``SinkFailure``."""
    reads = Reads(ask=RetryPolicy(run.wait))
    try:
        if run.sampled is not None:
            check_owner(reads.ask, sink.check_owner)
            pending = PendingRepairs()
            for entity_type in entity_types():
                listed = run.sample_of(entity_type)
                _entities(run, sink, tally, pending, reads, entity_type, listed)
            if run.admits(tally, pending, 0):
                run.overwrite(tally, sink.traits, pending.ahead_of_source)
            return
        _compare_all(run, sink, tally, reads)
    finally:
        tally.requests, tally.read_units = reads.requests, reads.units


def _compare_all(run: Comparison, sink: write.Sink, tally: Tally, reads: Reads) -> None:
    total = sum(sink.count(entity_type, reads) for entity_type in entity_types())
    check_owner(reads.ask, sink.check_owner)
    held = 0
    pending = PendingRepairs()
    for entity_type in entity_types():
        modulus = run.modulus(entity_type)
        agreed: dict[int, tuple[int, int]] = {}
        for page in sink.stored(entity_type, reads):
            held += len(page)
            run.progress(tally.sink, held, total)
            for one in _agreeing(run, entity_type, page):
                count, versions = agreed.get(one % modulus, (0, 0))
                agreed[one % modulus] = (count + 1, versions + one % PRIME)
            _misplaced(run, sink, tally, pending, reads, entity_type, page)
        with run.database.autocommit() as conn:
            wanted = version_digest(conn, entity_type, modulus, prime=PRIME)
        buckets = differing(wanted, {bucket: {facts} for bucket, facts in agreed.items()})
        listed = run.entities(entity_type, sink.traits, modulus, buckets)
        _entities(run, sink, tally, pending, reads, entity_type, listed)

    def remove(kind: EntityType, space: str, keys: list[str], version: int) -> None:
        sink.remove(kind, space, keys)

    if run.admits(tally, pending, held):
        run.overwrite(tally, sink.traits, pending.ahead_of_source)
        _remove(run, sink, tally, pending.misplaced)
        remove_orphans(run, tally, sink.traits, pending.orphans, remove)


def _agreeing(
    run: Comparison, entity_type: EntityType, page: Sequence[StoredVector]
) -> Iterator[int]:
    """Yield the versions of vectors that agree, in the right namespace."""
    found = _snapshots(run, entity_type, [one.key for one in page])
    wanted: dict[UUID, Row] = {}
    older = {one.key for one in page if (s := found.get(one.key)) and _is_older(one, s)}
    ids = [one.id for key, one in found.items() if run.options.deep or key in older]
    if ids:
        with run.database.autocommit() as conn:
            wanted = {
                row.id: row
                for row in read_rows(conn, entity_type, ids, with_vectors=True, model=run.shadow)
            }
    for one in page:
        snapshot = found.get(one.key)
        if snapshot is None or not snapshot.living or snapshot.namespace != one.namespace:
            continue
        same = (
            one.version == snapshot.version
            and one.metadata.get("model") == snapshot.model
            and one.metadata.get("content_hash") == snapshot.content_hash
        )
        row = wanted.get(snapshot.id)
        if same and run.options.deep:
            same = row is not None and not content_differs(row, one.metadata, one.values)
        if same or (one.key in older and row is not None and is_current(row, one)):
            yield snapshot.version


def _is_older(held: StoredVector, snapshot: EntitySnapshot) -> bool:
    return snapshot.living and 0 < (held.version or 0) < snapshot.version


def _snapshots(
    run: Comparison, entity_type: EntityType, keys: Sequence[str]
) -> dict[str, EntitySnapshot]:
    sink = write.Sink.traits.name
    return run.snapshots(entity_type, keys, sink, [sink, EMBEDDING])


def _entities(
    run: Comparison,
    sink: write.Sink,
    tally: Tally,
    pending: PendingRepairs,
    reads: Reads,
    entity_type: EntityType,
    listed: Iterator[list[UUID]],
) -> None:
    """Find entities that are missing, stale, ahead or of another model."""

    def read(ids: Sequence[UUID]) -> Mapping[UUID, Observed[Row]]:
        sinks = [tally.sink, EMBEDDING]
        return run.observe(entity_type, ids, sinks, with_vectors=True)

    def fetch(observed: Mapping[UUID, Observed[Row]]) -> Mapping[UUID, StoredVector]:
        spaces: dict[str, dict[str, UUID]] = defaultdict(dict)
        for entity, one in observed.items():
            if one.fact is not None:
                spaces[namespace(one.fact)][one.fact.key] = entity
        return {
            members[vector.key]: vector
            for space, members in spaces.items()
            for vector in sink.fetch(entity_type, space, list(members), reads)
        }

    for ids in listed:
        found = confirm(
            ids,
            read=read,
            fetch=fetch,
            compare=lambda _, row, held: _difference(row, held, run.highest, deep=run.options.deep),
            grace=run.options.grace,
            wait=run.wait,
        )
        tally.pending += found.pending
        run.note(tally, sink.traits, entity_type, found.drift, pending)


def _difference(
    row: Row | None, held: StoredVector | None, highest: int, *, deep: bool
) -> Difference | None:
    if row is None or row.deleted:
        return None  # listed as an orphan, if the index has it
    if held is None:
        return Difference(Drift.MISSING)
    version = held.version or 0
    if version > max(row.version, highest):
        return Difference(Drift.STALE, invalid_version=True)  # no guard: the write replaces it
    if version > row.version:
        return Difference(Drift.AHEAD, version)
    if version < row.version:
        return None if is_current(row, held) else Difference(Drift.STALE)
    # Without a model, the embedding is missing: ``compare_embeddings`` reports it.
    if row.embedding_model is not None and held.metadata.get("model") != row.embedding_model:
        return Difference(Drift.WRONG_MODEL)
    if held.metadata.get("content_hash") != row.content_hash:
        return Difference(Drift.STALE)
    if (
        deep
        and row.embedding_model is not None
        and content_differs(row, held.metadata, held.values)
    ):
        return Difference(Drift.STALE)
    return None


def _misplaced(
    run: Comparison,
    sink: write.Sink,
    tally: Tally,
    pending: PendingRepairs,
    reads: Reads,
    entity_type: EntityType,
    page: Sequence[StoredVector],
) -> None:
    """Find orphans, and vectors in wrong namespaces."""
    found = _snapshots(run, entity_type, [one.key for one in page])
    candidates: list[Location] = [
        (one.key, one.namespace)
        for one in page
        if (snapshot := found.get(one.key)) is None
        or not snapshot.living
        or snapshot.namespace != one.namespace
    ]
    if not candidates:
        return

    def read(locations: Sequence[Location]) -> Mapping[Location, Observed[EntitySnapshot]]:
        now = _snapshots(run, entity_type, [key for key, _ in locations])
        return {
            (key, space): Observed(now[key], now[key].in_progress, now[key].age)
            for key, space in locations
            if key in now
        }

    def fetch(
        observed: Mapping[Location, Observed[EntitySnapshot]],
    ) -> Mapping[Location, StoredVector]:
        spaces: dict[str, list[str]] = defaultdict(list)
        for key, space in observed:
            spaces[space].append(key)
        return {
            (one.key, space): one
            for space, keys in spaces.items()
            for one in sink.fetch(entity_type, space, keys, reads)
        }

    confirmed = confirm(
        candidates,
        read=read,
        fetch=fetch,
        compare=partial(_misplacement, entity_type),
        grace=run.options.grace,
        wait=run.wait,
    )
    tally.pending += confirmed.pending
    drift = confirmed.drift.values()
    for kind, one in drift:
        tally.note(kind, one.key)
    pending.add_orphans([one for kind, one in drift if kind is Drift.ORPHAN])
    pending.add_misplaced([one for kind, one in drift if kind is Drift.WRONG_NAMESPACE])


def _misplacement(
    entity_type: EntityType,
    location: Location,
    snapshot: EntitySnapshot | None,
    held: StoredVector | None,
) -> tuple[Drift, Orphan] | None:
    key, space = location
    if held is None or not held.is_ours:
        return None
    orphan = Orphan(entity_type, key, held.version or 0, space)
    if snapshot is None or not snapshot.living:
        return Drift.ORPHAN, orphan
    return None if snapshot.namespace == space else (Drift.WRONG_NAMESPACE, orphan)


def _remove(run: Comparison, sink: write.Sink, tally: Tally, misplaced: Sequence[Orphan]) -> None:
    """Remove the vectors of living entities from wrong namespaces."""
    tally.removed += len(misplaced)
    if run.options.dry_run:
        return
    locations: dict[tuple[EntityType, str], list[str]] = defaultdict(list)
    for one in misplaced:
        locations[one.entity_type, one.namespace].append(one.key)
    for (entity_type, space), keys in locations.items():
        for start in range(0, len(keys), PAGE):
            _remove_page(run, sink, tally, entity_type, space, keys[start : start + PAGE])


def _remove_page(
    run: Comparison,
    sink: write.Sink,
    tally: Tally,
    entity_type: EntityType,
    space: str,
    keys: Sequence[str],
) -> None:
    now = _snapshots(run, entity_type, keys)
    leaving = [key for key in keys if key in now and now[key].namespace != space]
    sink.remove(entity_type, space, leaving)
    # Enqueue the entities that moved to this namespace before the deletion.
    after = _snapshots(run, entity_type, leaving)
    back = [one.id for one in after.values() if one.namespace == space and one.living]
    run.enqueue(tally, sink.traits, entity_type, back)
