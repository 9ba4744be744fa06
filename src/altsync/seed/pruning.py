"""Delete entities that the seed files no longer hold (``--prune``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from altsync.catalogue.current import children_of, current
from altsync.catalogue.parts import Part
from altsync.entities import EntityType
from altsync.errors import SeedError
from altsync.log import debugging
from altsync.seed import relationships
from altsync.seed.changes import Changes
from altsync.seed.planning import plan_removals
from altsync.seed.run import Run
from altsync.seed.sql import attachments, seen
from altsync.seed.sql.deletion import DELETE_PAGE, tombstone
from altsync.seed.transactions import retry_on_conflict

log = structlog.get_logger(__name__)

#: Share of a part that --prune deletes without --yes.
PRUNE_SHARE = 0.20


class Pruner:
    """Deletes the rows whose ids the run has not read, at its end."""

    def __init__(self, run: Run) -> None:
        self._conn = run.conn
        self._topology = run.topology
        self._options = run.options
        self._report = run.report
        self._at = run.at
        self._planner = run.planner

    def prune(self, parts: Sequence[Part], blocked: str | None) -> None:
        """Delete rows of ``parts`` that their files no longer hold, children before parents.

        ``blocked`` is the reason why a file may hold more than was read. Raises ``SeedError`` when
        the share is too large, or when living entities still name a parent.
        """
        if blocked:
            self._report.not_pruned = blocked
            self._report.notes.append(f"nothing was pruned: {blocked}")
            return
        # Check every part before deleting from any: a refusal leaves all of them as they are.
        saved = self._options.prune_saved
        unseen = {part: seen.unseen(self._conn, part, saved=saved) for part in parts}
        for part, ids in unseen.items():
            self._check_share(part, len(ids))
        leaving = {part.entity_type: ids for part, ids in unseen.items() if part.entity_type}
        for part, ids in unseen.items():
            if part.entity_type:
                self._check_unused(part.entity_type, ids, leaving)
        self._at("checked")
        for part in reversed(current().parts):
            if unseen.get(part):
                self._delete(part, unseen[part])

    def _check_share(self, part: Part, count: int) -> None:
        total = seen.count_rows(self._conn, part, saved=self._options.prune_saved)
        if self._options.dry_run:
            total += self._report.counts(part).created
        if count > PRUNE_SHARE * total and not self._options.yes:
            raise SeedError(
                f"--prune would delete {count} of {total} {part} ({count / total:.0%}); nothing "
                f"was deleted. Say --yes if the seed files are right."
            )

    def _delete(self, part: Part, ids: Sequence[Any]) -> None:
        counts = self._report.counts(part)
        if self._options.dry_run:
            counts.deleted += len(ids)
            if part.entity_type is not None:
                sinks = len(self._topology.direct) + len(self._topology.vector)
                counts.operations += sinks * len(ids)
                if self._planner:
                    plan_removals(self._conn, self._planner, part.entity_type, ids)
            return
        for start in range(0, len(ids), DELETE_PAGE):
            page = ids[start : start + DELETE_PAGE]
            changes = retry_on_conflict(self._conn, part, partial(self._delete_page, part, page))
            self._at("page committed")
            counts.deleted += changes.deleted
            counts.operations += changes.operations
            if debugging() and part.entity_type:
                self._log_deletions(part.entity_type, page)

    def _log_deletions(self, entity_type: EntityType, ids: Sequence[UUID]) -> None:
        for _id, seed_id, key, version in seen.changed_versions(self._conn, entity_type, ids):
            log.debug("entity.deleted", seed_id=seed_id, key=key, change=version)

    def _delete_page(self, part: Part, page: Sequence[Any]) -> Changes:
        """Delete one page, in the caller's transaction."""
        self._at("page begun")
        changes = self._delete_rows(part, page)
        self._at("page committing")
        return changes

    def _delete_rows(self, part: Part, page: Sequence[Any]) -> Changes:
        if part.related:
            return relationships.delete(self._conn, part.related, page, self._topology, self._at)
        if part.attachment:
            return Changes(deleted=attachments.delete(self._conn, part.attachment, page))
        assert part.entity_type is not None
        # Another seeder may have loaded children of these entities since the first check.
        self._check_unused(part.entity_type, page, {})
        return tombstone(self._conn, part.entity_type, page, self._topology)

    def _check_unused(
        self,
        parent: EntityType,
        ids: Sequence[Any],
        leaving: Mapping[EntityType, Sequence[Any]],
    ) -> None:
        used = seen.parents_in_use(self._conn, parent, ids, leaving) if ids else []
        if used:
            names = ", ".join(f"{key} ({count:,} {many})" for key, many, count in used)
            children = " and ".join(
                sorted({entity_type.many for entity_type in children_of(parent)})
            )
            raise SeedError(
                f"{parent.many} that {children} still name cannot be deleted: {names}. Move or "
                f"delete those {children} first, or put the {parent.many} back."
            )
