"""What a run does, from its seed alone: the same seed gives the same actions, outages and kills."""

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
    """What a seeder does in one run."""

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
class Plan:
    """A world of few entities, so that everybody is always at the same ones."""

    seed: int
    leagues: int = 24
    examples: int = 16
    archetypes: int = 6

    def dice(self, *names: object) -> random.Random:
        """Chance of its own for one purpose."""
        return random.Random(":".join(str(part) for part in (self.seed, *names)))

    def actions(self, seeder: str, incarnation: int) -> Iterator[Action]:
        """What a seeder does, without end."""
        dice = self.dice("seeder", seeder, incarnation)
        while True:
            yield self._action(dice)

    def outages(self, sink: str, chapter: int, seconds: float) -> tuple[tuple[float, float], ...]:
        """When a sink is down: (from, to) in seconds since the chapter's start."""
        dice = self.dice("outage", sink, chapter)
        starts = sorted(dice.uniform(0, seconds) for _ in range(max(1, round(seconds / 4))))
        return tuple((start, start + dice.uniform(0.2, 0.9)) for start in starts)

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
        dice = self.dice("everything")
        return [
            Action(Kind.EDIT, part, tuple(_line(dice, part, i) for i in self.seed_ids(part)))
            for part in (sports.ARCHETYPES, sports.LEAGUES, sports.EXAMPLES)
        ]

    def _action(self, dice: random.Random) -> Action:
        (part,) = dice.choices((sports.LEAGUES, sports.EXAMPLES, sports.ARCHETYPES), (6, 5, 1))
        (kind,) = dice.choices((Kind.EDIT, Kind.TOMBSTONE, Kind.PRUNE), (16, 3, 1))
        ids = self.seed_ids(part)
        if kind is Kind.TOMBSTONE:
            return Action(kind, part, seed_ids=tuple(_hot(dice, ids, dice.randint(1, 4))))
        size = round(len(ids) * (1 - PRUNED)) if kind is Kind.PRUNE else dice.randint(1, BATCH)
        chosen = dice.sample(ids, size) if kind is Kind.PRUNE else _hot(dice, ids, size)
        return Action(kind, part, tuple(_line(dice, part, seed_id) for seed_id in chosen))


def _hot(dice: random.Random, ids: Sequence[str], most: int) -> list[str]:
    """Up to ``most`` different ids in random order, the first ones more often."""
    weights = [1 + HEAT / (place + 1) for place in range(len(ids))]
    return list(dict.fromkeys(dice.choices(ids, weights, k=most)))


def _line(dice: random.Random, part: Part, seed_id: str) -> dict[str, Any]:
    if dice.random() < FRESH_TEXTS:
        text = f"never seen before {dice.getrandbits(48):x}"
    else:
        text = f"text {dice.randrange(RECURRING_TEXTS)}"
    return line(
        part,
        seed_id,
        text=text,
        mark=str(dice.randrange(8)),
        category=dice.choice(CATEGORIES),
        archetype=dice.choice(sorted(KNOWN_ARCHETYPES)) if dice.random() < 0.1 else "racing",
    )


def line(
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
