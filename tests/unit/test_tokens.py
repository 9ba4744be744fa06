"""Tokens are counted exactly, without the network, and only where that can matter."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from altsync import tokens
from altsync.local.vectors.embeddings import MAX_INPUT_TOKENS
from altsync.local.vectors.model import EmbeddingModel
from altsync.local.vectors.names import EMBEDDING_MODEL
from altsync.tokens import INPUT_LIMITS, TooLong, count_tokens, cut, most_tokens, too_long

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


#: First and last characters of twenty scripts.
SCRIPTS = """
20 7e, a1 24f, 370 3ff, 400 4ff, 531 587, 5d0 5ea, 600 6ff, 900 97f, 980 9fe, b82 bfa,
e01 e5b, 10a0 10ff, 1200 137c, 1780 17f9, 2010 206f, 3041 30ff, 4e00 9fff, ac00 d7a3,
1f300 1faff, 20000 2a6df
"""

TEXT = (
    "the league plays in 2026 don't I'LL we've \n\n\t  \r\n   <|endoftext|> café naïve 12345678 "
    "... — “x” e\u0301 \u200d👨‍👩‍👧"
)
WORDS = TEXT.split(" ")

#: SHA-256 of the counts of the texts by tiktoken 0.14.0 with OpenAI's table ``cl100k_base``
#: (SHA-1 of its address 9b5ad71b2ce5302211f9c61530b329a4922fc6a4), and their sum.
COUNTED_BY_TIKTOKEN = "155b3be22edb3a3f55a8146b1e9dd75b795fb62a2dc39d7523da3d0559b04cd0"
TOKENS_BY_TIKTOKEN = 563_420


def texts_of_scripts(count: int) -> Iterator[str]:
    """Yield the same texts each time: characters of a script, words and spaces."""
    draw = random.Random(19).random
    ranges = [[int(end, 16) for end in one.split()] for one in SCRIPTS.split(",")]
    for number in range(count):
        low, high = ranges[number % len(ranges)]
        parts = []
        for _ in range(1 + int(draw() * 12)):
            if draw() < 0.3:
                parts.append(WORDS[int(draw() * len(WORDS))])
            else:
                length = range(1 + int(draw() * 9))
                parts.append("".join(chr(low + int(draw() * (high - low + 1))) for _ in length))
            parts.append("" if draw() < 0.2 else " " * (1 + int(draw() * 3)))
        yield "".join(parts)


def test_ten_thousand_texts_have_the_tokens_that_tiktoken_counts() -> None:
    counts = [count_tokens(text, SMALL) for text in texts_of_scripts(10_000)]
    assert sum(count or 0 for count in counts) == TOKENS_BY_TIKTOKEN
    assert hashlib.sha256(repr(counts).encode()).hexdigest() == COUNTED_BY_TIKTOKEN


def test_no_tokens_are_counted_of_a_model_that_is_not_known() -> None:
    assert count_tokens("word", "nomic-embed-text") is None


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
