"""Write entities from a program, in its own transaction: ``altsync.save``, ``altsync.delete``.

The same checks and the same statements as a seeding run, without files. Nothing is committed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row
from sqlalchemy import Connection, inspect
from sqlalchemy.orm import Session

from altsync.app import Application
from altsync.catalogue.catalogue import Catalogue
from altsync.catalogue.current import current, part_of
from altsync.catalogue.entity import Entity
from altsync.contract import Topology
from altsync.db import Conn
from altsync.entities import EntityType
from altsync.errors import SaveError
from altsync.operations import Origin
from altsync.outbox.versions import newest_version
from altsync.seed.changes import Changes
from altsync.seed.saver import Saver
from altsync.seed.sql.deletion import DELETE_PAGE, tombstone
from altsync.seed.transactions import retry_on_conflict
from altsync.store.reads import living_keys, named_by_children

#: A session or connection of SQLAlchemy, or a connection of psycopg.
Target = Session | Connection | psycopg.Connection[Any]


def save(target: Target, *entities: Entity, allow_erased: bool = False) -> Changes:
    """Write entities and their operations in the caller's transaction; return the changes.

    The entities may be of any classes of the catalogue, in any order. One without ``seed_id`` is
    the entity that has its key, or a new one whose seed id is the key. ``id``, ``seed_id`` and a
    generated key are set on the entities. ``allow_erased`` writes erased ones, too. Raises
    ``SaveError``, and then nothing is written.
    """
    catalogue = current()
    by_type: dict[EntityType, list[Entity]] = {}
    for entity in entities:
        by_type.setdefault(_type_of(catalogue, type(entity)), []).append(entity)
        _check_state(entity)
    changes = Changes()
    with _connection(target) as conn:
        savers = [
            Saver(conn, kind, _topology(), by_type[kind], allow_erased=allow_erased)
            for kind in catalogue.entity_types
            if kind in by_type
        ]

        def write() -> Changes:
            done = Changes()
            for saver in savers:
                done += saver.write()
            return done

        if savers:
            changes = retry_on_conflict(conn, part_of(savers[0].kind), write)
            changes = replace(changes, version=newest_version(conn))
    for saver in savers:
        saver.set_ids()
    return changes


def delete(target: Target, entity: type[Entity], *keys: str) -> Changes:
    """Delete entities by key in the caller's transaction; return the changes.

    Raises ``SaveError`` for a parent that living entities still name, and then deletes nothing.
    """
    kind = _type_of(current(), entity)
    for key in keys:
        if not isinstance(key, str):
            raise SaveError(entity.__name__, kind.key_column, f"a key is a text, not {key!r}")
    with _connection(target) as conn:
        done = retry_on_conflict(conn, part_of(kind), lambda: _delete(conn, kind, entity, keys))
        return replace(done, version=newest_version(conn))


def _delete(conn: Conn, kind: EntityType, entity: type[Entity], keys: Sequence[str]) -> Changes:
    changes = Changes()
    found = living_keys(conn, kind, keys)
    ids = sorted(found.values())
    for start in range(0, len(ids), DELETE_PAGE):
        page = ids[start : start + DELETE_PAGE]
        changes += tombstone(conn, kind, page, _topology(), noted=False, origin=Origin.UPDATE)
    named = named_by_children(conn, kind, list(found)) if found else None
    if named:
        reason = f"{named.key!r} cannot be deleted: {named.counted} still name it in {named.column}"
        raise SaveError(entity.__name__, None, reason)
    return changes


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
    """Return the sinks of the settings, read once."""
    return Application().topology


@contextmanager
def _connection(target: Target) -> Iterator[Conn]:
    """Yield the caller's connection in a transaction, with altsync's row factory meanwhile."""
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
