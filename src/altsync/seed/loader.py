"""Load seed files into PostgreSQL, each batch in one transaction.

Tests stop a process at the named points between the steps. An entity and its operations are one
statement, so no point is between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from operator import attrgetter

import structlog
from psycopg import Rollback

from altsync.catalogue import current
from altsync.catalogue.current import part_of
from altsync.catalogue.parts import Part
from altsync.circuit.sinks import wanted_model
from altsync.contract import EMBEDDING, Topology
from altsync.costs.planner import Planner
from altsync.db import Conn
from altsync.entities import entity_id
from altsync.erased import read_erased
from altsync.errors import SeedError
from altsync.log import debugging
from altsync.seed.checking import KnownKeys
from altsync.seed.files import SeedFile
from altsync.seed.lines import Raw, Rejected
from altsync.seed.listing import Listing, list_files
from altsync.seed.notes import TextNotes
from altsync.seed.options import SeedOptions
from altsync.seed.prepare import PreparedBatch, prepare_batch
from altsync.seed.pruning import Pruner
from altsync.seed.reader import read_raw
from altsync.seed.registry import KeyRegistry
from altsync.seed.report import Counts, SeedReport
from altsync.seed.run import Run
from altsync.seed.sql import attachments, entities, relationships, seen
from altsync.seed.sql.keys import former_keys
from altsync.seed.transactions import retry_on_conflict
from altsync.seed.tuning import tuned_interpreter
from altsync.seed.writing import write_batch
from altsync.store.reads import all_keys
from altsync.wording import plural

log = structlog.get_logger(__name__)

#: Lines per transaction: large enough that a commit is cheap per row, small enough that a
#: killed seeder loses little and memory stays flat.
BATCH = 2000

#: Bytes of lines per transaction, which ends with the line that reaches them. Memory holds some
#: ten times as much: two batches at once, as bytes, as objects and as rows.
BATCH_BYTES = 4 << 20


class Loader:
    """A seeding run on one session connection."""

    def __init__(
        self,
        conn: Conn,
        topology: Topology,
        options: SeedOptions,
        report: SeedReport,
        progress: Callable[[Part, int], None] = lambda part, size: None,
        at: Callable[[str], None] = lambda point: None,
        planner: Planner | None = None,
    ) -> None:
        self._conn = conn
        self._options = options
        self._report = report
        self._progress = progress
        self._at = at
        erased = read_erased(conn, allowed=options.allow_erased)
        self._run = Run(conn, topology, options, report, at, erased, planner=planner)
        self._registry = KeyRegistry(conn, dry_run=options.dry_run)
        self._unreadable: dict[Part, str] = {}
        self._texts = TextNotes()
        self._model: str | None = None

    def run(self) -> None:
        """Load every part, then prune. Raises ``SeedError`` when it cannot go on."""
        with tuned_interpreter():
            seen.create_tables(self._conn)
            seen.create_changed_in_run(self._conn)
            if EMBEDDING in self._run.topology.names:
                self._model, _ = wanted_model(self._conn) or (None, 0)
                if self._run.planner:
                    self._model = self._run.planner.model.name
            self._at("begun")
            listing = self._list_files()
            self._at("found")
            for part in self._options.parts:
                self._load_part(part, listing.files[part])
                prunes = listing.files[part] and self._options.prune
                if part.entity_type and prunes and self._not_pruned(listing) is None:
                    self._run.pruned.add(part.entity_type)
            self._report.notes += self._texts.sentences(self._model)
            self._at("loaded")
            if self._options.prune:
                loaded = [part for part, found in listing.files.items() if found]
                Pruner(self._run).prune(loaded, self._not_pruned(listing))
                self._at("pruned")

    def _list_files(self) -> Listing:
        """List the seed files; report those that cannot be read."""
        options = self._options
        listing = list_files(options.folder, options.parts, options.only)
        if not any(listing.files.values()) and not listing.refused:
            wanted = ", ".join(options.parts)
            unread = "; ".join(["", *listing.notes])
            raise SeedError(f"{options.folder}: no seed files for {wanted}{unread}")
        for part, label, reason in listing.refused:
            self._report.counts(part).processed += 1
            self._reject(part, Rejected(label, 0, None, reason, ""))
        self._report.notes += listing.notes
        return listing

    def _reject(self, part: Part, line: Rejected) -> None:
        self._report.reject(part, line)
        if line.seed_id is None:
            self._unreadable.setdefault(part, f"{line.place} cannot be read")

    def _not_pruned(self, listing: Listing) -> str | None:
        """Return the reason why the run has not read every line of the files, or None."""
        if self._options.limit is not None:
            return "--limit leaves lines unread"
        for column in self._options.only:
            return f"--{column} leaves files unread"
        for reason in self._unreadable.values():
            return reason
        for label, _reason in listing.unread:
            return f"{label} was not read"
        return None

    def _load_part(self, part: Part, files: Sequence[SeedFile]) -> None:
        if files:
            self._create_staging(part)
            self._report.counts(part)
        self._at("part begun")
        # Parents are loaded first, so that a line cannot name a rejected one.
        known = self._known_keys(part)
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

    def _create_staging(self, part: Part) -> None:
        if part.entity_type:
            entities.create_staging(self._conn, part.entity_type)
        elif part.attachment:
            attachments.create_staging(self._conn, part.attachment)
        elif part.related:
            relationships.create_staging(self._conn, part.related.edge_table)

    def _known_keys(self, part: Part) -> KnownKeys:
        """Return the keys of the parents that lines of a part may name, by field.

        A key of the catalogue's ``known`` counts without being loaded, until its entity is renamed.
        """
        found: dict[str, frozenset[str]] = {}
        for parent in part.entity_type.parents if part.entity_type else ():
            if parent.parent is not None:
                kind = current.entity_type(parent.parent)
                keys = all_keys(self._conn, kind) | parent.known
                keys -= former_keys(self._conn, kind, parent.known)
                if self._options.dry_run:
                    keys -= {key for renamed, key in self._run.renamed if renamed == kind}
                    keys |= seen.good_keys(self._conn, part_of(kind))
                found[parent.column] = frozenset(keys)
        return found

    def _load_strictly(
        self, part: Part, file: SeedFile, lines: Iterable[Raw], known: KnownKeys
    ) -> None:
        """Load all lines of a file in one transaction, or none of them.

        Each batch is a savepoint, which is tried again after a conflict with another seeder.
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
        """Add the counts of committed lines. ``_reject`` has counted the refused ones."""
        self._report.counts(part).add(replace(counts, rejected=0))

    def _lines(self, part: Part, files: Sequence[SeedFile]) -> Iterator[Raw]:
        for file in files:
            raw = None
            for raw in read_raw(file, lambda size: self._progress(part, size)):
                yield raw
            if raw is None:
                self._texts.without_lines.append(file.label)

    def _batches(
        self, part: Part, pages: Iterator[Sequence[Raw]], known: KnownKeys
    ) -> Iterator[PreparedBatch]:
        """Yield each batch while a thread prepares the next: PostgreSQL does not wait for Python.

        The thread reads page n + 2 and prepares page n + 1; the caller writes page n.
        """
        prepare = partial(prepare_batch, cut_long=self._options.cut_long)
        with ThreadPoolExecutor(max_workers=1) as worker:
            page = worker.submit(next, pages, ())
            ready: Future[PreparedBatch] | None = None
            while raws := page.result():
                unchanged = self._unchanged(part, raws)
                coming = worker.submit(prepare, part, raws, unchanged, known, self._model)
                page = worker.submit(next, pages, ())
                if ready:
                    yield ready.result()
                ready = coming
            if ready:
                yield ready.result()

    def _unchanged(self, part: Part, raws: Sequence[Raw]) -> set[int]:
        """Return the positions, from 1, of lines that their entities match already."""
        kind = part.entity_type
        if kind is None:
            return set()
        if any(renamed in {one.parent for one in kind.parents} for renamed, _ in self._run.renamed):
            return set()  # a dry run has not given children the parent's new key
        ids, hashes = [raw.id_hint for raw in raws], [raw.fingerprint for raw in raws]
        return entities.unchanged_lines(self._conn, kind, ids, hashes)

    def _load_batch(self, part: Part, batch: PreparedBatch) -> Counts:
        """Write a batch in a transaction, or a savepoint; report the lines that it refuses."""
        write = partial(write_batch, self._run, self._registry, part, batch)
        written = retry_on_conflict(self._conn, part, write)
        rejected = [*batch.rejected, *written.rejected]
        for line in rejected:
            self._reject(part, line)
        for good in batch.good:
            self._texts.add(good)
        changes = written.changes
        return Counts(
            processed=len(batch.good) + len(batch.rejected),
            created=changes.created,
            updated=changes.updated,
            unchanged=written.loaded - changes.created - changes.updated,
            rejected=len(rejected),
            operations=changes.operations,
        )

    def _log_changes(self, part: Part, batch: PreparedBatch) -> None:
        """Log one event per changed entity; its ``change`` is the version that sinks will get."""
        kind = part.entity_type
        if kind is None or self._options.dry_run or not debugging():
            return
        lines = {entity_id(kind, line.seed_id): line for line in reversed(batch.good)}
        for entity, seed_id, key, version in seen.changed_versions(self._conn, kind, list(lines)):
            line = lines[entity]
            log.debug(
                "entity.changed",
                file=line.file,
                line=line.number,
                seed_id=seed_id,
                key=key,
                change=version,
            )


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
