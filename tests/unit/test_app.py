"""The composition root without any server: what is switched on, and with which numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altsync.app import Application
from altsync.config import read_settings
from altsync.contract import SinkTraits
from altsync.costs.prices import load_prices
from altsync.declarations import SINKS
from altsync.delivery import Policy, full_jitter
from altsync.errors import ConfigurationError
from altsync.policies import delivery_policy
from tests.contract import memory

EMBEDDING = {"OPENAI_API_KEY": "planted-key"}
NEO4J = {"NEO4J_URI": "bolt://127.0.0.1:1"}
PINECONE = {"PINECONE_API_KEY": "planted-key"}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder without a .env."""
    monkeypatch.chdir(tmp_path)


def test_the_sinks_of_the_product() -> None:
    """The traits of each for the outbox: which sink waits for which, and which is guarded."""
    assert Application().topology.sinks == (
        SinkTraits("embedding", guarded=True, in_flight=4),
        SinkTraits("neo4j", guarded=True, edges=True),
        SinkTraits("pinecone", needs_embedding=True, in_flight=8, only_vectors=True),
        SinkTraits(
            "similarity",
            guarded=True,
            follows="embedding",
            delay=0.2,
            similar=True,
            local=True,
        ),
    )


@pytest.mark.parametrize(
    "variables",
    [
        {"ALTSYNC_SIMILARITY": "off"},
        {"ALTSYNC_SIMILARITY": "false"},
        {"ALTSYNC_SINKS": "neo4j"},
        {"ALTSYNC_SINKS": "embedding,neo4j", "ALTSYNC_SIMILARITY": "index"},
    ],
)
def test_similarity_may_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]
) -> None:
    """By its setting, and where nothing gives it vectors."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert "similarity" not in Application().topology.names


@pytest.mark.parametrize(
    ("variables", "enabled"),
    [
        ({}, []),
        (EMBEDDING, ["embedding", "similarity"]),
        (NEO4J, ["neo4j"]),
        (PINECONE, ["pinecone"]),
        (
            {**EMBEDDING, **NEO4J, **PINECONE},
            ["embedding", "neo4j", "pinecone", "similarity"],
        ),
    ],
)
def test_each_sink_is_switched_on_by_its_own_setting(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], enabled: list[str]
) -> None:
    """The others are disabled, and the reason names the variable that is missing."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    app = Application()
    assert app.enabled == enabled
    reasons = {sink: app.disabled_reason(sink) for sink in app.topology.names}
    missing = {
        "embedding": "OPENAI_API_KEY is not set",
        "neo4j": "NEO4J_URI is not set",
        "pinecone": "PINECONE_API_KEY is not set",
        "similarity": "OPENAI_API_KEY is not set",
    }
    assert reasons == {s: None if s in enabled else why for s, why in missing.items()}


def test_a_sink_without_a_setting_is_always_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference sink needs nothing."""
    monkeypatch.setitem(SINKS, "memory", memory.SINK)
    monkeypatch.setenv("ALTSYNC_SINKS", "memory")
    assert Application().enabled == ["memory"]


def test_a_sink_that_no_package_declares_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the group of entry points."""
    monkeypatch.setenv("ALTSYNC_SINKS", "neo4j,kafka")
    with pytest.raises(ConfigurationError, match=r"no sink 'kafka': no installed package"):
        _ = Application().topology


def test_the_settings_reach_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every number of the policy is one that can be set."""
    for name, value in {
        "ALTSYNC_BATCH_SIZE": "7",
        "ALTSYNC_LEASE_SECONDS": "70",
        "ALTSYNC_SINK_TIMEOUT_SECONDS": "13",
        "ALTSYNC_MAX_ATTEMPTS": "17",
        "ALTSYNC_MAX_LOST_LEASES": "19",
        "ALTSYNC_BACKOFF_SECONDS": "2.5",
        "ALTSYNC_BACKOFF_CAP_SECONDS": "250",
        "ALTSYNC_BREAKER_CAP_SECONDS": "25",
        "ALTSYNC_OPENAI_REQUESTS_PER_MINUTE": "3000",
        "ALTSYNC_OPENAI_TOKENS_PER_MINUTE": "1000000",
        "ALTSYNC_MAX_COST_PER_DAY": "2.50",
    }.items():
        monkeypatch.setenv(name, value)
    delivery = Policy(
        batch_size=7,
        lease=70,
        timeout=13,
        max_attempts=17,
        max_lost_leases=19,
        backoff=2.5,
        backoff_cap=250,
        breaker_cap=25,
        confirm_after=83,
        prices=load_prices(),
        max_cost_per_day=Decimal("2.5"),
    )
    assert delivery_policy(read_settings(), "neo4j") == delivery
    assert delivery_policy(read_settings(), "embedding") == replace(
        delivery, requests_per_minute=3000, tokens_per_minute=1_000_000
    )


def test_the_policys_defaults_are_the_settings() -> None:
    """Two places that say a default must say the same."""
    found = delivery_policy(read_settings(), "embedding")
    assert {f.name: getattr(found, f.name) for f in fields(Policy)} == {
        f.name: f.default for f in fields(Policy)
    } | {"prices": load_prices()}


@given(st.floats(0.001, 10), st.floats(0.001, 1000), st.integers(0, 100_000))
def test_retries_wait_within_an_exponential_bound(base: float, cap: float, attempts: int) -> None:
    """Never longer than the cap, never less than nothing, however often it was tried."""
    delay = full_jitter(base, cap, attempts)
    assert 0 <= delay <= cap
    assert attempts > 30 or delay <= base * 2**attempts
