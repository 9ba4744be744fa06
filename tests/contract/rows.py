"""Rows as delivery hands them to a sink, with all that follows from their content."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from altsync.entities import Content, Model, Row, entity_id
from altsync.projection import content_hash, text_hash
from tests import sports

#: Short vectors, so that most tests move few bytes.
MODEL = Model("wordllama-l2-256", 4)

#: Strings that would do harm if anybody took them for more than data.
HOSTILE = (
    "x}) DETACH DELETE n //",
    "`League`) RETURN 1 //",
    "'; DROP TABLE league; --",
    '" OR 1=1 "',
    "$rows ${HOME} {{x}} %s {0}",
    "back\\slash \\u0041 \\n",
    "🏆⚽ 👩‍👩‍👧",
    "الدوري الممتاز",
    "\u202eleft-to-right?\u202c",
    "two\nlines\tand\u2028more",
    "\x01\x7f\u0085",
    " spaces around ",
)


def vector(seed: int, dimensions: int = MODEL.dimensions) -> bytes:
    """A unit vector that differs from seed to seed, as PostgreSQL holds it."""
    numbers = np.random.default_rng(seed).normal(size=dimensions)
    return (numbers / np.linalg.norm(numbers)).astype("<f4").tobytes()


def row(content: Content, version: int, **changes: Any) -> Row:
    """A row of this content at this version; the graph's version is the same unless given."""
    match content:
        case sports.League():
            entity_type, key = sports.LEAGUE, content.league_tag
        case sports.SportArchetype():
            entity_type, key = sports.SPORT_ARCHETYPE, content.archetype_name
        case sports.FewShotExample():
            entity_type, key = sports.FEW_SHOT_EXAMPLE, content.example_id
    text = text_hash(content)
    made = Row(
        entity_type=entity_type,
        id=entity_id(entity_type, key),
        key=key,
        version=version,
        graph_version=version,
        deleted=False,
        content=content,
        content_hash=content_hash(content),
        text_hash=text,
        embedding_text_hash=text,
        embedding_model=MODEL.name,
        vector=vector(version),
    )
    return replace(made, **changes)


def league(tag: str = "formula_1", version: int = 10, **content: Any) -> Row:
    """A league's row; ``content`` replaces fields of a full one."""
    full: dict[str, Any] = {
        "league_name": "Formula 1",
        "sport_name": "Motorsport",
        "sport_archetype": "racing",
        "location": "World",
        "tier": "TIER1",
        "status": "active",
        "description": "Grand prix racing.",
    }
    return row(sports.League(tag, **{**full, **content}), version)


def archetype(name: str = "racing", version: int = 10, **content: Any) -> Row:
    """An archetype's row."""
    full: dict[str, Any] = {
        "display_name": "Racing & Speed",
        "code_pattern": "RaceEvent",
        "description": "Entrants cover a course.",
    }
    return row(sports.SportArchetype(name, **{**full, **content}), version)


def example(example_id: str = "triage_001", version: int = 10, **content: Any) -> Row:
    """An example's row."""
    full: dict[str, Any] = {
        "category": "triage",
        "input_text": "Who answers this?",
        "output_text": '{"route":"sales"}',
        "sport_archetype": "racing",
        "tags": ("routing", "contracts"),
    }
    return row(sports.FewShotExample(example_id, **{**full, **content}), version)


#: One maker for each type: a key, a version, and content to replace.
MAKERS = {
    sports.LEAGUE: league,
    sports.SPORT_ARCHETYPE: archetype,
    sports.FEW_SHOT_EXAMPLE: example,
}


def deleted(one: Row, version: int) -> Row:
    """The row after its deletion, which is a version of its own."""
    return replace(one, version=version, graph_version=version, deleted=True)
