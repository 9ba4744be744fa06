"""A new league is written to the graph once, with its relationships."""

from __future__ import annotations

import pytest

from altsync.circuit.pause import pause
from altsync.config import Settings
from altsync.delivery import Delivery, Policy
from altsync.outbox.edges import LONGEST_GATHERING, MANY
from altsync.outbox.enqueue import HOLD
from altsync.policies import longest_retry
from tests.integration.database_fixture import LEASE, archetype
from tests.integration.neighbourhood import Neighbourhood, at, faults


def written(place: Neighbourhood) -> list[str]:
    """Keys of the nodes that were written, in their order."""
    return [row.key for call in place.graph.calls for row in call.rows]


@pytest.mark.parametrize("apart", [1, 100], ids=["with relationships", "without"])
def test_a_new_league_waits_for_its_relationships(circle: Neighbourhood, apart: int) -> None:
    circle.save(at("a", 0), at("b", apart))
    circle.deliver(circle.graph)
    assert written(circle) == []
    circle.embed()
    circle.deliver(circle.similarity)
    circle.deliver(circle.graph)
    assert sorted(written(circle)) == ["a", "b"]
    assert len(circle.edges()) == (2 if apart == 1 else 0)
    assert list(faults(circle)) == []


def test_a_first_load_writes_each_league_once(circle: Neighbourhood) -> None:
    """Several batches, whose leagues lie among each other."""
    circle.save(*[at(f"l{n:03}", n * 2.5) for n in range(140)])
    circle.deliver(circle.graph)
    circle.embed()
    while circle.pg.scalar(
        "SELECT count(*) FROM sync_operation WHERE sink = 'similarity' AND finished_at IS NULL"
    ):
        circle.pg.advance_time(1)
        circle.deliver(circle.similarity)
        circle.deliver(circle.graph)
    assert len(written(circle)) == 140
    assert list(faults(circle)) == []


def test_searches_of_one_load_leave_each_other_alone(circle: Neighbourhood) -> None:
    """A batch writes its own leagues only: those whose searches are due find the same pairs."""
    circle.save(*[at(f"l{n:02}", n) for n in range(40)])
    circle.embed()
    policy = Policy(lease=LEASE, batch_size=7)
    searches = Delivery(circle.database, circle.similarity, circle.topology, policy, worker="tests")
    while searches.deliver_batch().claimed:
        circle.deliver(circle.graph)
    assert len(written(circle)) == 40
    assert list(faults(circle)) == []


def test_an_edit_waits_for_nothing(circle: Neighbourhood) -> None:
    circle.save(at("a", 0))
    circle.settle()
    before = len(written(circle))
    circle.save(at("a", 90))
    circle.deliver(circle.graph)
    assert len(written(circle)) == before + 1


def test_nodes_without_relationships_wait_for_nothing(circle: Neighbourhood) -> None:
    circle.pg.save(archetype("racing"))
    circle.deliver(circle.graph)
    assert written(circle) == ["racing"]


@pytest.mark.parametrize("sink", ["embedding", "similarity"])
@pytest.mark.parametrize("state", ["paused", "open", "disabled"])
def test_a_league_waits_for_nothing_that_is_stopped(
    circle: Neighbourhood, sink: str, state: str
) -> None:
    if state == "paused":
        pause(circle.pg.conn, sink, "by hand")
    else:
        circle.pg.conn.execute(
            "UPDATE sink_state SET state = %s, reason = 'down' WHERE sink = %s", (state, sink)
        )
    circle.save(at("a", 0))
    circle.deliver(circle.graph)
    assert written(circle) == ["a"]


def test_a_league_whose_embedding_does_not_come_is_written_all_the_same(
    circle: Neighbourhood,
) -> None:
    circle.save(at("a", 0))
    wait = circle.pg.live("neo4j", "a").wait
    assert 0 < wait <= HOLD
    circle.pg.advance_time(HOLD)
    circle.deliver(circle.graph)
    assert written(circle) == ["a"]


def test_a_failure_that_waits_goes_on_waiting(circle: Neighbourhood) -> None:
    """Known relationships are no evidence for a graph that is down."""
    circle.save(at("a", 0))
    circle.pg.conn.execute(
        "UPDATE sync_operation SET last_error = 'down', error_kind = 'sink', "
        "available_at = now() + interval '20 s' WHERE sink = 'neo4j'"
    )
    circle.embed()
    circle.deliver(circle.similarity)
    assert circle.pg.live("neo4j", "a").wait > 10


def test_a_search_waits_while_texts_are_embedded_in_numbers(
    circle: Neighbourhood,
) -> None:
    circle.save(*[at(f"l{n:03}", n) for n in range(MANY + 20)])
    circle.pg.conn.execute(
        "UPDATE sync_operation SET available_at = now() + interval '1 min' "
        "WHERE sink = 'embedding' AND entity_key >= 'l010'"
    )
    circle.embed()
    assert len(written(circle)) == 0
    circle.pg.conn.execute("UPDATE sink_state SET unanswered_wakes = 1")
    assert circle.deliver(circle.similarity).claimed == 0
    wakes = "SELECT unanswered_wakes FROM sink_state WHERE sink = 'similarity'"
    assert circle.pg.scalar(wakes) == 0, "the relay waits before it wakes a worker again"
    circle.pg.advance_time(LONGEST_GATHERING + 1)
    assert circle.deliver(circle.similarity).claimed == 10


def test_the_hold_outlasts_the_gathering_and_is_no_clock_that_jumped() -> None:
    assert HOLD > LONGEST_GATHERING
    assert longest_retry(Settings()) >= HOLD
