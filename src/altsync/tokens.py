"""Count the tokens of texts, and compare them with the limits of models."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from altsync.wording import plural

#: Bytes that are counted at once: the tokenizer rejects a text of more than 200,000 tokens.
COUNTED_AT_ONCE = 200_000

#: Bytes of a character in UTF-8 at most.
CHARACTER_BYTES = 4

#: The embedded stack's tokenizer, in the package wordllama.
WORDLLAMA_FILE = Path("tokenizers") / "l2_supercat_tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class InputLimit:
    """The most tokens of one text that a model accepts, and their encoding."""

    tokens: int
    encoding: str


#: Limits by model. The provider decides for any other model.
#: https://platform.openai.com/docs/guides/embeddings; the last one is the embedded stack's.
INPUT_LIMITS: Mapping[str, InputLimit] = {
    "text-embedding-3-small": InputLimit(8192, "cl100k_base"),
    "text-embedding-3-large": InputLimit(8192, "cl100k_base"),
    "text-embedding-ada-002": InputLimit(8192, "cl100k_base"),
    "wordllama-l2-256": InputLimit(8192, "wordllama"),
    "wordllama-l2-64": InputLimit(8192, "wordllama"),
}


@dataclass(frozen=True, slots=True)
class TooLong:
    """A text with more tokens than a model accepts."""

    model: str
    tokens: int
    limit: int

    def __str__(self) -> str:
        return (
            f"the text to embed has {plural(self.tokens, 'token')}, and {self.model} takes "
            f"{self.limit:,}: shorten it"
        )


def most_tokens(text: str) -> int:
    """Return an upper bound of a text's tokens without its tokenizer: each has at least a byte."""
    return len(text.encode())


def count_tokens(text: str, model: str) -> int | None:
    """Return the tokens of a text that a model charges, counted offline.

    None for a model of ``INPUT_LIMITS`` without its tokenizer here, and for every other model. A
    text of more than ``COUNTED_AT_ONCE`` bytes is counted in pieces, each of which may add one.
    """
    limit = INPUT_LIMITS.get(model)
    count = _counter(limit.encoding) if limit else None
    return None if count is None else sum(count(piece) for piece in _pieces(text))


def too_long(text: str, model: str) -> TooLong | None:
    """Return by how much a text is over its model's limit; None when the model may take it.

    A text of fewer bytes than the limit has tokens is never over it, so only longer ones are
    counted. An encoding adds at most one token, for the beginning.
    """
    limit = INPUT_LIMITS.get(model)
    size = most_tokens(text)
    if limit is None or size < limit.tokens:
        return None
    tokens = count_tokens(text, model)
    if tokens is None or tokens <= limit.tokens:
        return None
    return TooLong(model, tokens, limit.tokens)


def cut(text: str, model: str) -> str:
    """Return the longest beginning of a text that its model takes, cut where a token ends.

    The same text and model give the same beginning. It consists of whole characters.
    """
    if too_long(text, model) is None:
        return text
    limit = INPUT_LIMITS[model]
    tokenizer = _counter(limit.encoding)
    assert tokenizer is not None
    # A cut text may have a token more than it had as a part of the whole text.
    for spare in range(limit.tokens):
        beginning = _beginning(text, limit.tokens - spare, tokenizer)
        if too_long(beginning, model) is None:
            return beginning
    return ""


def _beginning(text: str, most: int, tokenizer: Tokenizer) -> str:
    kept: list[str] = []
    for piece in _pieces(text):
        tokens = tokenizer.count(piece)
        if tokens > most:
            return "".join([*kept, tokenizer.beginning(piece, most)])
        kept.append(piece)
        most -= tokens
    return "".join(kept)


def _pieces(text: str) -> list[str]:
    """Cut a text into pieces, each of which is counted at once.

    A cut may add a token. A text that is cut is far over the limit, unless it is all spaces.
    """
    step = len(text) if most_tokens(text) <= COUNTED_AT_ONCE else COUNTED_AT_ONCE // CHARACTER_BYTES
    return [text[start : start + step] for start in range(0, len(text), step or 1)]


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Counts the tokens of a text, and returns its first ones without parts of characters."""

    count: Callable[[str], int]
    beginning: Callable[[str, int], str]

    def __call__(self, text: str) -> int:
        """Count the tokens of a text."""
        return self.count(text)


@lru_cache
def _counter(encoding: str) -> Tokenizer | None:
    """Return an encoding's tokenizer, or None where it is not installed: the provider counts.

    Its tables take a second and some 100 MB, and no network.
    """
    if encoding == "wordllama":
        found = wordllama_tokenizer()
        if found is None:
            return None

        def begin(text: str, most: int) -> str:
            offsets = found.encode(text, add_special_tokens=False).offsets
            return text[: offsets[most][0]] if most < len(offsets) else text

        return Tokenizer(lambda text: len(found.encode(text, add_special_tokens=False).ids), begin)
    try:
        import bpe_openai
    except ImportError:
        return None
    bpe = bpe_openai.get_encoding(encoding)
    return Tokenizer(
        lambda text: len(bpe.encode_ordinary(text)),
        lambda text, most: bpe.decode_bytes(bpe.encode_ordinary(text)[:most]).decode(
            "utf-8", "ignore"
        ),
    )


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
