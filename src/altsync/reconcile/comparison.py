"""What all legs of a comparison share: the numbers, the database, the pages, the mending."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.errors import LockNotAvailable

from altsync import outbox, store
from altsync.db import Database
from altsync.reconcile.report import Drift, Options, Tally
from altsync.records import Digest, EntityType, SinkTraits, Topology

#: Entities per page: what one statement, and the memory of one step, is about.
PAGE = 500

#: Numbers of buckets, each a prime: sequences skip numbers in patterns.
MODULI = (1, 7, 31, 127, 509, 2039)

#: Tries to hold writers off for one page of ghosts, and the pause after each, in seconds.
TRIES = 5
PAUSE = 1.0

#: Ghosts that are remembered, to be removed when their share is known.
GHOSTS_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Ghost:
    """What a sink holds and PostgreSQL does not. ``namespace`` where the sink has them."""

    entity_type: EntityType
    key: str
    version: int
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with one entity in a sink: the version it is ahead by, its wrong edges."""

    kind: Drift
    version: int = 0
    edges: int = 0


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run over all sinks. ``progress`` hears (sink, done, total)."""

    database: Database
    topology: Topology
    options: Options
    wait: Callable[[float], Any]
    progress: Callable[[str, int, int], None] = lambda sink, done, total: None
    sampled: dict[EntityType, list[UUID]] | None = None

    def modulus(self, entity_type: EntityType) -> int:
        """How many buckets suit a type: some hundred entities in each."""
        with self.database.autocommit() as conn:
            count = store.count_living(conn, entity_type)
        return next((m for m in MODULI if m * PAGE >= count), MODULI[-1])

    def entities(
        self, entity_type: EntityType, traits: SinkTraits, modulus: int, buckets: Sequence[int]
    ) -> Iterator[list[UUID]]:
        """Pages of living entities of some buckets, each read in a transaction of its own."""
        after: UUID | None = None
        while buckets:
            with self.database.autocommit() as conn:
                page = store.entities_in(
                    conn,
                    entity_type,
                    edges=traits.edges,
                    modulus=modulus,
                    buckets=buckets,
                    after=after,
                    limit=PAGE,
                )
            if page:
                yield page
            if len(page) < PAGE:
                return
            after = page[-1]

    def sample_of(self, entity_type: EntityType) -> Iterator[list[UUID]]:
        """Pages of the entities that were drawn."""
        drawn = (self.sampled or {}).get(entity_type, [])
        yield from pages(drawn)

    def note(
        self,
        tally: Tally,
        traits: SinkTraits,
        entity_type: EntityType,
        drift: Mapping[UUID, Verdict],
    ) -> None:
        """Count what is wrong, by name, and have it mended if that is asked for."""
        if not drift:
            return
        with self.database.autocommit() as conn:
            rows, _, _ = store.rows_and_live(conn, entity_type, list(drift), [tally.sink])
        keys = {row.id: row.key for row in rows}
        for entity, verdict in drift.items():
            tally.note(verdict.kind, keys.get(entity, str(entity)))
            tally.edges += verdict.edges
        ahead = {e: v.version for e, v in drift.items() if v.kind is Drift.AHEAD}
        behind = [e for e in drift if e not in ahead]
        self.enqueue(tally, traits, entity_type, [e for e in behind if not drift[e].edges])
        self.enqueue_edges(tally, [e for e in behind if drift[e].edges])
        self.lift(tally, entity_type, list(ahead), max(ahead.values(), default=0))

    def enqueue(
        self, tally: Tally, traits: SinkTraits, entity_type: EntityType, ids: Sequence[UUID]
    ) -> None:
        """Have entities delivered to the sink again, at their current versions."""
        if not (self.options.repair and ids):
            return
        if self.options.dry_run:
            tally.enqueued += len(ids)
            return
        with self.database.transaction() as conn:
            tally.enqueued += outbox.repair(conn, traits, entity_type, ids)

    def enqueue_edges(self, tally: Tally, ids: Sequence[UUID]) -> None:
        """Have the relationships of leagues written again."""
        if not (self.options.repair and ids):
            return
        if self.options.dry_run:
            tally.enqueued += len(ids)
            return
        with self.database.transaction() as conn:
            tally.enqueued += outbox.repair_edges(conn, ids, self.topology)

    def lift(self, tally: Tally, entity_type: EntityType, ids: Sequence[UUID], found: int) -> None:
        """Give entities new versions above those that the sink holds."""
        if not (self.options.repair and ids):
            return
        if self.options.dry_run:
            tally.enqueued += len(ids)
            return
        with self.database.transaction() as conn:
            tally.enqueued += outbox.lift(conn, entity_type, ids, found, self.topology)

    def remove_ghosts(
        self,
        tally: Tally,
        traits: SinkTraits,
        ghosts: Sequence[Ghost],
        held: int,
        remove: Callable[[EntityType, str, list[str], int], None],
    ) -> None:
        """Remove ghosts by ``remove`` (type, namespace, keys, version), if they are few enough."""
        if not (self.options.repair and ghosts):
            return
        tally.refused = refusal(tally, held, self.options.max_delete)
        if tally.refused is not None:
            return
        if self.options.dry_run:
            tally.removed += len(ghosts)
            return
        places: dict[tuple[EntityType, str], list[Ghost]] = defaultdict(list)
        for ghost in ghosts:
            places[ghost.entity_type, ghost.namespace].append(ghost)
        for (entity_type, namespace), members in places.items():
            for start in range(0, len(members), PAGE):
                page = members[start : start + PAGE]
                version, keys = self._patiently_gone(entity_type, page)
                if keys:
                    remove(entity_type, namespace, keys, version)
                    self._undo(tally, traits, entity_type, keys)
                tally.removed += len(keys)

    def _patiently_gone(
        self, entity_type: EntityType, ghosts: Sequence[Ghost]
    ) -> tuple[int, list[str]]:
        """``_still_gone``, in several short tries: writers go on between them.

        Raises ``psycopg.errors.LockNotAvailable`` when none of them is enough.
        """
        for _ in range(TRIES - 1):
            try:
                return self._still_gone(entity_type, ghosts)
            except LockNotAvailable:
                self.wait(PAUSE)
        return self._still_gone(entity_type, ghosts)

    def _still_gone(
        self, entity_type: EntityType, ghosts: Sequence[Ghost]
    ) -> tuple[int, list[str]]:
        """Those that PostgreSQL does not have now, and a version between them and any later one.

        While the table is held still, every version drawn before belongs to a row that can be
        seen; one that comes later draws a higher one, which no guard refuses.
        """
        highest = max(ghost.version for ghost in ghosts)
        with self.database.transaction() as conn:
            outbox.version_above(conn, highest)
            store.hold_still(conn, entity_type)
            version = outbox.version_above(conn, highest)
            living = store.living_keys(conn, entity_type, [ghost.key for ghost in ghosts])
        return version, [ghost.key for ghost in ghosts if ghost.key not in living]

    def _undo(
        self, tally: Tally, traits: SinkTraits, entity_type: EntityType, keys: Sequence[str]
    ) -> None:
        """Write again what came to be while it was removed: not every sink refuses that."""
        with self.database.autocommit() as conn:
            living = store.living_keys(conn, entity_type, keys)
        self.enqueue(tally, traits, entity_type, list(living.values()))


def refusal(tally: Tally, held: int, share: float) -> str | None:
    """Why ghosts are not removed, None when they may be."""
    ghosts = tally.kinds[Drift.GHOST]
    if ghosts > share * held:
        return (
            f"{ghosts:,} of the {held:,} records that {tally.sink} holds are not in PostgreSQL: "
            f"more than the {share:.1%} that may be removed. Nothing was removed. If they are to "
            "go, raise --max-delete; if not, see whether this is the right database."
        )
    return None


def differing(one: Digest, other: Digest) -> list[int]:
    """Buckets in which two digests differ."""
    buckets = one.keys() | other.keys()
    return sorted(b for b in buckets if one.get(b, set()) != other.get(b, set()))


def pages(ids: Sequence[UUID]) -> Iterator[list[UUID]]:
    """Ids, so many at a time."""
    for start in range(0, len(ids), PAGE):
        yield list(ids[start : start + PAGE])
