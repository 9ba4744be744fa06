"""Comparison of results that PostgreSQL itself holds: embeddings and neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

from altsync.catalogue.current import entity_types, parts, searched_types
from altsync.catalogue.parts import Part
from altsync.contract import Drift, SinkTraits, Topology
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.outbox.edges import enqueue_neighbour_search
from altsync.outbox.enqueue import lock_entities
from altsync.protocols import Sink
from altsync.seed.sql.edits import accept_edits
from altsync.verify import parts as verify_parts
from altsync.verify import repairs
from altsync.verify.comparison import PAGE, Comparison
from altsync.verify.gaps import Gap, edited_rows, embedding_gaps, similarity_gaps
from altsync.verify.parts import EditedPart, accept_part_edits
from altsync.verify.report import Tally
from altsync.wording import plural

K = TypeVar("K")
T = TypeVar("T")

#: Gaps of one page, and the id to go on after.
Page = tuple[list[Gap], UUID | None]


def compare_rows(run: Comparison, tally: Tally) -> frozenset[UUID]:
    """Find rows whose content does not fit their hashes; return the ids of these entities.

    A repair accepts the edits for all sinks, unless they are too many. Attachments and
    relationships are compared as well, but not for a sample.
    """
    found: dict[EntityType, list[UUID]] = {}
    for entity_type in entity_types():
        found[entity_type] = ids = []
        after: UUID | None = None
        while True:
            with run.database.autocommit() as conn:
                sampled = _sampled_ids(run, entity_type)
                rows, after = edited_rows(conn, entity_type, after=after, limit=PAGE, ids=sampled)
            for row in rows:
                tally.note(Drift.EDITED, row.key)
                ids.append(row.id)
            if after is None:
                break
    in_parts = {} if run.sampled is not None else _edited_parts(run, tally)
    if run.options.repair:
        _accept(run, tally, found, in_parts)
    return frozenset(one for ids in found.values() for one in ids)


def _edited_parts(run: Comparison, tally: Tally) -> dict[Part, list[EditedPart]]:
    """Return attachments and seeded relationships that SQL has edited, by part."""
    found: dict[Part, list[EditedPart]] = {}
    for part in parts():
        if part.entity_type:
            continue
        found[part] = []
        after: str | None = ""
        while after is not None:
            with run.database.autocommit() as conn:
                edited, after = verify_parts.edited_parts(conn, part, after=after, limit=PAGE)
            for one in edited:
                tally.note(Drift.EDITED, f"{part.table} {one.seed_id}")
            found[part] += edited
    return found


def _accept(
    run: Comparison,
    tally: Tally,
    found: Mapping[EntityType, Sequence[UUID]],
    edited_parts: Mapping[Part, Sequence[EditedPart]],
) -> None:
    if tally.drifted > max(1, run.options.max_delete * run.compared):
        tally.refused = (
            f"Of {plural(run.compared, 'row')}, {tally.drifted:,} hold what their hashes are not "
            f"of: more than the {run.options.max_delete:.1%} that may be written to the sinks. "
            "Nothing was. Seed their files to take the seeds' values back, or raise --max-delete."
        )
        return
    for entity_type, ids in found.items():
        _accept_pages(run, tally, accept_edits, entity_type, ids)
    for part, edited in edited_parts.items():
        _accept_pages(run, tally, accept_part_edits, part, edited)


def _accept_pages(
    run: Comparison,
    tally: Tally,
    accept: Callable[[Conn, K, Sequence[T], Topology], int],
    kind: K,
    edited: Sequence[T],
) -> None:
    """Accept edits of one kind of row, one page in each transaction."""
    for start in range(0, len(edited), PAGE):
        page = edited[start : start + PAGE]
        if run.options.dry_run:
            tally.enqueued += len(page)
            continue
        with run.database.transaction() as conn:
            tally.enqueued += accept(conn, kind, page, run.topology)


def compare_embeddings(run: Comparison, sink: Sink, tally: Tally) -> None:
    """Compare the vectors of entities with their texts and the wanted model."""
    traits = run.topology.traits(tally.sink)
    for entity_type in entity_types():

        def read(conn: Conn, after: UUID | None, kind: EntityType = entity_type) -> Page:
            ids = _sampled_ids(run, kind)
            return embedding_gaps(conn, kind, after=after, limit=PAGE, ids=ids)

        def repair(ids: Sequence[UUID], kind: EntityType = entity_type) -> None:
            run.enqueue(tally, traits, kind, ids)

        _compare_pages(run, tally, traits, entity_type, read, repair)


def compare_neighbours(run: Comparison, sink: Sink, tally: Tally) -> None:
    """Compare the neighbours of entities with their vectors."""
    for entity_type in searched_types():
        _compare_neighbours(run, tally, entity_type)


def _compare_neighbours(run: Comparison, tally: Tally, entity_type: EntityType) -> None:
    traits = run.topology.traits(tally.sink)
    follows = traits.follows
    assert follows is not None

    def read(conn: Conn, after: UUID | None) -> Page:
        ids = _sampled_ids(run, entity_type)
        return similarity_gaps(conn, entity_type, follows, after=after, limit=PAGE, ids=ids)

    def repair(ids: Sequence[UUID]) -> None:
        if not (run.options.repair and ids):
            return
        if run.options.dry_run:
            tally.enqueued += len(ids)
            return
        with run.database.transaction() as conn:
            lock_entities(conn, ((entity_type, i) for i in ids))
            tally.enqueued += enqueue_neighbour_search(conn, entity_type, [tally.sink], ids)

    _compare_pages(run, tally, traits, entity_type, read, repair)


def _sampled_ids(run: Comparison, entity_type: EntityType) -> list[UUID] | None:
    return None if run.sampled is None else run.sampled.get(entity_type, [])


def _compare_pages(
    run: Comparison,
    tally: Tally,
    traits: SinkTraits,
    entity_type: EntityType,
    read: Callable[[Conn, UUID | None], Page],
    repair: Callable[[Sequence[UUID]], None],
) -> None:
    after: UUID | None = None
    while True:
        with run.database.autocommit() as conn:
            gaps, after = read(conn, after)
            at_rest = [gap for gap in gaps if not gap.in_progress]
            ids = [gap.id for gap in at_rest]
            given_up = repairs.given_up(conn, traits, entity_type, ids)
        tally.pending += sum(gap.in_progress for gap in gaps)
        for gap in at_rest:
            tally.note(Drift.MISSING if gap.missing else Drift.STALE, gap.key)
            if gap.id in given_up:
                tally.give_up(gap.key)
        repair([i for i in ids if i not in given_up])
        if after is None:
            return
