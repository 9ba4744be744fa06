"""Rows for the sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from altsync.db import Conn
from altsync.outbox import KEY_COLUMN
from altsync.projection import content_of
from altsync.records import EntityType, Row

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
