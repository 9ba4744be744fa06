"""Which story needs which rule, and what is wrong at its end without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from altsync.delivery import Policy
from tests.faults import lock_stories as locks
from tests.faults import stories
from tests.faults.stage import STILL, Stage
from tests.faults.stories import KEY
from tests.faults.verdicts import Wrong


@dataclass(frozen=True, slots=True)
class Case:
    """A story, the rule that it needs, and what is wrong at its end without that rule.

    ``given_up`` are keys that the story may end without.
    """

    rule: str
    story: Callable[[Stage], None]
    wrong: Wrong
    given_up: frozenset[str] = frozenset()
    drained: bool = True


@dataclass(frozen=True, slots=True)
class Plain:
    """A story that must end well, whatever rule it is that sees to it.

    ``given_up`` are keys that the story may end without.
    """

    story: Callable[[Stage], None]
    given_up: frozenset[str] = frozenset()
    policy: Policy = field(default=STILL)


CASES = (
    Case("lease_fence", stories.a_worker_settles_after_its_lease_was_taken, Wrong.LOST),
    Case(
        "lease_check_before_calls", stories.a_worker_writes_after_its_lease_was_taken, Wrong.STALE
    ),
    Case("lost_lease_is_unsure", stories.a_worker_vanishes_with_a_write_under_way, Wrong.STALE),
    Case("claim_weights", stories.a_record_kills_its_workers, Wrong.DEAD, frozenset({KEY})),
    Case(
        "rerun_requested", stories.a_vector_is_asked_for_while_its_operation_is_leased, Wrong.STALE
    ),
    Case("read_after_claim", stories.a_row_changes_around_its_claim, Wrong.STALE),
    Case("one_live_operation", stories.an_entity_changes_while_its_worker_is_gone, Wrong.TWO_LIVE),
    Case("confirm", stories.a_write_is_late, Wrong.STALE),
    Case("echo_merge_keeps_unsure", stories.a_change_meets_a_waiting_echo, Wrong.STALE),
    Case(
        "echo_waits_for_embedding",
        stories.an_echo_comes_while_the_example_waits_for_its_embedding,
        Wrong.GHOST,
    ),
    Case("follow_up_keeps_unsure", stories.a_change_meets_an_unsure_write, Wrong.STALE),
    Case("tombstone_guard", stories.a_late_upsert_meets_a_deletion, Wrong.GHOST),
    Case("version_guard", stories.a_late_upsert_meets_a_newer_one, Wrong.OLDER_OVER_NEWER),
    Case("same_version_again", stories.a_worker_vanishes_before_it_settles, Wrong.STATUS),
    Case("version_after_lock", locks.a_seeder_draws_its_number_and_waits, Wrong.VERSION_DOWN),
    Case("entity_locks", locks.a_worker_settles_what_a_seeder_changes, Wrong.DEADLOCK),
    Case("upsert_order", locks.two_seeders_take_the_same_rows, Wrong.DEADLOCK),
    Case(
        "status_compare_and_set",
        stories.a_row_changes_before_its_status_flips,
        Wrong.SYNCED_IS_FALSE,
    ),
    Case(
        "text_hash_compare",
        stories.a_text_is_edited_while_it_is_embedded,
        Wrong.SYNCED_IS_FALSE,
    ),
    Case("content_addressed_vectors", stories.a_text_comes_back, Wrong.PAID_TWICE),
    Case("purge_waits", stories.a_deleted_entity_is_purged_too_soon, Wrong.GHOST),
    Case("no_call_in_a_transaction", stories.some_texts_are_embedded, Wrong.ERROR),
    Case("attempts_given_back", stories.a_sink_is_down_for_long, Wrong.ATTEMPTS),
    Case("success_closes_dead", stories.a_record_is_mended, Wrong.DEAD),
    Case(
        "timeout_count",
        stories.a_record_hangs_the_sink,
        Wrong.LIVE,
        frozenset({KEY}),
        drained=False,
    ),
)

PLAIN = (
    Plain(stories.an_example_moves_on_before_its_move_is_settled),
    Plain(stories.a_worker_vanishes_between_two_moves),
    Plain(stories.a_late_write_lands_in_a_namespace_that_was_left),
    Plain(stories.a_late_edit_lands_in_a_namespace_that_was_left),
    Plain(stories.a_late_edit_of_an_example_that_is_deleted_and_comes_back_elsewhere),
    Plain(stories.an_example_is_deleted_between_two_moves),
    Plain(locks.a_worker_moves_what_a_seeder_changes),
    Plain(locks.a_worker_extends_its_lease_on_what_a_seeder_changes),
    Plain(
        stories.a_record_fails_more_often_than_leases_may_be_lost,
        frozenset({KEY}),
        replace(STILL, max_attempts=5, max_lost_leases=3),
    ),
)
