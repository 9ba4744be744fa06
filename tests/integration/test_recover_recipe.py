"""The SQL of ``docs/howto/recover.md`` for a database that was restored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs_blocks.blocks import ROOT, blocks_of
from tests.integration.world import World, leagues

#: The block that moves the sequence of versions.
(RECIPE,) = [
    block.body
    for block in blocks_of(ROOT / "docs" / "howto" / "recover.md")
    if block.language == "sql" and "setval" in block.body
]


@pytest.fixture(autouse=True)
def sequence(world: World) -> Iterator[None]:
    """Leave the sequence where it stood: a database of tests keeps it."""
    stands = world.scalar("SELECT last_value FROM entity_version")
    yield
    world.conn.execute("SELECT setval('entity_version', %s)", (stands,))


def run(world: World) -> int:
    """Run the whole block; returns where the sequence stands."""
    for statement in RECIPE.split(";"):
        if statement.strip():
            world.conn.execute(statement)
    return int(str(world.scalar("SELECT last_value FROM entity_version")))


@pytest.mark.parametrize("ahead", [1, 10**9])
def test_the_sequence_of_versions_never_moves_back(world: World, ahead: int) -> None:
    """Also where the clock is behind every version: it was set back, or a version was lifted."""
    world.save(*leagues(2))
    now = int(str(world.scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")))
    world.conn.execute("SELECT setval('entity_version', %s)", (now + ahead * 10**6,))
    assert run(world) >= now + ahead * 10**6
    assert run(world) >= now + ahead * 10**6


def test_the_sequence_moves_above_every_version_that_was_given_out(world: World) -> None:
    """A restored sequence stands where it stood; and every row differs from its seed line."""
    world.save(*leagues(2))
    given = int(str(world.scalar("SELECT last_value FROM entity_version")))
    world.conn.execute("SELECT setval('entity_version', 1)")
    assert run(world) > given
    assert world.scalar("SELECT count(*) FROM league WHERE content_hash <> ''") == 0
