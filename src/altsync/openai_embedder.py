"""The adapter of OpenAI's SDK, whose import takes most of a second."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence

import httpx  # openai uses a half-imported httpx of another thread
import numpy as np
import openai

from altsync.deadline import SharedClient
from altsync.embedding import Embedded
from altsync.entities import Model
from altsync.errors import SinkFailure, seconds_of
from altsync.operations import ErrorKind
from altsync.wording import plural

#: Models that take the length of their vectors: OpenAI's, and those of the embedded stack.
#: https://platform.openai.com/docs/guides/embeddings
SHORTENED = ("text-embedding-3", "wordllama-l2")

NOT_IN_TIME = "the embedder did not answer in time"


class OpenAIEmbedder:
    """Embeds with OpenAI, or another server with ``/v1/embeddings``."""

    def __init__(self, api_key: str, *, base_url: str, timeout: float) -> None:
        self._timeout = timeout
        # Retries wait in PostgreSQL, which all workers read.
        self._client = SharedClient(
            lambda: openai.OpenAI(
                api_key=api_key, base_url=base_url, timeout=timeout, max_retries=0
            ),
            openai.OpenAI.close,
        )

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """Embed all ``texts`` in one request. Raises ``SinkFailure``."""
        try:
            answer = self._client.call(
                self._timeout,
                lambda client: client.embeddings.create(
                    model=model.name,
                    input=list(texts),
                    encoding_format="base64",
                    dimensions=model.dimensions
                    if model.name.startswith(SHORTENED)
                    else openai.omit,
                ),
            )
            by_index = {item.index: item.embedding for item in answer.data}
            count = len(answer.data)
            tokens = answer.usage.total_tokens if answer.usage else 0
        except TimeoutError:
            raise SinkFailure(ErrorKind.SINK, NOT_IN_TIME, timed_out=True) from None
        except openai.OpenAIError as error:
            raise translate(error) from error
        except (AttributeError, TypeError, ValueError) as error:
            # The SDK does not check the answer, which may be a proxy's page or incomplete.
            raise SinkFailure(
                ErrorKind.SINK, f"the embedder answered in no known form: {error}", charged=True
            ) from error
        if count != len(texts) or by_index.keys() != set(range(len(texts))):
            raise SinkFailure(
                ErrorKind.UNKNOWN,
                f"the embedder answered {plural(count, 'vector')} for {plural(len(texts), 'text')}",
                charged=True,
            )
        try:
            vectors = tuple(decode(by_index[i], model.dimensions) for i in range(len(texts)))
        except SinkFailure as failure:
            failure.charged = True
            raise
        return Embedded(vectors, tokens)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def decode(answer: object, dimensions: int) -> bytes:
    """Return the provider's vector (base64 float32, or a list) as float32 little-endian.

    Raises ``SinkFailure`` for an invalid one, a wrong length, or only zeros.
    """
    try:
        if isinstance(answer, str):
            values = np.frombuffer(base64.b64decode(answer, validate=True), "<f4")
        else:
            values = np.asarray(answer, "<f4")
    except (ValueError, TypeError) as error:
        raise SinkFailure(
            ErrorKind.UNKNOWN, f"the embedder answered something that is no vector: {error}"
        ) from error
    if values.ndim != 1:
        raise SinkFailure(ErrorKind.UNKNOWN, "the embedder answered something that is no vector")
    if len(values) != dimensions:
        raise SinkFailure(
            ErrorKind.SINK,
            f"the embedder answered {len(values)} dimensions, {dimensions} are wanted",
        )
    if not np.isfinite(values).all() or not values.any():
        raise SinkFailure(ErrorKind.UNKNOWN, "the embedder answered a vector without direction")
    return values.tobytes()


def translate(error: openai.OpenAIError) -> SinkFailure:
    """Translate an error of the SDK."""
    match error:
        case openai.APITimeoutError():
            return SinkFailure(ErrorKind.SINK, NOT_IN_TIME, timed_out=True)
        case openai.APIConnectionError():
            # A connection that was never made cannot be charged.
            charged = not isinstance(error.__cause__, httpx.ConnectError)
            reason = f"no connection to the embedder: {error}"
            return SinkFailure(ErrorKind.SINK, reason, charged=charged)
        case openai.BadRequestError() | openai.UnprocessableEntityError():
            return SinkFailure(ErrorKind.ITEM, _reason(error), throttled=_is_too_large(error))
        case openai.APIStatusError() if error.status_code == 413:
            return SinkFailure(ErrorKind.ITEM, _reason(error), throttled=True)
        case openai.RateLimitError():
            wait = _retry_after(error)
            return SinkFailure(ErrorKind.SINK, _reason(error), throttled=True, retry_after=wait)
        case openai.InternalServerError():
            wait = _retry_after(error)
            return SinkFailure(ErrorKind.SINK, _reason(error), timed_out=True, retry_after=wait)
        case openai.APIStatusError():
            # 401, 403, 404 (no such model), 408, 409: the text is not the cause.
            return SinkFailure(ErrorKind.SINK, _reason(error), retry_after=_retry_after(error))
        case _:
            return SinkFailure(ErrorKind.UNKNOWN, f"{type(error).__name__}: {error}")


#: Errors of servers for a request that is too large as a whole.
TOO_LARGE = re.compile(
    r"tokens per request|maximum context length|array too long|too large|batch size", re.IGNORECASE
)


def _is_too_large(error: openai.APIStatusError) -> bool:
    """Return whether the request was too large, so that half of it may pass."""
    return bool(TOO_LARGE.search(f"{error.code or ''} {error.message}".replace("_", " ")))


def _reason(error: openai.APIStatusError) -> str:
    code = f" {error.code}" if error.code else ""
    return f"the embedder answered {error.status_code}{code}: {error.message}"


def _retry_after(error: openai.APIStatusError) -> float | None:
    return seconds_of(error.response.headers.get("retry-after"))
