"""How much is asked of a sink at once: it grows step by step, and is halved at once."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from altsync.delivery.concurrency import FIRST_IN_FLIGHT, LEAST_BATCH, AdaptiveConcurrency

QUICK, SLOW = 0.1, 6.0


def new() -> AdaptiveConcurrency:
    """A pace of at most 8 calls and batches of 500, where a call may take 10 seconds."""
    return AdaptiveConcurrency(in_flight=8, batch=500, timeout=10.0)


def test_quick_answers_widen_it_one_by_one() -> None:
    """From a careful start up to what the sink allows."""
    concurrency = new()
    seen = [concurrency.in_flight]
    for _ in range(8):
        concurrency.answered(QUICK)
        seen.append(concurrency.in_flight)
    assert seen == [FIRST_IN_FLIGHT, 3, 4, 5, 6, 7, 8, 8, 8]
    assert concurrency.batch == 500


def test_a_refusal_halves_the_calls_and_leaves_the_batch() -> None:
    """Too many requests are not helped by smaller ones."""
    concurrency = new()
    for _ in range(6):
        concurrency.answered(QUICK)
    seen = []
    for _ in range(5):
        concurrency.refused(QUICK)
        seen.append((concurrency.in_flight, concurrency.batch))
    assert seen == [(4, 500), (2, 500), (1, 500), (1, 500), (1, 500)]


def test_a_slow_sink_gets_smaller_batches_until_it_is_quick() -> None:
    """Answered or not: calls that take half their time are too large."""
    concurrency = new()
    for _ in range(4):
        concurrency.answered(SLOW)
    assert (concurrency.in_flight, concurrency.batch) == (1, 62)
    for _ in range(20):
        concurrency.refused(SLOW)
    assert concurrency.batch == LEAST_BATCH
    for _ in range(20):
        concurrency.answered(QUICK)
    assert (concurrency.in_flight, concurrency.batch) == (8, 500)


def test_one_slow_answer_changes_no_batch() -> None:
    """It may be a server's first; one that is not even answered in time is enough."""
    concurrency = new()
    for seconds in (SLOW, QUICK, SLOW):
        concurrency.answered(seconds)
        assert concurrency.batch == 500
    concurrency.refused(SLOW)
    assert concurrency.batch == 250


def test_a_small_batch_stays_small() -> None:
    """The limit of the settings is never exceeded, not even by the smallest batch."""
    concurrency = AdaptiveConcurrency(in_flight=1, batch=3, timeout=10.0)
    for seconds in (SLOW, QUICK, QUICK):
        concurrency.answered(seconds)
        assert (concurrency.in_flight, concurrency.batch) == (1, 3)


def test_a_size_refused_twice_is_halved_for_the_next_request() -> None:
    concurrency = new()
    assert concurrency.size == math.inf
    seen = []
    for size in (800, 800, 400, 400):
        concurrency.throttled(size)
        seen.append(concurrency.size)
    assert seen == [math.inf, 400, 400, 200]


def test_a_size_that_has_passed_is_halved_after_four_refusals() -> None:
    concurrency = new()
    concurrency.passed(800)
    seen = []
    for _ in range(4):
        concurrency.throttled(800)
        seen.append(concurrency.size)
    assert seen == [math.inf, math.inf, math.inf, 400]


def test_the_size_of_requests_grows_until_it_is_free_again() -> None:
    """Fast up to what was too large, by steps beyond it."""
    concurrency = new()
    for size in (800, 800, 400, 400):
        concurrency.throttled(size)
    sizes: list[float] = []
    while concurrency.size < math.inf and len(sizes) < 100:
        concurrency.passed(concurrency.size)
        sizes.append(concurrency.size)
    assert sizes[:5] == [300, 350, 375, 395, 415]
    assert len(sizes) == 25


def test_a_refused_probe_says_nothing_of_the_size() -> None:
    """An outage that throttles everything leaves no single records behind."""
    concurrency = new()
    concurrency.throttled(800)
    concurrency.throttled(800)
    for _ in range(10):
        concurrency.throttled(1)
    assert concurrency.size == 400


def test_refusals_at_random_leave_the_size_of_requests_alone() -> None:
    """Half of all calls are refused, of any size: most requests stay near their full size."""
    chance = random.Random(15)
    concurrency = new()
    sizes = []
    for _ in range(400):
        size = min(800.0, concurrency.size)
        sizes.append(size)
        if chance.random() < 0.5:
            concurrency.throttled(size)
        else:
            concurrency.passed(size)
    assert statistics.mean(sizes) > 500


@pytest.mark.parametrize("limit", [700.0, 90.0])
def test_a_limit_of_size_that_was_lowered_is_found_again(limit: float) -> None:
    """Earlier successes do not count; a third of the requests finds the failing record."""
    concurrency = new()
    for _ in range(5):
        concurrency.passed(800)
    refused = []
    for _ in range(400):
        size = min(800.0, concurrency.size)
        refused.append(size > limit)
        if size > limit:
            concurrency.throttled(size)
        else:
            concurrency.passed(size)
    assert sum(refused[-100:]) <= 34
