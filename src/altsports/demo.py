"""Run the three queries that ``altsync demo`` shows at its end."""

from __future__ import annotations

from collections.abc import Iterator

from altsports import queries
from altsync.app import Application
from altsync.cli.tables import Table

#: Columns of numbers.
_NUMBERS = ("leagues", "TIER1", "active", "score")

#: Names of leagues shown beside a count.
SAMPLE = 4

TITLE = "Three questions, three stores"


def questions(app: Application) -> Iterator[Table]:
    """Return the result of each query as a table."""
    yield _by_archetype(app)
    yield _most_first_tier(app)
    yield _like_formula_1(app)


def _by_archetype(app: Application) -> Table:
    table = _table("PostgreSQL: leagues by archetype", "archetype", "leagues", "TIER1", "active")
    with app.database.autocommit() as conn:
        for row in queries.archetype_counts(conn):
            table.add_row(row.archetype, str(row.leagues), str(row.first_tier), str(row.active))
    return table


def _most_first_tier(app: Application) -> Table:
    table = _table("Neo4j: archetypes with the most TIER1 leagues", "archetype", "leagues", "some")
    for row in queries.archetypes(app.stores(), tier="TIER1", each=SAMPLE):
        names = (league.league_name for league in row.leagues)
        table.add_row(row.archetype, str(row.count), ", ".join(names))
    return table


def _like_formula_1(app: Application) -> Table:
    table = _table("All three: leagues most like Formula 1", "score", "league", "archetype")
    for match in queries.similar(app.stores(), "formula_1", top_k=5).results:
        score = "" if match.score is None else f"{match.score:.3f}"
        table.add_row(score, match.league_name, match.sport_archetype)
    return table


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, numbers=_NUMBERS, names=("archetype",))
