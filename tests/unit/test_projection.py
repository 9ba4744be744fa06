"""The part of a row that each sink stores: texts, hashes, nodes and metadata, written by hand."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from typing import Any, cast

import pytest

from altsync import projection
from altsync.entities import Content, Row, entity_id
from altsync.projection import (
    GraphNode,
    content_hash,
    content_of,
    embedding_text,
    graph_node,
    namespace,
    text_hash,
    vector_metadata,
)
from tests import sports

LEAGUE = sports.League(
    league_tag="ufc",
    league_name="UFC",
    sport_name="MMA",
    sport_archetype="combat",
    location="USA",
    tier="TIER1",
    status="active",
    description="Cards of fights.",
    attributes={"founded": 1993, "gender": "mixed"},
)
ARCHETYPE = sports.SportArchetype(
    archetype_name="large_field",
    display_name="Large Field",
    code_pattern="FieldEvent",
    description="Many take part.",
    characteristics={"scoring": "strokes", "cut": True},
    attributes={"note": None},
)
EXAMPLE = sports.FewShotExample(
    example_id="triage_001",
    category="triage",
    input_text="Who answers this?",
    output_text='{"route":"sales"}',
    sport_archetype="combat",
    tags=("routing", "contracts"),
    attributes={"difficulty": "easy"},
)
CONTENTS: list[Content] = [LEAGUE, ARCHETYPE, EXAMPLE]

BARE_LEAGUE = sports.League("t", "Serie A", "Football", "team_sport")
BARE_ARCHETYPE = sports.SportArchetype("racing", "Racing", "RaceEvent")
BARE_EXAMPLE = sports.FewShotExample("e", "triage", "in", "out")

_TYPES = {
    sports.League: sports.LEAGUE,
    sports.SportArchetype: sports.SPORT_ARCHETYPE,
    sports.FewShotExample: sports.FEW_SHOT_EXAMPLE,
}


def row_of(content: Content) -> Row:
    """A row at version 7 with a graph at version 9."""
    entity_type = _TYPES[type(content)]
    return Row(
        entity_type=entity_type,
        id=entity_id(entity_type, "x"),
        key="key",
        version=7,
        graph_version=9,
        deleted=False,
        content=content,
        content_hash="c0ffee",
        text_hash="7e87",
    )


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (LEAGUE, "UFC: MMA (combat) in USA. Cards of fights."),
        (BARE_LEAGUE, "Serie A: Football (team sport)."),
        (ARCHETYPE, "Large Field (large field). Many take part."),
        (BARE_ARCHETYPE, "Racing (racing)."),
        (EXAMPLE, 'Who answers this?\n{"route":"sales"}\nTags: routing, contracts'),
        (BARE_EXAMPLE, "in\nout"),
    ],
)
def test_texts(content: Content, text: str) -> None:
    """The embedded text, with and without optional fields."""
    assert embedding_text(content) == text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (LEAGUE, "c08f16cfe187b814c93ff532ecf69703"),
        (ARCHETYPE, "0524d1b8ad74602f8a4bb33db1079237"),
        (EXAMPLE, "786740e752954a22d55992ea582830c2"),
    ],
)
def test_text_hashes_are_the_same_for_ever(content: Content, expected: str) -> None:
    """Another hash of the same text would be paid for again, by every user, at the next seed."""
    assert text_hash(content) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (LEAGUE, "02df3aeaa15a41f9864af00057db9dae"),
        (ARCHETYPE, "22adc8d3df64d6a5bdd168b47446cae7"),
        (EXAMPLE, "7ae2b0114271a8c1d7cf149f384aa10a"),
    ],
)
def test_content_hashes_are_the_same_for_ever(content: Content, expected: str) -> None:
    """Another hash of the same content sends everything again: only PROJECTION_VERSION may."""
    assert content_hash(content) == expected


def test_the_content_hash_is_of_canonical_json() -> None:
    """128 bits of BLAKE2b over the projection's version and every field, keys sorted."""
    body = (
        b'{"content":{"league_tag":"ufc","league_name":"UFC","sport_name":"MMA",'
        b'"sport_archetype":"combat","location":"USA","tier":"TIER1","status":"active",'
        b'"description":"Cards of fights.","attributes":{"founded":1993,"gender":"mixed"}},'
        b'"projection":1}'
    )
    assert content_hash(LEAGUE) == hashlib.blake2b(body, digest_size=16).hexdigest()


def test_the_order_of_attributes_does_not_matter() -> None:
    """JSON objects have no order, and jsonb does not keep one."""
    turned = replace(LEAGUE, attributes={"gender": "mixed", "founded": 1993})
    assert content_hash(turned) == content_hash(LEAGUE)


def test_a_changed_projection_changes_every_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raising PROJECTION_VERSION sends everything at the next seed, with no seed edited."""
    before = [content_hash(content) for content in CONTENTS]
    monkeypatch.setattr(projection, "PROJECTION_VERSION", 2)
    after = [content_hash(content) for content in CONTENTS]
    assert not set(before) & set(after)


def _changed(value: Any) -> Any:
    if isinstance(value, dict):
        return {**value, "more": 1}
    return (*value, "more") if isinstance(value, tuple) else f"{value} more"


@pytest.mark.parametrize(
    ("content", "name"),
    [(content, field.name) for content in CONTENTS for field in fields(cast(Any, content))],
)
def test_every_field_counts_for_the_content_hash(content: Content, name: str) -> None:
    """An edit of any field of a seed reaches the sinks."""
    changed = replace(cast(Any, content), **{name: _changed(getattr(content, name))})
    assert content_hash(changed) != content_hash(content)


@pytest.mark.parametrize("name", ["tier", "status", "league_tag", "attributes"])
def test_filters_do_not_count_for_the_text(name: str) -> None:
    """Tier and status change often; a change of them is not paid for."""
    changed = replace(LEAGUE, **{name: _changed(getattr(LEAGUE, name))})
    assert text_hash(changed) == text_hash(LEAGUE)


def test_a_league_hangs_on_its_archetype() -> None:
    """Every property of a league's node."""
    assert graph_node(row_of(LEAGUE)) == GraphNode(
        "League",
        "league_tag",
        {
            "league_name": "UFC",
            "sport_name": "MMA",
            "sport_archetype": "combat",
            "location": "USA",
            "tier": "TIER1",
            "status": "active",
            "description": "Cards of fights.",
            "content_hash": "c0ffee",
        },
        ("combat",),
    )


def test_an_archetype_hangs_on_nothing() -> None:
    """Every property of an archetype's node; nested characteristics stay in PostgreSQL."""
    assert graph_node(row_of(ARCHETYPE)) == GraphNode(
        "SportArchetype",
        "name",
        {
            "display_name": "Large Field",
            "code_pattern": "FieldEvent",
            "description": "Many take part.",
            "content_hash": "c0ffee",
        },
        (),
    )


def test_an_example_hangs_on_its_category() -> None:
    """Every property of an example's node."""
    assert graph_node(row_of(EXAMPLE)) == GraphNode(
        "FewShotExample",
        "example_id",
        {
            "category": "triage",
            "input_text": "Who answers this?",
            "output_text": '{"route":"sales"}',
            "sport_archetype": "combat",
            "tags": ["routing", "contracts"],
            "content_hash": "c0ffee",
        },
        ("triage",),
    )


@pytest.mark.parametrize(
    ("full", "bare"),
    [(LEAGUE, BARE_LEAGUE), (ARCHETYPE, BARE_ARCHETYPE), (EXAMPLE, BARE_EXAMPLE)],
)
def test_a_node_names_every_known_property(full: Content, bare: Content) -> None:
    """A removed property is named with None, so that the graph removes it."""
    assert graph_node(row_of(bare)).properties.keys() == graph_node(row_of(full)).properties.keys()


@pytest.mark.parametrize(
    ("content", "left_out"),
    [
        (LEAGUE, {"league_tag", "attributes"}),
        (ARCHETYPE, {"archetype_name", "characteristics", "attributes"}),
        (EXAMPLE, {"example_id", "attributes"}),
    ],
)
def test_a_new_field_is_not_forgotten(content: Content, left_out: set[str]) -> None:
    """Each field of a content is a property of its node, but for its key and nested values."""
    named = graph_node(row_of(content)).properties.keys() - {"content_hash"}
    assert named == {field.name for field in fields(cast(Any, content))} - left_out


def test_what_a_leagues_vector_carries() -> None:
    """Filters, and the marks that verify compares: version (not the graph's), model, hash."""
    assert vector_metadata(row_of(LEAGUE), "some-model") == {
        "league_name": "UFC",
        "sport_name": "MMA",
        "sport_archetype": "combat",
        "location": "USA",
        "tier": "TIER1",
        "status": "active",
        "version": 7,
        "model": "some-model",
        "content_hash": "c0ffee",
    }


def test_what_an_archetypes_vector_carries() -> None:
    """Names and pattern, and the marks."""
    assert vector_metadata(row_of(ARCHETYPE), "m") == {
        "archetype_name": "large_field",
        "display_name": "Large Field",
        "code_pattern": "FieldEvent",
        "version": 7,
        "model": "m",
        "content_hash": "c0ffee",
    }


def test_what_an_examples_vector_carries() -> None:
    """Filters without the texts, and the marks."""
    assert vector_metadata(row_of(EXAMPLE), "m") == {
        "category": "triage",
        "sport_archetype": "combat",
        "tags": ["routing", "contracts"],
        "version": 7,
        "model": "m",
        "content_hash": "c0ffee",
    }


@pytest.mark.parametrize("content", [BARE_LEAGUE, BARE_ARCHETYPE, BARE_EXAMPLE])
def test_metadata_hold_no_null(content: Content) -> None:
    """Pinecone refuses nulls; what is not there is left out."""
    metadata = vector_metadata(row_of(content), "m")
    assert None not in metadata.values()
    assert {"version", "model", "content_hash"} <= metadata.keys()


@pytest.mark.parametrize(
    ("content", "space"), [(LEAGUE, "default"), (ARCHETYPE, ""), (EXAMPLE, "triage")]
)
def test_namespaces(content: Content, space: str) -> None:
    """Examples are kept by category, the others in one place each."""
    assert namespace(row_of(content)) == space


@pytest.mark.parametrize("content", CONTENTS)
def test_a_rows_columns_make_its_content_again(content: Content) -> None:
    """PostgreSQL answers lists where the content has tuples; the hash stays the same."""
    values = [getattr(content, name) for name in content.entity_type.columns]
    read = [list(value) if isinstance(value, tuple) else value for value in values]
    again = content_of(_TYPES[type(content)], read)
    assert again == content
    assert content_hash(again) == content_hash(content)
