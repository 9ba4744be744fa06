"""Metadata filters, against answers written by hand."""

from __future__ import annotations

import pytest

from altsync.local.vectors.filters import compile_filter
from altsync.local.vectors.wire import Refused

LEAGUES = {
    "premier": {"sport": "soccer", "tier": 1.0, "active": True, "tags": ["england", "cup"]},
    "serie-b": {"sport": "soccer", "tier": 2.0, "active": False, "tags": ["italy"]},
    "nba": {"sport": "basketball", "tier": 1.0, "tags": []},
    "bare": {},
}


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, {"premier", "serie-b", "nba", "bare"}),
        ({"sport": "soccer"}, {"premier", "serie-b"}),
        ({"sport": {"$eq": "basketball"}}, {"nba"}),
        ({"sport": {"$ne": "soccer"}}, {"nba", "bare"}),
        ({"tier": 1}, {"premier", "nba"}),
        ({"tier": {"$gt": 1}}, {"serie-b"}),
        ({"tier": {"$gte": 1, "$lt": 2}}, {"premier", "nba"}),
        ({"tier": {"$lte": 2}}, {"premier", "serie-b", "nba"}),
        ({"tier": True}, set()),
        ({"active": True}, {"premier"}),
        ({"active": 1}, set()),
        ({"sport": {"$gt": 0}}, set()),
        ({"sport": {"$in": ["basketball", "tennis"]}}, {"nba"}),
        ({"sport": {"$nin": ["soccer", "tennis"]}}, {"nba", "bare"}),
        ({"tags": "england"}, {"premier"}),
        ({"tags": {"$in": ["cup", "italy"]}}, {"premier", "serie-b"}),
        ({"tags": {"$nin": ["cup", "italy"]}}, {"nba", "bare"}),
        ({"tags": {"$ne": "italy"}}, {"premier", "nba", "bare"}),
        ({"$and": [{"tags": "england"}, {"tags": "cup"}]}, {"premier"}),
        ({"$and": [{"tags": "england"}, {"tags": "italy"}]}, set()),
        ({"$or": [{"tags": "italy"}, {"sport": "basketball"}]}, {"serie-b", "nba"}),
        ({"sport": "soccer", "tier": 2}, {"serie-b"}),
        ({"active": {"$exists": True}}, {"premier", "serie-b"}),
        ({"active": {"$exists": False}}, {"nba", "bare"}),
        (
            {"$and": [{"$or": [{"tier": 1}, {"tier": 2}]}, {"sport": {"$ne": "soccer"}}]},
            {"nba"},
        ),
    ],
)
def test_filter_selects(condition: object, expected: set[str]) -> None:
    """Each operator selects what Pinecone's documentation says."""
    matches = compile_filter(condition)
    assert {name for name, metadata in LEAGUES.items() if matches(metadata)} == expected


@pytest.mark.parametrize(
    "condition",
    [
        "sport",
        {"$not": {"sport": "soccer"}},
        {"sport": {"$regex": "s.*"}},
        {"sport": {}},
        {"sport": ["soccer", "tennis"]},
        {"sport": None},
        {"tier": {"$gt": "1"}},
        {"tier": {"$gt": True}},
        {"sport": {"$in": "soccer"}},
        {"sport": {"$in": [["soccer"]]}},
        {"sport": {"$exists": "yes"}},
        {"$and": []},
        {"$or": {"sport": "soccer"}},
        {"$and": ["soccer"]},
        {"sport": {"$in": ["x"] * 10_001}},
    ],
)
def test_malformed_filter_is_refused(condition: object) -> None:
    """A filter that the service would refuse is refused, not guessed at."""
    with pytest.raises(Refused) as caught:
        compile_filter(condition)
    assert caught.value.status == 400
