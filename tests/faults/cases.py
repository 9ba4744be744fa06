"""Which story needs which rule, and what is wrong at its end without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from altsync.delivery import Policy
from tests.faults import lock_scenarios as locks
from tests.faults import scenarios
from tests.faults.scenario import STILL, Scenario
from tests.faults.scenarios import KEY
from tests.faults.violations import Problem


@dataclass(frozen=True, slots=True)
class Case:
    """A story, the rule that it needs, and what is wrong at its end without that rule.

    ``dead_keys`` are keys that the story may end without.
    """

    rule: str
    steps: Callable[[Scenario], None]
    problem: Problem
    dead_keys: frozenset[str] = frozenset()
    drained: bool = True


@dataclass(frozen=True, slots=True)
class PlainCase:
    """A story that must end well, whatever rule it is that sees to it.

    ``dead_keys`` are keys that the story may end without.
    """

    steps: Callable[[Scenario], None]
    dead_keys: frozenset[str] = frozenset()
    policy: Policy = field(default=STILL)


CASES = (
    Case("lease_fence", scenarios.a_worker_settles_after_its_lease_was_taken, Problem.LOST),
    Case(
        "lease_check_before_calls",
        scenarios.a_worker_writes_after_its_lease_was_taken,
        Problem.STALE,
    ),
    Case("lost_lease_is_unknown", scenarios.a_worker_crashes_during_a_write, Problem.STALE),
    Case("claim_weights", scenarios.a_record_kills_its_workers, Problem.DEAD, frozenset({KEY})),
    Case(
        "rerun_requested",
        scenarios.a_vector_is_asked_for_while_its_operation_is_leased,
        Problem.STALE,
    ),
    Case("read_after_claim", scenarios.a_row_changes_around_its_claim, Problem.STALE),
    Case(
        "one_live_operation", scenarios.an_entity_changes_while_its_worker_is_gone, Problem.TWO_LIVE
    ),
    Case("confirm", scenarios.a_write_is_late, Problem.STALE),
    Case(
        "merged_confirm_keeps_unknown",
        scenarios.a_change_meets_a_waiting_confirming_write,
        Problem.STALE,
    ),
    Case(
        "confirm_waits_for_embedding",
        scenarios.a_confirming_write_is_due_while_the_example_waits_for_its_embedding,
        Problem.ORPHAN,
    ),
    Case(
        "follow_up_keeps_unknown",
        scenarios.a_change_meets_a_write_of_unknown_outcome,
        Problem.STALE,
    ),
    Case("tombstone_guard", scenarios.a_late_upsert_meets_a_deletion, Problem.ORPHAN),
    Case("version_guard", scenarios.a_late_upsert_meets_a_newer_one, Problem.OLDER_OVER_NEWER),
    Case("same_version_again", scenarios.a_worker_crashes_before_it_settles, Problem.STATUS),
    Case("version_after_lock", locks.a_seeder_draws_its_number_and_waits, Problem.VERSION_DOWN),
    Case("entity_locks", locks.a_worker_settles_what_a_seeder_changes, Problem.DEADLOCK),
    Case("upsert_order", locks.two_seeders_take_the_same_rows, Problem.DEADLOCK),
    Case(
        "status_compare_and_set",
        scenarios.a_row_changes_before_its_status_flips,
        Problem.SYNCED_IS_FALSE,
    ),
    Case(
        "text_hash_compare",
        scenarios.a_text_is_edited_while_it_is_embedded,
        Problem.SYNCED_IS_FALSE,
    ),
    Case("content_addressed_vectors", scenarios.a_text_comes_back, Problem.PAID_TWICE),
    Case("purge_waits", scenarios.a_deleted_entity_is_purged_too_soon, Problem.ORPHAN),
    Case("no_call_in_a_transaction", scenarios.some_texts_are_embedded, Problem.ERROR),
    Case("attempts_given_back", scenarios.a_sink_is_down_for_long, Problem.ATTEMPTS),
    Case("success_closes_dead", scenarios.a_record_is_corrected, Problem.DEAD),
    Case(
        "timeout_count",
        scenarios.a_record_hangs_the_sink,
        Problem.LIVE,
        frozenset({KEY}),
        drained=False,
    ),
)

PLAIN = (
    PlainCase(scenarios.an_example_moves_on_before_its_move_is_settled),
    PlainCase(scenarios.a_worker_crashes_between_two_moves),
    PlainCase(scenarios.a_late_write_lands_in_a_namespace_that_was_left),
    PlainCase(scenarios.a_late_edit_lands_in_a_namespace_that_was_left),
    PlainCase(scenarios.a_late_edit_of_an_example_that_is_deleted_and_comes_back_elsewhere),
    PlainCase(scenarios.an_example_is_deleted_between_two_moves),
    PlainCase(locks.a_worker_moves_what_a_seeder_changes),
    PlainCase(locks.a_worker_extends_its_lease_on_what_a_seeder_changes),
    PlainCase(
        scenarios.a_record_fails_more_often_than_leases_may_be_lost,
        frozenset({KEY}),
        replace(STILL, max_attempts=5, max_lost_leases=3),
    ),
)
