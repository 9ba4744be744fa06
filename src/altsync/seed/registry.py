"""Giving tags: those that seeds have already, and new ones that no other seed holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from altsync.db import Conn
from altsync.entities import EntityType
from altsync.seed import tags
from altsync.seed.tags_sql import Registry, holders_of_tags, known_tags, move_tags, register_tags


class TagRegistry:
    """The tags that were given. A dry run keeps those that it would give in a temporary table."""

    def __init__(self, conn: Conn, *, dry_run: bool) -> None:
        self._conn = conn
        self._dry_run = dry_run
        self._tables: tuple[Registry, ...] = (
            ("tag_registry", "tags_to_be") if dry_run else ("tag_registry",)
        )

    def give(
        self, entity_type: EntityType, wishes: Sequence[tags.Wish], has: Mapping[str, str]
    ) -> tuple[dict[str, str], list[tags.Refusal]]:
        """The tags of seeds by their ids, and who was refused. ``has``: tags known beforehand.

        Seeds that give another tag than they have are renamed.
        """
        absent = [wish.seed_id for wish in wishes if wish.seed_id not in has]
        known = {**has, **self._known(entity_type, absent)} if absent else has
        new = [wish for wish in wishes if wish.seed_id not in known]
        moving = [w for w in wishes if w.given and known.get(w.seed_id, w.given) != w.given]
        asked = [*new, *moving]
        holders = self._holders(entity_type, asked) if asked else {}
        given, refusals = tags.assign(wishes, known, holders)
        if new:
            fresh = {w.seed_id: given[w.seed_id] for w in new if w.seed_id in given}
            register_tags(self._conn, entity_type, fresh, self._tables[-1])
        moved = {w.seed_id: given[w.seed_id] for w in moving if w.seed_id in given}
        if moved and self._dry_run:
            register_tags(self._conn, entity_type, moved, self._tables[-1])
        elif moved:
            move_tags(self._conn, entity_type, moved)
        return given, refusals

    def _known(self, entity_type: EntityType, seed_ids: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for table in self._tables:
            found |= known_tags(self._conn, entity_type, seed_ids, table)
        return found

    def _holders(self, entity_type: EntityType, new: Sequence[tags.Wish]) -> dict[str, str]:
        """Who has the tags that these may get. Most get the best; only else all are looked up."""
        bests = {wish.best for wish in new}
        held = self._held(entity_type, list(bests))
        if not held and len(bests) == len(new):
            return held
        return self._held(entity_type, [c for wish in new for c in tags.candidates(wish)])

    def _held(self, entity_type: EntityType, wanted: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for table in self._tables:
            found |= holders_of_tags(self._conn, entity_type, wanted, table)
        return found
