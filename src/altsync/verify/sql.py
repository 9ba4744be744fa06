"""Reads of PostgreSQL's entities for comparisons.

Each function runs one or two short statements: an open snapshot would slow every claim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from altsync.catalogue.current import current, entity_types
from altsync.contract import SHADOW
from altsync.db import Conn
from altsync.declarations import SINKS, columns_of
from altsync.entities import EntityType, Model, Row
from altsync.generations import model_of
from altsync.store.rows import read_rows

#: Milliseconds to wait for the lock on a table, while later writers queue behind it.
LOCK_TIMEOUT = 1000


@dataclass(frozen=True, slots=True)
class EntitySnapshot:
    """The state of an entity. ``in_progress``: an operation for the sink is live.

    ``age`` is seconds since the sink confirmed it, None if it never did.
    """

    id: UUID
    key: str
    version: int
    living: bool
    namespace: str
    content_hash: str
    model: str | None
    in_progress: bool = field(compare=False)
    age: float | None = field(compare=False)


def namespace_sql(kind: EntityType) -> str:
    """Return the namespace of an entity as SQL, like ``projection.namespace`` in Python."""
    quoted = kind.namespace.replace("'", "''")
    return kind.namespace_column or f"'{quoted}'"


def entity_snapshots(
    conn: Conn,
    entity_type: EntityType,
    keys: Sequence[str],
    sink: str,
    sinks: Sequence[str],
    *,
    model: Model | None = None,
) -> dict[str, EntitySnapshot]:
    """Return entities by key, with deleted ones. Live operations of ``sinks`` are in progress.

    Under a former key an entity is not living. One statement reads version and operations, so
    that they belong together. ``model`` is that of the shadow, None for the serving one.
    """
    declared, columns = SINKS.get(sink), columns_of(sink)
    version = "graph_version" if declared and declared.traits.edges else "version"
    confirmed = columns.synced_at if columns else None
    facts = f"""
        {namespace_sql(entity_type)}, content_hash, {"%(model)s::text" if model else model_of()},
        EXISTS (SELECT 1 FROM sync_operation o WHERE o.entity_id = l.id
                AND o.sink = ANY(%(sinks)s) AND o.finished_at IS NULL),
        abs(EXTRACT(epoch FROM clock_timestamp() - {confirmed or "NULL"}))::float8
    """
    rows = conn.execute(
        f"""
        SELECT id, former.key, {version}, false, {facts}
        FROM {entity_type} l CROSS JOIN LATERAL unnest(l.former_keys) AS former(key)
        WHERE l.former_keys <> '{{}}' AND former.key = ANY(%(keys)s)
        UNION ALL
        SELECT id, {entity_type.key_column}, {version}, deleted_at IS NULL, {facts}
        FROM {entity_type} l WHERE {entity_type.key_column} = ANY(%(keys)s)
        """,
        {
            "keys": list(keys),
            "sinks": _with_shadows(sinks, model),
            **({"model": model.name} if model else {}),
        },
    )
    return {row[1]: EntitySnapshot(*row) for row in rows}


def _with_shadows(sinks: Sequence[str], model: Model | None) -> list[str]:
    return [*sinks, *(SHADOW + sink for sink in sinks)] if model else list(sinks)


def _embedded(conn: Conn, entity_type: EntityType, ids: Sequence[UUID]) -> set[UUID]:
    rows = conn.execute(
        f"SELECT id FROM {entity_type} WHERE id = ANY(%s) AND embedding_text_hash = text_hash",
        (list(ids),),
    )
    return {row[0] for row in rows}


def rows_and_live(
    conn: Conn,
    entity_type: EntityType,
    ids: Sequence[UUID],
    sinks: Sequence[str],
    *,
    with_vectors: bool = False,
    with_edges: bool = False,
    model: Model | None = None,
) -> tuple[list[Row], set[UUID], dict[UUID, float]]:
    """Return rows, the ids with a live operation of ``sinks``, and ages in seconds.

    An age counts from the confirmation by the first sink. Rows are read first: a later change
    shows as a live operation. ``model`` is that of the shadow. An entity that the serving model has
    not embedded is left out then: the shadow follows it.
    """
    rows = read_rows(
        conn, entity_type, ids, with_vectors=with_vectors, with_edges=with_edges, model=model
    )
    if model is not None:
        embedded = _embedded(conn, entity_type, ids)
        rows = [row for row in rows if row.id in embedded]
    live = conn.execute(
        "SELECT DISTINCT entity_id FROM sync_operation "
        "WHERE entity_id = ANY(%s) AND sink = ANY(%s) AND finished_at IS NULL",
        (list(ids), _with_shadows(sinks, model)),
    ).fetchall()
    ages: dict[UUID, float] = {}
    columns = columns_of(sinks[0])
    column = columns.synced_at if columns else None
    if column:
        found = conn.execute(
            f"SELECT id, abs(EXTRACT(epoch FROM clock_timestamp() - {column}))::float8 "
            f"FROM {entity_type} WHERE id = ANY(%s) AND {column} IS NOT NULL",
            (list(ids),),
        )
        ages = {row[0]: row[1] for row in found}
    return rows, {row[0] for row in live}, ages


def entities_in(
    conn: Conn,
    entity_type: EntityType,
    *,
    edges: bool,
    modulus: int,
    buckets: Sequence[int],
    after: UUID | None,
    limit: int,
) -> list[UUID]:
    """Return a page of ids of living entities in some buckets. ``edges``: by graph version."""
    version = "graph_version" if edges else "version"
    rows = conn.execute(
        f"""
        SELECT id FROM {entity_type}
        WHERE id > %(after)s AND deleted_at IS NULL AND {version} %% %(modulus)s = ANY(%(buckets)s)
        ORDER BY id LIMIT %(limit)s
        """,
        {
            "after": after or UUID(int=0),
            "modulus": modulus,
            "buckets": list(buckets),
            "limit": limit,
        },
    )
    return [row[0] for row in rows]


def namespace_sizes(conn: Conn) -> list[int]:
    """Return how many living entities belong to each namespace of the vector index."""
    parts = " UNION ALL ".join(
        f"SELECT count(*) FROM {kind} WHERE deleted_at IS NULL"
        + (f" GROUP BY {kind.namespace_column}" if kind.moves else "")
        for kind in entity_types()
    )
    return [row[0] for row in conn.execute(parts)]


def random_entities(conn: Conn, count: int) -> dict[EntityType, list[UUID]]:
    """Return ``count`` random living entities of all types together."""
    parts = " UNION ALL ".join(
        f"SELECT '{kind}' AS kind, id FROM {kind} WHERE deleted_at IS NULL"
        for kind in entity_types()
    )
    found: dict[EntityType, list[UUID]] = defaultdict(list)
    for kind, entity in conn.execute(
        f"SELECT kind, id FROM ({parts}) e ORDER BY random() LIMIT %s", (count,)
    ):
        found[current().by_table[kind]].append(entity)
    return found


def deleted_keys(conn: Conn, entity_type: EntityType, keys: Sequence[str]) -> set[str]:
    """Return those of ``keys`` that deleted entities have, as long as their rows are kept."""
    rows = conn.execute(
        f"SELECT {entity_type.key_column} FROM {entity_type} "
        f"WHERE {entity_type.key_column} = ANY(%s) AND deleted_at IS NOT NULL",
        (list(keys),),
    )
    return {row[0] for row in rows}


def lock_out_writers(conn: Conn, entity_type: EntityType) -> None:
    """Wait for the writers of a table, and block others until the transaction ends.

    A later writer draws a version above all drawn before. Raises
    ``psycopg.errors.LockNotAvailable`` after ``LOCK_TIMEOUT``: other writers queue behind this
    lock, so the caller should retry instead of waiting longer.
    """
    conn.execute(f"SET LOCAL lock_timeout = {LOCK_TIMEOUT}")
    conn.execute(f"LOCK TABLE {entity_type} IN SHARE MODE")


def recent_batches(conn: Conn, sinks: Sequence[str], seconds: float) -> bool:
    """Return whether a batch of one of ``sinks`` has ended in the last ``seconds``."""
    row = conn.execute(
        "SELECT EXISTS (SELECT 1 FROM delivery_batch WHERE sink = ANY(%s) "
        "AND finished_at > now() - make_interval(secs => %s))",
        (list(sinks), seconds),
    ).fetchone()
    return bool(row and row[0])
