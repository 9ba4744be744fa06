"""The tables of the described system, as SQLModel: the vector is JSON, the tag is the key."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import uuid4

from sqlalchemy import JSON, Column
from sqlmodel import Field, SQLModel


def _new_id() -> str:
    return str(uuid4())


class League(SQLModel, table=True):
    """A league with its status in each of the other stores."""

    id: str = Field(default_factory=_new_id, primary_key=True)
    league_tag: str = Field(unique=True)
    league_name: str
    sport_name: str
    sport_archetype: str | None = None
    location: str | None = None
    tier: str | None = None
    status: str = "active"
    description: str | None = None

    embedding_vector: list[float] | None = Field(default=None, sa_column=Column(JSON))
    embedding_model: str | None = None
    embedding_updated_at: datetime | None = None

    neo4j_node_id: str | None = None
    neo4j_synced_at: datetime | None = None
    neo4j_sync_status: str = "pending"

    pinecone_id: str | None = None
    pinecone_namespace: str | None = None
    pinecone_synced_at: datetime | None = None
    pinecone_sync_status: str = "pending"


class LeagueRelationship(SQLModel, table=True):
    """A match as the similarity pass keeps it."""

    id: str = Field(default_factory=_new_id, primary_key=True)
    source_league_id: str
    target_league_id: str
    relationship_type: str
    strength_score: Decimal | None = None
