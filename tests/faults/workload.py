"""The plan of a run, from its seed alone: the same actions, outages and kills each time."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from altsports.catalogue import KNOWN_ARCHETYPES
from altsync.catalogue.parts import Part
from tests import sports

#: Categories that examples move between.
CATEGORIES = ("betting", "markets", "questions")

#: Texts of an entity that come back again and again: A -> B -> A.
RECURRING_TEXTS = 5

#: Share of texts that were never there before, so that there is always something to embed.
FRESH_TEXTS = 0.2

#: Entities per batch at most: small, so that many transactions meet over the same rows.
BATCH = 8

#: How much more often the first ids of a part are edited than the last: everybody meets there.
HEAT = 8.0

#: Share of a part that a pruning run leaves out.
PRUNED = 0.15


class Kind(StrEnum):
    """One run of a seeder."""

    EDIT = "edit"
    TOMBSTONE = "tombstone"
    PRUNE = "prune"


@dataclass(frozen=True, slots=True)
class Action:
    """One run of a seeder: lines to load, or seed ids to delete. The order is the plan's."""

    kind: Kind
    part: Part
    lines: tuple[Mapping[str, Any], ...] = ()
    seed_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Workload:
    """A world of few entities, so that everybody is always at the same ones."""

    seed: int
    leagues: int = 24
    examples: int = 16
    archetypes: int = 6

    def rng(self, *names: object) -> random.Random:
        """Chance of its own for one purpose."""
        return random.Random(":".join(str(part) for part in (self.seed, *names)))

    def actions(self, seeder: str, incarnation: int) -> Iterator[Action]:
        """Yield the runs of a seeder, without end."""
        rng = self.rng("seeder", seeder, incarnation)
        while True:
            yield self._action(rng)

    def outages(self, sink: str, phase: int, seconds: float) -> tuple[tuple[float, float], ...]:
        """When a sink is down: (from, to) in seconds since the chapter's start."""
        rng = self.rng("outage", sink, phase)
        starts = sorted(rng.uniform(0, seconds) for _ in range(max(1, round(seconds / 4))))
        return tuple((start, start + rng.uniform(0.2, 0.9)) for start in starts)

    def seed_ids(self, part: Part) -> list[str]:
        """Every id that a part may hold."""
        count = {
            sports.ARCHETYPES: self.archetypes,
            sports.LEAGUES: self.leagues,
            sports.EXAMPLES: self.examples,
        }[part]
        return [f"{part}-{number:02}" for number in range(count)]

    def everything(self) -> list[Action]:
        """The first lines of every entity, so that each part is there from the start."""
        rng = self.rng("everything")
        return [
            Action(Kind.EDIT, part, tuple(_connection(rng, part, i) for i in self.seed_ids(part)))
            for part in (sports.ARCHETYPES, sports.LEAGUES, sports.EXAMPLES)
        ]

    def _action(self, rng: random.Random) -> Action:
        (part,) = rng.choices((sports.LEAGUES, sports.EXAMPLES, sports.ARCHETYPES), (6, 5, 1))
        (kind,) = rng.choices((Kind.EDIT, Kind.TOMBSTONE, Kind.PRUNE), (16, 3, 1))
        ids = self.seed_ids(part)
        if kind is Kind.TOMBSTONE:
            return Action(kind, part, seed_ids=tuple(_hot(rng, ids, rng.randint(1, 4))))
        size = round(len(ids) * (1 - PRUNED)) if kind is Kind.PRUNE else rng.randint(1, BATCH)
        chosen = rng.sample(ids, size) if kind is Kind.PRUNE else _hot(rng, ids, size)
        return Action(kind, part, tuple(_connection(rng, part, seed_id) for seed_id in chosen))


def _hot(rng: random.Random, ids: Sequence[str], most: int) -> list[str]:
    """Up to ``most`` different ids in random order, the first ones more often."""
    weights = [1 + HEAT / (place + 1) for place in range(len(ids))]
    return list(dict.fromkeys(rng.choices(ids, weights, k=most)))


def _connection(rng: random.Random, part: Part, seed_id: str) -> dict[str, Any]:
    if rng.random() < FRESH_TEXTS:
        text = f"never seen before {rng.getrandbits(48):x}"
    else:
        text = f"text {rng.randrange(RECURRING_TEXTS)}"
    return seed_line(
        part,
        seed_id,
        text=text,
        mark=str(rng.randrange(8)),
        category=rng.choice(CATEGORIES),
        archetype=rng.choice(sorted(KNOWN_ARCHETYPES)) if rng.random() < 0.1 else "racing",
    )


def seed_line(
    part: Part,
    seed_id: str,
    *,
    text: str = "text",
    mark: str = "0",
    category: str = CATEGORIES[0],
    archetype: str = "racing",
) -> dict[str, Any]:
    """A seed's line. ``text`` is embedded, ``mark`` is not; ``category`` moves an example."""
    name = f"The {seed_id}"
    match part:
        case sports.LEAGUES:
            return {
                "id": seed_id,
                "league_name": name,
                "sport_name": "Rowing",
                "sport_archetype": archetype,
                "description": text,
                "tier": f"TIER{mark}",
            }
        case sports.EXAMPLES:
            return {
                "id": seed_id,
                "category": category,
                "input_text": name,
                "output_text": text,
                "mark": mark,
            }
        case sports.ARCHETYPES:
            return {
                "id": seed_id,
                "archetype_name": seed_id,
                "display_name": name,
                "code_pattern": f"Pattern{mark}",
                "description": text,
            }
        case _:
            raise ValueError(f"{part} is not mirrored")
