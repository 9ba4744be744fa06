"""Ids and the topology: what everybody derives instead of storing."""

from __future__ import annotations

from uuid import UUID, uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altsync.contract import SinkTraits, Topology
from altsync.entities import ENTITY_NAMESPACE, EntityType, Model, Row, entity_hex, entity_id
from tests import sports

TOPOLOGY = Topology(
    (
        SinkTraits("embedding", guarded=True),
        SinkTraits("neo4j", guarded=True, edges=True),
        SinkTraits("pinecone", needs_embedding=True),
        SinkTraits("memory", guarded=True),
    )
)


@pytest.mark.parametrize(
    ("entity_type", "expected"),
    [
        (sports.LEAGUE, "9677ce5f-6416-51a3-ab50-2f8c409cf9d6"),
        (sports.SPORT_ARCHETYPE, "486802c7-26a4-5fd4-8cdd-3893ef384792"),
        (sports.FEW_SHOT_EXAMPLE, "c0d4fe98-a674-5ff5-b75d-1cf0aed2d303"),
    ],
)
def test_ids_are_the_same_for_ever(entity_type: EntityType, expected: str) -> None:
    """Rows, nodes and operations are found by ids that any release derives alike."""
    assert entity_id(entity_type, "combat_001") == UUID(expected)
    assert entity_id(entity_type.value, "combat_001") == UUID(expected)


@given(st.sampled_from(sports.TYPES), st.text(st.characters(codec="utf-8")))
def test_ids_are_version_5_uuids(entity_type: EntityType, seed_id: str) -> None:
    """Of the namespace, the type and the seed id, as the standard library makes them."""
    expected = uuid5(ENTITY_NAMESPACE, f"{entity_type}:{seed_id}")
    assert entity_id(entity_type, seed_id) == expected
    assert entity_hex(entity_type, seed_id) == expected.hex


def test_entities_are_locked_in_the_order_of_the_types() -> None:
    """The lock order of the outbox; changing it lets two releases deadlock."""
    assert [kind.value for kind in sports.TYPES] == [
        "sport_archetype",
        "league",
        "few_shot_example",
    ]


def test_sinks_are_told_apart_by_what_they_wait_for() -> None:
    """The embedding feeds the others and gets its operations elsewhere."""
    assert TOPOLOGY.names == ["embedding", "neo4j", "pinecone", "memory"]
    assert TOPOLOGY.direct == ["neo4j", "memory"]
    assert TOPOLOGY.vector == ["pinecone"]
    assert TOPOLOGY.traits("neo4j").edges
    with pytest.raises(KeyError):
        TOPOLOGY.traits("kafka")


@pytest.mark.parametrize(
    ("embedded", "model", "expected"),
    [
        ("t", "m", True),
        ("t", "other", False),
        ("old", "m", False),
        (None, None, False),
    ],
)
def test_a_vector_counts_for_its_text_and_its_model(
    embedded: str | None, model: str | None, expected: bool
) -> None:
    """Another text or another model means that the vector is not the wanted one."""
    row = Row(
        entity_type=sports.SPORT_ARCHETYPE,
        id=entity_id(sports.SPORT_ARCHETYPE, "a"),
        key="racing",
        version=1,
        graph_version=1,
        deleted=False,
        content=sports.SportArchetype("racing", "Racing", "RaceEvent"),
        content_hash="c",
        text_hash="t",
        embedding_text_hash=embedded,
        embedding_model=model,
    )
    assert row.is_embedded_by(Model("m", 4).name) is expected
