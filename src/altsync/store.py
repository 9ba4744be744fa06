"""SQL on the entities: reading rows for sinks, seeding, embeddings, counts.

Functions take a connection and never commit. Table and column names come from closed sets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

from altsync.db import Conn, Database
from altsync.outbox import KEY_COLUMN, enqueue_parameters, notify, select_operations
from altsync.projection import content_of
from altsync.records import (
    EMBEDDING,
    Action,
    EntityType,
    Model,
    Origin,
    Row,
    SinkTraits,
    SinkVersion,
    SyncStatus,
    Topology,
)

#: Content columns of each table, in the order of COPY, with their types.
CONTENT_COLUMNS: Mapping[EntityType, Mapping[str, str]] = {
    EntityType.SPORT_ARCHETYPE: {
        "archetype_name": "text",
        "display_name": "text",
        "code_pattern": "text",
        "description": "text",
        "characteristics": "jsonb",
        "attributes": "jsonb",
    },
    EntityType.LEAGUE: {
        "league_tag": "text",
        "league_name": "text",
        "sport_name": "text",
        "sport_archetype": "text",
        "location": "text",
        "tier": "text",
        "status": "text",
        "description": "text",
        "attributes": "jsonb",
    },
    EntityType.FEW_SHOT_EXAMPLE: {
        "example_id": "text",
        "category": "text",
        "input_text": "text",
        "output_text": "text",
        "sport_archetype": "text",
        "tags": "text[]",
        "attributes": "jsonb",
    },
}

#: Ids per delete statement: a short transaction, few row locks at once.
DELETE_PAGE = 1000

# --- rows for the sinks -----------------------------------------------------------------------


def read_rows(
    conn: Conn, entity_type: EntityType, ids: Sequence[UUID], *, with_vectors: bool = False
) -> list[Row]:
    """The current rows of ``ids``, deleted ones too, sorted by key; those purged are left out."""
    content = list(CONTENT_COLUMNS[entity_type])
    vector = "embedding_vector" if with_vectors else "NULL::bytea"
    cursor = conn.execute(
        f"""
        SELECT id, {KEY_COLUMN[entity_type]}, version, graph_version, deleted_at IS NOT NULL,
               content_hash, text_hash, embedding_text_hash, embedding_model, pinecone_namespace,
               {vector}, {", ".join(content)}
        FROM {entity_type} WHERE id = ANY(%s) ORDER BY {KEY_COLUMN[entity_type]}
        """,
        (list(ids),),
        binary=True,
    )
    return [
        Row(
            entity_type=entity_type,
            id=r[0],
            key=r[1],
            version=r[2],
            graph_version=r[3],
            deleted=r[4],
            content_hash=r[5],
            text_hash=r[6],
            embedding_text_hash=r[7],
            embedding_model=r[8],
            written_namespace=r[9],
            vector=r[10],
            content=content_of(entity_type, dict(zip(content, r[11:], strict=True))),
        )
        for r in cursor
    ]


class EmbeddingCache:
    """Vectors by what they embed. Each call is a transaction of its own.

    What was paid is kept at once, so that a worker that loses its lease afterwards loses no
    money.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, model: Model, hashes: Sequence[str]) -> set[str]:
        """Those of ``hashes`` whose vectors are there."""
        with self._database.autocommit() as conn:
            rows = conn.execute(
                """
                SELECT text_hash FROM embedding
                WHERE model = %s AND dimensions = %s AND text_hash = ANY(%s)
                """,
                (model.name, model.dimensions, list(hashes)),
            )
            return {r[0] for r in rows}

    def keep(self, model: Model, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors (float32 little-endian) by the hash of their text."""
        with self._database.transaction() as conn, conn.cursor() as cursor:
            cursor.executemany(
                """
                INSERT INTO embedding (model, dimensions, text_hash, vector)
                VALUES (%s, %s, %s, %b) ON CONFLICT DO NOTHING
                """,
                [(model.name, model.dimensions, h, v) for h, v in vectors.items()],
            )

    def forget(self, hashes: Sequence[str]) -> None:
        """Remove vectors of every model by the hash of their text."""
        with self._database.transaction() as conn:
            conn.execute("DELETE FROM embedding WHERE text_hash = ANY(%s)", (list(hashes),))

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """What each living entity has embedded, page by page in the order of ids."""
        after = UUID(int=0)
        while True:
            with self._database.autocommit() as conn:
                rows = conn.execute(
                    f"""
                    SELECT id, {KEY_COLUMN[entity_type]}, version, embedding_text_hash,
                           embedding_model
                    FROM {entity_type}
                    WHERE id > %s AND deleted_at IS NULL ORDER BY id LIMIT 1000
                    """,
                    (after,),
                ).fetchall()
            if not rows:
                return
            for _id, key, version, text_hash, model in rows:
                if text_hash is not None:
                    yield SinkVersion(key, version, text_hash, model)
            after = rows[-1][0]


# --- seeding ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Changes:
    """What a batch did."""

    created: int = 0
    updated: int = 0
    deleted: int = 0
    operations: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(
            self.created + other.created,
            self.updated + other.updated,
            self.deleted + other.deleted,
            self.operations + other.operations,
        )


def create_staging(conn: Conn, entity_type: EntityType) -> None:
    """The session's temporary table that COPY fills, emptied by every commit."""
    columns = ", ".join(f"{name} {kind}" for name, kind in CONTENT_COLUMNS[entity_type].items())
    conn.execute(
        f"""
        CREATE TEMP TABLE IF NOT EXISTS staging_{entity_type} (
          id uuid NOT NULL, seed_id text NOT NULL, {columns},
          content_hash text NOT NULL, text_hash text NOT NULL) ON COMMIT DELETE ROWS
        """
    )


def create_changed_in_run(conn: Conn) -> None:
    """The session's temporary table of what a run changed, empty for a new run."""
    conn.execute(
        """
        CREATE TEMP TABLE IF NOT EXISTS changed_in_run (
          entity_type text NOT NULL, id uuid NOT NULL, version bigint NOT NULL,
          PRIMARY KEY (entity_type, id))
        """
    )
    conn.execute("TRUNCATE changed_in_run")


def copy_to_staging(conn: Conn, entity_type: EntityType, rows: Iterable[Sequence[Any]]) -> None:
    """COPY (id, seed_id, content columns…, content_hash, text_hash) rows into staging."""
    columns = ["id", "seed_id", *CONTENT_COLUMNS[entity_type], "content_hash", "text_hash"]
    with (
        conn.cursor() as cursor,
        cursor.copy(f"COPY staging_{entity_type} ({', '.join(columns)}) FROM STDIN") as copy,
    ):
        for row in rows:
            copy.write_row(row)


_CHANGED = """
FROM staging_{table} s LEFT JOIN {table} e ON e.id = s.id
WHERE e.id IS NULL OR e.content_hash <> s.content_hash OR e.deleted_at IS NOT NULL
"""


def classify_staged(conn: Conn, entity_type: EntityType, topology: Topology) -> Changes:
    """What ``upsert_staged`` would do, without doing it."""
    row = conn.execute(
        f"""
        SELECT count(*) FILTER (WHERE e.id IS NULL), count(*) FILTER (WHERE e.id IS NOT NULL),
               COALESCE(sum(%(direct)s::int + CASE
                 WHEN e.embedding_text_hash = s.text_hash AND e.embedding_model = m.model
                 THEN %(vector)s::int ELSE 1 END), 0)
        {_CHANGED.format(table=entity_type).replace("WHERE", _WANTED_MODEL + "WHERE", 1)}
        """,
        {"direct": len(topology.direct), "vector": len(topology.vector)},
    ).fetchone()
    assert row is not None
    return Changes(created=row[0], updated=row[1], operations=int(row[2]))


_WANTED_MODEL = f"""
LEFT JOIN (SELECT config ->> 'model' AS model FROM sink_state WHERE sink = '{EMBEDDING}') m ON true
"""


def upsert_staged(conn: Conn, entity_type: EntityType, topology: Topology) -> Changes:
    """Upsert what changed in staging and enqueue its operations, in the caller's transaction.

    Unchanged rows take no lock and no write. The version is drawn after the row's lock, never
    from the proposed row, or it could go backwards.
    """
    columns = list(CONTENT_COLUMNS[entity_type])
    names = ", ".join(columns)
    row = conn.execute(
        f"""
        WITH wanted AS (SELECT config ->> 'model' AS model FROM sink_state
                        WHERE sink = '{EMBEDDING}'),
        changed AS (
          INSERT INTO {entity_type} AS l (id, seed_id, {names}, content_hash, text_hash)
          SELECT s.id, s.seed_id, {", ".join("s." + c for c in columns)},
                 s.content_hash, s.text_hash
          {_CHANGED.format(table=entity_type)}
          ORDER BY s.id
          ON CONFLICT (id) DO UPDATE SET
            {", ".join(f"{c} = excluded.{c}" for c in columns)},
            content_hash = excluded.content_hash, text_hash = excluded.text_hash,
            version = nextval('entity_version'), updated_at = now(), deleted_at = NULL,
            neo4j_sync_status = 'pending', pinecone_sync_status = 'pending',
            embedding_sync_status = CASE
              WHEN l.embedding_text_hash = excluded.text_hash
               AND l.embedding_model = (SELECT model FROM wanted)
              THEN 'synced' ELSE 'pending' END
          WHERE l.content_hash <> excluded.content_hash OR l.deleted_at IS NOT NULL
          RETURNING l.id, l.{KEY_COLUMN[entity_type]} AS key, l.version, l.graph_version,
                    (xmax = 0) AS created,
                    COALESCE(l.embedding_text_hash = l.text_hash
                             AND l.embedding_model = (SELECT model FROM wanted), false)
                      AS embedded),
        enqueued AS (
          {select_operations(entity_type, "changed", origin=Origin.SEED)} RETURNING 1),
        noted AS (
          INSERT INTO changed_in_run SELECT '{entity_type}', id, version FROM changed
          ON CONFLICT (entity_type, id) DO UPDATE SET version = excluded.version)
        SELECT count(*) FILTER (WHERE created), count(*) FILTER (WHERE NOT created),
               (SELECT count(*) FROM enqueued)
        FROM changed
        """,
        enqueue_parameters(topology),
    ).fetchone()
    assert row is not None
    if row[2]:
        notify(conn, topology.names)
    return Changes(created=row[0], updated=row[1], operations=row[2])


def tombstone(
    conn: Conn, entity_type: EntityType, ids: Sequence[UUID], topology: Topology
) -> Changes:
    """Mark entities as deleted and enqueue their removal from every sink."""
    cursor = conn.execute(
        f"""
        WITH gone AS MATERIALIZED (
          SELECT id FROM {entity_type} WHERE id = ANY(%(ids)s) AND deleted_at IS NULL
          ORDER BY id FOR NO KEY UPDATE),
        changed AS (
          UPDATE {entity_type} l SET deleted_at = now(), updated_at = now(),
            version = nextval('entity_version'), neo4j_sync_status = 'pending',
            pinecone_sync_status = 'pending', embedding_sync_status = 'synced'
          FROM gone WHERE l.id = gone.id
          RETURNING l.id, l.{KEY_COLUMN[entity_type]} AS key, l.version, l.graph_version,
                    true AS embedded),
        noted AS (
          INSERT INTO changed_in_run SELECT '{entity_type}', id, version FROM changed
          ON CONFLICT (entity_type, id) DO UPDATE SET version = excluded.version),
        enqueued AS (
          {
            select_operations(entity_type, "changed", origin=Origin.SEED, action=Action.DELETE)
        } RETURNING 1)
        SELECT (SELECT count(*) FROM changed), (SELECT count(*) FROM enqueued)
        """,
        {"ids": list(ids), **enqueue_parameters(topology)},
    )
    row = cursor.fetchone()
    assert row is not None
    notify(conn, topology.names)
    return Changes(deleted=row[0], operations=row[1])


# --- tags -------------------------------------------------------------------------------------


#: Where tags are given for ever, and where a dry run gives them (a temporary table).
Registry = Literal["tag_registry", "tags_to_be"]


def known_tags(
    conn: Conn,
    entity_type: EntityType,
    seed_ids: Sequence[str],
    registry: Registry = "tag_registry",
) -> dict[str, str]:
    """Tags already given, by seed id."""
    rows = conn.execute(
        f"SELECT seed_id, tag FROM {registry} WHERE entity_type = %s AND seed_id = ANY(%s)",
        (entity_type, list(seed_ids)),
    )
    return {r[0]: r[1] for r in rows}


def holders_of_tags(
    conn: Conn,
    entity_type: EntityType,
    tags: Sequence[str],
    registry: Registry = "tag_registry",
) -> dict[str, str]:
    """Seed ids by the tags that they hold, for those of ``tags`` that are taken."""
    rows = conn.execute(
        f"SELECT tag, seed_id FROM {registry} WHERE entity_type = %s AND tag = ANY(%s)",
        (entity_type, list(tags)),
    )
    return {r[0]: r[1] for r in rows}


def register_tags(
    conn: Conn,
    entity_type: EntityType,
    tags: Mapping[str, str],
    registry: Registry = "tag_registry",
) -> None:
    """Give tags to seed ids, for ever. Two seeders at once: the second one's batch is retried."""
    seed_ids = sorted(tags)
    conn.execute(
        f"""
        INSERT INTO {registry} (entity_type, seed_id, tag)
        SELECT %s, r.seed_id, r.tag FROM unnest(%s::text[], %s::text[]) AS r(seed_id, tag)
        """,
        (entity_type, seed_ids, [tags[seed_id] for seed_id in seed_ids]),
    )


# --- counts -----------------------------------------------------------------------------------

SINK_STATUSES = ("embedding", "neo4j", "pinecone")


def count_statuses(conn: Conn, entity_type: EntityType) -> dict[tuple[str, str, str], int]:
    """Living entities by (embedding, neo4j, pinecone) status."""
    rows = conn.execute(
        f"""
        SELECT embedding_sync_status, neo4j_sync_status, pinecone_sync_status, count(*)
        FROM {entity_type} WHERE deleted_at IS NULL GROUP BY 1, 2, 3
        """
    )
    return {(r[0], r[1], r[2]): r[3] for r in rows}


def count_living(conn: Conn, entity_type: EntityType) -> int:
    """Entities that are not deleted."""
    row = conn.execute(f"SELECT count(*) FROM {entity_type} WHERE deleted_at IS NULL").fetchone()
    assert row is not None
    return int(row[0])


def archetype_names(conn: Conn) -> set[str]:
    """Names of the archetypes that are there."""
    rows = conn.execute("SELECT archetype_name FROM sport_archetype WHERE deleted_at IS NULL")
    return {r[0] for r in rows}


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a sink has come with what one seeding run changed."""

    changed: int
    synced: int
    failed: int

    @property
    def waiting(self) -> int:
        """Not there yet, and not given up on."""
        return self.changed - self.synced - self.failed


def run_progress(conn: Conn, sink: SinkTraits) -> RunProgress:
    """How far ``sink`` has come with the entities in ``changed_in_run``.

    An entity counts as reached when the sink has confirmed its current version, which is at
    least the run's. One whose embedding was given up on has failed for the sinks behind it.
    """
    changed = synced = failed = 0
    for entity_type in EntityType:
        row = conn.execute(
            f"""
            SELECT count(*),
              count(*) FILTER (WHERE l.id IS NULL OR l.{sink.name}_sync_status = 'synced'),
              count(*) FILTER (WHERE l.{sink.name}_sync_status = 'failed'
                OR (l.{sink.name}_sync_status = 'pending' AND l.deleted_at IS NULL
                    AND l.embedding_sync_status = 'failed' AND %(behind_embedding)s))
            FROM changed_in_run c LEFT JOIN {entity_type} l ON l.id = c.id
            WHERE c.entity_type = '{entity_type}'
            """,
            {"behind_embedding": sink.needs_embedding},
        ).fetchone()
        assert row is not None
        changed, synced, failed = changed + row[0], synced + row[1], failed + row[2]
    return RunProgress(changed, synced, failed)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Live and dead operations of one sink."""

    pending: int = 0
    in_progress: int = 0
    dead: int = 0
    oldest_pending_seconds: float | None = None


def backlog(conn: Conn) -> dict[str, Backlog]:
    """Operations that wait, are leased, or were given up on, by sink."""
    rows = conn.execute(
        """
        SELECT sink, count(*) FILTER (WHERE status = 'pending'),
          count(*) FILTER (WHERE status = 'in_progress'), count(*) FILTER (WHERE status = 'dead'),
          EXTRACT(epoch FROM now() - min(created_at) FILTER (WHERE status = 'pending'))::float8
        FROM sync_operation WHERE finished_at IS NULL OR status = 'dead' GROUP BY sink
        """
    )
    return {r[0]: Backlog(r[1], r[2], r[3], r[4]) for r in rows}


def status_breakdown(
    counts: Mapping[tuple[str, str, str], int], sink: str
) -> dict[SyncStatus, int]:
    """Entities by their status for one of ``SINK_STATUSES``."""
    place = SINK_STATUSES.index(sink)
    totals = dict.fromkeys(SyncStatus, 0)
    for key, count in counts.items():
        totals[SyncStatus(key[place])] += count
    return totals


def remote_calls(conn: Conn) -> int:
    """Calls that all workers together have ever made to the sinks."""
    row = conn.execute("SELECT COALESCE(sum(remote_calls), 0) FROM delivery_batch").fetchone()
    assert row is not None
    return int(row[0])


def archetype_counts(conn: Conn) -> list[tuple[str, int, int, int]]:
    """(archetype, leagues, those of TIER1, those active), the largest first."""
    return conn.execute(
        """
        SELECT sport_archetype, count(*), count(*) FILTER (WHERE tier = 'TIER1'),
               count(*) FILTER (WHERE status = 'active')
        FROM league WHERE deleted_at IS NULL GROUP BY 1 ORDER BY 2 DESC, 1
        """
    ).fetchall()


def league_vector(conn: Conn, league_tag: str) -> bytes | None:
    """The stored vector of a living league (float32 little-endian), by its tag."""
    row = conn.execute(
        "SELECT embedding_vector FROM league WHERE league_tag = %s AND deleted_at IS NULL",
        (league_tag,),
        binary=True,
    ).fetchone()
    return row[0] if row else None
