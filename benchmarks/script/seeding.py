"""The described script's loop: one league after the other, one call after the other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from sqlmodel import Session, select

from benchmarks.script.models import League

MERGE_LEAGUE = """
MERGE (l:League {league_tag: $league_tag})
SET l.league_name = $league_name, l.sport_archetype = $archetype
RETURN elementId(l) AS node_id
"""

MERGE_ARCHETYPE = """
MATCH (l:League {league_tag: $league_tag})
MATCH (a:SportArchetype {name: $archetype})
MERGE (l)-[:BELONGS_TO_ARCHETYPE]->(a)
"""


class Index(Protocol):
    """A handle of the vector index."""

    def upsert(self, *, vectors: Sequence[tuple[str, Sequence[float], Mapping[str, Any]]]) -> Any:
        """Write vectors into the default namespace."""
        ...

    def query(
        self,
        *,
        vector: Sequence[float],
        top_k: int,
        filter: Mapping[str, Any],  # noqa: A002
    ) -> Any:
        """Return the nearest vectors of the default namespace."""
        ...


@dataclass(frozen=True)
class Clients:
    """The clients of the script.

    ``embed`` returns the vector of one text, ``graph_session`` opens a session of the graph's
    driver, ``model`` is the name of the vectors' model.
    """

    session: Session
    embed: Callable[[str], Sequence[float]]
    graph_session: Callable[[], AbstractContextManager[Any]]
    index: Index
    model: str


def seed_leagues(lines: Iterable[Mapping[str, Any]], clients: Clients) -> int:
    """Seed leagues as the described script does; returns how many there were."""
    count = 0
    for line in lines:
        vector = clients.embed(_embedding_text(line))
        league = _upsert(line, vector, clients)
        _sync_to_neo4j(league, clients)
        _sync_to_pinecone(league, vector, clients)
        count += 1
    return count


def _embedding_text(line: Mapping[str, Any]) -> str:
    return (
        f"{line['league_name']}: {line['sport_name']} ({line['sport_archetype']}) "
        f"in {line.get('location')}. {line.get('description') or ''}"
    )


def _upsert(line: Mapping[str, Any], vector: Sequence[float], clients: Clients) -> League:
    session = clients.session
    tag = _league_tag(line)
    league = session.exec(select(League).where(League.league_tag == tag)).one_or_none()
    if league is None:
        league = League(
            league_tag=tag, league_name=line["league_name"], sport_name=line["sport_name"]
        )
    for name in ("league_name", "sport_name", "sport_archetype", "location", "tier", "description"):
        setattr(league, name, line.get(name))
    league.embedding_vector = list(vector)
    league.embedding_model = clients.model
    league.embedding_updated_at = datetime.now(UTC)
    session.add(league)
    session.commit()
    return league


def _sync_to_neo4j(league: League, clients: Clients) -> None:
    with clients.graph_session() as session:
        result = session.run(
            MERGE_LEAGUE,
            league_tag=league.league_tag,
            league_name=league.league_name,
            archetype=league.sport_archetype,
        )
        node_id = result.single()["node_id"]
        session.run(MERGE_ARCHETYPE, league_tag=league.league_tag, archetype=league.sport_archetype)
    league.neo4j_node_id = node_id
    league.neo4j_synced_at = datetime.now(UTC)
    league.neo4j_sync_status = "synced"
    clients.session.add(league)
    clients.session.commit()


def _sync_to_pinecone(league: League, vector: Sequence[float], clients: Clients) -> None:
    metadata = {
        "league_name": league.league_name,
        "sport_archetype": league.sport_archetype,
        "status": league.status,
    }
    clients.index.upsert(vectors=[(league.league_tag, vector, metadata)])
    league.pinecone_id = league.league_tag
    league.pinecone_synced_at = datetime.now(UTC)
    league.pinecone_sync_status = "synced"
    clients.session.add(league)
    clients.session.commit()


def _league_tag(line: Mapping[str, Any]) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(line["league_name"]).lower()).strip("_")
