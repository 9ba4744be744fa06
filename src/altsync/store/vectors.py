"""Vectors by what they embed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from altsync.db import Conn, Database
from altsync.outbox import KEY_COLUMN
from altsync.records import EntityType, Model, SinkVersion
from altsync.store.leagues import LeagueFilter, matches

#: Rows per page when vectors are compared one by one: 6 MB of 1,536 numbers each.
PAGE = 1000


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


def league_vectors(
    conn: Conn, where: LeagueFilter, model: Model, *, without: Sequence[str]
) -> Iterator[list[tuple[str, bytes]]]:
    """(tag, vector) of matching leagues embedded by ``model``, page by page.

    Those of ``without`` are left out. The caller's transaction stays open meanwhile.
    """
    condition, parameters = matches(where)
    statement = f"""
        SELECT l.league_tag, l.embedding_vector FROM league l
        WHERE {condition} AND l.embedding_model = %(model)s
          AND octet_length(l.embedding_vector) = %(bytes)s AND l.league_tag <> ALL(%(without)s)
    """
    yield from _pages(conn, statement, parameters, model, without)


def example_vectors(
    conn: Conn, category: str, model: Model, *, without: Sequence[str]
) -> Iterator[list[tuple[str, bytes]]]:
    """(id, vector) of a category's examples embedded by ``model``, page by page.

    Those of ``without`` are left out. The caller's transaction stays open meanwhile.
    """
    statement = """
        SELECT example_id, embedding_vector FROM few_shot_example
        WHERE category = %(category)s AND deleted_at IS NULL AND embedding_model = %(model)s
          AND octet_length(embedding_vector) = %(bytes)s AND example_id <> ALL(%(without)s)
    """
    yield from _pages(conn, statement, {"category": category}, model, without)


def _pages(
    conn: Conn, statement: str, parameters: Mapping[str, Any], model: Model, without: Sequence[str]
) -> Iterator[list[tuple[str, bytes]]]:
    marks = {"model": model.name, "bytes": 4 * model.dimensions, "without": list(without)}
    with conn.cursor(name="stored_vectors") as cursor:
        cursor.execute(statement, {**parameters, **marks}, binary=True)
        while page := cursor.fetchmany(PAGE):
            yield page
