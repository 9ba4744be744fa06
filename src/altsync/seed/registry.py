"""Assign keys to seeds, and register them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from altsync.db import Conn
from altsync.entities import EntityType
from altsync.seed import keys
from altsync.seed.keys import KeyRequest
from altsync.seed.sql.keys import Registry, current_keys, key_holders, move_keys, register_keys


class KeyRegistry:
    """The registered keys. A dry run registers its keys in a temporary table."""

    def __init__(self, conn: Conn, *, dry_run: bool) -> None:
        self._conn = conn
        self._dry_run = dry_run
        self._tables: tuple[Registry, ...] = (
            ("tag_registry", "tags_to_be") if dry_run else ("tag_registry",)
        )

    def give(
        self, entity_type: EntityType, requests: Sequence[KeyRequest], present: Mapping[str, str]
    ) -> tuple[dict[str, str], list[keys.Refusal]]:
        """Return the keys of requests by seed id, and the refused ones.

        ``present`` has the keys that the caller has read, by seed id. A seed that gives another key
        than its present one is renamed.
        """
        absent = [request.seed_id for request in requests if request.seed_id not in present]
        known = {**present, **self._known(entity_type, absent)} if absent else present
        new = [request for request in requests if request.seed_id not in known]
        renamed = [
            one for one in requests if one.given and known.get(one.seed_id, one.given) != one.given
        ]
        unassigned = [*new, *renamed]
        holders = self._holders(entity_type, unassigned) if unassigned else {}
        given, refusals = keys.assign(requests, known, holders)
        if new:
            added = {one.seed_id: given[one.seed_id] for one in new if one.seed_id in given}
            register_keys(self._conn, entity_type, added, self._tables[-1])
        moved = {one.seed_id: given[one.seed_id] for one in renamed if one.seed_id in given}
        if moved and self._dry_run:
            register_keys(self._conn, entity_type, moved, self._tables[-1])
        elif moved:
            move_keys(self._conn, entity_type, moved)
        return given, refusals

    def _known(self, entity_type: EntityType, seed_ids: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for table in self._tables:
            found |= current_keys(self._conn, entity_type, seed_ids, table)
        return found

    def _holders(self, entity_type: EntityType, new: Sequence[KeyRequest]) -> dict[str, str]:
        """Return the holders of candidates. Preferred ones are read first: most are free."""
        preferred = {request.preferred for request in new}
        held = self._held(entity_type, list(preferred))
        if not held and len(preferred) == len(new):
            return held
        return self._held(entity_type, [c for request in new for c in keys.candidates(request)])

    def _held(self, entity_type: EntityType, wanted: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for table in self._tables:
            found |= key_holders(self._conn, entity_type, wanted, table)
        return found
