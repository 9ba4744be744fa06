"""Write entities from a program, in its own transaction: ``altsync.save``, ``altsync.delete``.

The same checks and the same statements as a seeding run, without files. Nothing is committed here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy import Connection, inspect
from sqlalchemy.orm import Session

from altsync.app import Application
from altsync.catalogue.catalogue import Catalogue
from altsync.catalogue.current import children_of, current, part_of
from altsync.catalogue.entity import Entity
from altsync.circuit.breaker import wanted_model
from altsync.contract import Topology
from altsync.db import Conn
from altsync.entities import EntityType, ParentEdge, entity_id
from altsync.errors import SaveError
from altsync.operations import Origin
from altsync.seed import prepare, renaming
from altsync.seed.changes import Changes
from altsync.seed.checking import check
from altsync.seed.files import SeedFile
from altsync.seed.keys import KeyRequest, slug
from altsync.seed.lines import Line, Raw, Rejected
from altsync.seed.loader import BATCH
from altsync.seed.registry import KeyRegistry
from altsync.seed.sql.deletion import DELETE_PAGE, tombstone
from altsync.seed.sql.entities import existing_rows, upsert_staged
from altsync.seed.sql.keys import current_keys, former_keys, key_holders
from altsync.seed.transactions import retry_on_conflict
from altsync.store.reads import all_keys, living_keys, named_parents, values_of
from altsync.store.rows import SAVED
from altsync.wording import unknown

#: What entities are written with: a session or connection of SQLAlchemy, or psycopg's connection.
Target = Session | Connection | psycopg.Connection[Any]

#: In place of a seed id that is worked out when the entity's name and key have been checked.
_UNKNOWN = "?"


def save(target: Target, *entities: Entity) -> Changes:
    """Write entities and their operations in the caller's transaction; return what changed.

    Entities of any classes of the catalogue, in any order. One without ``seed_id`` is the entity
    that has its key, or a new one whose seed id is the key. ``id``, ``seed_id`` and a key that
    was made are set on the entities. Raises ``SaveError``, and then nothing is written.
    """
    catalogue = current()
    by_type: dict[EntityType, list[Entity]] = {}
    for entity in entities:
        by_type.setdefault(_type_of(catalogue, type(entity)), []).append(entity)
        _check_state(entity)
    changes = Changes()
    with _connection(target) as conn:
        savers = [
            _Saver(conn, kind, by_type[kind]) for kind in catalogue.entity_types if kind in by_type
        ]

        def write() -> Changes:
            done = Changes()
            for saver in savers:
                done += saver.write()
            return done

        if savers:
            changes = retry_on_conflict(conn, part_of(savers[0].kind), write)
    for saver in savers:
        saver.note_on_entities()
    return changes


def delete(target: Target, entity: type[Entity], *keys: str) -> Changes:
    """Delete entities by key in the caller's transaction; return how many there were.

    Raises ``SaveError`` for a parent that living entities still name, and then deletes nothing.
    """
    kind = _type_of(current(), entity)
    for key in keys:
        if not isinstance(key, str):
            raise SaveError(entity.__name__, kind.key_column, f"a key is a text, not {key!r}")
    with _connection(target) as conn:
        return retry_on_conflict(conn, part_of(kind), lambda: _delete(conn, kind, entity, keys))


def _delete(conn: Conn, kind: EntityType, entity: type[Entity], keys: Sequence[str]) -> Changes:
    changes = Changes()
    found = living_keys(conn, kind, keys)
    ids = sorted(found.values())
    for start in range(0, len(ids), DELETE_PAGE):
        page = ids[start : start + DELETE_PAGE]
        changes += tombstone(conn, kind, page, _topology(), noted=False, origin=Origin.UPDATE)
    for child in children_of(kind):
        for parent in child.graph_parents:
            if parent.parent == kind and found:
                _check_unused(conn, entity, child, parent.column, list(found))
    return changes


def _check_unused(
    conn: Conn, entity: type[Entity], child: EntityType, column: str, keys: list[str]
) -> None:
    named = named_parents(conn, child, column, keys)
    if named:
        key, count = named[0]
        many = child.one if count == 1 else child.many
        reason = f"{key!r} cannot be deleted: {count:,} {many} still name it in {column}"
        raise SaveError(entity.__name__, None, reason)


@dataclass(slots=True)
class _Asked:
    """An entity that is to be saved, and what is found out about it."""

    entity: Entity
    line: Line
    seed_id: str | None
    key: str | None


class _Saver:
    """Writes the entities of one type. ``write`` may be called again after a rollback."""

    def __init__(self, conn: Conn, kind: EntityType, entities: Sequence[Entity]) -> None:
        self.kind = kind
        self._conn = conn
        self._name = type(entities[0]).__name__
        self._part = part_of(kind)
        self._entities = entities
        self._saved: list[tuple[Entity, str, str]] = []

    def write(self) -> Changes:
        """Write what changed, in pages of one statement each."""
        lines = self._check()
        self._find_ids(lines)
        self._refuse_repeats(lines)
        lines.sort(key=lambda one: entity_id(self.kind, one.seed_id or ""))
        self._saved = []
        changes = Changes()
        for start in range(0, len(lines), BATCH):
            changes += self._write_page(lines[start : start + BATCH])
        return changes

    def note_on_entities(self) -> None:
        """Give the caller's objects the key and the ids of their rows."""
        for entity, seed_id, key in self._saved:
            state = inspect(entity)
            if state.session is not None:
                state.session.expire(entity)
                continue
            entity.id = entity_id(self.kind, seed_id)
            entity.seed_id = seed_id
            setattr(entity, self.kind.key_column, key)

    # --- checks -------------------------------------------------------------------------------

    def _check(self) -> list[_Asked]:
        """Check every entity as a seed line is."""
        model = wanted_model(self._conn)
        asked = [self._line(entity, model[0] if model else None) for entity in self._entities]
        for parent in self.kind.parents:
            if parent.parent is not None:
                self._check_parents(asked, parent)
        return asked

    def _line(self, entity: Entity, model: str | None) -> _Asked:
        """Check an entity as the seed line that says the same."""
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
        return _Asked(entity, line, seed_id, key)

    def _as_json(self, data: Mapping[str, Any]) -> bytes:
        """Return a line. The standard library writes what JSON forbids, so that it is named."""
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
        """Return how the class calls a field of a line."""
        if name == "id":
            return self.kind.key_column if self.kind.key_is_id else "seed_id"
        top = name.partition(".")[0]
        return name if top in (*self.kind.columns, "seed_id") else f"attributes.{name}"

    def _check_parents(self, asked: Sequence[_Asked], parent: ParentEdge) -> None:
        """Refuse an entity that names a parent which is not loaded."""
        kind = current().by_table[parent.parent or ""]
        named = {getattr(one.line.item, parent.column) for one in asked} - {None}
        known = parent.known - former_keys(self._conn, kind, parent.known)
        missing = named - set(living_keys(self._conn, kind, sorted(named))) - known
        if missing:
            key = min(missing)
            loaded = sorted(all_keys(self._conn, kind) | known)
            raise self._refusal(parent.column, unknown(parent.name, key, loaded))

    # --- identity -----------------------------------------------------------------------------

    def _find_ids(self, asked: Sequence[_Asked]) -> None:
        """Find the seed ids of entities that give none: by their keys, or what these are made of.

        A key that another entity has leads to that one.
        """
        without = [one for one in asked if one.seed_id is None]
        if not without:
            return
        wanted = {id(one): self._keys_of(one) for one in without}
        keys = list({key for keys in wanted.values() for key in keys})
        holders = key_holders(self._conn, self.kind, keys)
        names = self._names_of(holders.values())
        held = current_keys(self._conn, self.kind, list(set(holders.values())))
        taken = current_keys(self._conn, self.kind, keys)
        for one in without:
            if one.key is not None:
                seed_id = holders.get(one.key, one.key)
            else:
                seed_id = self._find_made(one, wanted[id(one)], holders, names)
            key = one.key or seed_id
            if one.key is not None and held.get(seed_id, key) != key:
                reason = f"{key!r} was renamed to {held[seed_id]!r}: give that, or seed_id"
                raise self._refusal(self.kind.key_column, reason)
            if seed_id not in names and taken.get(seed_id, key) != key:
                reason = f"the seed id {seed_id!r} is that of {taken[seed_id]!r}: give another one"
                raise self._refusal("seed_id", reason)
            one.seed_id = seed_id

    def _keys_of(self, one: _Asked) -> list[str]:
        """The keys that an entity without a seed id may have."""
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
        one: _Asked,
        keys: Sequence[str],
        holders: dict[str, str],
        names: dict[str, tuple[Any, ...]],
    ) -> str:
        """The seed id of the entity that has the same name and place, or of a new one."""
        own = self._made_from(one.line.item)
        for key in keys:
            holder = holders.get(key)
            if holder is None:
                holders[key], names[key] = key, own
                item: Any = one.line.item
                given = replace(item, **{self.kind.key_column: key})
                one.line = one.line._replace(item=given)
                return key
            if names.get(holder, own if holder == key else None) == own:
                return holder
        fields = " and ".join(self.kind.key_made_from)
        reason = f"others have the keys that {fields} make ({', '.join(keys)}): give one"
        raise self._refusal(self.kind.key_column, reason)

    def _made_from(self, content: Any) -> tuple[Any, ...]:
        return tuple(getattr(content, name) for name in self.kind.key_made_from)

    def _names_of(self, seed_ids: Iterable[str]) -> dict[str, tuple[Any, ...]]:
        """What the keys of entities are made from, by seed id, of those whose rows are there."""
        return values_of(self._conn, self.kind, list(seed_ids), self.kind.key_made_from)

    def _refuse_repeats(self, asked: Sequence[_Asked]) -> None:
        counts = Counter(one.seed_id for one in asked)
        for seed_id, count in counts.items():
            if count > 1:
                raise self._refusal(None, f"{count} entities of one call are {seed_id!r}")

    # --- writing ------------------------------------------------------------------------------

    def _write_page(self, page: Sequence[_Asked]) -> Changes:
        kind = self.kind
        drafted = [
            prepare.prepare_row(one.line._replace(seed_id=one.seed_id or ""), SAVED) for one in page
        ]
        keys, renamed = self._keys([draft.request for draft in drafted])
        rows = []
        for one, draft in zip(page, drafted, strict=True):
            seed_id = draft.request.seed_id
            under = draft.with_key(keys[seed_id])
            rows.append(
                prepare.row_of(seed_id, under.content, under.content_hash, under.fingerprint)
            )
            self._saved.append((one.entity, seed_id, keys[seed_id]))
        if renamed:
            renaming.lock(self._conn, kind, renamed)
        changes = upsert_staged(self._conn, kind, _topology(), noted=False, saved=rows)
        followed = renaming.follow(self._conn, kind, renamed, _topology()) if renamed else 0
        return replace(changes, operations=changes.operations + followed)

    def _keys(
        self, requests: Sequence[KeyRequest]
    ) -> tuple[dict[str, str], dict[str, tuple[str, str]]]:
        """The keys of seed ids, and of those that are renamed the former and the new one."""
        seed_ids = [request.seed_id for request in requests]
        if self.kind.key_is_id:
            return dict(zip(seed_ids, seed_ids, strict=True)), {}
        there = existing_rows(self._conn, self.kind, seed_ids)
        has = {seed_id: one.key for seed_id, one in there.items()}
        given, refusals = KeyRegistry(self._conn, dry_run=False).give(self.kind, requests, has)
        for refusal in refusals:
            raise self._refusal(self.kind.key_column, refusal.reason)
        return given, {s: (key, given[s]) for s, key in has.items() if given[s] != key}


def _type_of(catalogue: Catalogue, entity: Any) -> EntityType:
    try:
        return catalogue.type_of(entity)
    except LookupError:
        name = getattr(entity, "__name__", repr(entity))
        known = ", ".join(one.__name__ for one in catalogue.classes)
        reason = f"is no entity of the catalogue {catalogue.name}, which has {known}"
        raise SaveError(name, None, reason) from None


def _check_state(entity: Entity) -> None:
    if inspect(entity).pending:
        reason = "was added to a session, which would write it once more: save it only"
        raise SaveError(type(entity).__name__, None, reason)


@cache
def _topology() -> Topology:
    """The sinks of the settings, read once."""
    return Application().topology


@contextmanager
def _connection(target: Target) -> Iterator[Conn]:
    """The caller's own connection, in a transaction, with the rows that altsync reads."""
    given: Any = target
    if isinstance(given, Session):
        given = given.connection()
    if isinstance(given, Connection):
        given = given.connection.driver_connection
    if not isinstance(given, psycopg.Connection):
        name = f"{type(given).__module__}.{type(given).__qualname__}"
        raise SaveError("altsync", None, f"needs a connection of psycopg 3, and not {name}")
    if given.autocommit and given.info.transaction_status == TransactionStatus.IDLE:
        reason = "the connection commits each statement by itself: begin a transaction first"
        raise SaveError("altsync", None, reason)
    row_factory, cursor_factory = given.row_factory, given.cursor_factory
    given.row_factory, given.cursor_factory = tuple_row, psycopg.Cursor
    try:
        # Begins the transaction, so that what follows are savepoints in it.
        given.execute("SELECT 1")
        yield given
    finally:
        given.row_factory, given.cursor_factory = row_factory, cursor_factory
