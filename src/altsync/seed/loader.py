"""Checked lines to PostgreSQL: whole batches, entities and operations in one transaction.

Named points between every two steps let tests stop a process exactly there. An entity and its
operations are one statement of ``store``, so no point is between them.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, TypeVar, cast

import orjson
import structlog
from psycopg import Rollback

from altsync.catalogue import current
from altsync.catalogue.current import part_of
from altsync.catalogue.parts import AttachmentTable, Part
from altsync.circuit.breaker import wanted_model
from altsync.contract import EMBEDDING, Topology
from altsync.db import Conn
from altsync.entities import Attached, EntityType, Relationship, entity_id
from altsync.errors import SeedError
from altsync.log import debugging
from altsync.projection import part_hash
from altsync.seed import relationships, renaming
from altsync.seed.changes import Changes
from altsync.seed.files import Listing, SeedFile, list_files
from altsync.seed.options import SeedOptions
from altsync.seed.prepare import PreparedBatch, PreparedRow, prepare_batch
from altsync.seed.pruning import Pruner
from altsync.seed.reader import KnownKeys, Line, Raw, Rejected, read_raw
from altsync.seed.registry import KeyRegistry
from altsync.seed.report import Counts, SeedReport
from altsync.seed.sql import attachments, run
from altsync.seed.sql.entities import (
    ExistingRow,
    classify_staged,
    copy_to_staging,
    create_staging,
    existing_rows,
    note_lines,
    unchanged_lines,
    upsert_staged,
)
from altsync.seed.sql.keys import former_keys
from altsync.seed.transactions import retry_on_conflict
from altsync.store.reads import all_keys
from altsync.wording import plural

log = structlog.get_logger(__name__)

T = TypeVar("T")

#: Lines per transaction: large enough that a commit is cheap per row, small enough that a
#: killed seeder loses little and memory stays flat.
BATCH = 2000

#: Bytes of lines per transaction, which ends with the line that reaches them. Some ten times as
#: much is in memory: two batches are under way, as bytes, as objects and as rows.
BATCH_BYTES = 4 << 20

#: Objects made between two looks for garbage cycles: those of a few batches.
COLLECTED_AFTER = 100_000

#: GIL switch interval in seconds. The default of 5 ms stalls the writer thread, which waits for
#: the thread of the next batch some twenty times a batch, up to a third of a run.
SWITCH_AFTER = 0.0002


#: Lines whose texts are cut that a note names, for each file.
CUT_SHOWN = 5


class Loader:
    """One seeding run on one session connection."""

    def __init__(
        self,
        conn: Conn,
        topology: Topology,
        options: SeedOptions,
        report: SeedReport,
        progress: Callable[[Part, int], None] = lambda part, size: None,
        at: Callable[[str], None] = lambda point: None,
    ) -> None:
        self._conn = conn
        self._topology = topology
        self._options = options
        self._report = report
        self._progress = progress
        self._at = at
        self._registry = KeyRegistry(conn, dry_run=options.dry_run)
        self._unreadable: dict[Part, str] = {}
        self._empty: list[str] = []
        self._emptied: dict[str, Counter[str]] = {}
        self._cut: dict[str, list[int]] = {}
        self._pruned: set[EntityType] = set()
        self._renamed: set[tuple[EntityType, str]] = set()
        self._model: str | None = None

    def run(self) -> None:
        """Load every part, then prune. Raises ``SeedError`` when it cannot go on."""
        with _collecting_less(), _switching_soon():
            self._run()

    def _run(self) -> None:
        run.create_tables(self._conn)
        run.create_changed_in_run(self._conn)
        if EMBEDDING in self._topology.names:
            self._model, _ = wanted_model(self._conn) or (None, 0)
        self._at("begun")
        options = self._options
        listing = list_files(options.folder, options.parts, options.only)
        if not any(listing.files.values()) and not listing.refused:
            wanted = ", ".join(options.parts)
            unread = "; ".join(["", *listing.notes])
            raise SeedError(f"{options.folder}: no seed files for {wanted}{unread}")
        self._refuse_files(listing)
        self._at("found")
        for part in options.parts:
            found = listing.files[part]
            if part.entity_type and found:
                create_staging(self._conn, part.entity_type)
            if part.attachment and found:
                attachments.create_staging(self._conn, part.attachment)
            if part.related and found:
                relationships.create_staging(self._conn, part.related.edge_table)
            self._at("part begun")
            # Parents come first: a refused one may not be named by what comes after it.
            self._load_part(part, found, self._known_keys(part))
            if part.entity_type and found and options.prune and self._not_pruned(listing) is None:
                self._pruned.add(part.entity_type)
        self._note_empty()
        self._at("loaded")
        if options.prune:
            pruner = Pruner(self._conn, self._topology, options, self._report, self._at)
            with_files = [part for part, found in listing.files.items() if found]
            pruner.prune(with_files, self._not_pruned(listing))
            self._at("pruned")

    def _refuse_files(self, listing: Listing) -> None:
        for part, label, reason in listing.refused:
            self._reject_file(part, Rejected(label, 0, None, reason, ""))
        self._report.notes += listing.notes

    def _reject_file(self, part: Part, refusal: Rejected) -> None:
        """Count a file that cannot be read as one line, and as a reason to prune nothing."""
        self._report.counts(part).processed += 1
        self._reject(part, refusal)

    def _reject(self, part: Part, line: Rejected) -> None:
        self._report.reject(part, line)
        if line.seed_id is None:
            self._unreadable.setdefault(part, f"{line.place} cannot be read")

    def _not_pruned(self, listing: Listing) -> str | None:
        """Return why it is not known, by now, what the files hold."""
        if self._options.limit is not None:
            return "--limit leaves lines unread"
        for column in self._options.only:
            return f"--{column} leaves files unread"
        for reason in self._unreadable.values():
            return reason
        for label, _reason in listing.unread:
            return f"{label} was not read"
        return None

    def _note_empty(self) -> None:
        """Note files without lines, and those whose lines have empty texts."""
        self._report.notes += [f"{label}: holds no line" for label in self._empty]
        for label, fields in self._emptied.items():
            named = ", ".join(f"{name} ({count:,} times)" for name, count in fields.items())
            self._report.notes.append(f"{label}: empty text is taken as absent: {named}")
        for label, numbers in self._cut.items():
            shown = ", ".join(f"{number:,}" for number in numbers[:CUT_SHOWN])
            more = f" and {len(numbers) - CUT_SHOWN:,} more" if len(numbers) > CUT_SHOWN else ""
            self._report.notes.append(
                f"{label}: {plural(len(numbers), 'text')} over the limit of {self._model} "
                f"{'is' if len(numbers) == 1 else 'are'} cut for the embedding: "
                f"line {shown}{more}"
            )

    def _known_keys(self, part: Part) -> KnownKeys:
        """Keys of the parents that lines of a part may name, by field, as loaded by now.

        A key that is known without being loaded is so until an entity that had it is renamed.
        """
        found: dict[str, frozenset[str]] = {}
        for parent in part.entity_type.parents if part.entity_type else ():
            if parent.parent is not None:
                kind = current.entity_type(parent.parent)
                keys = all_keys(self._conn, kind) | parent.known
                keys -= former_keys(self._conn, kind, parent.known)
                if self._options.dry_run:
                    keys -= {key for renamed, key in self._renamed if renamed == kind}
                    keys |= run.good_keys(self._conn, part_of(kind))
                found[parent.column] = frozenset(keys)
        return found

    # --- loading ------------------------------------------------------------------------------

    def _load_part(self, part: Part, files: Sequence[SeedFile], known: KnownKeys) -> None:
        if files:
            self._report.counts(part)
        lines = islice(self._lines(part, files), self._options.limit)
        if self._options.strict:
            for file, its_lines in groupby(lines, key=attrgetter("file")):
                self._load_strictly(part, file, its_lines, known)
            return
        for batch in self._batches(part, _pages(lines), known):
            counts = self._load_batch(part, batch)
            self._at("committed")
            self._log_changes(part, batch)
            self._count(part, counts)
            self._at("reported")

    def _load_strictly(
        self, part: Part, file: SeedFile, lines: Iterable[Raw], known: KnownKeys
    ) -> None:
        """Load all lines of a file in one transaction, or none of them.

        Each batch is a savepoint of it, so that one that meets another seeder is tried again.
        """
        counts, logged = Counts(), []
        with self._conn.transaction() as whole:
            for batch in self._batches(part, _pages(lines), known):
                counts.add(self._load_batch(part, batch))
                if debugging():
                    logged.append(batch)
            if counts.rejected:
                raise Rollback(whole)
        self._at("committed")
        for batch in logged if not counts.rejected else ():
            self._log_changes(part, batch)
        if counts.rejected:
            bad = counts.rejected
            counts = Counts(processed=bad)
            self._unreadable.setdefault(part, f"{file.label} was refused as a whole (--strict)")
            self._report.notes.append(
                f"{file.label}: refused as a whole, {plural(bad, 'bad line')} (--strict)"
            )
        self._count(part, counts)
        self._at("reported")

    def _count(self, part: Part, counts: Counts) -> None:
        """Add the counts of lines that were committed. Refused ones are counted one by one."""
        self._report.counts(part).add(replace(counts, rejected=0))

    def _lines(self, part: Part, files: Sequence[SeedFile]) -> Iterator[Raw]:
        for file in files:
            raw = None
            for raw in read_raw(file, lambda size: self._progress(part, size)):
                yield raw
            if raw is None:
                self._empty.append(file.label)

    def _batches(
        self, part: Part, pages: Iterator[Sequence[Raw]], known: KnownKeys
    ) -> Iterator[PreparedBatch]:
        """Each batch, while the next is worked out: Python and PostgreSQL work at the same time."""
        prepare = partial(prepare_batch, cut_long=self._options.cut_long)
        with ThreadPoolExecutor(max_workers=1) as worker:
            page = worker.submit(next, pages, ())
            ready: Future[PreparedBatch] | None = None
            while raws := page.result():
                same = self._same(part, raws)
                coming = worker.submit(prepare, part, raws, same, known, self._model)
                page = worker.submit(next, pages, ())
                if ready:
                    yield ready.result()
                ready = coming
            if ready:
                yield ready.result()

    def _same(self, part: Part, raws: Sequence[Raw]) -> set[int]:
        """The places of lines that were loaded before as they are."""
        kind = part.entity_type
        if kind is None:
            return set()
        if any(renamed in {one.parent for one in kind.parents} for renamed, _ in self._renamed):
            return set()  # a dry run: what names the former key has not followed
        ids, prints = [raw.id_hint for raw in raws], [raw.fingerprint for raw in raws]
        return unchanged_lines(self._conn, kind, ids, prints)

    def _load_batch(self, part: Part, batch: PreparedBatch) -> Counts:
        """Load a batch in a transaction, or a savepoint, and report the lines that it refuses."""
        write = partial(self._write_batch, part, batch)
        changes, late, fresh = retry_on_conflict(self._conn, part, write)
        for refused in [*batch.refused, *late]:
            self._reject(part, refused)
        for line in batch.good:
            if line.emptied:
                self._emptied.setdefault(line.file, Counter()).update(line.emptied)
            if line.cut:
                self._cut.setdefault(line.file, []).append(line.number)
        return Counts(
            processed=len(batch.good) + len(batch.refused),
            created=changes.created,
            updated=changes.updated,
            unchanged=fresh - changes.created - changes.updated,
            rejected=len(batch.refused) + len(late),
            operations=changes.operations,
        )

    def _log_changes(self, part: Part, batch: PreparedBatch) -> None:
        """One line per entity that was changed; ``change`` names it until it has settled."""
        entity_type = part.entity_type
        if entity_type is None or self._options.dry_run or not debugging():
            return
        places = {entity_id(entity_type, line.seed_id): line for line in reversed(batch.good)}
        changed = run.changed_versions(self._conn, entity_type, list(places))
        for entity, seed_id, key, version in changed:
            line = places[entity]
            log.debug(
                "entity.changed",
                file=line.file,
                line=line.number,
                seed_id=seed_id,
                key=key,
                change=version,
            )

    def _write_batch(self, part: Part, batch: PreparedBatch) -> tuple[Changes, list[Rejected], int]:
        """Inside a transaction: what changed, lines refused by what is there, lines loaded."""
        late: list[Rejected] = []
        self._at("batch begun")
        lines = self._without_repeats(part, batch, late)
        self._at("seen")
        if part.related:
            changes, lines = self._write_relationships(part.related, lines, late)
        elif part.attachment:
            lines = self._with_owners(part.attachment.owner, lines, late)
            changes = self._write_parts(part.attachment, lines)
        else:
            assert part.entity_type is not None
            changes, lines = self._write_entities(part.entity_type, lines, batch.rows, late)
        self._at("written")
        lost = [line.seed_id for line in late if line.seed_id and line.field != "id"]
        if lost:
            loaded = {line.seed_id for line in lines}
            run.mark_rejected(self._conn, part, [s for s in lost if s not in loaded])
        self._at("committing")
        return changes, late, len(lines)

    def _without_repeats(
        self, part: Part, batch: PreparedBatch, late: list[Rejected]
    ) -> Sequence[Line]:
        """The first good line of each id."""
        good = batch.good
        if run.mark_seen(self._conn, batch.seen) and not batch.repeated:
            return good
        places = run.first_places(self._conn, part, list({line.seed_id for line in good}))
        for line in good:
            place = places[line.seed_id]
            if line.place != place:
                reason = f"the id {line.seed_id!r} stands at {place} already; the first line counts"
                late.append(_refuse(line, "id", reason))
        return [line for line in good if line.place == places[line.seed_id]]

    def _tags(
        self,
        entity_type: EntityType,
        lines: Sequence[Line],
        drafts: Mapping[str, PreparedRow],
        there: Mapping[str, ExistingRow],
        late: list[Rejected],
    ) -> dict[str, str]:
        """The tags that lines get, by seed id; those whose tag belongs to another are refused."""
        if entity_type.key_is_id:
            return {line.seed_id: line.seed_id for line in lines}
        has = {seed_id: one.key for seed_id, one in there.items()}
        requests = [drafts[line.seed_id].request for line in lines]
        given, refusals = self._registry.give(entity_type, requests, has)
        reasons = {refusal.seed_id: refusal.reason for refusal in refusals}
        field = entity_type.key_column
        late += [_refuse(li, field, reasons[li.seed_id]) for li in lines if li.seed_id in reasons]
        return given

    def _write_entities(
        self,
        entity_type: EntityType,
        lines: Sequence[Line],
        drafts: Mapping[str, PreparedRow],
        late: list[Rejected],
    ) -> tuple[Changes, Sequence[Line]]:
        """Write entities; return what changed, and the lines loaded now or before."""
        fresh = [line for line in lines if line.item is not None]
        if not fresh:
            return Changes(), lines
        there = existing_rows(self._conn, entity_type, [line.seed_id for line in fresh])
        given = self._tags(entity_type, fresh, drafts, there, late)
        self._at("tagged")
        tagged = [drafts[seed_id].with_key(tag) for seed_id, tag in given.items()]
        renamed = {s: one.key for s, one in there.items() if given.get(s, one.key) != one.key}
        if renamed:
            changes = self._rename(entity_type, tagged, there, renamed, given)
        else:
            changes = self._write_drafts(entity_type, tagged, there)
        return changes, [line for line in lines if line.item is None or line.seed_id in given]

    def _rename(
        self,
        entity_type: EntityType,
        drafts: Sequence[PreparedRow],
        there: Mapping[str, ExistingRow],
        renamed: Mapping[str, str],
        given: Mapping[str, str],
    ) -> Changes:
        """Write entities of which some have new keys, and what follows: all in one transaction."""
        if self._options.dry_run:
            self._renamed |= {(entity_type, key) for key in renamed.values()}
            return self._write_drafts(entity_type, drafts, there)
        renaming.lock(self._conn, entity_type, renamed)
        changes = self._write_drafts(entity_type, drafts, there)
        self._at("renamed")
        followed = renaming.follow(
            self._conn,
            entity_type,
            {seed_id: (key, given[seed_id]) for seed_id, key in renamed.items()},
            self._topology,
            noted=self._options.followed or debugging(),
        )
        self._at("followed")
        return replace(changes, operations=changes.operations + followed)

    def _write_drafts(
        self,
        entity_type: EntityType,
        drafts: Sequence[PreparedRow],
        there: Mapping[str, ExistingRow],
    ) -> Changes:
        known = [there.get(draft.request.seed_id) for draft in drafts]
        lines = [
            draft.copied
            for draft, one in zip(drafts, known, strict=True)
            if one is None or one.content_hash != draft.content_hash or not one.fits
        ]
        if not lines:
            return Changes()
        copy_to_staging(self._conn, entity_type, lines)
        self._at("copied")
        if self._options.dry_run:
            return classify_staged(self._conn, entity_type, self._topology)
        changes = upsert_staged(
            self._conn,
            entity_type,
            self._topology,
            absent=not there,
            noted=self._options.followed or debugging(),
        )
        if any(one is not None and not one.fits for one in known):
            note_lines(self._conn, entity_type)
        return changes

    def _with_owners(
        self, owner: EntityType, lines: Sequence[Line], late: list[Rejected]
    ) -> list[Line]:
        """Lines whose entities are loaded; the others are refused by the field that names one."""
        wanted = list({seed_id for line in lines for seed_id in _owners(line).values()})
        ids = {seed_id: entity_id(owner, seed_id) for seed_id in wanted}
        living = run.living(self._conn, owner, list(ids.values()))
        there = {seed_id for seed_id in wanted if ids[seed_id] in living}
        pruned: set[str] = set()
        if owner in self._pruned:
            pruned = there - run.seen_ids(self._conn, part_of(owner), wanted)
            there -= pruned
        if self._options.dry_run:
            there |= run.good_ids(self._conn, part_of(owner), wanted)
        lacking = {
            line.seed_id: field
            for line in lines
            for field, seed_id in reversed(_owners(line).items())
            if seed_id not in there
        }
        for line in lines:
            if line.seed_id in lacking:
                field = lacking[line.seed_id]
                seed_id = _owners(line)[field]
                why = "stays: --prune deletes it" if seed_id in pruned else "is loaded"
                late.append(
                    _refuse(line, field, f"no {owner.one} with the seed id {seed_id!r} {why}")
                )
        return [line for line in lines if line.seed_id not in lacking]

    def _unclaimed(
        self, kind: EntityType, lines: Sequence[Line], late: list[Rejected]
    ) -> list[Line]:
        """Relationships that no other line has said already."""
        rows = {line.seed_id: _relationship_row(kind, line) for line in lines}
        ends = {seed_id: (row[2], row[3], row[4]) for seed_id, row in rows.items()}
        ids = [row[0] for row in rows.values()]
        held = relationships.holders(self._conn, kind, ids, list(ends.values())) if ids else {}
        free = []
        for line in lines:
            holder = held.setdefault(ends[line.seed_id], line.seed_id)
            if holder == line.seed_id:
                free.append(line)
            else:
                reason = f"the line with the id {holder!r} says the same"
                late.append(_refuse(line, "target", reason))
        return free

    def _write_relationships(
        self, kind: EntityType, lines: Sequence[Line], late: list[Rejected]
    ) -> tuple[Changes, Sequence[Line]]:
        """Write relationships; return what changed, and the lines loaded now or before."""
        edges = kind.edge_table
        relationships.copy(self._conn, edges, [_relationship_row(kind, line) for line in lines])
        self._at("copied")
        # Locked first: an entity that is living when it is looked at must be so when this commits.
        ends = relationships.Endpoints()
        if not self._options.dry_run:
            ends = relationships.lock_changed(self._conn, kind)
            self._at("ends locked")
        good = self._unclaimed(kind, self._with_owners(kind, lines, late), late)
        kept = {line.seed_id for line in good}
        refused = [line.seed_id for line in lines if line.seed_id not in kept]
        if refused:
            relationships.remove_from_staging(self._conn, edges, refused)
            if not self._options.dry_run:
                # Entities that only refused lines begin at have nothing new for the graph.
                ends = relationships.lock_changed(self._conn, kind, ends)
        if self._options.dry_run:
            return relationships.classify(self._conn, edges, self._topology), good
        return relationships.upsert(self._conn, kind, ends, self._topology, self._at), good

    def _write_parts(self, table: AttachmentTable, lines: Sequence[Line]) -> Changes:
        attachments.copy_to_staging(self._conn, table, [_part_row(table, line) for line in lines])
        self._at("copied")
        return attachments.upsert(self._conn, table, write=not self._options.dry_run)


@contextmanager
def _collecting_less() -> Iterator[None]:
    """Lines are many small objects without cycles: looking for some costs a seventh of a run."""
    before = gc.get_threshold()
    gc.set_threshold(COLLECTED_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


@contextmanager
def _switching_soon() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_AFTER)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def _pages(lines: Iterable[Raw]) -> Iterator[Sequence[Raw]]:
    page: list[Raw] = []
    size = 0
    for line in lines:
        page.append(line)
        size += len(line.read)
        if len(page) >= BATCH or size >= BATCH_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _refuse(line: Line, field: str, reason: str) -> Rejected:
    return Rejected(line.file, line.number, field, reason, line.raw, line.seed_id)


def _owners(line: Line) -> dict[str, str]:
    """The seed ids of entities that a line names, by field."""
    if isinstance(line.item, Relationship):
        return {"source": line.item.source, "target": line.item.target}
    item = cast(Attached, line.item)
    return {item.field: item.owner}


def _relationship_row(kind: EntityType, line: Line) -> tuple[Any, ...]:
    item = cast(Relationship, line.item)
    return (
        entity_id(kind.edge_table.table, line.seed_id),
        line.seed_id,
        entity_id(kind, item.source),
        entity_id(kind, item.target),
        item.relation,
        item.strength,
        orjson.dumps(item.attributes).decode(),
        part_hash(item),
    )


def _part_row(table: AttachmentTable, line: Line) -> tuple[Any, ...]:
    item = cast(Attached, line.item)
    return (
        entity_id(table, line.seed_id),
        line.seed_id,
        entity_id(table.owner, item.owner),
        item.title,
        orjson.dumps(item.attributes).decode(),
        part_hash(item),
        *(item.fields[name] for name in table.columns),
    )
