"""The embedder's protocol, and the split of texts into its requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from altsync.entities import Model

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
