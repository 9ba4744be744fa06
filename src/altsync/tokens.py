"""Tokens of texts: how many there are, and how many of one text a model takes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from altsync.wording import plural

#: Bytes that are counted at once: the tokenizer refuses a text of more than 200,000 tokens.
COUNTED_AT_ONCE = 200_000

#: Bytes of a character in UTF-8 at most.
CHARACTER_BYTES = 4

#: The embedded stack's tokenizer, in the package wordllama.
WORDLLAMA_FILE = Path("tokenizers") / "l2_supercat_tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class InputLimit:
    """Tokens of one text that a model takes at most, and the encoding that counts them."""

    tokens: int
    encoding: str


#: Limits by model. One that is not named has none: its provider decides.
#: https://platform.openai.com/docs/guides/embeddings; the last one is the embedded stack's.
INPUT_LIMITS: Mapping[str, InputLimit] = {
    "text-embedding-3-small": InputLimit(8192, "cl100k_base"),
    "text-embedding-3-large": InputLimit(8192, "cl100k_base"),
    "text-embedding-ada-002": InputLimit(8192, "cl100k_base"),
    "wordllama-l2-256": InputLimit(8192, "wordllama"),
}


@dataclass(frozen=True, slots=True)
class TooLong:
    """A text that a model does not take, as it has more tokens than the limit."""

    model: str
    tokens: int
    limit: int

    def __str__(self) -> str:
        return (
            f"the text to embed has {plural(self.tokens, 'token')}, and {self.model} takes "
            f"{self.limit:,}: shorten it"
        )


def most_tokens(text: str) -> int:
    """An upper bound of a text's tokens: a byte-level tokenizer makes none shorter than a byte.

    Counting exactly takes time for every text; the bound costs a few more requests.
    """
    return len(text.encode())


def too_long(text: str, model: str) -> TooLong | None:
    """Return by how much a text is over its model's limit; None when the model may take it.

    A text of fewer bytes than the limit has tokens is never over it, so only longer ones are
    counted. An encoding adds at most one token, for the beginning.
    """
    limit = INPUT_LIMITS.get(model)
    size = most_tokens(text)
    if limit is None or size < limit.tokens:
        return None
    count = _counter(limit.encoding)
    if count is None:
        return None
    # A cut may add a token. A text that is cut is far over the limit, unless it is all spaces.
    step = len(text) if size <= COUNTED_AT_ONCE else COUNTED_AT_ONCE // CHARACTER_BYTES
    tokens = sum(count(text[start : start + step]) for start in range(0, len(text), step))
    return TooLong(model, tokens, limit.tokens) if tokens > limit.tokens else None


@lru_cache
def _counter(encoding: str) -> Callable[[str], int] | None:
    """Return what counts by an encoding, or None where it is not installed: the provider counts.

    Its tables take a second and some 100 MB, and no network.
    """
    if encoding == "wordllama":
        tokenizer = wordllama_tokenizer()
        return tokenizer and (
            lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
        )
    try:
        import bpe_openai
    except ImportError:
        return None
    encode = bpe_openai.get_encoding(encoding).encode_ordinary
    return lambda text: len(encode(text))


def wordllama_tokenizer() -> Any:
    """Return the tokenizer of the embedded stack's model, or None where it is not installed."""
    spec = importlib.util.find_spec("wordllama")
    if spec is None or spec.origin is None or importlib.util.find_spec("tokenizers") is None:
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(spec.origin).parent / WORDLLAMA_FILE))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
