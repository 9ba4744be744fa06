"""Comparison of a sink that has no comparison of its own, by its ``versions``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import Drift, SinkTraits, SinkVersion
from altsync.entities import EntityType, Row
from altsync.projection import namespace
from altsync.protocols import Sink
from altsync.store.reads import living_keys
from altsync.verify.comparison import PAGE, Comparison, Difference
from altsync.verify.confirm import Observed, confirm
from altsync.verify.pending_repairs import PendingRepairs
from altsync.verify.report import Tally

#: The records of a type in a sink, by key.
Listed = Mapping[str, SinkVersion]


def compare(run: Comparison, sink: Sink, tally: Tally) -> None:
    """Compare every type of entity. Raises ``SinkFailure``.

    The sink is listed once for each type, and once more if an entity differs: the contract has
    no read of one record. Orphans are counted, and not removed.
    """
    for done, kind in enumerate(entity_types()):
        run.progress(tally.sink, done, len(entity_types()))
        if sink.traits.takes(kind):
            _compare(run, sink, tally, kind)
    run.progress(tally.sink, len(entity_types()), len(entity_types()))


def _compare(run: Comparison, sink: Sink, tally: Tally, kind: EntityType) -> None:
    pending = PendingRepairs()
    listed: Listed = {one.key: one for one in sink.versions(kind)}
    pages = run.sample_of(kind) if run.sampled is not None else _living(run, sink.traits, kind)
    for ids in pages:
        _compare_entities(run, sink, tally, pending, kind, ids, listed)
    if run.sampled is None:
        _count_orphans(run, sink, tally, kind, listed)
    if run.admits(tally, pending, 0):
        run.overwrite(tally, sink.traits, pending.ahead_of_source)


def _living(run: Comparison, traits: SinkTraits, kind: EntityType) -> Iterator[list[UUID]]:
    yield from run.entities(kind, traits, 1, [0])


def _compare_entities(
    run: Comparison,
    sink: Sink,
    tally: Tally,
    pending: PendingRepairs,
    kind: EntityType,
    ids: Sequence[UUID],
    listed: Listed,
) -> None:
    fetches = 0

    def read(asked: Sequence[UUID]) -> Mapping[UUID, Observed[Row]]:
        return run.observe(kind, asked, [tally.sink])

    def fetch(observed: Mapping[UUID, Observed[Row]]) -> Mapping[UUID, SinkVersion]:
        nonlocal fetches
        fetches += 1
        now = listed if fetches == 1 else {one.key: one for one in sink.versions(kind)}
        facts = ((entity, one.fact) for entity, one in observed.items())
        return {e: now[row.key] for e, row in facts if row is not None and row.key in now}

    def compare(_: UUID, row: Row | None, held: SinkVersion | None) -> Difference | None:
        return _difference(sink.traits, row, held, run.highest)

    first = confirm(ids, read=read, fetch=fetch, compare=compare, wait=run.wait)
    if first.drift:  # perhaps written after the listing, so the sink is listed again
        again = confirm(list(first.drift), read=read, fetch=fetch, compare=compare, wait=run.wait)
        run.note(tally, sink.traits, kind, again.drift, pending)
        tally.pending += again.pending
    tally.pending += first.pending


def _difference(
    traits: SinkTraits, row: Row | None, held: SinkVersion | None, highest: int
) -> Difference | None:
    if row is None or row.deleted:
        return None
    if held is None:
        return Difference(Drift.MISSING)
    wanted = traits.version_of(row)
    if held.version > max(wanted, highest):
        return Difference(Drift.STALE, invalid_version=True)
    if held.version > wanted:
        return Difference(Drift.AHEAD, version=held.version)
    if held.version < wanted or held.content_hash not in (None, row.content_hash):
        return Difference(Drift.STALE)
    if held.namespace is not None and held.namespace != namespace(row):
        return Difference(Drift.WRONG_NAMESPACE)
    if traits.needs_embedding and held.model not in (None, row.embedding_model):
        return Difference(Drift.WRONG_MODEL)
    return None


def _count_orphans(
    run: Comparison, sink: Sink, tally: Tally, kind: EntityType, listed: Listed
) -> None:
    """Count records without a living entity."""
    keys = iter(listed)
    while page := list(islice(keys, PAGE)):
        with run.database.autocommit() as conn:
            living = living_keys(conn, kind, page)
        candidates = [key for key in page if key not in living]
        if not candidates:
            continue
        now = {one.key for one in sink.versions(kind)}
        found = run.snapshots(kind, candidates, tally.sink, [tally.sink])
        for key in candidates:
            if key in now and not ((one := found.get(key)) and (one.living or one.in_progress)):
                tally.note(Drift.ORPHAN, key)
