"""The embedder's protocol, and the split of texts into its requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from altsync.entities import Model
from altsync.tokens import INPUT_LIMITS, count_tokens, most_tokens

#: Inputs per request. https://platform.openai.com/docs/api-reference/embeddings/create
MAX_INPUTS = 2048

#: Tokens per request, summed over its inputs; same source.
MAX_REQUEST_TOKENS = 300_000


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order of their texts (float32 little-endian), and the tokens charged."""

    vectors: tuple[bytes, ...]
    tokens: int


class Embedder(Protocol):
    """Embeds texts."""

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """Embed texts in one request. Raises ``SinkFailure``."""
        ...


def request_sizes(texts: Sequence[str], model: str) -> list[int]:
    """Return the tokens of texts, by which they are packed into requests.

    They are counted only if the upper bounds need more than one request: counting takes
    0.2 µs per token. A text over the model's limit is cut to it, or not sent.
    """
    bounds = [most_tokens(text) for text in texts]
    if sum(bounds) <= MAX_REQUEST_TOKENS:
        return bounds
    limit = INPUT_LIMITS.get(model)
    if limit is None:
        return bounds
    sizes = []
    for text, bound in zip(texts, bounds, strict=True):
        tokens = count_tokens(text, model)
        sizes.append(bound if tokens is None else min(tokens, limit.tokens))
    return sizes


def request_slices(sizes: Sequence[int]) -> Iterator[slice]:
    """Yield the texts of each request, by their sizes in tokens, within the provider's limits."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and (place - start >= MAX_INPUTS or total + size > MAX_REQUEST_TOKENS):
            yield slice(start, place)
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
