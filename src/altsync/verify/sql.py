"""What PostgreSQL holds, in the forms in which sinks are compared with it.

Every function is one or two short statements: a snapshot that stays open would slow every claim.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from altsync.catalogue.current import current, entity_types
from altsync.contract import EMBEDDING, SIMILARITY, Digest
from altsync.db import Conn
from altsync.declarations import SINKS, columns_of
from altsync.entities import EntityType, Row
from altsync.outbox.edges import input_hash_of
from altsync.projection import is_edited
from altsync.store.rows import HALF_HASH, read_rows, row_sum
from altsync.store.vectors import HAS_VECTOR

#: Milliseconds that writers of a table may be held up before it is held still.
HOLD_TIMEOUT = 1000


@dataclass(frozen=True, slots=True)
class EntitySnapshot:
    """An entity as it is compared. ``in_progress``: an operation for the sink is live.

    ``age`` is seconds since the sink last confirmed it, None when it never did.
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


def _namespace(kind: EntityType) -> str:
    """The namespace of an entity in SQL over a row, as ``projection.namespace`` in Python."""
    quoted = kind.namespace.replace("'", "''")
    return kind.namespace_column or f"'{quoted}'"


def entity_snapshots(
    conn: Conn, entity_type: EntityType, keys: Sequence[str], sink: str, sinks: Sequence[str]
) -> dict[str, EntitySnapshot]:
    """Entities by key, deleted ones too; live operations of ``sinks`` count as under way.

    Under a former key an entity counts as not living. One statement, so version and operations
    belong together.
    """
    declared, columns = SINKS.get(sink), columns_of(sink)
    version = "graph_version" if declared and declared.traits.edges else "version"
    confirmed = columns.synced_at if columns else None
    facts = f"""
        {_namespace(entity_type)}, content_hash, embedding_model,
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
        {"keys": list(keys), "sinks": list(sinks)},
    )
    return {row[1]: EntitySnapshot(*row) for row in rows}


def rows_and_live(
    conn: Conn,
    entity_type: EntityType,
    ids: Sequence[UUID],
    sinks: Sequence[str],
    *,
    with_vectors: bool = False,
    with_edges: bool = False,
) -> tuple[list[Row], set[UUID], dict[UUID, float]]:
    """Rows, those with a live operation of ``sinks``, and seconds since the first sink confirmed.

    Rows are read first: what changes them after that shows as a live operation.
    """
    rows = read_rows(conn, entity_type, ids, with_vectors=with_vectors, with_edges=with_edges)
    live = conn.execute(
        "SELECT DISTINCT entity_id FROM sync_operation "
        "WHERE entity_id = ANY(%s) AND sink = ANY(%s) AND finished_at IS NULL",
        (list(ids), list(sinks)),
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


def graph_digest(
    conn: Conn, entity_type: EntityType, modulus: int, *, prime: int, weight: int
) -> Digest:
    """Return what the graph should hold of a type; the same facts as the graph's own digest."""
    key = entity_type.key_column
    found: dict[int, set[tuple[Any, ...]]] = defaultdict(set)
    numbers = {"modulus": modulus, "prime": prime, "weight": weight}
    for statement, part in _graph_digests(entity_type, key):
        for bucket, *facts in conn.execute(statement, numbers):
            found[bucket].add((part, *facts))
    return found


def _graph_digests(entity_type: EntityType, key: str) -> list[tuple[str, str]]:
    bucket = "l.graph_version %% %(modulus)s"
    versions = "sum(l.graph_version %% %(prime)s)::bigint"
    parts = [
        (
            f"""
            SELECT {bucket}, count(*), {versions},
                   sum((l.graph_version %% %(weight)s) * length({key}))::bigint,
                   min({key} COLLATE "C"), max({key} COLLATE "C"),
                   min(content_hash COLLATE "C"), max(content_hash COLLATE "C")
            FROM {entity_type} l WHERE deleted_at IS NULL GROUP BY 1
            """,
            "node",
        )
    ]
    parts += [
        (
            f"SELECT {bucket}, {parent.column}, count(*), {versions} FROM {entity_type} l "
            f"WHERE deleted_at IS NULL AND {parent.column} IS NOT NULL GROUP BY 1, 2",
            f"parent {parent.relation}",
        )
        for parent in entity_type.graph_parents
    ]
    edges = entity_type.edges
    if edges:
        parts.append(
            (
                f"""
                SELECT {bucket}, r.relationship_type, count(*),
                       sum((l.graph_version %% %(weight)s)
                           * (t.graph_version %% %(prime)s))::bigint,
                       sum(round(COALESCE(r.strength_score, -1) * 100000)
                           * (l.graph_version %% %(weight)s
                              + t.graph_version %% %(weight)s))::bigint
                FROM {edges.table} r
                JOIN {entity_type} l ON l.id = r.{edges.source} AND l.deleted_at IS NULL
                JOIN {entity_type} t ON t.id = r.{edges.target} AND t.deleted_at IS NULL
                GROUP BY 1, 2
                """,
                "edge",
            )
        )
    return parts


def version_digest(conn: Conn, entity_type: EntityType, modulus: int, *, prime: int) -> Digest:
    """Living entities by ``version`` modulo ``modulus``: how many, and the sum of versions."""
    rows = conn.execute(
        f"""
        SELECT version %% %(modulus)s, count(*), sum(version %% %(prime)s)::bigint
        FROM {entity_type} WHERE deleted_at IS NULL GROUP BY 1
        """,
        {"modulus": modulus, "prime": prime},
    )
    return {row[0]: {(row[1], row[2])} for row in rows}


def row_digest(conn: Conn, entity_type: EntityType, modulus: int, *, digest: str) -> Digest:
    """Return what an index of rows should hold of a type, by ``version`` modulo ``modulus``.

    ``digest`` is SQL for a number that sums up the ``facts`` of a row.
    """
    facts = ", ".join(
        [
            entity_type.key_column,
            "version",
            _namespace(entity_type),
            "content_hash",
            "embedding_model",
        ]
    )
    rows = conn.execute(
        f"""
        SELECT version %% %(modulus)s, count(*), sum({digest.format(facts=facts)})::bigint
        FROM {entity_type} WHERE deleted_at IS NULL GROUP BY 1
        """,
        {"modulus": modulus},
    )
    return {row[0]: {(row[1], row[2])} for row in rows}


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
    """A page of living entities of some buckets, by id. ``edges`` counts the graph's versions."""
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
    """So many living entities of all types together, each as likely as any other."""
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


@dataclass(frozen=True, slots=True)
class Gap:
    """An entity that a sink inside PostgreSQL has left out. ``missing``, or else stale."""

    id: UUID
    key: str
    missing: bool
    in_progress: bool


def edited_rows(
    conn: Conn,
    entity_type: EntityType,
    *,
    after: UUID | None,
    limit: int,
    ids: Sequence[UUID] | None = None,
) -> tuple[list[Row], UUID | None]:
    """Of one page of living entities, those whose content is not what their hashes are of.

    PostgreSQL's own sum of each row tells at once of those that altsync wrote last; the others are
    read and hashed. Returns the id to go on after, None at the end. ``ids`` narrows the page.
    """
    rows = conn.execute(
        f"""
        SELECT id, COALESCE(substr(line_hash, {HALF_HASH + 1})
                 = left(content_hash, {HALF_HASH}) || {row_sum(entity_type, "l")}, false)
        FROM {entity_type} l WHERE id > %(after)s AND deleted_at IS NULL
          AND (%(ids)s::uuid[] IS NULL OR id = ANY(%(ids)s))
        ORDER BY id LIMIT %(limit)s
        """,
        {
            "after": after or UUID(int=0),
            "limit": limit,
            "ids": None if ids is None else list(ids),
        },
    ).fetchall()
    outcome_unknown = [row[0] for row in rows if not row[1]]
    read = read_rows(conn, entity_type, outcome_unknown) if outcome_unknown else []
    edited = [row for row in read if not row.deleted and is_edited(row)]
    return edited, rows[-1][0] if len(rows) == limit else None


def embedding_gaps(
    conn: Conn,
    entity_type: EntityType,
    *,
    after: UUID | None,
    limit: int,
    ids: Sequence[UUID] | None = None,
) -> tuple[list[Gap], UUID | None]:
    """Of one page of living entities, those without the wanted vector.

    One statement, so vector and operations belong together. Returns the id to go on after, None
    at the end. ``ids`` narrows the page to them.
    """
    return _gaps_of(
        conn,
        f"""
        WITH page AS MATERIALIZED (
          SELECT l.id, l.{entity_type.key_column} AS key,
                 NOT {HAS_VECTOR} AS missing,
                 l.embedding_text_hash IS DISTINCT FROM l.text_hash
                   OR l.embedding_model IS DISTINCT FROM e.config ->> 'model' AS stale
          FROM {entity_type} l LEFT JOIN sink_state e ON e.sink = '{EMBEDDING}'
          WHERE l.id > %(after)s AND l.deleted_at IS NULL
            AND (%(ids)s::uuid[] IS NULL OR l.id = ANY(%(ids)s))
          ORDER BY l.id LIMIT %(limit)s)
        SELECT p.id, p.key, p.missing, EXISTS (
                 SELECT 1 FROM sync_operation o WHERE o.entity_id = p.id
                   AND o.sink = '{EMBEDDING}' AND o.finished_at IS NULL),
               p.missing OR p.stale
        FROM page p ORDER BY p.id
        """,
        after=after,
        limit=limit,
        ids=ids,
    )


def similarity_gaps(
    conn: Conn,
    entity_type: EntityType,
    follows: str,
    *,
    after: UUID | None,
    limit: int,
    ids: Sequence[UUID] | None = None,
) -> tuple[list[Gap], UUID | None]:
    """Of one page of living entities, those whose neighbours are not those of their vectors.

    Only entities that the sink ``follows`` has confirmed: others are searched when it does.
    """
    return _gaps_of(
        conn,
        f"""
        WITH page AS MATERIALIZED (
          SELECT l.id, l.{entity_type.key_column} AS key,
                 l.{follows}_sync_status = 'synced' AND l.embedding_text_hash IS NOT NULL
                   AND l.neighbours_input_hash IS DISTINCT FROM {input_hash_of(entity_type)}
                   AS missing
          FROM {entity_type} l WHERE l.id > %(after)s AND l.deleted_at IS NULL
            AND (%(ids)s::uuid[] IS NULL OR l.id = ANY(%(ids)s))
          ORDER BY l.id LIMIT %(limit)s)
        SELECT p.id, p.key, true, EXISTS (
                 SELECT 1 FROM sync_operation o WHERE o.entity_id = p.id
                   AND o.sink IN ('{EMBEDDING}', '{follows}', '{SIMILARITY}')
                   AND o.finished_at IS NULL),
               p.missing
        FROM page p ORDER BY p.id
        """,
        after=after,
        limit=limit,
        ids=ids,
    )


def _gaps_of(
    conn: Conn, statement: str, *, after: UUID | None, limit: int, ids: Sequence[UUID] | None
) -> tuple[list[Gap], UUID | None]:
    """The gaps of one page, and the id after which the next one begins; None at the end.

    The statement selects what a ``Gap`` holds, and whether it is one.
    """
    wanted = None if ids is None else list(ids)
    rows = conn.execute(
        statement,
        {"after": after or UUID(int=0), "limit": limit, "ids": wanted},
    ).fetchall()
    gaps = [Gap(*row[:4]) for row in rows if row[4]]
    return gaps, rows[-1][0] if len(rows) == limit else None


def deleted_keys(conn: Conn, entity_type: EntityType, keys: Sequence[str]) -> set[str]:
    """Return those of ``keys`` that deleted entities have, as long as their rows are kept."""
    rows = conn.execute(
        f"SELECT {entity_type.key_column} FROM {entity_type} "
        f"WHERE {entity_type.key_column} = ANY(%s) AND deleted_at IS NOT NULL",
        (list(keys),),
    )
    return {row[0] for row in rows}


def lock_out_writers(conn: Conn, entity_type: EntityType) -> None:
    """Wait for the writers of a table, and keep others out until the transaction ends.

    Who writes afterwards draws a version above every one drawn before. Raises
    ``psycopg.errors.LockNotAvailable`` when a writer does not end in time: what wants to
    write waits behind this, so it is better tried again than waited for.
    """
    conn.execute(f"SET LOCAL lock_timeout = {HOLD_TIMEOUT}")
    conn.execute(f"LOCK TABLE {entity_type} IN SHARE MODE")


def save_verification(
    conn: Conn, *, seconds: float, consistent: bool, result: Mapping[str, Any]
) -> None:
    """Keep what a comparison came to, and forget those before the last hundred."""
    from psycopg.types.json import Jsonb

    conn.execute(
        "INSERT INTO verify_run (seconds, consistent, result) VALUES (%s, %s, %s)",
        (seconds, consistent, Jsonb(dict(result))),
    )
    conn.execute(
        "DELETE FROM verify_run WHERE id <= (SELECT max(id) FROM verify_run) - %s", (RUNS_KEPT,)
    )


#: Comparisons whose results are kept.
RUNS_KEPT = 100


@dataclass(frozen=True, slots=True)
class Verification:
    """What the last comparison came to. ``age`` and ``seconds`` (how long it took) in seconds.

    ``result`` is what ``altsync verify --json`` printed.
    """

    age: float
    seconds: float
    consistent: bool
    result: Mapping[str, Any]


def claim_verification(conn: Conn) -> bool:
    """Take the right to compare all stores, for as long as this session lasts.

    False when another session has it. The lock is of the session: a pooler's does not hold it.
    """
    row = conn.execute(
        "SELECT pg_try_advisory_lock(hashtext('altsync.verify'), hashtext(current_schema()))"
    ).fetchone()
    return bool(row and row[0])


def last_verification(conn: Conn) -> Verification | None:
    """Return the last comparison, of any process."""
    row = conn.execute(
        """
        SELECT EXTRACT(epoch FROM now() - finished_at)::float8, seconds, consistent, result
        FROM verify_run ORDER BY id DESC LIMIT 1
        """
    ).fetchone()
    return Verification(*row) if row else None
