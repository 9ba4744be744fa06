"""Shared parts of all comparisons: the numbers, the database, the pages, the repairs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.errors import LockNotAvailable

from altsync.catalogue.current import entity_types
from altsync.contract import Digest, Drift, SinkTraits, Topology
from altsync.db import Database
from altsync.entities import EntityType
from altsync.ownership import NotOurs
from altsync.protocols import Ask
from altsync.store.reads import count_living, living_keys
from altsync.verify import repairs
from altsync.verify.pending_repairs import Above, Ghost, Waiting, refusal
from altsync.verify.report import Options, Tally
from altsync.verify.sql import entities_in, hold_still, rows_and_live

#: Entities per page: what one statement, and the memory of one step, is about.
PAGE = 500

#: Numbers of buckets, each a prime: sequences skip numbers in patterns.
MODULI = (1, 7, 31, 127, 509, 2039)

#: Tries to hold writers off for one page of ghosts, and the pause after each, in seconds.
TRIES = 5
PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong with one entity in a sink: the version it is ahead by, its wrong edges.

    ``absurd``: the sink has a version of it that is not believable.
    """

    kind: Drift
    version: int = 0
    edges: int = 0
    absurd: bool = False

    @property
    def above(self) -> bool:
        """Return whether the sink has a version above PostgreSQL's, of whatever sort."""
        return self.absurd or self.kind is Drift.AHEAD


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run over all sinks. ``progress`` is called with (sink, done, total).

    ``compared`` is how many entities it is about, ``highest`` the highest version to believe.
    ``edited`` are rows that SQL has edited.
    """

    database: Database
    topology: Topology
    options: Options
    compared: int
    highest: int
    wait: Callable[[float], Any]
    progress: Callable[[str, int, int], None] = lambda sink, done, total: None
    sampled: dict[EntityType, list[UUID]] | None = None
    edited: frozenset[UUID] = frozenset()

    def modulus(self, entity_type: EntityType) -> int:
        """Return how many buckets suit a type: some hundred entities in each."""
        with self.database.autocommit() as conn:
            count = count_living(conn, entity_type)
        return next((m for m in MODULI if m * PAGE >= count), MODULI[-1])

    def entities(
        self, entity_type: EntityType, traits: SinkTraits, modulus: int, buckets: Sequence[int]
    ) -> Iterator[list[UUID]]:
        """Pages of living entities of some buckets, each read in a transaction of its own."""
        after: UUID | None = None
        while buckets:
            with self.database.autocommit() as conn:
                page = entities_in(
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
        waiting: Waiting,
    ) -> None:
        """Count what is wrong, by name, and have it repaired if that is asked for.

        What a sink has at a version above PostgreSQL's is left to ``waiting``.
        """
        # A row that was edited by SQL differs from every sink, and is not the sinks' drift.
        drift = {entity: verdict for entity, verdict in drift.items() if entity not in self.edited}
        if not drift:
            return
        with self.database.autocommit() as conn:
            rows, _, _ = rows_and_live(conn, entity_type, list(drift), [tally.sink])
            given_up = set[UUID]()
            for above in (False, True):
                ids = [entity for entity, verdict in drift.items() if verdict.above is above]
                given_up |= repairs.given_up(conn, traits, entity_type, ids, above=above)
        keys = {row.id: row.key for row in rows}
        for entity in given_up:
            tally.give_up(keys.get(entity, str(entity)))
        for entity, verdict in drift.items():
            tally.note(verdict.kind, keys.get(entity, str(entity)))
            tally.edges += verdict.edges
        waiting.add_above(
            [
                Above(entity_type, e, keys[e], v.version, v.absurd, v.edges)
                for e, v in drift.items()
                if v.above and e in keys
            ]
        )
        behind = [e for e, v in drift.items() if not v.above]
        self.enqueue(tally, traits, entity_type, [e for e in behind if not drift[e].edges])
        self.enqueue_edges(tally, traits, entity_type, [e for e in behind if drift[e].edges])

    def enqueue(
        self,
        tally: Tally,
        traits: SinkTraits,
        entity_type: EntityType,
        ids: Sequence[UUID],
        *,
        above: bool = False,
    ) -> None:
        """Have entities delivered to the sink again, at their current versions.

        Here and below, entities that the sink was given up on are left out.
        """
        if not (self.options.repair and ids):
            return
        if self.options.dry_run:
            tally.enqueued += self._repairable(traits, entity_type, ids, above=above)
            return
        with self.database.transaction() as conn:
            tally.enqueued += repairs.repair(conn, traits, entity_type, ids, above=above)

    def enqueue_edges(
        self,
        tally: Tally,
        traits: SinkTraits,
        entity_type: EntityType,
        ids: Sequence[UUID],
        *,
        above: bool = False,
    ) -> None:
        """Have the relationships of entities written again."""
        if not (self.options.repair and ids):
            return
        if self.options.dry_run:
            tally.enqueued += self._repairable(traits, entity_type, ids, above=above)
            return
        with self.database.transaction() as conn:
            tally.enqueued += repairs.repair_edges(
                conn, traits, entity_type, ids, self.topology, above=above
            )

    def lift(
        self,
        tally: Tally,
        traits: SinkTraits,
        entity_type: EntityType,
        ids: Sequence[UUID],
        found: int,
    ) -> None:
        """Give entities new versions above those that the sink holds."""
        if not (self.options.repair and ids):
            return
        if self.options.dry_run:
            tally.enqueued += self._repairable(traits, entity_type, ids, above=True)
            return
        with self.database.transaction() as conn:
            tally.enqueued += repairs.lift(conn, traits, entity_type, ids, found, self.topology)

    def _repairable(
        self, traits: SinkTraits, entity_type: EntityType, ids: Sequence[UUID], *, above: bool
    ) -> int:
        """Count the entities that a repair does not leave out."""
        with self.database.autocommit() as conn:
            return len(ids) - len(repairs.given_up(conn, traits, entity_type, ids, above=above))

    def admits(self, tally: Tally, waiting: Waiting, held: int) -> bool:
        """Return whether what waits may be done: it is asked for, and little enough."""
        if not self.options.repair:
            return False
        share = self.options.max_delete
        tally.refused = refusal(waiting, tally, held, self.compared, share)
        return tally.refused is None

    def write_over(
        self,
        tally: Tally,
        traits: SinkTraits,
        above: Sequence[Above],
        disown: Callable[[EntityType, list[str]], None] = lambda entity_type, keys: None,
    ) -> None:
        """Have PostgreSQL's rows written over higher versions.

        Those that are believable are gone above. Others are first taken from the sink by
        ``disown`` (type, keys), where it would refuse the row over them.
        """
        for entity_type in entity_types():
            every = [one for one in above if one.entity_type is entity_type]
            for start in range(0, len(every), PAGE):
                page = every[start : start + PAGE]
                absurd = [one for one in page if one.absurd]
                if absurd and self.options.mends:
                    disown(entity_type, [one.key for one in absurd])
                ahead = [one for one in page if one.version]
                plain = [one.id for one in page if not (one.version or one.edges)]
                self.enqueue(tally, traits, entity_type, plain, above=True)
                edges = [o.id for o in page if o.edges and not o.version]
                self.enqueue_edges(tally, traits, entity_type, edges, above=True)
                found = max((one.version for one in ahead), default=0)
                self.lift(tally, traits, entity_type, [one.id for one in ahead], found)

    def remove_ghosts(
        self,
        tally: Tally,
        traits: SinkTraits,
        ghosts: Sequence[Ghost],
        remove: Callable[[EntityType, str, list[str], int], None],
    ) -> None:
        """Remove ghosts by ``remove`` (type, namespace, keys, version)."""
        if self.options.dry_run:
            tally.removed += len(ghosts)
            return
        places: dict[tuple[EntityType, str], list[Ghost]] = defaultdict(list)
        for ghost in ghosts:
            places[ghost.entity_type, ghost.namespace].append(ghost)
        for (entity_type, namespace), members in places.items():
            for start in range(0, len(members), PAGE):
                page = members[start : start + PAGE]
                # Where no guard compares versions, a ghost's own moves nothing.
                highest = self._highest_of(page) if traits.guarded else 0
                version, keys = self._patiently_gone(entity_type, page, highest)
                if keys:
                    remove(entity_type, namespace, keys, version)
                    self._undo(tally, traits, entity_type, keys)
                tally.removed += len(keys)

    def _highest_of(self, ghosts: Sequence[Ghost]) -> int:
        """The highest believable version of some ghosts, 0 for none."""
        return max((g.version for g in ghosts if g.version <= self.highest), default=0)

    def _patiently_gone(
        self, entity_type: EntityType, ghosts: Sequence[Ghost], highest: int
    ) -> tuple[int, list[str]]:
        """``_still_gone``, in several short tries: writers go on between them.

        Raises ``psycopg.errors.LockNotAvailable`` when none of them is enough.
        """
        for _ in range(TRIES - 1):
            try:
                return self._still_gone(entity_type, ghosts, highest)
            except LockNotAvailable:
                self.wait(PAUSE)
        return self._still_gone(entity_type, ghosts, highest)

    def _still_gone(
        self, entity_type: EntityType, ghosts: Sequence[Ghost], highest: int
    ) -> tuple[int, list[str]]:
        """Those that PostgreSQL does not have now, and a version between them and any later one.

        While the table is held still, every version drawn before belongs to a row that can be
        seen; one that comes later draws a higher one, which no guard refuses.
        """
        with self.database.transaction() as conn:
            repairs.version_above(conn, highest)
            hold_still(conn, entity_type)
            version = repairs.version_above(conn, highest)
            living = living_keys(conn, entity_type, [ghost.key for ghost in ghosts])
        return version, [ghost.key for ghost in ghosts if ghost.key not in living]

    def _undo(
        self, tally: Tally, traits: SinkTraits, entity_type: EntityType, keys: Sequence[str]
    ) -> None:
        """Write again what came to be while it was removed: not every sink refuses that."""
        with self.database.autocommit() as conn:
            living = living_keys(conn, entity_type, keys)
        self.enqueue(tally, traits, entity_type, list(living.values()))


def check_owner(ask: Ask, check: Callable[[], None]) -> None:
    """Raise ``SinkFailure`` when a sink is another installation's, or does not answer ``ask``."""

    def look() -> NotOurs | None:
        try:
            check()
        except NotOurs as refusal:
            return refusal
        return None

    refused = ask(look)
    if refused is not None:
        raise refused


def differing(one: Digest, other: Digest) -> list[int]:
    """Buckets in which two digests differ."""
    buckets = one.keys() | other.keys()
    return sorted(b for b in buckets if one.get(b, set()) != other.get(b, set()))


def pages(ids: Sequence[UUID]) -> Iterator[list[UUID]]:
    """Ids, so many at a time."""
    for start in range(0, len(ids), PAGE):
        yield list(ids[start : start + PAGE])
