"""Which fault rule fires for which call."""

from __future__ import annotations

import pytest

from altsync.local.vectors.faults import Call, FaultRule, Faults, Plan, rule_from_json

UPSERT = Call("pinecone.upsert", "leagues", "soccer", ["a", "b"])


def _faults(*rules: FaultRule, seed: int = 0) -> Faults:
    faults = Faults()
    faults.replace(rules, seed)
    return faults


@pytest.mark.parametrize(
    ("rule", "fires"),
    [
        (FaultRule("pinecone.upsert", "cut"), True),
        (FaultRule("pinecone.*", "cut"), True),
        (FaultRule("*", "cut"), True),
        (FaultRule("pinecone.query", "cut"), False),
        (FaultRule("openai.*", "cut"), False),
        (FaultRule("*", "cut", index="leagues", namespace="soccer"), True),
        (FaultRule("*", "cut", index="other"), False),
        (FaultRule("*", "cut", namespace="other"), False),
        (FaultRule("*", "cut", id="b"), True),
        (FaultRule("*", "cut", id="c"), False),
        (FaultRule("*", "cut", text="a"), False),
        (FaultRule("*", "cut", probability=0.0), False),
        (FaultRule("*", "cut", count=0), False),
    ],
)
def test_a_rule_fires_only_where_it_fits(rule: FaultRule, fires: bool) -> None:
    """Scope, index, namespace, id, text, probability and count each narrow a rule down."""
    assert _faults(rule).plan(UPSERT) == (Plan(fault=rule, kinds=(rule.kind,)) if fires else Plan())


def test_text_matches_part_of_an_input() -> None:
    """A rule about a text finds the batch that holds it."""
    rule = FaultRule("openai.embeddings", "nan", text="poison")
    call = Call("openai.embeddings", texts=["fine", "a poisonous text"])
    assert _faults(rule).plan(call).fault == rule


def test_a_count_is_spent_and_reported() -> None:
    """A rule with a count fires that often and no more."""
    faults = _faults(FaultRule("*", "cut", count=2))
    assert [faults.plan(UPSERT).fault is not None for _ in range(4)] == [True, True, False, False]
    assert faults.to_json()[0]["fired"] == 2


def test_the_first_fault_wins_and_the_next_is_not_spent() -> None:
    """Of two faults that fit, only the first fires."""
    faults = _faults(FaultRule("*", "cut", count=1), FaultRule("*", "hang", count=1))
    assert [getattr(faults.plan(UPSERT).fault, "kind", None) for _ in range(3)] == [
        "cut",
        "hang",
        None,
    ]


def test_latency_and_lag_go_together_with_a_fault() -> None:
    """Waiting and late visibility are added to whatever else happens."""
    cut = FaultRule("*", "cut")
    faults = _faults(
        FaultRule("*", "latency", seconds=0.5),
        cut,
        FaultRule("*", "latency", seconds=0.25),
        FaultRule("*", "lag", seconds=3.0),
    )
    assert faults.plan(UPSERT) == Plan(
        latency=0.75, lag=3.0, fault=cut, kinds=("latency", "cut", "latency", "lag")
    )


def test_probability_repeats_with_the_seed() -> None:
    """The same seed gives the same run of faults, about as many as asked for."""
    rule = FaultRule("*", "cut", probability=0.3)
    runs = [
        [faults.plan(UPSERT).fault is not None for _ in range(1000)]
        for faults in (_faults(rule, seed=7), _faults(rule, seed=7), _faults(rule, seed=8))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert 250 < sum(runs[0]) < 350


def test_rules_survive_json() -> None:
    """The server understands the rules that a test sends."""
    rule = FaultRule("pinecone.upsert", "status", status=429, retry_after=2.0, count=3)
    assert rule.to_json() == {
        "scope": "pinecone.upsert",
        "kind": "status",
        "status": 429,
        "retry_after": 2.0,
        "count": 3,
    }
    assert rule_from_json(rule.to_json()) == rule


@pytest.mark.parametrize(
    "raw",
    [
        "cut",
        {"scope": "*"},
        {"scope": 5, "kind": "cut"},
        {"scope": "*", "kind": "explode"},
        {"scope": "*", "kind": "cut", "often": True},
        {"scope": "*", "kind": "status"},
        {"scope": "*", "kind": "status", "status": 200},
        {"scope": "*", "kind": "cut", "probability": 2},
        {"scope": "*", "kind": "hang", "seconds": -1},
    ],
)
def test_a_senseless_rule_is_refused(raw: object) -> None:
    """A mistyped rule must not silently never fire."""
    with pytest.raises(ValueError, match=r".+"):
        rule_from_json(raw)
