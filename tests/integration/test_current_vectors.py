"""A change of fields that no vector holds writes no vector, and nothing else is left out."""

from __future__ import annotations

from typing import Any

import pytest

from altsync.catalogue.current import entity_type
from altsync.db import Database
from altsync.seed.sql.entities import classify_staged, copy_to_staging, create_staging
from tests import sports
from tests.conftest import TOPOLOGY
from tests.integration.database_fixture import (
    DatabaseFixture,
    _staged,
    archetype,
    delivery,
    embedding_sink,
    example,
)
from tests.integration.fakes import FakeEmbedder, FakeGraph, FakeIndex

RACING = archetype("racing", characteristics={"laps": 3})


@pytest.fixture
def index(pg: DatabaseFixture, database: Database) -> FakeIndex:
    """Return an index that holds an archetype and an example."""
    index = FakeIndex()
    pg.save(RACING, example("ask"))
    pg.note_lines()
    deliver(database, index)
    assert len(index.held) == 2
    index.calls.clear()
    return index


def deliver(database: Database, index: FakeIndex) -> None:
    """Deliver everything."""
    for sink in (embedding_sink(database, FakeEmbedder()), FakeGraph(), index):
        delivery(database, sink).drain(10)


def racing(**changes: Any) -> sports.SportArchetype:
    """Return the archetype with other values."""
    return archetype("racing", **{"characteristics": {"laps": 4}, **changes})


def predicted(pg: DatabaseFixture, content: sports.SportArchetype) -> int:
    """Return the operations that a dry run predicts."""
    kind = entity_type("sport_archetype")
    create_staging(pg.conn, kind)
    with pg.conn.transaction(force_rollback=True):
        copy_to_staging(pg.conn, kind, [_staged(content)])
        return classify_staged(pg.conn, kind, TOPOLOGY).operations


def test_a_change_of_other_fields_writes_the_graph_alone(
    pg: DatabaseFixture, database: Database, index: FakeIndex
) -> None:
    assert predicted(pg, racing()) == 1
    assert pg.save(racing()).operations == 1
    assert [op.sink for op in pg.ops(key="racing") if op.live] == ["neo4j"]
    assert pg.row(RACING)["pinecone_sync_status"] == "synced"
    deliver(database, index)
    assert index.calls == []
    assert set(pg.statuses(RACING).values()) == {"synced"}


@pytest.mark.parametrize("change", [{"code_pattern": "Race"}, {"display_name": "Races"}])
def test_a_change_of_a_filter_or_of_the_text_writes_the_vector(
    pg: DatabaseFixture, database: Database, index: FakeIndex, change: dict[str, str]
) -> None:
    pg.save(racing(**change))
    deliver(database, index)
    assert [call.keys for call in index.calls] == [["racing"]]


def test_a_change_behind_an_unwritten_one_writes_the_vector(
    pg: DatabaseFixture, database: Database, index: FakeIndex
) -> None:
    pg.save(racing(code_pattern="Race"))
    pg.save(racing(code_pattern="Race", characteristics={}))
    assert pg.live("pinecone", "racing").version == pg.version(RACING)
    deliver(database, index)
    assert [call.keys for call in index.calls] == [["racing"]]
    assert set(pg.statuses(RACING).values()) == {"synced"}


def test_a_vector_that_was_given_up_on_is_written(
    pg: DatabaseFixture, database: Database, index: FakeIndex
) -> None:
    pg.conn.execute("UPDATE sport_archetype SET pinecone_sync_status = 'failed'")
    pg.save(racing())
    deliver(database, index)
    assert [call.keys for call in index.calls] == [["racing"]]


def test_a_row_that_sql_has_edited_is_written(
    pg: DatabaseFixture, database: Database, index: FakeIndex
) -> None:
    """The line agrees with the edit; the index has the value before it."""
    pg.conn.execute("UPDATE sport_archetype SET code_pattern = 'Race'")
    pg.save(racing(code_pattern="Race"))
    deliver(database, index)
    assert [call.keys for call in index.calls] == [["racing"]]


def test_a_deleted_entity_that_comes_back_is_written(
    pg: DatabaseFixture, database: Database, index: FakeIndex
) -> None:
    pg.delete(RACING)
    deliver(database, index)
    pg.save(racing())
    deliver(database, index)
    assert [call.action for call in index.calls] == ["delete", "upsert"]


def test_a_changed_namespace_is_written(
    pg: DatabaseFixture, database: Database, index: FakeIndex
) -> None:
    pg.save(example("ask", category="other"))
    deliver(database, index)
    assert [call.action for call in index.calls] == ["delete", "upsert"]


def test_a_late_write_is_confirmed_although_a_change_writes_no_vector(
    pg: DatabaseFixture, database: Database, index: FakeIndex
) -> None:
    pg.conn.execute(
        "UPDATE sync_operation SET status = 'pending', finished_at = NULL, origin = 'confirm', "
        "available_at = now() + interval '30 s' WHERE sink = 'pinecone' AND entity_key = 'racing'"
    )
    pg.save(racing())
    assert pg.live("pinecone", "racing").origin == "confirm"
    pg.advance_time(40)
    deliver(database, index)
    assert [call.rows[0].version for call in index.calls] == [pg.version(RACING)]
