"""Vectors by what they embed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, SinkTraits, SinkVersion
from altsync.db import Conn, Database
from altsync.entities import Content, EntityType, Model
from altsync.projection import content_of

#: Rows per page when vectors are compared one by one: 6 MB of 1,536 numbers each.
PAGE = 1000

#: Rows that are fetched at once when texts are read as a stream.
FETCH = 2000


class EmbeddingCache:
    """Vectors by what they embed. Each call is a transaction of its own.

    What was paid is kept at once, so that a worker that loses its lease afterwards loses no
    money.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, model: Model, hashes: Sequence[str]) -> set[str]:
        """Return those of ``hashes`` whose vectors are there."""
        with self._database.autocommit() as conn:
            rows = conn.execute(
                """
                SELECT text_hash FROM embedding
                WHERE model = %s AND dimensions = %s AND text_hash = ANY(%s)
                """,
                (model.name, model.dimensions, list(hashes)),
            )
            return {r[0] for r in rows}

    def find(self, model: Model, text_hash: str) -> bytes | None:
        """The vector of a text (float32 little-endian) by its hash, if it is there."""
        with self._database.autocommit() as conn:
            row = conn.execute(
                """
                SELECT vector FROM embedding
                WHERE model = %s AND dimensions = %s AND text_hash = %s
                """,
                (model.name, model.dimensions, text_hash),
                binary=True,
            ).fetchone()
            return row[0] if row else None

    def keep(self, model: Model, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors (float32 little-endian) by the hash of their text."""
        # In order, so that two workers with the same texts wait for each other, not in a circle.
        with self._database.autocommit() as conn:
            conn.execute(
                """
                INSERT INTO embedding (model, dimensions, text_hash, vector)
                SELECT %(model)s, %(dimensions)s, v.text_hash, v.vector
                FROM unnest(%(hashes)s::text[], %(vectors)b::bytea[]) v(text_hash, vector)
                ORDER BY v.text_hash ON CONFLICT DO NOTHING
                """,
                {
                    "model": model.name,
                    "dimensions": model.dimensions,
                    "hashes": list(vectors),
                    "vectors": list(vectors.values()),
                },
            )

    def forget(self, hashes: Sequence[str]) -> None:
        """Remove vectors of every model by the hash of their text."""
        with self._database.transaction() as conn:
            conn.execute("DELETE FROM embedding WHERE text_hash = ANY(%s)", (list(hashes),))

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Return what each living entity has embedded, page by page in the order of ids."""
        after = UUID(int=0)
        while True:
            with self._database.autocommit() as conn:
                rows = conn.execute(
                    f"""
                    SELECT id, {entity_type.key_column}, version, embedding_text_hash,
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


_WITH_VECTOR = """
JOIN embedding e ON e.model = l.embedding_model AND e.dimensions = %(dimensions)s
  AND e.text_hash = l.embedding_text_hash
"""


def stored_vectors(
    conn: Conn,
    kind: EntityType,
    condition: str,
    parameters: Mapping[str, Any],
    model: Model,
    *,
    without: Sequence[str],
) -> Iterator[list[tuple[str, bytes]]]:
    """(key, vector) of entities (``l``) under a condition, embedded by ``model``, page by page.

    Those of ``without`` are left out. The caller's transaction stays open meanwhile.
    """
    key = f"l.{kind.key_column}"
    statement = f"""
        SELECT {key}, e.vector FROM {kind} l {_WITH_VECTOR}
        WHERE {condition} AND l.embedding_model = %(model)s AND {key} <> ALL(%(without)s)
    """
    marks = {"model": model.name, "dimensions": model.dimensions, "without": list(without)}
    with conn.cursor(name="stored_vectors") as cursor:
        cursor.execute(statement, {**parameters, **marks}, binary=True)
        while page := cursor.fetchmany(PAGE):
            yield page


@dataclass(frozen=True, slots=True)
class Unembedded:
    """Living entities that a model has not embedded, or that do not say so: by type, and more.

    ``in_progress`` have a live operation for it already. ``texts`` are the distinct ones among
    theirs that no vector of the model is kept for: what would have to be paid.
    """

    rows: Mapping[EntityType, int]
    in_progress: int
    texts: int

    @property
    def total(self) -> int:
        """Of all types."""
        return sum(self.rows.values())


# One that went to another model and back may have its vector, and be failed or pending still.
_UNEMBEDDED = """
l.deleted_at IS NULL AND (l.embedding_text_hash IS DISTINCT FROM l.text_hash
                          OR l.embedding_model IS DISTINCT FROM %(model)s
                          OR l.embedding_sync_status <> 'synced')
"""

_LIVE_EMBEDDING = f"""
EXISTS (SELECT 1 FROM sync_operation o
        WHERE o.entity_id = l.id AND o.sink = '{EMBEDDING}' AND o.finished_at IS NULL)
"""

_NOT_KEPT = """
NOT EXISTS (SELECT 1 FROM embedding e WHERE e.model = %(model)s
              AND e.dimensions = %(dimensions)s AND e.text_hash = l.text_hash)
"""


def unembedded(conn: Conn, model: Model) -> Unembedded:
    """Return what a model has not embedded. Reads every entity."""
    parameters = {"model": model.name, "dimensions": model.dimensions}
    rows, in_progress = {}, 0
    for kind in entity_types():
        found = conn.execute(
            f"SELECT count(*), count(*) FILTER (WHERE {_LIVE_EMBEDDING}) "
            f"FROM {kind} l WHERE {_UNEMBEDDED}",
            parameters,
        ).fetchone()
        assert found is not None
        rows[kind] = found[0]
        in_progress += found[1]
    parts = (f"SELECT l.text_hash FROM {kind} l WHERE {_UNEMBEDDED}" for kind in entity_types())
    texts = conn.execute(
        f"SELECT count(*) FROM ({' UNION '.join(parts)}) l WHERE {_NOT_KEPT}", parameters
    ).fetchone()
    assert texts is not None
    return Unembedded(rows, in_progress, texts[0])


def unpaid_contents(conn: Conn, model: Model) -> Iterator[Content]:
    """One content for each text that a model has not embedded and no vector is kept for.

    A stream; needs a transaction. A text that two types share comes twice.
    """
    for kind in entity_types():
        columns = list(kind.columns)
        with conn.cursor(name=f"unpaid_{kind}") as cursor:
            cursor.itersize = FETCH
            cursor.execute(
                f"""
                SELECT DISTINCT ON (l.text_hash) {", ".join("l." + name for name in columns)}
                FROM {kind} l WHERE {_UNEMBEDDED} AND {_NOT_KEPT} ORDER BY l.text_hash
                """,
                {"model": model.name, "dimensions": model.dimensions},
            )
            for row in cursor:
                yield content_of(kind, row)


def paid_twice(conn: Conn, sink: SinkTraits, model: Model, *, force: bool) -> int:
    """Entities with a vector of their text that a backfill would have paid again.

    That is so when the vector is another model's, or is gone from those kept.
    """
    if sink.name == EMBEDDING:
        wanted = "true" if force else "l.embedding_sync_status <> 'synced'"
    elif sink.needs_embedding:
        wanted = "l.embedding_model IS DISTINCT FROM %(model)s"
    else:
        return 0
    total = 0
    for kind in entity_types():
        row = conn.execute(
            f"""
            SELECT count(*) FROM {kind} l
            WHERE l.deleted_at IS NULL AND l.embedding_text_hash = l.text_hash
              AND {wanted} AND {_NOT_KEPT}
              AND NOT {_LIVE_EMBEDDING}
            """,
            {"model": model.name, "dimensions": model.dimensions},
        ).fetchone()
        assert row is not None
        total += row[0]
    return total


#: What nobody's text, deleted entities' included, leads to: whatever the model, as the way back
#: to a former one is free as long as its vectors are there.
def _unused() -> str:
    return " AND ".join(
        [
            "e.created_at < %(before)s",
            *(
                f"NOT EXISTS (SELECT 1 FROM {kind} l WHERE l.{column} = e.text_hash)"
                for kind in entity_types()
                for column in ("text_hash", "embedding_text_hash")
            ),
        ]
    )


#: Milliseconds that writers of entities may be held up by one page: longer than the second after
#: which PostgreSQL lets its own vacuum give way.
_LOCK_TIMEOUT = 2000


def count_unused_vectors(conn: Conn, before: datetime) -> int:
    """Kept vectors from before ``before`` that no entity uses: of questions and of former texts."""
    row = conn.execute(
        f"SELECT count(*) FROM embedding e WHERE {_unused()}", {"before": before}
    ).fetchone()
    assert row is not None
    return int(row[0])


def prune_vectors(conn: Conn, before: datetime, *, limit: int = 10_000) -> int:
    """Remove up to ``limit`` kept vectors that no entity uses, inside the caller's transaction.

    A worker that finds a text's vector relies on it until it settles. So entities may not change
    while it is decided: one that came to use a vector before is seen, one that does later finds
    it gone and pays. Raises ``psycopg.errors.LockNotAvailable`` when writers do not let it.
    """
    found = conn.execute(
        f"""
        SELECT e.model, e.dimensions, e.text_hash FROM embedding e WHERE {_unused()} LIMIT %(limit)s
        """,
        {"before": before, "limit": limit},
    ).fetchall()
    if not found:
        return 0
    models, dimensions, hashes = map(list, zip(*found, strict=True))
    conn.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT}")
    conn.execute(f"LOCK TABLE {', '.join(entity_types())} IN SHARE MODE")
    return conn.execute(
        f"""
        DELETE FROM embedding e
        USING unnest(%(models)s::text[], %(dimensions)s::int[], %(hashes)s::text[])
          AS u(model, dimensions, text_hash)
        WHERE e.model = u.model AND e.dimensions = u.dimensions AND e.text_hash = u.text_hash
          AND {_unused()}
        """,
        {"models": models, "dimensions": dimensions, "hashes": hashes, "before": before},
    ).rowcount


#: The length of the vectors that all processes want, in SQL. Asked once a statement.
WANTED_DIMENSIONS = (
    f"(SELECT (config ->> 'dimensions')::int FROM sink_state WHERE sink = '{EMBEDDING}')"
)


# Looked up row by row, by the whole key: the plan of a join, or of an EXISTS, hangs on statistics
# that a first seed does not have, and the wrong one reads the whole table for each row.
_OF_AN_ENTITY = f"""
FROM embedding e WHERE e.model = l.embedding_model AND e.dimensions = {WANTED_DIMENSIONS}
  AND e.text_hash = l.embedding_text_hash
"""


#: The vector of the entity ``l``, or null, in SQL.
VECTOR = f"(SELECT e.vector {_OF_AN_ENTITY})"


#: Whether the entity ``l`` has one.
HAS_VECTOR = f"COALESCE((SELECT true {_OF_AN_ENTITY}), false)"
