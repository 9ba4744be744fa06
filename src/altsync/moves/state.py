"""The state of a move from one embedding model to another, in one row of ``sink_state``.

Functions with a connection run in the caller's transaction. The steps that take long go page by
page, and note how far they are, so that each may be interrupted and continued.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from altsync.catalogue.current import entity_types, searched_types
from altsync.contract import EMBEDDING, SHADOW, Topology
from altsync.db import Conn, Database
from altsync.entities import EntityType, Model
from altsync.errors import AltsyncError, SchemaError
from altsync.generations import Generation, Generations, generation_of, generations_of
from altsync.operations import Origin
from altsync.outbox.edges import enqueue_neighbour_search
from altsync.outbox.enqueue import MERGE_INTO_LIVE, lock_entities, notify
from altsync.outbox.shadow import SHADOW_EMBEDDING, fill_shadow

#: Milliseconds that an exchange waits for the lock on the outbox; claims and seeds queue behind it.
LOCK_TIMEOUT = 2000

#: Most entities that an exchange enqueues for the new indexes, because the shadow is behind.
MOST_BEHIND = 1000

#: Rows of one page.
PAGE = 5000


class ChangedMeanwhile(AltsyncError):
    """Entities changed between two steps of an exchange, which may be tried again."""


@dataclass(frozen=True, slots=True)
class Move:
    """A move as the database has it.

    ``filled``: every entity was enqueued for the shadow. ``verified``: the time of the last
    comparison that found the shadow complete. ``searching``: the neighbours of some entities are
    yet to be searched by the serving model. ``dropping`` is the generation whose indexes are being
    removed.
    """

    generations: Generations
    since: str | None
    filled: bool
    verified: str | None
    exchanged: str | None
    searching: bool
    dropping: Generation | None

    @property
    def serving(self) -> Generation:
        """Return the generation of the queries."""
        return self.generations.serving

    @property
    def shadow(self) -> Generation | None:
        """Return the generation beside it."""
        return self.generations.shadow


def read_move(conn: Conn, *, lock: bool = False) -> Move:
    """Return the state of the move. ``lock`` keeps others from changing it."""
    config = _config(conn, lock=lock)
    found = generations_of(config)
    if found is None:
        raise SchemaError("no sink is registered: run altsync migrate")
    shadow, dropping = config.get("shadow") or {}, config.get("dropping")
    return Move(
        found,
        shadow.get("since"),
        bool(shadow.get("filled")),
        shadow.get("verified"),
        config.get("exchanged"),
        "searching" in config,
        generation_of(dropping) if dropping else None,
    )


def _config(conn: Conn, *, lock: bool = False) -> dict[str, Any]:
    row = conn.execute(
        "SELECT config FROM sink_state WHERE sink = %s" + (" FOR UPDATE" if lock else ""),
        (EMBEDDING,),
    ).fetchone()
    if row is None:
        raise SchemaError("no sink is registered: run altsync migrate")
    found: dict[str, Any] = row[0]
    return found


def _write(conn: Conn, config: dict[str, Any]) -> None:
    conn.execute(
        "UPDATE sink_state SET config = %s::jsonb WHERE sink = %s",
        (orjson.dumps(config).decode(), EMBEDDING),
    )


def check_addable(conn: Conn, model: Model) -> None:
    """Raise ``AltsyncError`` when a model cannot be added beside the serving one."""
    move = read_move(conn)
    if model == move.serving.model:
        raise AltsyncError(
            f"{model.name} ({model.dimensions} dimensions) is the serving model already"
        )
    if move.dropping is not None:
        raise AltsyncError(
            f"{move.dropping.model.name} is being dropped: run altsync model drop --yes to end it"
        )
    if move.shadow is not None and move.shadow.model != model:
        other = move.shadow.model
        raise AltsyncError(
            f"{other.name} ({other.dimensions} dimensions) is beside {move.serving.model.name} "
            "already: run altsync model drop first"
        )
    if move.shadow is None and model.name != move.serving.model.name:
        _check_marks(conn, move.serving.model, model)


def _check_marks(conn: Conn, serving: Model, model: Model) -> None:
    for kind in entity_types():
        found = conn.execute(
            f"SELECT EXISTS (SELECT 1 FROM {kind} WHERE embedding_model = %s)", (model.name,)
        ).fetchone()
        if found and found[0]:
            raise AltsyncError(
                f"some rows of {kind} are embedded by {model.name} already: run altsync reembed "
                f"with ALTSYNC_EMBEDDING_MODEL={serving.name} first"
            )


def begin(
    conn: Conn, topology: Topology, model: Model, *, requests: int | None, tokens: int | None
) -> Generation:
    """Add a model beside the serving one, or set the limits of the one that is there.

    Raises ``AltsyncError``.
    """
    config = _config(conn, lock=True)
    check_addable(conn, model)
    present = config.get("shadow")
    if present is None:
        number = config.get("generation", 1) + 1
        present = {
            "model": model.name,
            "dimensions": model.dimensions,
            "indexes": f"m{number}",
            "since": _now(conn),
        }
        config["generation"] = number
        config.setdefault("indexes", "")
        config.pop("exchanged", None)
    limits = {"requests": requests, "tokens": tokens}
    present |= {name: value for name, value in limits.items() if value is not None}
    config["shadow"] = present
    _write(conn, config)
    for traits in topology.shadows:
        conn.execute(
            "INSERT INTO sink_state (sink) VALUES (%s) ON CONFLICT DO NOTHING", (traits.name,)
        )
    return Generation(model, present["indexes"])


def _now(conn: Conn) -> str:
    return f"{_clock(conn).astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _clock(conn: Conn) -> datetime:
    """Return the time of the database, which goes on within a transaction."""
    row = conn.execute("SELECT clock_timestamp()").fetchone()
    assert row is not None
    now: datetime = row[0]
    return now


def _place(kinds: Sequence[EntityType], cursor: Sequence[Any] | None) -> tuple[EntityType, UUID]:
    """Return the type and the id after which a step goes on; the first type without a cursor."""
    name, after = cursor or (None, None)
    kind = next((one for one in kinds if one == name), kinds[0])
    return kind, UUID(after) if after else UUID(int=0)


def _next_place(
    kinds: Sequence[EntityType], kind: EntityType, last: UUID | None
) -> list[str | None] | None:
    """Return the cursor after ``last``, or of the next type without it; None at the end."""
    if last is not None:
        return [kind.value, str(last)]
    following = kinds[list(kinds).index(kind) + 1 :]
    return [following[0].value, None] if following else None


def fill(database: Database, topology: Topology) -> Iterator[int]:
    """Enqueue all entities for the shadow, page by page; yield the entities of each page.

    A page and the place to go on from are one transaction: a second run goes on where this one
    ended, and a concurrent one takes turns.
    """
    while True:
        with database.transaction() as conn:
            config = _config(conn, lock=True)
            shadow = config.get("shadow")
            if shadow is None or shadow.get("filled"):
                return
            kinds = list(entity_types())
            kind, after = _place(kinds, shadow.get("cursor"))
            count, last = fill_shadow(conn, topology, kind, after=after, limit=PAGE)
            shadow["cursor"] = _next_place(kinds, kind, last)
            if shadow["cursor"] is None:
                del shadow["cursor"]
                shadow["filled"] = True
            _write(conn, config)
        yield count


def note_verified(conn: Conn) -> None:
    """Note that a comparison has found the shadow complete."""
    config = _config(conn, lock=True)
    if config.get("shadow"):
        config["shadow"]["verified"] = _now(conn)
        _write(conn, config)


@dataclass(frozen=True, slots=True)
class Backlog:
    """The unfinished operations of the shadow: live ones by sink, and dead ones."""

    live: dict[str, int]
    dead: int

    @property
    def total(self) -> int:
        """Return the number of live operations."""
        return sum(self.live.values())


def shadow_backlog(conn: Conn, topology: Topology) -> Backlog:
    """Count the shadow's live and dead operations."""
    names = [one.name for one in topology.shadows]
    rows = conn.execute(
        "SELECT sink, count(*) FROM sync_operation WHERE sink = ANY(%s) AND finished_at IS NULL "
        "GROUP BY 1",
        (names,),
    )
    live = dict.fromkeys(names, 0) | dict(rows.fetchall())
    dead = conn.execute(
        "SELECT count(*) FROM sync_operation WHERE sink = ANY(%s) AND status = 'dead'", (names,)
    ).fetchone()
    assert dead is not None
    return Backlog(live, dead[0])


def exchange(conn: Conn, topology: Topology) -> Move:
    """Exchange the serving generation and the shadow, in the caller's transaction.

    This is both the switch to a new model and the return to the former one.

    Entities with a live operation of the shadow are enqueued for the new serving indexes, which
    lack them. No claim or settlement is between the two: the outbox is locked. Raises
    ``AltsyncError``, and ``psycopg.errors.LockNotAvailable`` when a long transaction holds it.
    """
    shadows = [one.name for one in topology.shadows]
    # Entities before operations: the order of all writers.
    late = [SHADOW_EMBEDDING, *topology.vector]
    waiting = _with_live(conn, late)
    lock_entities(conn, waiting)
    conn.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT}")
    conn.execute("LOCK TABLE sync_operation IN SHARE ROW EXCLUSIVE MODE")
    config = _config(conn, lock=True)
    shadow = config.get("shadow")
    if shadow is None:
        raise AltsyncError("there is no model beside the serving one: run altsync model add")
    if not set(_with_live(conn, late)) <= set(waiting):
        raise ChangedMeanwhile("entities changed during the exchange: run it again")
    for kind in entity_types():
        ids = [entity for of, entity in waiting if of == kind]
        _embed_again(conn, kind, ids, Model(shadow["model"], shadow["dimensions"]))
    conn.execute(
        f"""
        INSERT INTO sync_operation AS o
          (entity_type, entity_id, entity_key, sink, action, version, origin, outcome_unknown,
           namespaces)
        SELECT entity_type, entity_id, entity_key, substr(sink, {len(SHADOW) + 1}), action, version,
               '{Origin.MODEL}', outcome_unknown OR status = 'in_progress', namespaces
        FROM sync_operation WHERE sink = ANY(%s) AND finished_at IS NULL
        ORDER BY entity_id, sink {MERGE_INTO_LIVE}
        """,
        (shadows,),
    )
    former = {name: config[name] for name in ("model", "dimensions")}
    former |= {"indexes": config.get("indexes", ""), "filled": True, "since": shadow["since"]}
    config |= {name: shadow[name] for name in ("model", "dimensions", "indexes")}
    former |= {name: shadow[name] for name in ("requests", "tokens") if name in shadow}
    config["shadow"] = former
    if config.pop("exchanged", None) is None:
        config["exchanged"] = _now(conn)
    if topology.relating and searched_types():
        config["searching"] = None
    _write(conn, config)
    # The positions are those of the former indexes.
    conn.execute("DELETE FROM visibility_mark WHERE sink = ANY(%s)", (topology.vector,))
    notify(conn, [*topology.names, *shadows])
    return read_move(conn)


def _embed_again(conn: Conn, kind: EntityType, ids: list[UUID], model: Model) -> None:
    """Enqueue the embedding of entities whose text the new serving model lacks."""
    conn.execute(
        f"""
        WITH lacking AS (
          UPDATE {kind} l SET embedding_text_hash = NULL, embedding_sync_status = 'pending'
          WHERE l.id = ANY(%(ids)s) AND l.deleted_at IS NULL AND NOT EXISTS (
            SELECT 1 FROM embedding e WHERE e.model = %(model)s
              AND e.dimensions = %(dimensions)s AND e.text_hash = l.text_hash)
          RETURNING l.id, l.{kind.key_column} AS key, l.version)
        INSERT INTO sync_operation AS o
          (entity_type, entity_id, entity_key, sink, action, version, origin)
        SELECT '{kind}', id, key, '{EMBEDDING}', 'upsert', version, '{Origin.MODEL}'
        FROM lacking ORDER BY id {MERGE_INTO_LIVE}
        """,
        {"ids": ids, "model": model.name, "dimensions": model.dimensions},
    )


def _with_live(conn: Conn, sinks: list[str]) -> list[tuple[EntityType, UUID]]:
    rows = conn.execute(
        "SELECT entity_type, entity_id FROM sync_operation "
        "WHERE sink = ANY(%s) AND finished_at IS NULL",
        (sinks,),
    )
    kinds = {kind.value: kind for kind in entity_types()}
    return [(kinds[kind], entity) for kind, entity in rows if kind in kinds]


def search_again(database: Database, topology: Topology) -> Iterator[int]:
    """Enqueue the search for neighbours of all entities, as their vectors are another model's.

    Page by page, as ``fill``.
    """
    while True:
        with database.transaction() as conn:
            config = _config(conn, lock=True)
            if "searching" not in config:
                return
            kinds = list(searched_types())
            kind, after = _place(kinds, config["searching"])
            ids = [
                row[0]
                for row in conn.execute(
                    f"SELECT id FROM {kind} WHERE id > %s AND deleted_at IS NULL "
                    "ORDER BY id LIMIT %s FOR NO KEY UPDATE",
                    (after, PAGE),
                )
            ]
            count = enqueue_neighbour_search(
                conn, kind, topology.relating, ids, delay=0.0, again=True
            )
            place = _next_place(kinds, kind, ids[-1] if len(ids) == PAGE else None)
            if place is None:
                del config["searching"]
            else:
                config["searching"] = place
            _write(conn, config)
        yield count


def begin_drop(database: Database, topology: Topology, after: float) -> Generation:
    """Stop keeping the model beside the serving one in step. Return its generation.

    ``after`` is the time in seconds in which a call that has begun may still be applied: the
    indexes are removed no earlier. Safe to repeat.
    """
    _rename_rows(database)
    names = [one.name for one in topology.shadows]
    with database.transaction() as conn:
        conn.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT}")
        conn.execute("LOCK TABLE sync_operation IN SHARE ROW EXCLUSIVE MODE")
        config = _config(conn, lock=True)
        shadow = config.pop("shadow", None)
        if shadow is not None:
            conn.execute(
                "DELETE FROM sync_operation WHERE sink = ANY(%s) "
                "AND (finished_at IS NULL OR status = 'dead')",
                (names,),
            )
            config.pop("exchanged", None)
            config["dropping"] = {
                **{name: shadow[name] for name in ("model", "dimensions", "indexes")},
                "at": _clock(conn).timestamp() + after,
            }
            _write(conn, config)
        dropping = config.get("dropping")
        if dropping is None:
            raise AltsyncError("there is no model beside the serving one")
    return generation_of(dropping)


def _rename_rows(database: Database) -> None:
    """Give the rows that count as the serving model's its name, page by page."""
    with database.autocommit() as conn:
        move = read_move(conn)
    if move.shadow is None or move.shadow.model.name == move.serving.model.name:
        return
    for kind in entity_types():
        while True:
            with database.transaction() as conn:
                done = conn.execute(
                    f"""
                    UPDATE {kind} SET embedding_model = %(serving)s WHERE id = ANY(ARRAY(
                      SELECT id FROM {kind} WHERE embedding_model = %(shadow)s
                      ORDER BY id LIMIT {PAGE} FOR NO KEY UPDATE))
                    """,
                    {"serving": move.serving.model.name, "shadow": move.shadow.model.name},
                ).rowcount
            if not done:
                break


def seconds_until_droppable(conn: Conn) -> float:
    """Return the seconds until no call may still write the indexes that are being dropped."""
    dropping = _config(conn).get("dropping")
    return max(0.0, dropping["at"] - _clock(conn).timestamp()) if dropping else 0.0


def end_drop(conn: Conn, topology: Topology) -> None:
    """Forget the dropped model, once its indexes are removed."""
    config = _config(conn, lock=True)
    if config.pop("dropping", None) is not None:
        _write(conn, config)
    conn.execute(
        "DELETE FROM sink_state WHERE sink = ANY(%s)", ([one.name for one in topology.shadows],)
    )
