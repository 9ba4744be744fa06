"""The sports catalogue by short names, for tests of the engine that run on it."""

from __future__ import annotations

from typing import Any

from altsports.catalogue import (
    FEW_SHOT_EXAMPLE,
    LEAGUE,
    SPORT_ARCHETYPE,
    catalogue,
)

#: Contents of an entity in seeds; frozen dataclasses that the catalogue makes.
League: Any = LEAGUE.content
SportArchetype: Any = SPORT_ARCHETYPE.content
FewShotExample: Any = FEW_SHOT_EXAMPLE.content

TYPES = catalogue.entity_types

#: Parts of a seed folder.
PARTS = catalogue.parts
ARCHETYPES, LEAGUES, EXAMPLES, DOCUMENTS, CONTRACTS, RELATIONSHIPS = PARTS

#: Indexes of the vector index.
INDEXES = [kind.index_name for kind in TYPES]

__all__ = [
    "ARCHETYPES",
    "CONTRACTS",
    "DOCUMENTS",
    "EXAMPLES",
    "FEW_SHOT_EXAMPLE",
    "INDEXES",
    "LEAGUE",
    "LEAGUES",
    "PARTS",
    "RELATIONSHIPS",
    "SPORT_ARCHETYPE",
    "TYPES",
    "FewShotExample",
    "League",
    "SportArchetype",
]
