"""Orphans of a sink: find them, and remove them beside writers that may create their keys."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from psycopg.errors import LockNotAvailable

from altsync.contract import Drift, SinkTraits
from altsync.entities import EntityType
from altsync.store.reads import living_keys
from altsync.verify.comparison import PAGE, Comparison
from altsync.verify.confirm import Observed, confirm
from altsync.verify.pending_repairs import Orphan
from altsync.verify.repairs import version_above
from altsync.verify.report import Tally
from altsync.verify.sql import EntitySnapshot, lock_out_writers

#: Attempts to lock out writers for one page of orphans, and the pause after each in seconds.
TRIES = 5
PAUSE = 1.0


def find_orphans(
    run: Comparison,
    tally: Tally,
    entity_type: EntityType,
    keys: Sequence[str],
    fetch: Callable[[Sequence[str]], Mapping[str, int]],
    grace: float = 0.0,
) -> list[Orphan]:
    """Count and return the records of ``keys`` without a living entity.

    ``fetch`` returns the versions of the records that the sink holds, by key.
    """
    with run.database.autocommit() as conn:
        living = living_keys(conn, entity_type, keys)
    candidates = [key for key in keys if key not in living]
    if not candidates:
        return []

    def read(asked: Sequence[str]) -> Mapping[str, Observed[EntitySnapshot]]:
        found = run.snapshots(entity_type, asked, tally.sink, [tally.sink])
        return {key: Observed(one, one.in_progress, one.age) for key, one in found.items()}

    def compare(key: str, fact: EntitySnapshot | None, version: int | None) -> Orphan | None:
        if version is None or (fact is not None and fact.living):
            return None
        return Orphan(entity_type, key, version)

    found = confirm(
        candidates,
        read=read,
        fetch=lambda observed: fetch(list(observed)),
        compare=compare,
        grace=grace,
        wait=run.wait,
    )
    tally.pending += found.pending
    for key in found.drift:
        tally.note(Drift.ORPHAN, key)
    return list(found.drift.values())


def remove_orphans(
    run: Comparison,
    tally: Tally,
    traits: SinkTraits,
    orphans: Sequence[Orphan],
    remove: Callable[[EntityType, str, list[str], int], None],
) -> None:
    """Remove orphans by ``remove`` (type, namespace, keys, version)."""
    if run.options.dry_run:
        tally.removed += len(orphans)
        return
    groups: dict[tuple[EntityType, str], list[Orphan]] = defaultdict(list)
    for orphan in orphans:
        groups[orphan.entity_type, orphan.namespace].append(orphan)
    for (entity_type, namespace), members in groups.items():
        for start in range(0, len(members), PAGE):
            page = members[start : start + PAGE]
            # Without a guard no version is compared, so the sequence need not rise above them.
            highest = _highest_plausible(run, page) if traits.guarded else 0
            version, keys = _absent_with_retries(run, entity_type, page, highest)
            if keys:
                remove(entity_type, namespace, keys, version)
                _enqueue_created(run, tally, traits, entity_type, keys)
            tally.removed += len(keys)


def _highest_plausible(run: Comparison, orphans: Sequence[Orphan]) -> int:
    return max((one.version for one in orphans if one.version <= run.highest), default=0)


def _absent_with_retries(
    run: Comparison, entity_type: EntityType, orphans: Sequence[Orphan], highest: int
) -> tuple[int, list[str]]:
    """Call ``_absent`` up to ``TRIES`` times; writers continue between the attempts.

    Raises ``psycopg.errors.LockNotAvailable`` after the last one.
    """
    for _ in range(TRIES - 1):
        try:
            return _absent(run, entity_type, orphans, highest)
        except LockNotAvailable:
            run.wait(PAUSE)
    return _absent(run, entity_type, orphans, highest)


def _absent(
    run: Comparison, entity_type: EntityType, orphans: Sequence[Orphan], highest: int
) -> tuple[int, list[str]]:
    """Return a version for the removal, and the keys that PostgreSQL still lacks.

    While writers are locked out, each version drawn before belongs to a visible row. An entity
    that is created later draws a higher version, which no guard refuses.
    """
    with run.database.transaction() as conn:
        version_above(conn, highest)
        lock_out_writers(conn, entity_type)
        version = version_above(conn, highest)
        living = living_keys(conn, entity_type, [one.key for one in orphans])
    return version, [one.key for one in orphans if one.key not in living]


def _enqueue_created(
    run: Comparison, tally: Tally, traits: SinkTraits, entity_type: EntityType, keys: Sequence[str]
) -> None:
    """Enqueue entities that were created during the removal: a sink without a guard lost them."""
    with run.database.autocommit() as conn:
        living = living_keys(conn, entity_type, keys)
    run.enqueue(tally, traits, entity_type, list(living.values()))
