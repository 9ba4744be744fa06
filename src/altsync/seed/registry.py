"""Giving tags: those that seeds have already, and new ones that no other seed holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from altsync.db import Conn
from altsync.entities import EntityType
from altsync.seed import keys
from altsync.seed.keys import KeyRequest
from altsync.seed.sql.keys import Registry, current_keys, key_holders, move_keys, register_keys


class KeyRegistry:
    """The tags that were given. A dry run keeps those that it would give in a temporary table."""

    def __init__(self, conn: Conn, *, dry_run: bool) -> None:
        self._conn = conn
        self._dry_run = dry_run
        self._tables: tuple[Registry, ...] = (
            ("tag_registry", "tags_to_be") if dry_run else ("tag_registry",)
        )

    def give(
        self, entity_type: EntityType, requests: Sequence[KeyRequest], has: Mapping[str, str]
    ) -> tuple[dict[str, str], list[keys.Refusal]]:
        """The tags of seeds by their ids, and who was refused. ``has``: tags known beforehand.

        Seeds that give another tag than they have are renamed.
        """
        absent = [request.seed_id for request in requests if request.seed_id not in has]
        known = {**has, **self._known(entity_type, absent)} if absent else has
        new = [request for request in requests if request.seed_id not in known]
        moving = [
            one for one in requests if one.given and known.get(one.seed_id, one.given) != one.given
        ]
        asked = [*new, *moving]
        holders = self._holders(entity_type, asked) if asked else {}
        given, refusals = keys.assign(requests, known, holders)
        if new:
            fresh = {one.seed_id: given[one.seed_id] for one in new if one.seed_id in given}
            register_keys(self._conn, entity_type, fresh, self._tables[-1])
        moved = {one.seed_id: given[one.seed_id] for one in moving if one.seed_id in given}
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
        """Who has the tags that these may get. Most get the best; only else all are looked up."""
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
