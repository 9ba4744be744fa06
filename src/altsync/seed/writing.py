"""Write a prepared batch inside a transaction: entities, attachments, relationships."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from altsync.catalogue.parts import Part
from altsync.entities import EntityType
from altsync.erased import lift
from altsync.seed import renaming
from altsync.seed.attached import write_attachments, write_relationships
from altsync.seed.changes import Changes
from altsync.seed.lines import Line, Rejected
from altsync.seed.planning import plan_upserts
from altsync.seed.prepare import PreparedBatch, PreparedRow
from altsync.seed.registry import KeyRegistry
from altsync.seed.run import Run
from altsync.seed.sql import entities, seen
from altsync.seed.sql.entities import ExistingRow, upsert_staged


@dataclass(frozen=True, slots=True)
class WrittenBatch:
    """The result of a batch: its changes, the rejected lines, and the number of loaded lines."""

    changes: Changes
    rejected: Sequence[Rejected]
    loaded: int


def write_batch(run: Run, registry: KeyRegistry, part: Part, batch: PreparedBatch) -> WrittenBatch:
    """Write a batch in the caller's transaction. It may be called again after a rollback."""
    run.at("batch begun")
    lines, rejected = _without_repeats(run, part, batch)
    run.at("seen")
    if part.related:
        changes, lines = write_relationships(run, part.related, lines, rejected)
    elif part.attachment:
        changes, lines = write_attachments(run, part.attachment, lines, rejected)
    else:
        assert part.entity_type is not None
        writer = _EntityWriter(run, registry, part.entity_type)
        changes, lines = writer.write(lines, batch.rows, rejected)
    run.at("written")
    rejected_ids = {line.seed_id for line in rejected if line.seed_id and line.field != "id"}
    if rejected_ids:
        loaded = {line.seed_id for line in lines}
        seen.mark_rejected(run.conn, part, sorted(rejected_ids - loaded))
    run.at("committing")
    return WrittenBatch(changes, rejected, len(lines))


def _without_repeats(
    run: Run, part: Part, batch: PreparedBatch
) -> tuple[Sequence[Line], list[Rejected]]:
    """Return the first good line of each id, and the other lines as rejected."""
    good = batch.good
    if seen.mark_seen(run.conn, batch.seen) and not batch.repeated:
        return good, []
    first = seen.first_places(run.conn, part, list({line.seed_id for line in good}))
    rejected = [
        line.reject(
            "id",
            f"the id {line.seed_id!r} stands at {first[line.seed_id]} already; "
            "the first line counts",
        )
        for line in good
        if line.place != first[line.seed_id]
    ]
    return [line for line in good if line.place == first[line.seed_id]], rejected


class _EntityWriter:
    """Writes lines of one entity type."""

    def __init__(self, run: Run, registry: KeyRegistry, kind: EntityType) -> None:
        self._run = run
        self._registry = registry
        self._kind = kind

    def write(
        self, lines: Sequence[Line], rows: Mapping[str, PreparedRow], rejected: list[Rejected]
    ) -> tuple[Changes, Sequence[Line]]:
        """Write new and changed rows. Returns the changes, and all lines that are not rejected."""
        to_load = [line for line in lines if line.item is not None]
        if not to_load:
            return Changes(), lines
        run = self._run
        if run.erased.days:
            lines = self._without_erased(lines, rows, rejected)
            to_load = [line for line in lines if line.item is not None]
        existing = entities.existing_rows(run.conn, self._kind, [line.seed_id for line in to_load])
        keys = self._assign_keys(to_load, rows, existing, rejected)
        run.at("keys requested")
        keyed = [rows[seed_id].with_key(key) for seed_id, key in keys.items()]
        renamed = {
            seed_id: (row.key, keys[seed_id])
            for seed_id, row in existing.items()
            if keys.get(seed_id, row.key) != row.key
        }
        if renamed:
            changes = self._rename(keyed, existing, renamed)
        else:
            changes = self._upsert(keyed, existing)
        return changes, [line for line in lines if line.item is None or line.seed_id in keys]

    def _without_erased(
        self, lines: Sequence[Line], rows: Mapping[str, PreparedRow], rejected: list[Rejected]
    ) -> Sequence[Line]:
        """Reject lines of erased entities, before their keys are registered."""
        kept: list[Line] = []
        for line in lines:
            names = [line.seed_id, rows[line.seed_id].request.preferred] if line.item else []
            reason = self._run.erased.refusal(self._kind, names)
            if reason is None:
                kept.append(line)
            else:
                rejected.append(line.reject(self._kind.key_column, reason))
        if self._run.erased.lifted and not self._run.options.dry_run:
            lift(self._run.conn, self._run.erased)
        return kept

    def _assign_keys(
        self,
        lines: Sequence[Line],
        rows: Mapping[str, PreparedRow],
        existing: Mapping[str, ExistingRow],
        rejected: list[Rejected],
    ) -> dict[str, str]:
        """Return the keys of lines by seed id; reject those whose key belongs to another."""
        if self._kind.key_is_id:
            return {line.seed_id: line.seed_id for line in lines}
        current = {seed_id: row.key for seed_id, row in existing.items()}
        requests = [rows[line.seed_id].request for line in lines]
        given, refusals = self._registry.give(self._kind, requests, current)
        reasons = {refusal.seed_id: refusal.reason for refusal in refusals}
        rejected += [
            line.reject(self._kind.key_column, reasons[line.seed_id])
            for line in lines
            if line.seed_id in reasons
        ]
        return given

    def _rename(
        self,
        rows: Sequence[PreparedRow],
        existing: Mapping[str, ExistingRow],
        renamed: Mapping[str, tuple[str, str]],
    ) -> Changes:
        """Write rows, of which some have new keys. Update the rows that name a former key."""
        run = self._run
        if run.options.dry_run:
            run.renamed |= {(self._kind, former) for former, _new in renamed.values()}
            return self._upsert(rows, existing)
        renaming.lock(run.conn, self._kind, renamed)
        changes = self._upsert(rows, existing)
        run.at("renamed")
        followed = renaming.follow(
            run.conn, self._kind, renamed, run.topology, noted=run.notes_changes
        )
        run.at("followed")
        return replace(changes, operations=changes.operations + followed)

    def _upsert(self, rows: Sequence[PreparedRow], existing: Mapping[str, ExistingRow]) -> Changes:
        """Stage the rows that differ from what PostgreSQL holds, and upsert them."""
        run, kind = self._run, self._kind
        found = [existing.get(row.request.seed_id) for row in rows]
        staged = [
            row.values
            for row, held in zip(rows, found, strict=True)
            if held is None or not held.is_same(row.content_hash, row.text_hash, row.fingerprint)
        ]
        if not staged:
            return Changes()
        entities.copy_to_staging(run.conn, kind, staged)
        run.at("copied")
        if run.options.dry_run:
            if run.planner:
                plan_upserts(run.conn, run.planner, kind, rows)
            return entities.classify_staged(run.conn, kind, run.topology)
        changes = upsert_staged(
            run.conn, kind, run.topology, absent=not existing, noted=run.notes_changes
        )
        if any(
            held is not None and not (held.fits and held.fingerprint == row.fingerprint)
            for row, held in zip(rows, found, strict=True)
        ):
            entities.note_lines(run.conn, kind)
        return changes
