"""Tokens are counted exactly, without the network, and only where that can matter."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altsync import tokens
from altsync.local.vectors.embeddings import MAX_INPUT_TOKENS
from altsync.local.vectors.model import EmbeddingModel
from altsync.local.vectors.names import EMBEDDING_MODEL
from altsync.tokens import INPUT_LIMITS, TooLong, cut, most_tokens, too_long

SMALL = "text-embedding-3-small"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("hello" + " hello" * 8192, 8193),
        ("🏆" * 3000, 9000),
        ("日" * 9000, 9000),
        ("<|endoftext|>" * 2000, 12_001),
        ("a" * 1_040_000, 130_000),
    ],
    ids=["words", "emoji", "Japanese", "special tokens", "a megabyte"],
)
def test_a_text_over_the_limit_is_counted_exactly(text: str, count: int) -> None:
    over = too_long(text, SMALL)
    assert over == TooLong(SMALL, count, 8192)
    assert str(over) == (
        f"the text to embed has {count:,} tokens, and {SMALL} takes 8,192: shorten it"
    )


@pytest.mark.parametrize("model", INPUT_LIMITS)
@pytest.mark.parametrize("text", ["", "x" * 8192, "the" + " the" * 8191])
def test_a_text_within_the_limit_may_be_sent(model: str, text: str) -> None:
    assert too_long(text, model) is None


def test_a_model_of_another_provider_has_no_limit() -> None:
    assert too_long("word " * 100_000, "nomic-embed-text") is None


@given(st.text(min_size=1, max_size=50))
def test_a_token_is_never_shorter_than_a_byte(text: str) -> None:
    """But for the first one, so that only texts of some length need to be counted."""
    for encoding in {limit.encoding for limit in INPUT_LIMITS.values()}:
        count = tokens._counter(encoding)
        assert count is not None
        assert count(text) <= most_tokens(text) + 1


def test_without_the_tokenizer_the_provider_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no wheel for every machine."""
    monkeypatch.setitem(sys.modules, "bpe_openai", None)
    tokens._counter.cache_clear()
    try:
        assert too_long("word " * 9000, SMALL) is None
    finally:
        tokens._counter.cache_clear()


def test_the_embedded_stacks_model_counts_alike_in_server_and_client() -> None:
    text = "Formula 1 🏆 <s> " * 3000
    over = too_long(text, EMBEDDING_MODEL)
    assert over is not None
    assert over.limit == MAX_INPUT_TOKENS
    assert [over.tokens] == [len(one) for one in EmbeddingModel().tokens([text])]


@pytest.mark.parametrize("model", INPUT_LIMITS)
@pytest.mark.parametrize(
    "text",
    ["word " * 9000, "🏆" * 9000, "日本" * 9000, "a" * 1_000_000, " " * 800_000 + "x " * 9000],
    ids=["words", "emoji", "Japanese", "a megabyte", "spaces"],
)
def test_a_text_is_cut_where_a_token_ends(model: str, text: str) -> None:
    """The longest beginning of whole characters that the model takes, each time the same."""
    short = cut(text, model)
    assert text.startswith(short)
    assert too_long(short, model) is None
    assert cut(text, model) == cut(short, model) == short
    if too_long(text, model) is None:
        assert short == text
    else:
        # A character has four tokens at most.
        assert too_long(text[: len(short) + 5000], model) is not None
        limit = INPUT_LIMITS[model]
        count = tokens._counter(limit.encoding)
        assert count is not None
        assert limit.tokens - 4 <= count(short) <= limit.tokens or len(short) > 50_000


@given(st.text(min_size=1, max_size=60), st.integers(1, 30))
def test_a_beginning_has_the_first_tokens_and_no_part_of_a_character(text: str, most: int) -> None:
    for encoding in {limit.encoding for limit in INPUT_LIMITS.values()}:
        tokenizer = tokens._counter(encoding)
        assert tokenizer is not None
        assert text.startswith(tokenizer.beginning(text, most))
        assert tokenizer.beginning(text, len(text) * 5) == text
