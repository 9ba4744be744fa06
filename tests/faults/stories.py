"""Short stories, each of which goes wrong without one rule of the protocol, and only then.

They play in one process and in a fixed order: what another process would do in between happens
at the named points of a delivery, or in a thread that is known to wait for a lock.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from altsync.contract import EMBEDDING
from tests import sports
from tests.faults.plan import line
from tests.faults.site import NEO4J, PINECONE
from tests.faults.stage import Stage, Vanished, vanish
from tests.faults.weather import Script, Spell, Trouble

#: Seconds that nobody waits for: it lands when the scenario says so.
LONG = 10_000.0

#: Key of the league ``league(0)`` in its sinks.
KEY = "the_leagues_00"


def league(number: int = 0, **changes: str) -> Mapping[str, Any]:
    """A line of a league."""
    return line(sports.LEAGUES, f"leagues-{number:02}", **changes)


def late() -> Script:
    """The next call is not answered in time, and is applied when the scenario says so."""
    return Script(Trouble.LATE, lateness=LONG)


def example(number: int = 0, **changes: str) -> Mapping[str, Any]:
    """A line of an example."""
    return line(sports.EXAMPLES, f"examples-{number:02}", **changes)


def synced(stage: Stage, *lines: Mapping[str, Any]) -> None:
    """Leagues that every sink has."""
    stage.seed(sports.LEAGUES, *(lines or (league(),)))
    stage.deliver_all()


def edit(stage: Stage, **changes: str) -> None:
    """The league ``league(0)`` changes."""
    stage.seed(sports.LEAGUES, league(0, **changes))


def _wait_for_embedding(stage: Stage) -> None:
    """A vector operation is pending, and what it needs is not embedded."""
    synced(stage)
    edit(stage, mark="1")
    edit(stage, mark="1", text="another")


# --- leases -------------------------------------------------------------------------------------


def a_worker_settles_after_its_lease_was_taken(stage: Stage) -> None:
    """What it wrote is lost meanwhile and asked for anew; the next worker has it, and vanishes."""
    synced(stage)
    edit(stage, mark="1")

    def meanwhile() -> None:
        stage.lose_everything(NEO4J)
        stage.backfill(NEO4J)
        stage.expire_leases()
        stage.deliver(NEO4J, at={"read": vanish})

    stage.deliver(NEO4J, at={"written": meanwhile})
    stage.come_to_rest()


def a_worker_writes_after_its_lease_was_taken(stage: Stage) -> None:
    """The newer version is there already, and its echo is over, when the older one goes out."""
    synced(stage)
    edit(stage, mark="1")

    def meanwhile() -> None:
        stage.expire_leases()
        edit(stage, mark="2")
        stage.deliver_all()
        stage.hasten()
        stage.deliver(PINECONE)

    stage.deliver(PINECONE, at={"read": meanwhile})
    stage.come_to_rest()


def a_worker_vanishes_with_a_write_under_way(stage: Stage) -> None:
    """Its write lands after that of the next worker."""
    synced(stage)
    edit(stage, mark="1")
    stage.deliver(PINECONE, at={"written": vanish}, weather=late())
    edit(stage, mark="2")
    stage.expire_leases()
    stage.deliver_all()
    stage.land_late_writes()
    stage.come_to_rest()


class _Killer(Spell):
    """A record that ends the process of whoever sends it."""

    def next(self, keys: Any) -> Trouble:
        if super().next(keys) is not Trouble.NONE:
            raise Vanished
        return Trouble.NONE


def a_record_kills_its_workers(stage: Stage) -> None:
    """It is among innocents, and must be found without giving up on them."""
    stage.seed(sports.LEAGUES, *(league(number) for number in range(40)))
    for _ in range(60):
        stage.deliver(NEO4J, weather=_Killer(Trouble.KILLED, [KEY]))
        stage.expire_leases()
        stage.look()
        if not stage.live(NEO4J):
            break
    stage.come_to_rest()


# --- wake-ups -----------------------------------------------------------------------------------


def a_vector_is_asked_for_while_its_operation_is_leased(stage: Stage) -> None:
    """The worker found no embedding; it comes, at the same version, before the settle."""
    _wait_for_embedding(stage)
    stage.deliver(PINECONE, at={"read": lambda: stage.deliver(EMBEDDING)})
    stage.come_to_rest()


def a_row_changes_around_its_claim(stage: Stage) -> None:
    """What was read before the claim is older than what was claimed."""
    _wait_for_embedding(stage)

    def embed() -> None:
        stage.deliver(EMBEDDING)

    stage.deliver(PINECONE, at={"read early": embed, "claimed": embed})
    stage.come_to_rest()


def an_entity_changes_while_its_worker_is_gone(stage: Stage) -> None:
    """A lease that ended and a new change must not become two operations."""
    synced(stage)
    edit(stage, mark="1")
    stage.deliver(NEO4J, at={"read": vanish})
    edit(stage, mark="2")
    stage.expire_leases()
    stage.deliver(NEO4J, at={"claimed": stage.glance})
    stage.come_to_rest()


# --- late writes --------------------------------------------------------------------------------


def a_write_is_late(stage: Stage) -> None:
    """An unguarded sink applies it after a newer one."""
    synced(stage)
    edit(stage, mark="1")
    stage.deliver(PINECONE, weather=late())
    edit(stage, mark="2")
    stage.deliver_all()
    stage.land_late_writes()
    stage.come_to_rest()


def a_change_meets_a_waiting_echo(stage: Stage) -> None:
    """The change takes the echo's place, and the late write comes after it."""
    synced(stage)
    edit(stage, mark="1")
    stage.deliver(PINECONE, weather=late())
    stage.deliver_all()
    edit(stage, mark="2")
    stage.deliver_all()
    stage.land_late_writes()
    stage.come_to_rest()


def a_change_meets_an_unsure_write(stage: Stage) -> None:
    """The follow-up takes over what the operation before it was outcome_unknown of."""
    synced(stage)
    edit(stage, mark="1")
    stage.deliver(PINECONE, weather=late())
    stage.deliver(PINECONE, at={"read": lambda: edit(stage, mark="2")})
    stage.deliver_all()
    stage.land_late_writes()
    stage.come_to_rest()


def a_late_upsert_meets_a_deletion(stage: Stage) -> None:
    """A guarded sink remembers what was deleted."""
    synced(stage)
    edit(stage, mark="1")
    stage.deliver(NEO4J, weather=late())
    stage.delete(sports.LEAGUES, "leagues-00")
    stage.deliver_all()
    stage.land_late_writes()
    stage.come_to_rest()


def a_late_upsert_meets_a_newer_one(stage: Stage) -> None:
    """A guarded sink refuses the older one."""
    synced(stage)
    edit(stage, mark="1")
    stage.deliver(NEO4J, weather=late())
    edit(stage, mark="2")
    stage.deliver_all()
    stage.land_late_writes()
    stage.come_to_rest()


def a_worker_vanishes_before_it_settles(stage: Stage) -> None:
    """The next one writes the same version again."""
    synced(stage)
    edit(stage, mark="1")
    stage.deliver(NEO4J, at={"written": vanish})
    stage.come_to_rest()


# --- moves --------------------------------------------------------------------------------------


def _move(stage: Stage, category: str) -> None:
    stage.seed(sports.EXAMPLES, example(category=category))


def _in_a_namespace(stage: Stage) -> None:
    _move(stage, "betting")
    stage.deliver_all()
    _move(stage, "markets")


def an_example_moves_on_before_its_move_is_settled(stage: Stage) -> None:
    """Its vector is in the second namespace, which no settled operation knows of."""
    _in_a_namespace(stage)
    stage.deliver(PINECONE, at={"called": lambda: _move(stage, "questions")})
    stage.come_to_rest()


def a_worker_vanishes_between_two_moves(stage: Stage) -> None:
    """It has written the second namespace, and told nobody."""
    _in_a_namespace(stage)
    stage.deliver(PINECONE, at={"written": vanish})
    _move(stage, "questions")
    stage.come_to_rest()


def a_late_write_lands_in_a_namespace_that_was_left(stage: Stage) -> None:
    """After the example has moved on, and its move is settled."""
    _move(stage, "betting")
    stage.deliver(EMBEDDING)
    stage.deliver(PINECONE, weather=late())
    _move(stage, "markets")
    stage.deliver_all()
    stage.land_late_writes()
    stage.come_to_rest()


def a_late_edit_lands_in_a_namespace_that_was_left(stage: Stage) -> None:
    """It was written there before, and for certain; only its edit is late."""
    _move(stage, "betting")
    stage.deliver_all()
    stage.seed(sports.EXAMPLES, example(category="betting", mark="1"))
    stage.deliver(PINECONE, weather=late())
    _move(stage, "markets")
    stage.deliver_all()
    stage.land_late_writes()
    stage.come_to_rest()


def a_late_edit_of_an_example_that_is_deleted_and_comes_back_elsewhere(stage: Stage) -> None:
    """It lands where the example was before it was deleted."""
    _move(stage, "betting")
    stage.deliver_all()
    stage.seed(sports.EXAMPLES, example(category="betting", mark="1"))
    stage.deliver(PINECONE, weather=late())
    stage.delete(sports.EXAMPLES, "examples-00")
    stage.deliver_all()
    _move(stage, "markets")
    stage.deliver_all()
    stage.land_late_writes()
    stage.come_to_rest()


def an_echo_comes_while_the_example_waits_for_its_embedding(stage: Stage) -> None:
    """A late write landed where the example was before it was deleted and came back elsewhere."""
    _move(stage, "betting")
    stage.deliver(EMBEDDING)
    stage.deliver(PINECONE, weather=late())
    stage.delete(sports.EXAMPLES, "examples-00")
    stage.deliver_all()
    stage.land_late_writes()
    stage.seed(sports.EXAMPLES, example(category="markets", text="another"))
    stage.hasten()
    stage.deliver(PINECONE)
    stage.come_to_rest()


def an_example_is_deleted_between_two_moves(stage: Stage) -> None:
    """It may be in any of the three namespaces."""
    _in_a_namespace(stage)
    stage.deliver(PINECONE, at={"written": vanish})
    _move(stage, "questions")
    stage.delete(sports.EXAMPLES, "examples-00")
    stage.come_to_rest()


# --- statuses and vectors -----------------------------------------------------------------------


def a_row_changes_before_its_status_flips(stage: Stage) -> None:
    """The text changes, so the vector operation itself is not asked again."""
    synced(stage)
    edit(stage, mark="1")
    stage.deliver(PINECONE, at={"called": lambda: edit(stage, text="another")})
    stage.glance()
    stage.come_to_rest()


def some_texts_are_embedded(stage: Stage) -> None:
    """In one call."""
    synced(stage, *(league(number, text=f"text {number}") for number in range(4)))
    stage.come_to_rest()


def a_text_is_edited_while_it_is_embedded(stage: Stage) -> None:
    """The answer tells nothing of the new text."""
    stage.seed(sports.LEAGUES, league())
    stage.deliver(EMBEDDING, at={"called": lambda: edit(stage, text="another")})
    stage.glance()
    stage.come_to_rest()


def a_text_comes_back(stage: Stage) -> None:
    """A, then B, then A again: paid twice, not three times."""
    for text in ("A", "B", "A"):
        synced(stage, league(text=text))
    stage.come_to_rest()


# --- failures -----------------------------------------------------------------------------------


def a_deleted_entity_is_purged_too_soon(stage: Stage) -> None:
    """Before its sinks have heard of the deletion."""
    synced(stage)
    stage.delete(sports.LEAGUES, "leagues-00")
    stage.purge()
    stage.come_to_rest()
    stage.purge()


def a_sink_is_down_for_long(stage: Stage) -> None:
    """Longer than there are attempts."""
    synced(stage)
    edit(stage, mark="1")
    weather = Script(*[Trouble.DOWN] * 15)
    for _ in range(15):
        stage.deliver(NEO4J, weather=weather)
    stage.come_to_rest()


def a_record_is_mended(stage: Stage) -> None:
    """It was given up on while another one passed, was edited, and arrived."""
    synced(stage, league(0), league(1))
    edit(stage, mark="1")
    for _ in range(stage.site.policy.max_attempts):
        stage.deliver(NEO4J, weather=Spell(Trouble.REFUSED, [KEY]))
    edit(stage, mark="2")
    stage.come_to_rest()


def a_record_fails_more_often_than_leases_may_be_lost(stage: Stage) -> None:
    """Each has a limit of its own; whichever is lower, the operation comes to an end."""
    synced(stage)
    edit(stage, mark="1")
    for _ in range(stage.site.policy.max_attempts):
        stage.deliver(NEO4J, weather=Spell(Trouble.REFUSED, [KEY]))
        stage.look()
    stage.come_to_rest()
    stage.look()


def a_record_hangs_the_sink(stage: Stage) -> None:
    """Each time that it is sent, while all others pass. It stays so: there is no calm later."""
    weather = Spell(Trouble.UNANSWERED, [KEY])
    synced(stage, league(0), league(1), league(2))
    edit(stage, mark="1")
    for mark in range(8):
        stage.seed(sports.LEAGUES, league(1, mark=str(mark)))
        stage.deliver(NEO4J, weather=weather)
        stage.deliver(NEO4J, weather=weather)
    stage.deliver(PINECONE)
