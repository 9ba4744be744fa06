"""Short stories, each of which goes wrong without one rule of the protocol, and only then.

They play in one process and in a fixed order: what another process would do in between happens
at the named points of a delivery, or in a thread that is known to wait for a lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from altsync.contract import EMBEDDING
from tests import sports
from tests.faults.fault_plan import Fault, FaultSequence, KeyFaults
from tests.faults.sandbox import NEO4J, PINECONE
from tests.faults.scenario import Scenario, WorkerCrash, crash
from tests.faults.workload import seed_line

#: Seconds that no test waits for: the write is applied when the scenario says so.
LONG = 10_000.0

#: Key of the league ``league(0)`` in its sinks.
KEY = "the_leagues_00"


def league(number: int = 0, **changes: str) -> Mapping[str, Any]:
    """A line of a league."""
    return seed_line(sports.LEAGUES, f"leagues-{number:02}", **changes)


def delayed() -> FaultSequence:
    """The next call is not answered in time, and is applied when the scenario says so."""
    return FaultSequence(Fault.LATE, delay=LONG)


def example(number: int = 0, **changes: str) -> Mapping[str, Any]:
    """A line of an example."""
    return seed_line(sports.EXAMPLES, f"examples-{number:02}", **changes)


def synced(scenario: Scenario, *lines: Mapping[str, Any]) -> None:
    """Leagues that every sink has."""
    scenario.seed(sports.LEAGUES, *(lines or (league(),)))
    scenario.deliver_all()


def edit(scenario: Scenario, **changes: str) -> None:
    """The league ``league(0)`` changes."""
    scenario.seed(sports.LEAGUES, league(0, **changes))


def _wait_for_embedding(scenario: Scenario) -> None:
    """A vector operation is pending, and what it needs is not embedded."""
    synced(scenario)
    edit(scenario, mark="1")
    edit(scenario, mark="1", text="another")


# --- leases -------------------------------------------------------------------------------------


def a_worker_settles_after_its_lease_was_taken(scenario: Scenario) -> None:
    """Its write is lost and requested again; the next worker has it, and vanishes."""
    synced(scenario)
    edit(scenario, mark="1")

    def meanwhile() -> None:
        scenario.lose_everything(NEO4J)
        scenario.backfill(NEO4J)
        scenario.expire_leases()
        scenario.deliver(NEO4J, at={"read": crash})

    scenario.deliver(NEO4J, at={"written": meanwhile})
    scenario.drain()


def a_worker_writes_after_its_lease_was_taken(scenario: Scenario) -> None:
    """The newer version is written and confirmed when the older one is sent."""
    synced(scenario)
    edit(scenario, mark="1")

    def meanwhile() -> None:
        scenario.expire_leases()
        edit(scenario, mark="2")
        scenario.deliver_all()
        scenario.make_due()
        scenario.deliver(PINECONE)

    scenario.deliver(PINECONE, at={"read": meanwhile})
    scenario.drain()


def a_worker_crashes_during_a_write(scenario: Scenario) -> None:
    """Its write lands after that of the next worker."""
    synced(scenario)
    edit(scenario, mark="1")
    scenario.deliver(PINECONE, at={"written": crash}, faults=delayed())
    edit(scenario, mark="2")
    scenario.expire_leases()
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.drain()


class _Killer(KeyFaults):
    """A record that ends each process that sends it."""

    def next(self, keys: Any) -> Fault:
        if super().next(keys) is not Fault.NONE:
            raise WorkerCrash
        return Fault.NONE


def a_record_kills_its_workers(scenario: Scenario) -> None:
    """One poison record in a batch of healthy ones."""
    scenario.seed(sports.LEAGUES, *(league(number) for number in range(40)))
    for _ in range(60):
        scenario.deliver(NEO4J, faults=_Killer(Fault.KILLED, [KEY]))
        scenario.expire_leases()
        scenario.poll()
        if not scenario.live(NEO4J):
            break
    scenario.drain()


# --- wake-ups -----------------------------------------------------------------------------------


def a_vector_is_asked_for_while_its_operation_is_leased(scenario: Scenario) -> None:
    """The worker found no embedding; it comes, at the same version, before the settle."""
    _wait_for_embedding(scenario)
    scenario.deliver(PINECONE, at={"read": lambda: scenario.deliver(EMBEDDING)})
    scenario.drain()


def a_row_changes_around_its_claim(scenario: Scenario) -> None:
    """Rows that were read before the claim are older than the claimed operations."""
    _wait_for_embedding(scenario)

    def embed() -> None:
        scenario.deliver(EMBEDDING)

    scenario.deliver(PINECONE, at={"read early": embed, "claimed": embed})
    scenario.drain()


def an_entity_changes_while_its_worker_is_gone(scenario: Scenario) -> None:
    """A lease that ended and a new change must not become two operations."""
    synced(scenario)
    edit(scenario, mark="1")
    scenario.deliver(NEO4J, at={"read": crash})
    edit(scenario, mark="2")
    scenario.expire_leases()
    scenario.deliver(NEO4J, at={"claimed": scenario.check_invariants})
    scenario.drain()


# --- late writes --------------------------------------------------------------------------------


def a_write_is_late(scenario: Scenario) -> None:
    """An unguarded sink applies it after a newer one."""
    synced(scenario)
    edit(scenario, mark="1")
    scenario.deliver(PINECONE, faults=delayed())
    edit(scenario, mark="2")
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.drain()


def a_change_meets_a_waiting_confirming_write(scenario: Scenario) -> None:
    """The change merges into the confirming write, and the late write comes after it."""
    synced(scenario)
    edit(scenario, mark="1")
    scenario.deliver(PINECONE, faults=delayed())
    scenario.deliver_all()
    edit(scenario, mark="2")
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.drain()


def a_change_meets_a_write_of_unknown_outcome(scenario: Scenario) -> None:
    """The follow-up takes over what the operation before it was outcome_unknown of."""
    synced(scenario)
    edit(scenario, mark="1")
    scenario.deliver(PINECONE, faults=delayed())
    scenario.deliver(PINECONE, at={"read": lambda: edit(scenario, mark="2")})
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.drain()


def a_late_upsert_meets_a_deletion(scenario: Scenario) -> None:
    """A guarded sink remembers what was deleted."""
    synced(scenario)
    edit(scenario, mark="1")
    scenario.deliver(NEO4J, faults=delayed())
    scenario.delete(sports.LEAGUES, "leagues-00")
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.drain()


def a_late_upsert_meets_a_newer_one(scenario: Scenario) -> None:
    """A guarded sink refuses the older one."""
    synced(scenario)
    edit(scenario, mark="1")
    scenario.deliver(NEO4J, faults=delayed())
    edit(scenario, mark="2")
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.drain()


def a_worker_crashes_before_it_settles(scenario: Scenario) -> None:
    """The next one writes the same version again."""
    synced(scenario)
    edit(scenario, mark="1")
    scenario.deliver(NEO4J, at={"written": crash})
    scenario.drain()


# --- moves --------------------------------------------------------------------------------------


def _move(scenario: Scenario, category: str) -> None:
    scenario.seed(sports.EXAMPLES, example(category=category))


def _in_a_namespace(scenario: Scenario) -> None:
    _move(scenario, "betting")
    scenario.deliver_all()
    _move(scenario, "markets")


def an_example_moves_on_before_its_move_is_settled(scenario: Scenario) -> None:
    """Its vector is in the second namespace, which no settled operation knows of."""
    _in_a_namespace(scenario)
    scenario.deliver(PINECONE, at={"called": lambda: _move(scenario, "questions")})
    scenario.drain()


def a_worker_crashes_between_two_moves(scenario: Scenario) -> None:
    """It has written the second namespace, without settling."""
    _in_a_namespace(scenario)
    scenario.deliver(PINECONE, at={"written": crash})
    _move(scenario, "questions")
    scenario.drain()


def a_late_write_lands_in_a_namespace_that_was_left(scenario: Scenario) -> None:
    """After the example has moved on, and its move is settled."""
    _move(scenario, "betting")
    scenario.deliver(EMBEDDING)
    scenario.deliver(PINECONE, faults=delayed())
    _move(scenario, "markets")
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.drain()


def a_late_edit_lands_in_a_namespace_that_was_left(scenario: Scenario) -> None:
    """It was written there before, and for certain; only its edit is late."""
    _move(scenario, "betting")
    scenario.deliver_all()
    scenario.seed(sports.EXAMPLES, example(category="betting", mark="1"))
    scenario.deliver(PINECONE, faults=delayed())
    _move(scenario, "markets")
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.drain()


def a_late_edit_of_an_example_that_is_deleted_and_comes_back_elsewhere(scenario: Scenario) -> None:
    """It lands where the example was before it was deleted."""
    _move(scenario, "betting")
    scenario.deliver_all()
    scenario.seed(sports.EXAMPLES, example(category="betting", mark="1"))
    scenario.deliver(PINECONE, faults=delayed())
    scenario.delete(sports.EXAMPLES, "examples-00")
    scenario.deliver_all()
    _move(scenario, "markets")
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.drain()


def a_confirming_write_is_due_while_the_example_waits_for_its_embedding(scenario: Scenario) -> None:
    """A late write landed where the example was before it was deleted and came back elsewhere."""
    _move(scenario, "betting")
    scenario.deliver(EMBEDDING)
    scenario.deliver(PINECONE, faults=delayed())
    scenario.delete(sports.EXAMPLES, "examples-00")
    scenario.deliver_all()
    scenario.apply_delayed_writes()
    scenario.seed(sports.EXAMPLES, example(category="markets", text="another"))
    scenario.make_due()
    scenario.deliver(PINECONE)
    scenario.drain()


def an_example_is_deleted_between_two_moves(scenario: Scenario) -> None:
    """It may be in any of the three namespaces."""
    _in_a_namespace(scenario)
    scenario.deliver(PINECONE, at={"written": crash})
    _move(scenario, "questions")
    scenario.delete(sports.EXAMPLES, "examples-00")
    scenario.drain()


# --- statuses and vectors -----------------------------------------------------------------------


def a_row_changes_before_its_status_flips(scenario: Scenario) -> None:
    """The text changes, so rerun_requested is not set on the vector operation itself."""
    synced(scenario)
    edit(scenario, mark="1")
    scenario.deliver(PINECONE, at={"called": lambda: edit(scenario, text="another")})
    scenario.check_invariants()
    scenario.drain()


def some_texts_are_embedded(scenario: Scenario) -> None:
    """In one call."""
    synced(scenario, *(league(number, text=f"text {number}") for number in range(4)))
    scenario.drain()


def a_text_is_edited_while_it_is_embedded(scenario: Scenario) -> None:
    """The answer tells nothing of the new text."""
    scenario.seed(sports.LEAGUES, league())
    scenario.deliver(EMBEDDING, at={"called": lambda: edit(scenario, text="another")})
    scenario.check_invariants()
    scenario.drain()


def a_text_comes_back(scenario: Scenario) -> None:
    """A, then B, then A again: paid twice, not three times."""
    for text in ("A", "B", "A"):
        synced(scenario, league(text=text))
    scenario.drain()


# --- failures -----------------------------------------------------------------------------------


def a_deleted_entity_is_purged_too_soon(scenario: Scenario) -> None:
    """Before its sinks have heard of the deletion."""
    synced(scenario)
    scenario.delete(sports.LEAGUES, "leagues-00")
    scenario.purge()
    scenario.drain()
    scenario.purge()


def a_sink_is_down_for_long(scenario: Scenario) -> None:
    """Longer than there are attempts."""
    synced(scenario)
    edit(scenario, mark="1")
    faults = FaultSequence(*[Fault.DOWN] * 15)
    for _ in range(15):
        scenario.deliver(NEO4J, faults=faults)
    scenario.drain()


def a_record_is_corrected(scenario: Scenario) -> None:
    """It was given up on while another one passed, was edited, and arrived."""
    synced(scenario, league(0), league(1))
    edit(scenario, mark="1")
    for _ in range(scenario.sandbox.policy.max_attempts):
        scenario.deliver(NEO4J, faults=KeyFaults(Fault.REFUSED, [KEY]))
    edit(scenario, mark="2")
    scenario.drain()


def a_record_fails_more_often_than_leases_may_be_lost(scenario: Scenario) -> None:
    """Each has a limit of its own; whichever is lower, the operation comes to an end."""
    synced(scenario)
    edit(scenario, mark="1")
    for _ in range(scenario.sandbox.policy.max_attempts):
        scenario.deliver(NEO4J, faults=KeyFaults(Fault.REFUSED, [KEY]))
        scenario.poll()
    scenario.drain()
    scenario.poll()


def a_record_hangs_the_sink(scenario: Scenario) -> None:
    """Each time that it is sent, while all others pass. It stays so: there is no calm later."""
    faults = KeyFaults(Fault.UNANSWERED, [KEY])
    synced(scenario, league(0), league(1), league(2))
    edit(scenario, mark="1")
    for mark in range(8):
        scenario.seed(sports.LEAGUES, league(1, mark=str(mark)))
        scenario.deliver(NEO4J, faults=faults)
        scenario.deliver(NEO4J, faults=faults)
    scenario.deliver(PINECONE)
