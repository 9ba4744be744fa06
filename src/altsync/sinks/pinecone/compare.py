"""The vector index against PostgreSQL. It cannot aggregate: everything is listed and fetched."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from uuid import UUID

import numpy as np

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, Drift
from altsync.entities import EntityType, Row
from altsync.projection import namespace, vector_metadata
from altsync.protocols import Reads, StoredVector
from altsync.sinks.pinecone import write
from altsync.store.rows import read_rows
from altsync.verify.comparison import PAGE, Comparison, Verdict, check_owner, differing
from altsync.verify.confirm import Seen, confirm
from altsync.verify.pending_repairs import Ghost, Waiting
from altsync.verify.report import Tally
from altsync.verify.retry import Patience
from altsync.verify.sql import Standing, rows_and_live, standings, version_digest

#: Sums of versions stay within 64 bits.
PRIME = 1_000_000_007

#: How far numbers may be from float32: an index may round, and returns them as doubles.
TOLERANCE = 1e-6

#: A vector by its key and namespace.
Place = tuple[str, str]


def price_of_listing(namespaces: Sequence[int]) -> Reads:
    """Return what it costs to list and fetch namespaces of so many records each."""
    reads = Reads()
    for records in namespaces:
        for start in range(0, records, write.FETCH_IDS):
            reads.listed()
            reads.fetched(min(write.FETCH_IDS, records - start))
    return reads


def compare(run: Comparison, sink: write.Sink, tally: Tally) -> None:
    """Every type of entity. Raises ``SinkFailure``."""
    reads = Reads(ask=Patience(run.wait))
    try:
        if run.sampled is not None:
            check_owner(reads.ask, sink.check_owner)
            waiting = Waiting()
            for entity_type in entity_types():
                listed = run.sample_of(entity_type)
                _entities(run, sink, tally, waiting, reads, entity_type, listed)
            if run.admits(tally, waiting, 0):
                run.write_over(tally, sink.traits, waiting.above)
            return
        _compare_all(run, sink, tally, reads)
    finally:
        tally.requests, tally.read_units = reads.requests, reads.units


def _compare_all(run: Comparison, sink: write.Sink, tally: Tally, reads: Reads) -> None:
    total = sum(sink.count(entity_type, reads) for entity_type in entity_types())
    check_owner(reads.ask, sink.check_owner)
    held = 0
    waiting = Waiting()
    for entity_type in entity_types():
        modulus = run.modulus(entity_type)
        agreed: dict[int, tuple[int, int]] = {}
        for page in sink.stored(entity_type, reads):
            held += len(page)
            run.progress(tally.sink, held, total)
            for one in _agreeing(run, entity_type, page):
                count, versions = agreed.get(one % modulus, (0, 0))
                agreed[one % modulus] = (count + 1, versions + one % PRIME)
            _strays(run, sink, tally, waiting, reads, entity_type, page)
        with run.database.autocommit() as conn:
            wanted = version_digest(conn, entity_type, modulus, prime=PRIME)
        buckets = differing(wanted, {bucket: {facts} for bucket, facts in agreed.items()})
        listed = run.entities(entity_type, sink.traits, modulus, buckets)
        _entities(run, sink, tally, waiting, reads, entity_type, listed)

    def remove(kind: EntityType, space: str, keys: list[str], version: int) -> None:
        sink.remove(kind, space, keys)

    if run.admits(tally, waiting, held):
        run.write_over(tally, sink.traits, waiting.above)
        _leave(run, sink, tally, waiting.strays)
        run.remove_ghosts(tally, sink.traits, waiting.ghosts, remove)


def _agreeing(
    run: Comparison, entity_type: EntityType, page: Sequence[StoredVector]
) -> Iterator[int]:
    """Versions of the vectors that are as they should be, in their namespace."""
    found = _standings(run, entity_type, [one.key for one in page])
    wanted: dict[UUID, Row] = {}
    if run.options.deep:
        ids = [one.id for one in found.values()]
        with run.database.autocommit() as conn:
            wanted = {row.id: row for row in read_rows(conn, entity_type, ids, with_vectors=True)}
    for one in page:
        standing = found.get(one.key)
        if standing is None or not standing.living or standing.namespace != one.namespace:
            continue
        same = (
            one.version == standing.version
            and one.metadata.get("model") == standing.model
            and one.metadata.get("content_hash") == standing.content_hash
        )
        if same and run.options.deep:
            row = wanted.get(standing.id)
            same = row is not None and not _differs(row, one)
        if same:
            yield standing.version


def _standings(
    run: Comparison, entity_type: EntityType, keys: Sequence[str]
) -> dict[str, Standing]:
    with run.database.autocommit() as conn:
        sink = write.Sink.traits.name
        return standings(conn, entity_type, keys, sink, [sink, EMBEDDING])


def _differs(row: Row, held: StoredVector) -> bool:
    """Return whether metadata or numbers are not those of the row."""
    wanted = vector_metadata(row, row.embedding_model or "")
    if {name: _plain(value) for name, value in held.metadata.items()} != wanted:
        return True
    numbers = np.asarray(held.values, "<f4")
    vector = np.frombuffer(row.vector or b"", "<f4")
    if row.vector is None:
        return False  # the embedding's own drift: there is nothing to compare with
    return numbers.shape != vector.shape or not np.allclose(
        numbers, vector, rtol=TOLERANCE, atol=TOLERANCE
    )


def _plain(value: object) -> object:
    """Numbers come back as doubles."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _entities(
    run: Comparison,
    sink: write.Sink,
    tally: Tally,
    waiting: Waiting,
    reads: Reads,
    entity_type: EntityType,
    listed: Iterator[list[UUID]],
) -> None:
    """Find what is missing, stale, ahead or of another model among entities of PostgreSQL."""

    def read(ids: Sequence[UUID]) -> Mapping[UUID, Seen[Row]]:
        with run.database.autocommit() as conn:
            rows, live, ages = rows_and_live(
                conn,
                entity_type,
                ids,
                [tally.sink, EMBEDDING],
                with_vectors=run.options.deep,
            )
        return {row.id: Seen(row, row.id in live, ages.get(row.id)) for row in rows}

    def look(seen: Mapping[UUID, Seen[Row]]) -> Mapping[UUID, StoredVector]:
        spaces: dict[str, dict[str, UUID]] = defaultdict(dict)
        for entity, one in seen.items():
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
            look=look,
            judge=lambda _, row, held: _judge(row, held, run.highest, deep=run.options.deep),
            grace=run.options.grace,
            wait=run.wait,
        )
        tally.pending += found.pending
        run.note(tally, sink.traits, entity_type, found.drift, waiting)


def _judge(
    row: Row | None, held: StoredVector | None, highest: int, *, deep: bool
) -> Verdict | None:
    if row is None or row.deleted:
        return None  # listed as a ghost, if the index has it
    if held is None:
        return Verdict(Drift.MISSING)
    version = held.version or 0
    if version > max(row.version, highest):
        return Verdict(Drift.STALE, absurd=True)  # no guard: it is written over as it is
    if version > row.version:
        return Verdict(Drift.AHEAD, version)
    if version < row.version:
        return Verdict(Drift.STALE)
    # Without a model, the embedding is what is missing.
    if row.embedding_model is not None and held.metadata.get("model") != row.embedding_model:
        return Verdict(Drift.WRONG_MODEL)
    if held.metadata.get("content_hash") != row.content_hash:
        return Verdict(Drift.STALE)
    if deep and row.embedding_model is not None and _differs(row, held):
        return Verdict(Drift.STALE)
    return None


def _strays(
    run: Comparison,
    sink: write.Sink,
    tally: Tally,
    waiting: Waiting,
    reads: Reads,
    entity_type: EntityType,
    page: Sequence[StoredVector],
) -> None:
    """Vectors where none belongs: ghosts, and those in wrong namespaces."""
    found = _standings(run, entity_type, [one.key for one in page])
    suspects: list[Place] = [
        (one.key, one.namespace)
        for one in page
        if (standing := found.get(one.key)) is None
        or not standing.living
        or standing.namespace != one.namespace
    ]
    if not suspects:
        return

    def read(places: Sequence[Place]) -> Mapping[Place, Seen[Standing]]:
        now = _standings(run, entity_type, [key for key, _ in places])
        return {
            (key, space): Seen(now[key], now[key].under_way, now[key].age)
            for key, space in places
            if key in now
        }

    def look(seen: Mapping[Place, Seen[Standing]]) -> Mapping[Place, StoredVector]:
        spaces: dict[str, list[str]] = defaultdict(list)
        for key, space in seen:
            spaces[space].append(key)
        return {
            (one.key, space): one
            for space, keys in spaces.items()
            for one in sink.fetch(entity_type, space, keys, reads)
        }

    confirmed = confirm(
        suspects,
        read=read,
        look=look,
        judge=partial(_judge_place, entity_type),
        grace=run.options.grace,
        wait=run.wait,
    )
    tally.pending += confirmed.pending
    drift = confirmed.drift.values()
    for kind, one in drift:
        tally.note(kind, one.key)
    waiting.add_ghosts([one for kind, one in drift if kind is Drift.GHOST])
    waiting.add_strays([one for kind, one in drift if kind is Drift.WRONG_NAMESPACE])


def _judge_place(
    entity_type: EntityType, place: Place, fact: Standing | None, held: StoredVector | None
) -> tuple[Drift, Ghost] | None:
    key, space = place
    if held is None or not held.is_ours:
        return None
    one = Ghost(entity_type, key, held.version or 0, space)
    if fact is None or not fact.living:
        return Drift.GHOST, one
    return None if fact.namespace == space else (Drift.WRONG_NAMESPACE, one)


def _leave(run: Comparison, sink: write.Sink, tally: Tally, strays: Sequence[Ghost]) -> None:
    """Remove living entities from namespaces that they do not belong to."""
    tally.removed += len(strays)
    if run.options.dry_run:
        return
    places: dict[tuple[EntityType, str], list[str]] = defaultdict(list)
    for one in strays:
        places[one.entity_type, one.namespace].append(one.key)
    for (entity_type, space), keys in places.items():
        for start in range(0, len(keys), PAGE):
            _leave_page(run, sink, tally, entity_type, space, keys[start : start + PAGE])


def _leave_page(
    run: Comparison,
    sink: write.Sink,
    tally: Tally,
    entity_type: EntityType,
    space: str,
    keys: Sequence[str],
) -> None:
    now = _standings(run, entity_type, keys)
    leaving = [key for key in keys if key in now and now[key].namespace != space]
    sink.remove(entity_type, space, leaving)
    # Who moved here meanwhile has to be written again.
    after = _standings(run, entity_type, leaving)
    back = [one.id for one in after.values() if one.namespace == space and one.living]
    run.enqueue(tally, sink.traits, entity_type, back)
