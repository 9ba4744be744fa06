"""The run of a comparison: its numbers, its pages of entities, its repairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import Digest, Drift, SinkTraits, Topology
from altsync.db import Conn, Database
from altsync.entities import EntityType, Model, Row
from altsync.outbox.shadow import fill_shadow
from altsync.ownership import NotOurs
from altsync.protocols import Attempt
from altsync.store.reads import count_living
from altsync.verify import repairs
from altsync.verify.confirm import Observed
from altsync.verify.pending_repairs import AheadOfSource, PendingRepairs, refusal
from altsync.verify.report import Options, Tally
from altsync.verify.sql import EntitySnapshot, entities_in, entity_snapshots, rows_and_live

#: Entities per page: the size of one statement, and of one step in memory.
PAGE = 500

#: Numbers of buckets. They are primes, as the sequence skips versions in patterns.
MODULI = (1, 7, 31, 127, 509, 2039)


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of one entity in a sink: the sink's higher version, its wrong edges.

    ``invalid_version``: the sink holds a version that the sequence cannot have produced.
    """

    kind: Drift
    version: int = 0
    edges: int = 0
    invalid_version: bool = False

    @property
    def ahead_of_source(self) -> bool:
        """Return whether the sink holds a version above PostgreSQL's, plausible or not."""
        return self.invalid_version or self.kind is Drift.AHEAD


def ahead_of(own: int, held: Sequence[int], highest: int) -> tuple[int, bool]:
    """Return the highest plausible version in ``held`` above a row's own, 0 without one.

    Also returns whether a version above the own is invalid: above ``highest``.
    """
    above = [version for version in held if version > own]
    ahead = max((version for version in above if version <= highest), default=0)
    return ahead, max(above, default=0) > highest


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run over all sinks. ``progress`` is called with (sink, done, total).

    ``compared`` counts the entities of the run. ``highest`` is the highest plausible version.
    ``edited`` are rows that SQL has edited. ``shadow`` is the model whose indexes are compared,
    None for the serving one.
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
    shadow: Model | None = None

    def modulus(self, entity_type: EntityType) -> int:
        """Return the number of buckets of a type: some hundred entities in each."""
        with self.database.autocommit() as conn:
            count = count_living(conn, entity_type)
        return next((m for m in MODULI if m * PAGE >= count), MODULI[-1])

    def entities(
        self, entity_type: EntityType, traits: SinkTraits, modulus: int, buckets: Sequence[int]
    ) -> Iterator[list[UUID]]:
        """Yield pages of living entities of some buckets, each from its own transaction."""
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
        """Yield pages of the sampled entities."""
        yield from pages((self.sampled or {}).get(entity_type, []))

    def note(
        self,
        tally: Tally,
        traits: SinkTraits,
        entity_type: EntityType,
        drift: Mapping[UUID, Difference],
        pending: PendingRepairs,
    ) -> None:
        """Count the differences, and enqueue the entities that the sink is behind with.

        Entities that the sink is ahead of go to ``pending``.
        """
        # A row that SQL edited differs from every sink: it is counted once, as EDITED.
        drift = {entity: one for entity, one in drift.items() if entity not in self.edited}
        if not drift:
            return
        ahead = [entity for entity, one in drift.items() if one.ahead_of_source]
        behind = [entity for entity, one in drift.items() if not one.ahead_of_source]
        with self.database.autocommit() as conn:
            rows, _, _ = rows_and_live(conn, entity_type, list(drift), [tally.sink])
            given_up: set[UUID] = set()
            if not traits.shadow:  # a repair tries what the shadow gave up on again
                given_up = repairs.given_up(conn, traits, entity_type, behind)
                given_up |= repairs.given_up(conn, traits, entity_type, ahead, ahead=True)
        keys = {row.id: row.key for row in rows}
        for entity in given_up:
            tally.give_up(keys.get(entity, str(entity)))
        for entity, one in drift.items():
            tally.note(one.kind, keys.get(entity, str(entity)))
            tally.edges += one.edges
        pending.add_ahead_of_source(
            [
                AheadOfSource(entity_type, e, keys[e], one.version, one.invalid_version, one.edges)
                for e in ahead
                if e in keys and (one := drift[e])
            ]
        )
        self.enqueue(tally, traits, entity_type, [e for e in behind if not drift[e].edges])
        self.enqueue_edges(tally, traits, entity_type, [e for e in behind if drift[e].edges])

    def observe(
        self,
        entity_type: EntityType,
        ids: Sequence[UUID],
        sinks: Sequence[str],
        *,
        with_vectors: bool = False,
        with_edges: bool = False,
    ) -> dict[UUID, Observed[Row]]:
        """Return the present rows, in progress while one of ``sinks`` has a live operation.

        Ages count from the confirmation by the first sink.
        """
        with self.database.autocommit() as conn:
            rows, live, ages = rows_and_live(
                conn,
                entity_type,
                ids,
                sinks,
                with_vectors=with_vectors,
                with_edges=with_edges,
                model=self.shadow,
            )
        return {row.id: Observed(row, row.id in live, ages.get(row.id)) for row in rows}

    def snapshots(
        self, entity_type: EntityType, keys: Sequence[str], sink: str, sinks: Sequence[str]
    ) -> dict[str, EntitySnapshot]:
        """Return entities by key, as ``entity_snapshots``."""
        with self.database.autocommit() as conn:
            return entity_snapshots(conn, entity_type, keys, sink, sinks, model=self.shadow)

    def enqueue(
        self,
        tally: Tally,
        traits: SinkTraits,
        entity_type: EntityType,
        ids: Sequence[UUID],
        *,
        ahead: bool = False,
    ) -> None:
        """Enqueue entities for the sink at their current versions.

        This and the next methods leave out entities whose delivery was given up on.
        """

        def repair(conn: Conn) -> int:
            if traits.shadow:
                return fill_shadow(conn, self.topology, entity_type, only=ids)[0]
            return repairs.repair(conn, traits, entity_type, ids, ahead=ahead)

        self._repair(tally, traits, entity_type, ids, repair, ahead=ahead)

    def enqueue_edges(
        self,
        tally: Tally,
        traits: SinkTraits,
        entity_type: EntityType,
        ids: Sequence[UUID],
        *,
        ahead: bool = False,
    ) -> None:
        """Enqueue the relationships of entities."""

        def repair(conn: Conn) -> int:
            return repairs.repair_edges(conn, traits, entity_type, ids, self.topology, ahead=ahead)

        self._repair(tally, traits, entity_type, ids, repair, ahead=ahead)

    def bump_versions(
        self,
        tally: Tally,
        traits: SinkTraits,
        entity_type: EntityType,
        ids: Sequence[UUID],
        found: int,
    ) -> None:
        """Give entities versions above ``found``, the highest that the sink holds of them."""

        def repair(conn: Conn) -> int:
            return repairs.bump_versions(conn, traits, entity_type, ids, found, self.topology)

        self._repair(tally, traits, entity_type, ids, repair, ahead=True)

    def _repair(
        self,
        tally: Tally,
        traits: SinkTraits,
        entity_type: EntityType,
        ids: Sequence[UUID],
        repair: Callable[[Conn], int],
        *,
        ahead: bool,
    ) -> None:
        """Repair in one transaction, or count the entities if this is a dry run."""
        if not (self.options.repair and ids):
            return
        if self.options.dry_run:
            with self.database.autocommit() as conn:
                given_up = (
                    set()
                    if traits.shadow
                    else repairs.given_up(conn, traits, entity_type, ids, ahead=ahead)
                )
            tally.enqueued += len(ids) - len(given_up)
            return
        with self.database.transaction() as conn:
            tally.enqueued += repair(conn)

    def admits(self, tally: Tally, pending: PendingRepairs, held: int) -> bool:
        """Return whether the pending repairs are wanted, and few enough for ``held`` records."""
        if not self.options.repair:
            return False
        share = self.options.max_delete
        tally.refused = refusal(pending, tally, held, self.compared, share)
        return tally.refused is None

    def overwrite(
        self,
        tally: Tally,
        traits: SinkTraits,
        ahead: Sequence[AheadOfSource],
        reset_versions: Callable[[EntityType, list[str]], None] = lambda entity_type, keys: None,
    ) -> None:
        """Have PostgreSQL's rows overwrite higher versions.

        An entity behind a plausible version gets a new version above it. ``reset_versions``
        (type, keys) sets invalid versions to 0 first, if the sink's guard compares them.
        """
        for entity_type in entity_types():
            every = [one for one in ahead if one.entity_type is entity_type]
            for start in range(0, len(every), PAGE):
                page = every[start : start + PAGE]
                invalid = [one.key for one in page if one.invalid_version]
                if invalid and self.options.writes:
                    reset_versions(entity_type, invalid)
                to_bump = [one for one in page if one.version]
                to_enqueue = [one.id for one in page if not (one.version or one.edges)]
                edges = [one.id for one in page if one.edges and not one.version]
                self.enqueue(tally, traits, entity_type, to_enqueue, ahead=True)
                self.enqueue_edges(tally, traits, entity_type, edges, ahead=True)
                found = max((one.version for one in to_bump), default=0)
                self.bump_versions(tally, traits, entity_type, [one.id for one in to_bump], found)


def check_owner(ask: Attempt, check: Callable[[], None]) -> None:
    """Raise ``SinkFailure`` when another installation owns a sink, or the sink does not answer."""

    def refusal_of() -> NotOurs | None:
        try:
            check()
        except NotOurs as refused:
            return refused
        return None

    refused = ask(refusal_of)
    if refused is not None:
        raise refused


def differing(one: Digest, other: Digest) -> list[int]:
    """Return the buckets in which two digests differ."""
    buckets = one.keys() | other.keys()
    return sorted(b for b in buckets if one.get(b, set()) != other.get(b, set()))


def pages(ids: Sequence[UUID]) -> Iterator[list[UUID]]:
    """Yield ids in pages."""
    for start in range(0, len(ids), PAGE):
        yield list(ids[start : start + PAGE])
