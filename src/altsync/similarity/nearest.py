"""Query the vector index for the nearest living entities of each entity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from heapq import nlargest
from itertools import repeat
from typing import Any
from uuid import UUID

from altsync.db import Database
from altsync.entities import EntityType, Model, Row
from altsync.projection import namespace
from altsync.protocols import Index
from altsync.similarity.rules import Rules, RulesOf
from altsync.store.reads import living_keys

#: Queries in progress at once.
LANES = 8

#: Neighbours that a first query asks for. They are more than an entity keeps, so that the search
#: also finds entities that have this one among their nearest.
REACH = 100

#: Factor by which a query is widened when its answer ends before the last neighbour is certain:
#: deleted entities fill it, or entities beyond it are as near as the last that is kept.
WIDER = 10

#: Neighbours that an index returns at most: https://docs.pinecone.io/reference/api/database-limits
FARTHEST = 10_000

#: Decimals of a score, as PostgreSQL keeps it. Scores are rounded before they are compared:
#: float32 products of equal vectors differ by 1e-7, and ties must not be decided by that.
DECIMALS = 5

#: Scores by key.
Scores = dict[str, float]


class NearestQueries:
    """Queries of one vector index, several at once."""

    def __init__(self, database: Database, index: Index, rules: RulesOf) -> None:
        self._database = database
        self._index = index
        self._rules = rules
        self._lanes = ThreadPoolExecutor(LANES, thread_name_prefix="similarity")
        self._reach: dict[EntityType, int] = {}

    def close(self) -> None:
        """Stop the threads."""
        self._lanes.shutdown(wait=False, cancel_futures=True)

    def search(
        self, rows: Sequence[Row], model: Model, marks: Mapping[str, int]
    ) -> tuple[dict[UUID, Scores], dict[UUID, bool], int]:
        """Return the scores of living neighbours by entity, what was seen, and the queries made.

        ``marks`` are the positions of the last writes by namespace. An entity's answer has seen
        them, has not, or is left out where the index does not say.

        Entities of equal vectors share a query. A query is repeated with a greater reach where its
        answer ends too early. After a call that repeated most of its queries, the next call begins
        with that reach, as its entities mostly have many near ones, too.
        """
        found: dict[UUID, Scores] = {}
        seen: dict[UUID, bool] = {}
        groups = self._equals(rows)
        total, widened, calls = len(groups), 0, 0
        kind = rows[0].entity_type
        rules, least = self._rules(kind), self.least(kind)
        first = reach = self._reach.get(kind, least)
        while groups:
            firsts = [group[0] for group in groups]
            asked = self._lanes.map(self._query, firsts, repeat(model), repeat(reach))
            answers, positions = map(list[Any], zip(*asked, strict=True))
            calls += len(answers)
            for group, position in zip(groups, positions, strict=True):
                wanted = marks.get(namespace(group[0]))
                if wanted is not None and position is not None:
                    seen |= {row.id: position >= wanted for row in group}
            living = self._living(kind, answers)
            short: list[list[Row]] = []
            for group, answer in zip(groups, answers, strict=True):
                own = {row.key for row in group}
                alive = {key: s for key, s in answer.items() if key in living or key in own}
                found |= {row.id: alive for row in group}
                if _ends_early(answer, alive, reach, rules):
                    short.append(group)
                if reach == first:
                    widened += _ends_early(answer, alive, least, rules)
            groups = short if reach < FARTHEST else []
            reach = min(reach * WIDER, FARTHEST) if groups else reach
        self._reach[kind] = reach if widened * 2 > total else least
        return found, seen, calls

    def least(self, kind: EntityType) -> int:
        """Return the reach of a first query."""
        return max(REACH, self._rules(kind).top_k) + 1

    def where(self, row: Row, model: Model) -> dict[str, Any]:
        """Return the metadata of vectors that are compared with an entity's."""
        group, within = self._group(row), row.entity_type.similarity.within
        return {"model": model.name} | ({str(within): group} if group else {})

    def _living(self, kind: EntityType, answers: Sequence[Scores]) -> Collection[str]:
        with self._database.autocommit() as conn:
            return living_keys(conn, kind, list({key for answer in answers for key in answer}))

    def _equals(self, rows: Sequence[Row]) -> list[list[Row]]:
        """Group the entities that get the same answer."""
        groups: dict[tuple[bytes, str], list[Row]] = defaultdict(list)
        for row in rows:
            groups[row.vector or b"", self._group(row)].append(row)
        return list(groups.values())

    def _group(self, row: Row) -> str:
        """Return the group that neighbours must be of, "" for any."""
        return "" if self._rules(row.entity_type).across else group_of(row) or ""

    def _query(self, row: Row, model: Model, reach: int) -> tuple[Scores, int | None]:
        """Return the scores of the entities nearest to one, and the position that it has seen."""
        matches = self._index.nearest(
            row.entity_type,
            row.vector or b"",
            top_k=reach,
            space=namespace(row),
            where=self.where(row, model),
            with_metadata=False,
        )
        scores = {match.key: round(match.score, DECIMALS) for match in matches}
        return scores, getattr(matches, "mark", None)


def group_of(row: Row) -> str | None:
    """Return the value that neighbours of an entity share with it, None for any."""
    within = row.entity_type.similarity.within
    return None if within is None else getattr(row.content, within)


def _ends_early(
    answer: Mapping[str, float], alive: Mapping[str, float], reach: int, rules: Rules
) -> bool:
    """Return whether an entity beyond the first ``reach`` may belong among the neighbours."""
    if len(answer) < reach:
        return False
    farthest = nlargest(reach, answer.values())[-1]
    # One more than are kept: the entity itself is among them.
    nearest = nlargest(rules.top_k + 1, alive.values())
    short = len(nearest) <= rules.top_k
    return farthest > rules.leave and (short or farthest >= nearest[-1])
