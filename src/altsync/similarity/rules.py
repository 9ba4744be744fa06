"""The rules by which one entity is similar to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from altsync.entities import EntityType

#: Scores that differ by less are the same score: models and indexes round.
SAME_SCORE = 0.001


@dataclass(frozen=True, slots=True)
class Rules:
    """When an entity is similar to another: the numbers of ``Similar``.

    ``across``: entities of all groups are compared.
    """

    enter: float = 0.80
    leave: float = 0.77
    top_k: int = 10
    across: bool = False


#: The rules of an entity type.
RulesOf = Callable[[EntityType], Rules]


def declared_rules(kind: EntityType) -> Rules:
    """Return the rules of a type from the catalogue."""
    declared = kind.similarity
    return Rules(declared.enter, declared.leave, declared.top, declared.within is None)
