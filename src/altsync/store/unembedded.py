"""SQL on entities that a model has not embedded yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID

from altsync.catalogue.current import entity_types
from altsync.contract import EMBEDDING, SinkTraits
from altsync.db import Conn
from altsync.declarations import columns_of
from altsync.entities import EntityType, Model
from altsync.generations import model_of

#: Rows that are fetched at once when texts are read as a stream.
FETCH = 2000


@dataclass(frozen=True, slots=True)
class Unembedded:
    """Numbers of living entities that a model has not embedded, or that are not marked as embedded.

    ``in_progress`` have a live operation already. ``texts`` counts their distinct texts without a
    stored vector of the model, which would be charged.
    """

    rows: Mapping[EntityType, int]
    in_progress: int
    texts: int

    @property
    def total(self) -> int:
        """Return the number of entities of all types."""
        return sum(self.rows.values())


# After a return to a former model, an entity may be pending though its vector is stored.
_UNEMBEDDED = f"""
l.deleted_at IS NULL AND (l.embedding_text_hash IS DISTINCT FROM l.text_hash
                          OR {model_of()} IS DISTINCT FROM %(model)s
                          OR l.embedding_sync_status <> 'synced')
"""

_LIVE_EMBEDDING = f"""
EXISTS (SELECT 1 FROM sync_operation o
        WHERE o.entity_id = l.id AND o.sink = '{EMBEDDING}' AND o.finished_at IS NULL)
"""

_NOT_STORED = """
NOT EXISTS (SELECT 1 FROM embedding e WHERE e.model = %(model)s
              AND e.dimensions = %(dimensions)s AND e.text_hash = l.text_hash)
"""


def unembedded(conn: Conn, model: Model) -> Unembedded:
    """Count the entities that a model has not embedded. Reads every entity."""
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
        f"SELECT count(*) FROM ({' UNION '.join(parts)}) l WHERE {_NOT_STORED}", parameters
    ).fetchone()
    assert texts is not None
    return Unembedded(rows, in_progress, texts[0])


def unembedded_ids(conn: Conn, kind: EntityType, model: Model) -> Iterator[list[UUID]]:
    """Yield pages of the entities that a model has not embedded, in the caller's transaction."""
    yield from _pages(conn, kind, _UNEMBEDDED, {"model": model.name})


def backfilled_ids(conn: Conn, kind: EntityType, sink: str, *, force: bool) -> Iterator[list[UUID]]:
    """Yield pages of the entities that a backfill enqueues, in the caller's transaction."""
    columns = columns_of(sink)
    unconfirmed = f"l.{columns.status} <> 'synced'" if columns and not force else "true"
    yield from _pages(conn, kind, f"l.deleted_at IS NULL AND {unconfirmed}", {})


def _pages(
    conn: Conn, kind: EntityType, condition: str, parameters: Mapping[str, str]
) -> Iterator[list[UUID]]:
    with conn.cursor(name=f"planned_{kind}") as cursor:
        cursor.execute(f"SELECT l.id FROM {kind} l WHERE {condition} ORDER BY l.id", parameters)
        while page := cursor.fetchmany(FETCH):
            yield [row[0] for row in page]


def charged_again(conn: Conn, sink: SinkTraits, model: Model, *, force: bool) -> int:
    """Count the embedded entities whose texts a backfill would send to the provider again.

    Their vector is of another model, or was deleted.
    """
    if sink.embeds:
        wanted = "true" if force else "l.embedding_sync_status <> 'synced'"
    elif sink.needs_embedding:
        wanted = f"{model_of()} IS DISTINCT FROM %(model)s"
    else:
        return 0
    total = 0
    for kind in entity_types():
        row = conn.execute(
            f"""
            SELECT count(*) FROM {kind} l
            WHERE l.deleted_at IS NULL AND l.embedding_text_hash = l.text_hash
              AND {wanted} AND {_NOT_STORED}
              AND NOT {_LIVE_EMBEDDING}
            """,
            {"model": model.name, "dimensions": model.dimensions},
        ).fetchone()
        assert row is not None
        total += row[0]
    return total
