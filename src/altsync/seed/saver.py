"""Write the entities of one type that a program saves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from sqlalchemy import inspect

from altsync.catalogue.current import current, part_of
from altsync.catalogue.entity import Entity
from altsync.circuit.sinks import wanted_model
from altsync.contract import Topology
from altsync.db import Conn
from altsync.entities import EntityType, ParentEdge, entity_id
from altsync.erased import Erased, lift, read_erased
from altsync.errors import SaveError
from altsync.seed import prepare, renaming
from altsync.seed.changes import Changes
from altsync.seed.checking import check
from altsync.seed.files import SeedFile
from altsync.seed.keys import KeyRequest, slug
from altsync.seed.lines import Line, Raw, Rejected
from altsync.seed.loader import BATCH
from altsync.seed.registry import KeyRegistry
from altsync.seed.sql.entities import existing_rows, upsert_staged
from altsync.seed.sql.keys import current_keys, former_keys, key_holders
from altsync.store.reads import all_keys, living_keys, values_of
from altsync.store.rows import SAVED
from altsync.wording import unknown

#: The seed id of a line until the entity's name and key are checked.
_UNKNOWN = "?"


@dataclass(slots=True)
class _Pending:
    """An entity to be saved: its checked line, and its seed id and key once they are known."""

    entity: Entity
    line: Line
    seed_id: str | None
    key: str | None


class Saver:
    """Writes the entities of one type. ``write`` may be called again after a rollback."""

    def __init__(
        self,
        conn: Conn,
        kind: EntityType,
        topology: Topology,
        entities: Sequence[Entity],
        *,
        allow_erased: bool = False,
    ) -> None:
        self.kind = kind
        self._conn = conn
        self._topology = topology
        self._name = type(entities[0]).__name__
        self._part = part_of(kind)
        self._entities = entities
        self._saved: list[tuple[Entity, str, str]] = []
        self._allow_erased = allow_erased

    def write(self) -> Changes:
        """Write what changed, in pages of one statement each."""
        lines = self._check()
        self._find_ids(lines)
        self._refuse_repeats(lines)
        lines.sort(key=lambda one: entity_id(self.kind, one.seed_id or ""))
        self._saved = []
        erased = read_erased(self._conn, allowed=self._allow_erased)
        changes = Changes()
        for start in range(0, len(lines), BATCH):
            changes += self._write_page(lines[start : start + BATCH], erased)
        return changes

    def set_ids(self) -> None:
        """Set the key and the ids of the rows on the caller's objects."""
        for entity, seed_id, key in self._saved:
            state = inspect(entity)
            if state.session is not None:
                state.session.expire(entity)
                continue
            entity.id = entity_id(self.kind, seed_id)
            entity.seed_id = seed_id
            setattr(entity, self.kind.key_column, key)

    # --- checks -------------------------------------------------------------------------------

    def _check(self) -> list[_Pending]:
        """Check every entity as a seed line is."""
        model = wanted_model(self._conn)
        pending = [self._line(entity, model[0] if model else None) for entity in self._entities]
        for parent in self.kind.parents:
            if parent.parent is not None:
                self._check_parents(pending, parent)
        return pending

    def _line(self, entity: Entity, model: str | None) -> _Pending:
        """Check an entity as the seed line with its fields."""
        kind = self.kind
        dates = {name for name, typed in kind.columns.items() if typed in ("date", "timestamptz")}
        data: dict[str, Any] = {
            name: value.isoformat() if name in dates and isinstance(value, date) else value
            for name in kind.columns
            if name != "attributes" and (value := getattr(entity, name)) is not None
        }
        key, seed_id = data.get(kind.key_column) or None, entity.seed_id or None
        if kind.key_is_id:
            if seed_id is not None and key not in (None, seed_id):
                raise self._refusal(kind.key_column, f"the key is the seed id {seed_id!r}")
            data.pop(kind.key_column, None)
            seed_id = key = seed_id or key
        for name in entity.attributes or {}:
            if name in kind.columns or name == "id":
                raise self._refusal(f"attributes.{name}", "a declared field has this name")
        data |= entity.attributes or {}
        data["id"] = seed_id or ("" if kind.key_is_id else _UNKNOWN)
        read = self._as_json(data)
        file = SeedFile(self._part, Path(), "")
        line = check(Raw(file, 0, read, whole=True, id_hint="", fingerprint=""), None, model)
        if isinstance(line, Rejected):
            raise self._refusal(line.field, line.reason)
        return _Pending(entity, line, seed_id, key)

    def _as_json(self, data: Mapping[str, Any]) -> bytes:
        """Return values as a line. ``json`` writes NaN, too, which the check then rejects."""
        try:
            line = json.dumps(data, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            for name, value in data.items():
                try:
                    json.dumps(value)
                except (TypeError, ValueError, RecursionError) as error:
                    reason = f"no value of a seed line: {error}"
                    raise self._refusal(name, reason) from None
            raise
        try:
            return line.encode()
        except UnicodeEncodeError:  # half a surrogate pair, which the check refuses
            return json.dumps(data).encode()

    def _refusal(self, field: str | None, reason: str) -> SaveError:
        if field is not None:
            field = ", ".join(map(self._field, field.split(", ")))
        return SaveError(self._name, field, reason)

    def _field(self, name: str) -> str:
        """Return the name of a line's field in the class."""
        if name == "id":
            return self.kind.key_column if self.kind.key_is_id else "seed_id"
        top = name.partition(".")[0]
        return name if top in (*self.kind.columns, "seed_id") else f"attributes.{name}"

    def _check_parents(self, pending: Sequence[_Pending], parent: ParentEdge) -> None:
        """Raise for an entity that names a parent which is not loaded."""
        kind = current().by_table[parent.parent or ""]
        named = {getattr(one.line.item, parent.column) for one in pending} - {None}
        known = parent.known - former_keys(self._conn, kind, parent.known)
        missing = named - set(living_keys(self._conn, kind, sorted(named))) - known
        if missing:
            key = min(missing)
            loaded = sorted(all_keys(self._conn, kind) | known)
            raise self._refusal(parent.column, unknown(parent.name, key, loaded))

    # --- identity -----------------------------------------------------------------------------

    def _find_ids(self, pending: Sequence[_Pending]) -> None:
        """Set the seed ids of entities without one.

        An entity that gives a key is the holder of that key, or a new one. Without a key, it is
        the entity with the same values in the fields of ``key_made_from``, or a new one.
        """
        without = [one for one in pending if one.seed_id is None]
        if not without:
            return
        wanted = {id(one): self._keys_of(one) for one in without}
        keys = list({key for keys in wanted.values() for key in keys})
        holders = key_holders(self._conn, self.kind, keys)
        names = self._names_of(holders.values())
        holder_keys = current_keys(self._conn, self.kind, list(set(holders.values())))
        by_id = current_keys(self._conn, self.kind, keys)
        for one in without:
            if one.key is not None:
                seed_id = holders.get(one.key, one.key)
            else:
                seed_id = self._find_made(one, wanted[id(one)], holders, names)
            key = one.key or seed_id
            if one.key is not None and holder_keys.get(seed_id, key) != key:
                reason = f"{key!r} was renamed to {holder_keys[seed_id]!r}: give that, or seed_id"
                raise self._refusal(self.kind.key_column, reason)
            if seed_id not in names and by_id.get(seed_id, key) != key:
                reason = f"the seed id {seed_id!r} is that of {by_id[seed_id]!r}: give another one"
                raise self._refusal("seed_id", reason)
            one.seed_id = seed_id

    def _keys_of(self, one: _Pending) -> list[str]:
        """Return the keys that an entity without a seed id may have."""
        if one.key is not None:
            return [one.key]
        name, *places = self._made_from(one.line.item)
        made = [slug(name)]
        made += [f"{made[0]}_{place}" for given in places[:1] if (place := slug(given or ""))]
        if not made[0]:
            raise self._refusal(self.kind.key_column, f"{name!r} makes no key: give one")
        return made

    def _find_made(
        self,
        one: _Pending,
        keys: Sequence[str],
        holders: dict[str, str],
        names: dict[str, tuple[Any, ...]],
    ) -> str:
        """Return the seed id of the entity with the same name and place, or of a new one."""
        own = self._made_from(one.line.item)
        for key in keys:
            holder = holders.get(key)
            if holder is None:
                holders[key], names[key] = key, own
                item: Any = one.line.item
                given = replace(item, **{self.kind.key_column: key})
                one.line = one.line._replace(item=given)
                return key
            # Without a row, the holder was purged. A seed id that is the key was made from it.
            if names.get(holder, own if holder == key else None) == own:
                return holder
        fields = " and ".join(self.kind.key_made_from)
        reason = f"others have the keys that {fields} make ({', '.join(keys)}): give one"
        raise self._refusal(self.kind.key_column, reason)

    def _made_from(self, content: Any) -> tuple[Any, ...]:
        return tuple(getattr(content, name) for name in self.kind.key_made_from)

    def _names_of(self, seed_ids: Iterable[str]) -> dict[str, tuple[Any, ...]]:
        """Return the values of ``key_made_from`` of existing entities, by seed id."""
        return values_of(self._conn, self.kind, list(seed_ids), self.kind.key_made_from)

    def _refuse_repeats(self, pending: Sequence[_Pending]) -> None:
        counts = Counter(one.seed_id for one in pending)
        for seed_id, count in counts.items():
            if count > 1:
                raise self._refusal(None, f"{count} entities of one call are {seed_id!r}")

    # --- writing ------------------------------------------------------------------------------

    def _write_page(self, page: Sequence[_Pending], erased: Erased) -> Changes:
        kind = self.kind
        prepared = [
            prepare.prepare_row(one.line._replace(seed_id=one.seed_id or ""), SAVED) for one in page
        ]
        self._refuse_erased([row.request for row in prepared], erased)
        keys, renamed = self._keys([row.request for row in prepared])
        values = []
        for one, row in zip(page, prepared, strict=True):
            seed_id = row.request.seed_id
            values.append(row.with_key(keys[seed_id]).values)
            self._saved.append((one.entity, seed_id, keys[seed_id]))
        if renamed:
            renaming.lock(self._conn, kind, renamed)
        changes = upsert_staged(self._conn, kind, self._topology, noted=False, saved=values)
        followed = renaming.follow(self._conn, kind, renamed, self._topology) if renamed else 0
        return replace(changes, operations=changes.operations + followed)

    def _refuse_erased(self, requests: Sequence[KeyRequest], erased: Erased) -> None:
        for request in requests:
            reason = erased.refusal(self.kind, [request.seed_id, request.preferred])
            if reason is not None:
                raise self._refusal(self.kind.key_column, reason)
        if erased.lifted:
            lift(self._conn, erased)

    def _keys(
        self, requests: Sequence[KeyRequest]
    ) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
        """Return the keys of seed ids, and (former, new) keys of renamed entities."""
        seed_ids = [request.seed_id for request in requests]
        if self.kind.key_is_id:
            return dict(zip(seed_ids, seed_ids, strict=True)), {}
        existing = existing_rows(self._conn, self.kind, seed_ids)
        present = {seed_id: row.key for seed_id, row in existing.items()}
        given, refusals = KeyRegistry(self._conn, dry_run=False).give(self.kind, requests, present)
        for refusal in refusals:
            raise self._refusal(self.kind.key_column, refusal.reason)
        return given, {s: (key, given[s]) for s, key in present.items() if given[s] != key}
