"""Vectors by what they embed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from uuid import UUID

from altsync.db import Database
from altsync.outbox import KEY_COLUMN
from altsync.records import EntityType, Model, SinkVersion


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
