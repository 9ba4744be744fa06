"""The SQL of ``docs/howto/recover.md`` for a database that was restored."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs_blocks.blocks import ROOT, blocks_of
from tests.integration.database_fixture import DatabaseFixture, leagues

#: The block that moves the sequence of versions.
(RECIPE,) = [
    block.body
    for block in blocks_of(ROOT / "docs" / "howto" / "recover.md")
    if block.language == "sql" and "setval" in block.body
]


@pytest.fixture(autouse=True)
def sequence(pg: DatabaseFixture) -> Iterator[None]:
    """Leave the sequence where it stood: a database of tests keeps it."""
    stands = pg.scalar("SELECT last_value FROM entity_version")
    yield
    pg.conn.execute("SELECT setval('entity_version', %s)", (stands,))


def run(pg: DatabaseFixture) -> int:
    """Run the whole block; returns where the sequence stands."""
    for statement in RECIPE.split(";"):
        if statement.strip():
            pg.conn.execute(statement)
    return int(str(pg.scalar("SELECT last_value FROM entity_version")))


@pytest.mark.parametrize("ahead", [1, 10**9])
def test_the_sequence_of_versions_never_moves_back(pg: DatabaseFixture, ahead: int) -> None:
    """Also where the clock is behind every version: it was set back, or a version was lifted."""
    pg.save(*leagues(2))
    now = int(str(pg.scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")))
    pg.conn.execute("SELECT setval('entity_version', %s)", (now + ahead * 10**6,))
    assert run(pg) >= now + ahead * 10**6
    assert run(pg) >= now + ahead * 10**6


def test_the_sequence_moves_above_every_version_that_was_given_out(pg: DatabaseFixture) -> None:
    """A restored sequence stands where it stood; and every row differs from its seed line."""
    pg.save(*leagues(2))
    given = int(str(pg.scalar("SELECT last_value FROM entity_version")))
    pg.conn.execute("SELECT setval('entity_version', 1)")
    assert run(pg) > given
    assert pg.scalar("SELECT count(*) FROM league WHERE content_hash <> ''") == 0
