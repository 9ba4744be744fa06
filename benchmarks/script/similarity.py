"""The described script's similarity pass: a query for each league, a Cypher for each match."""

from __future__ import annotations

from decimal import Decimal

from sqlmodel import select

from benchmarks.script.models import League, LeagueRelationship
from benchmarks.script.seeding import Clients

#: Neighbours of a query, and the score above which one is similar, by the guide.
TOP_K, HIGH = 10, 0.80

MERGE_SIMILAR = """
MATCH (l1:League {league_tag: $tag1})
MATCH (l2:League {league_tag: $tag2})
MERGE (l1)-[:SIMILAR_TO {score: $score}]->(l2)
"""


def relate_leagues(clients: Clients) -> int:
    """Relate each league to its matches as the guide does. Return the number of relationships.

    A league is among its own matches, as in the guide.
    """
    count = 0
    for league in clients.session.exec(select(League)).all():
        similar = clients.index.query(
            vector=league.embedding_vector or [],
            top_k=TOP_K,
            filter={"sport_archetype": league.sport_archetype},
        )
        for match in similar.matches:
            if match.score > HIGH:
                _merge(league, match.id, match.score, clients)
                count += 1
    return count


def _merge(league: League, target: str, score: float, clients: Clients) -> None:
    with clients.graph_session() as session:
        session.run(MERGE_SIMILAR, tag1=league.league_tag, tag2=target, score=score)
    clients.session.add(
        LeagueRelationship(
            source_league_id=league.id,
            target_league_id=target,
            relationship_type="SIMILAR_TO",
            strength_score=Decimal(str(score)),
        )
    )
    clients.session.commit()
