"""Decide the edges of entities by what a pass found and what their locked rows say. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from uuid import UUID

from altsync.entities import EntityType, Model
from altsync.similarity.groups import EmbeddedMember, GroupMember, SimilarEdge
from altsync.similarity.rules import SAME_SCORE, Rules


@dataclass(frozen=True, slots=True)
class Candidates:
    """The keys that an index has answered with, and the versions of the entities it was asked for.

    The index selects, and the vectors in PostgreSQL score: its answer does not say which vector of
    another entity it has used.
    """

    keys: Set[str]
    versions: Mapping[UUID, int]


@dataclass(slots=True)
class ComparedGroup:
    """The result of one pass over a group. Scores are cosines.

    ``scores`` holds the pairs (entity of the batch, member) that have an edge, and those above
    ``enter`` that may become one. ``members`` are the entities that were compared. ``versions``
    are those of the batch when an index was asked; empty where none was.
    """

    kind: EntityType
    group: str | None
    model: Model
    batch: dict[UUID, EmbeddedMember]
    edges: list[SimilarEdge]
    versions: Mapping[UUID, int] = field(default_factory=dict)
    members: dict[UUID, GroupMember] = field(default_factory=dict)
    scores: dict[UUID, dict[UUID, float]] = field(default_factory=lambda: defaultdict(dict))


@dataclass(frozen=True, slots=True)
class Change:
    """The new edges of a source, and whether it must be searched again."""

    edges: dict[UUID, float]
    rerun: bool = False


@dataclass(frozen=True, slots=True)
class LockedView:
    """The result of a pass beside the members as they are under locks (``current``)."""

    found: ComparedGroup
    current: Mapping[UUID, GroupMember]
    rules: Rules

    def is_changed(self, source: UUID) -> bool:
        """Return whether a source changed, joined the group or was deleted since the pass.

        A source of another group counts as unchanged: it loses its edges to the batch.
        """
        if source in self.found.members or source in self.found.batch:
            return not self._is_unchanged(source)
        return source not in self.current or self._keeps_pair(source)

    def is_outdated(self, source: UUID) -> bool:
        """Return whether an entity of the batch has another version than the index was asked for.

        It may have had another vector in between, even if it has its former one now. Searches of
        others may have seen that vector.
        """
        asked, now = self.found.versions.get(source), self.current.get(source)
        return asked is not None and now is not None and now.version != asked

    def _keeps_pair(self, entity: UUID) -> bool:
        """Return whether a pair with this entity stays as it is until its own search decides."""
        now = self.current.get(entity)
        if now is None or now.model != self.found.model.name:
            return False
        return self.found.group is None or now.group == self.found.group

    def search(self, source: UUID, present: Mapping[UUID, float]) -> Change:
        """Return all edges of an entity of the batch: the nearest of all members.

        It is searched again if too few are left because others changed or were deleted meanwhile.
        """
        scores = self.found.scores.get(source, {})
        edges: dict[UUID, float] = {}
        for target, score in present.items():
            if not self._is_unchanged(target):
                if self._keeps_pair(target):
                    edges[target] = score
            elif target in scores:
                if scores[target] > self.rules.leave:
                    edges[target] = _stable(scores[target], score)
            else:
                edges[target] = score  # created since by the target's search, near the threshold
        edges |= {
            target: score
            for target, score in scores.items()
            if target not in present and score > self.rules.enter and self._is_unchanged(target)
        }
        nearest = self._nearest(edges)
        gone = any(not self._is_unchanged(target) for target in scores)
        return Change(nearest, rerun=gone and len(nearest) < self.rules.top_k)

    def update(
        self, source: UUID, present: Mapping[UUID, float], scores: Mapping[UUID, float]
    ) -> Change:
        """Return the edges of a member by its scores with the batch; the others stay.

        A full member (``top_k`` edges) that loses one is searched again: the replacement may be an
        entity that was not compared.
        """
        edges = dict(present)
        for entity in self.found.batch.keys() & (present.keys() | scores.keys()):
            if not self._is_unchanged(entity):
                continue
            score = scores.get(entity)
            if entity not in present:
                if score is not None and score > self.rules.enter:
                    edges[entity] = score
            elif score is not None and score > self.rules.leave:
                edges[entity] = _stable(score, present[entity])
            else:
                del edges[entity]
        full = len(present) >= self.rules.top_k
        weakest = min(present.values(), default=-1.0)
        if full:
            edges = {
                target: score
                for target, score in edges.items()
                if target in present or score > weakest + SAME_SCORE
            }
        nearest = self._nearest(edges)
        lost = full and (
            len(nearest) < self.rules.top_k or min(nearest.values()) < weakest - SAME_SCORE
        )
        return Change(nearest, rerun=lost)

    def _is_unchanged(self, target: UUID) -> bool:
        """Return whether an entity still has the vector and the group of the comparison."""
        read, now = self.found.members.get(target), self.current.get(target)
        return read is not None and now is not None and now.compared_by == read.compared_by

    def _nearest(self, edges: Mapping[UUID, float]) -> dict[UUID, float]:
        ordered = sorted(edges.items(), key=lambda one: (-one[1], self.current[one[0]].key))
        return dict(ordered[: self.rules.top_k])


def _stable(score: float, present: float) -> float:
    """Return the score to keep: the present one, if rounding explains the difference."""
    return present if abs(score - present) < SAME_SCORE else score
