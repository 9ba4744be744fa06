"""Texts to vectors, through the OpenAI SDK. The only door to the provider."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import openai

from altsync.errors import SinkFailure
from altsync.records import ErrorKind, Model

#: Inputs per request. https://platform.openai.com/docs/api-reference/embeddings/create
MAX_INPUTS = 2048

#: Tokens per request, summed over its inputs; same source.
MAX_REQUEST_TOKENS = 300_000


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors in the order of their texts (float32 little-endian), and what they cost."""

    vectors: tuple[bytes, ...]
    tokens: int


class Embedder(Protocol):
    """Anything that turns texts into vectors."""

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """One request. Raises ``SinkFailure``."""
        ...


def most_tokens(text: str) -> int:
    """An upper bound of a text's tokens: a byte-level tokenizer makes none shorter than a byte.

    Counting exactly needs a vocabulary from the network; the bound costs a few more requests.
    """
    return len(text.encode())


def request_slices(sizes: Sequence[int]) -> Iterator[slice]:
    """Cut texts of these sizes (tokens) into requests within the provider's limits."""
    start = total = 0
    for place, size in enumerate(sizes):
        if place > start and (place - start >= MAX_INPUTS or total + size > MAX_REQUEST_TOKENS):
            yield slice(start, place)
            start, total = place, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))


class OpenAIEmbedder:
    """Embeds through OpenAI, or any server that speaks its ``/v1/embeddings``."""

    def __init__(self, api_key: str, *, base_url: str, timeout: float) -> None:
        # Retries wait in PostgreSQL, where every worker sees them.
        self._client = openai.OpenAI(
            api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0
        )

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """One request for all ``texts``. Raises ``SinkFailure``."""
        try:
            answer = self._client.embeddings.create(
                model=model.name,
                input=list(texts),
                encoding_format="base64",
                dimensions=model.dimensions
                if model.name.startswith("text-embedding-3")
                else openai.omit,
            )
        except openai.OpenAIError as error:
            raise translate(error) from error
        by_index = {item.index: item.embedding for item in answer.data}
        if len(answer.data) != len(texts) or by_index.keys() != set(range(len(texts))):
            raise SinkFailure(
                ErrorKind.UNKNOWN,
                f"the embedder answered {len(answer.data)} vectors for {len(texts)} texts",
            )
        vectors = tuple(decode(by_index[i], model.dimensions) for i in range(len(texts)))
        return Embedded(vectors, answer.usage.total_tokens)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def decode(answer: str | list[float], dimensions: int) -> bytes:
    """A vector as the provider sends it (base64 float32, or a list) to float32 little-endian.

    Raises ``SinkFailure`` for a wrong length or a number that is none.
    """
    try:
        raw = base64.b64decode(answer, validate=True) if isinstance(answer, str) else None
    except binascii.Error as error:
        raise SinkFailure(ErrorKind.UNKNOWN, "the embedder answered broken base64") from error
    if raw is not None and len(raw) != 4 * dimensions:
        raise _wrong_length(len(raw) // 4, dimensions)
    values = np.frombuffer(raw, "<f4") if raw is not None else np.asarray(answer, "<f4")
    if len(values) != dimensions:
        raise _wrong_length(len(values), dimensions)
    if not np.isfinite(values).all() or not values.any():
        raise SinkFailure(ErrorKind.UNKNOWN, "the embedder answered a vector without direction")
    return values.tobytes()


def _wrong_length(found: int, wanted: int) -> SinkFailure:
    return SinkFailure(
        ErrorKind.SINK, f"the embedder answered {found} dimensions, {wanted} are wanted"
    )


def translate(error: openai.OpenAIError) -> SinkFailure:
    """Whose fault an error of the SDK is."""
    match error:
        case openai.APITimeoutError():
            return SinkFailure(ErrorKind.SINK, "the embedder did not answer in time", suspect=True)
        case openai.APIConnectionError():
            return SinkFailure(ErrorKind.SINK, f"no connection to the embedder: {error}")
        case openai.BadRequestError() | openai.UnprocessableEntityError():
            return SinkFailure(ErrorKind.ITEM, _reason(error))
        case openai.InternalServerError():
            wait = _retry_after(error)
            return SinkFailure(ErrorKind.SINK, _reason(error), suspect=True, retry_after=wait)
        case openai.APIStatusError():
            # 401, 403, 404 (no such model), 408, 409, 429: none is the text's fault.
            return SinkFailure(ErrorKind.SINK, _reason(error), retry_after=_retry_after(error))
        case _:
            return SinkFailure(ErrorKind.UNKNOWN, f"{type(error).__name__}: {error}")


def _reason(error: openai.APIStatusError) -> str:
    code = f" {error.code}" if error.code else ""
    return f"the embedder answered {error.status_code}{code}: {error.message}"


def _retry_after(error: openai.APIStatusError) -> float | None:
    try:
        return float(error.response.headers.get("retry-after", ""))
    except ValueError:
        return None
