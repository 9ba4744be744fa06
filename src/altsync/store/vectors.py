"""SQL on stored vectors, by model and hash of the text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, SinkVersion
from altsync.db import Conn, Database
from altsync.entities import EntityType, Model
from altsync.generations import model_of
from altsync.store.reads import living_versions

#: Rows per page when vectors are compared one by one: 6 MB of 1,536 numbers each.
PAGE = 1000


def known_texts(conn: Conn, model: Model, hashes: Sequence[str]) -> set[str]:
    """Return those of ``hashes`` that have a stored vector of a model."""
    rows = conn.execute(
        """
        SELECT text_hash FROM embedding
        WHERE model = %s AND dimensions = %s AND text_hash = ANY(%s)
        """,
        (model.name, model.dimensions, list(hashes)),
    )
    return {r[0] for r in rows}


class EmbeddingCache:
    """The stored vectors. Each call is a transaction of its own.

    A vector is stored as soon as it is charged, so that a lost lease does not lose it.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def known(self, model: Model, hashes: Sequence[str]) -> set[str]:
        """Return those of ``hashes`` that have a vector."""
        with self._database.autocommit() as conn:
            return known_texts(conn, model, hashes)

    def find(self, model: Model, text_hash: str) -> bytes | None:
        """Return the vector of a text (float32 little-endian) by its hash, or None."""
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
        """Store vectors (float32 little-endian) by the hash of their text."""
        # In the order of hashes, so that two workers with the same texts cannot deadlock.
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
        """Yield the embedded text hash of each living entity, page by page in the order of ids."""
        yield from living_versions(self._database, entity_type, "embedding_text_hash")


_WITH_VECTOR = """
JOIN embedding e ON e.model = %(model)s AND e.dimensions = %(dimensions)s
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
    """Yield pages of (key, vector) of entities (``l``) under a condition, embedded by ``model``.

    Keys of ``without`` are left out. The caller's transaction stays open meanwhile.
    """
    key = f"l.{kind.key_column}"
    statement = f"""
        SELECT {key}, e.vector FROM {kind} l {_WITH_VECTOR}
        WHERE {condition} AND {model_of()} = %(model)s AND {key} <> ALL(%(without)s)
    """
    embedded_by = {"model": model.name, "dimensions": model.dimensions, "without": list(without)}
    with conn.cursor(name="stored_vectors") as cursor:
        cursor.execute(statement, {**parameters, **embedded_by}, binary=True)
        while page := cursor.fetchmany(PAGE):
            yield page


def _unused() -> str:
    """Return SQL for vectors ``e`` that no entity, living or deleted, uses by text.

    The model does not matter: a return to a former model is free while its vectors are stored.
    """
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


#: Milliseconds that a page waits for its lock; later writers of entities wait behind it. It is
#: longer than ``deadlock_timeout``, after which PostgreSQL cancels an autovacuum in the way.
_LOCK_TIMEOUT = 2000


def count_unused_vectors(conn: Conn, before: datetime) -> int:
    """Count vectors created before ``before`` that are of queries or former texts only."""
    row = conn.execute(
        f"SELECT count(*) FROM embedding e WHERE {_unused()}", {"before": before}
    ).fetchone()
    assert row is not None
    return int(row[0])


def prune_vectors(conn: Conn, before: datetime, *, limit: int = 10_000) -> int:
    """Delete up to ``limit`` vectors that no entity uses, in the caller's transaction.

    A worker that finds a text's vector relies on it until it settles. The table lock keeps
    entities from changing meanwhile. An entity that uses a vector already keeps it; one that
    would use it later is charged. Raises ``psycopg.errors.LockNotAvailable`` after a timeout.
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


#: The configured length of vectors, in SQL. Evaluated once a statement.
WANTED_DIMENSIONS = (
    f"(SELECT (config ->> 'dimensions')::int FROM sink_state WHERE sink = '{EMBEDDING}')"
)


# A subquery per row by the whole key. The plan of a join or EXISTS depends on statistics that a
# first seeding lacks, and a wrong plan reads the whole table for each row.
_OF_AN_ENTITY = f"""
FROM embedding e WHERE e.model = {model_of()} AND e.dimensions = {WANTED_DIMENSIONS}
  AND e.text_hash = l.embedding_text_hash
"""


#: The vector of the entity ``l``, or null, in SQL.
VECTOR = f"(SELECT e.vector {_OF_AN_ENTITY})"


#: Whether the entity ``l`` has a stored vector, in SQL.
HAS_VECTOR = f"COALESCE((SELECT true {_OF_AN_ENTITY}), false)"
