"""Ages of changes by bucket, their percentiles, and how fast an error budget is used."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altsync.config import read_settings
from altsync.errors import ConfigurationError
from altsync.freshness import (
    BOUNDS,
    Freshness,
    bucket_of,
    burn_rate,
    counted,
    freshness_of,
    percentile,
    read_objectives,
    share_within,
    within,
)

ages = st.lists(st.floats(0, BOUNDS[-1]), min_size=1, max_size=50)


def test_usual_objectives_are_bounds() -> None:
    assert {1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0} <= set(BOUNDS)
    assert list(BOUNDS) == sorted(set(BOUNDS))


@given(st.floats(0, BOUNDS[-1]))
def test_an_age_is_not_above_the_bound_of_its_bucket(age: float) -> None:
    bucket = bucket_of(age)
    assert age <= BOUNDS[bucket]
    assert bucket == 0 or age > BOUNDS[bucket - 1]


def test_an_age_above_every_bound_is_in_the_last_bucket() -> None:
    assert bucket_of(1e9) == len(BOUNDS)
    assert percentile(counted([1e9]), 50) == BOUNDS[-1]
    assert within(counted([1e9]), 1e12) == 0


@given(ages, st.sampled_from([50, 95, 99, 100]))
def test_a_percentile_is_in_the_bucket_of_the_exact_one(found: list[float], percent: int) -> None:
    exact = sorted(found)[max(0, -(-len(found) * percent // 100) - 1)]
    shown = percentile(counted(found), percent)
    assert shown is not None
    bucket = bucket_of(exact)
    assert (BOUNDS[bucket - 1] if bucket else 0) <= shown <= BOUNDS[bucket]


@given(ages, st.sampled_from(BOUNDS))
def test_a_share_is_exact_at_a_bound(found: list[float], objective: float) -> None:
    assert within(counted(found), objective) == sum(age <= objective for age in found)


def test_a_share_within_a_bucket_is_interpolated() -> None:
    assert within({bucket_of(8.0): 10}, 7.0) == pytest.approx(5)


def test_nothing_changed_is_no_share_and_burns_nothing() -> None:
    assert percentile({}, 50) is None
    assert share_within({}, 5.0) is None
    assert burn_rate(None, 0.99) == 0.0


def test_a_change_that_still_waits_counts_as_late() -> None:
    assert share_within(counted([1.0, 1.0, 1.0]), 5.0, overdue=1) == 0.75
    assert share_within({}, 5.0, overdue=3) == 0.0


def test_a_burn_rate_of_one_uses_the_budget_exactly() -> None:
    assert burn_rate(0.99, 0.99) == pytest.approx(1)
    assert burn_rate(0.0, 0.99) == pytest.approx(100)
    assert burn_rate(1.0, 0.99) == 0


@pytest.mark.parametrize(
    ("burn", "alerting"),
    [
        ({"5m": 15, "1h": 15, "30m": 0, "6h": 0}, True),
        ({"5m": 0, "1h": 15, "30m": 0, "6h": 15}, False),
        ({"5m": 0, "1h": 0, "30m": 7, "6h": 7}, True),
        ({"5m": 14.4, "1h": 14.4, "30m": 6, "6h": 6}, False),
    ],
)
def test_both_windows_must_burn(burn: dict[str, float], alerting: bool) -> None:
    assert Freshness(burn=burn).alerting is alerting


def test_a_sink_without_an_objective_has_percentiles_alone() -> None:
    found = freshness_of({"1h": counted([2.0])}, None, 0.99)
    assert found.changes == 1
    assert found.p50 is not None
    assert (found.share, found.burn, found.alerting) == (None, None, False)


def test_shares_are_of_their_windows() -> None:
    late, early = counted([60.0] * 10), counted([1.0] * 30)
    everything = {**late, **early}
    found = freshness_of({"5m": late, "30m": late, "1h": everything, "6h": everything}, 5.0, 0.99)
    assert found.share == 0.75
    assert found.burn is not None
    assert (round(found.burn["5m"]), round(found.burn["6h"])) == (100, 25)
    assert found.alerting


def test_objectives_are_read() -> None:
    assert read_objectives("neo4j=5s, pinecone = 1.5m,embedding=250ms,") == {
        "neo4j": 5.0,
        "pinecone": 90.0,
        "embedding": 0.25,
    }
    assert read_objectives("") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("neo4j", "give sink=time,sink=time"),
        ("neo4j=5", "as 250ms, 5s, 2m or 1h"),
        ("neo4j=5d", "as 250ms, 5s, 2m or 1h"),
        ("neo4j=0s", "above 0"),
        ("neo4j=999999h", "at most 222 hours"),
        ("neo4j=5s,neo4j=6s", "two objectives"),
        ("neo5j=5s", "neo5j"),
    ],
)
def test_a_wrong_objective_names_the_setting(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(said)) as caught:
        read_settings(dotenv=None, altsync_freshness_slo=text)
    assert "ALTSYNC_FRESHNESS_SLO" in str(caught.value)


@pytest.mark.parametrize("target", ["0", "1", "99"])
def test_a_target_is_a_share(target: str) -> None:
    with pytest.raises(ConfigurationError, match="ALTSYNC_FRESHNESS_TARGET: it must be"):
        read_settings(dotenv=None, altsync_freshness_target=target)
