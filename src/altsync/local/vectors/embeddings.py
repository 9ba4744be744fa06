"""OpenAI's ``/v1/embeddings`` and ``/v1/models/{model}``, with OpenAI's limits and errors."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from altsync.local.vectors.faults import Call
from altsync.local.vectors.limits import Vector
from altsync.local.vectors.model import EmbeddingModel
from altsync.local.vectors.names import EMBEDDING_MODELS
from altsync.local.vectors.wire import Answer, ApiRequest, Effects, Job, Refused

#: OpenAI's limits: inputs and tokens of one request, tokens of one input.
MAX_INPUTS = 2_048
MAX_REQUEST_TOKENS = 300_000
MAX_INPUT_TOKENS = 8_192

#: Dimensions by default and at most, as ``text-embedding-3-small`` has.
DIMENSIONS = 1_536


class EmbeddingsPlane:
    """The embeddings of texts and the models. They are loaded for the first text."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loaded: EmbeddingModel | None = None

    def embeddings(self, request: ApiRequest) -> Job:
        """Embed texts."""
        body = request.json()
        name = _checked_model(body.get("model"))
        texts = _texts(body.get("input"))
        dimensions = _dimensions(body.get("dimensions"))
        encoding = body.get("encoding_format") or "float"
        if encoding not in ("float", "base64"):
            raise _invalid("encoding_format", "'encoding_format' must be 'float' or 'base64'.")

        def run(effects: Effects) -> Answer:
            model = self._model()
            tokens = model.tokens(texts)
            count = _count_tokens(tokens)
            vectors = model.embed(tokens, dimensions, EMBEDDING_MODELS[name])
            payload = {
                "object": "list",
                "data": _data(vectors, encoding, effects),
                "model": name,
                "usage": {"prompt_tokens": count, "total_tokens": count},
            }
            return Answer(payload, records=len(texts), tokens=count)

        return Job(Call("openai.embeddings", texts=texts), run)

    def model(self, request: ApiRequest) -> Job:
        """Describe a model. `altsync doctor` checks with it, as it costs no tokens."""
        name = _checked_model(request.path["model"])
        entry = {"id": name, "object": "model", "created": 0, "owned_by": "altsync"}
        return Job(Call("openai.models"), lambda _effects: Answer(entry))

    def _model(self) -> EmbeddingModel:
        with self._lock:
            if self._loaded is None:
                self._loaded = EmbeddingModel()
            return self._loaded


def _checked_model(name: object) -> str:
    if not isinstance(name, str):
        raise _invalid("model", "you must provide a model parameter")
    if name not in EMBEDDING_MODELS:
        raise Refused(
            404,
            f"The model `{name[:100]}` does not exist or you do not have access to it.",
            code="model_not_found",
        )
    return name


def _texts(raw: object) -> list[str]:
    texts = [raw] if isinstance(raw, str) else raw
    if not isinstance(texts, list) or not texts:
        raise _invalid("input", "'$.input' is invalid: give a string or a list of strings.")
    if len(texts) > MAX_INPUTS:
        raise _invalid(
            "input",
            f"Invalid 'input': array too long. Expected an array with maximum length "
            f"{MAX_INPUTS}, but got an array with length {len(texts)} instead.",
            "array_above_max_length",
        )
    if not all(isinstance(text, str) for text in texts):
        raise _invalid("input", "'$.input' is invalid: this server takes texts, not tokens.")
    if not all(texts):
        raise _invalid("input", "'$.input' is invalid: input cannot be an empty string.")
    return texts


def _dimensions(raw: object) -> int:
    if raw is None:
        return DIMENSIONS
    if not isinstance(raw, int) or not 1 <= raw <= DIMENSIONS:
        raise _invalid("dimensions", f"'dimensions' must be between 1 and {DIMENSIONS}.")
    return raw


def _count_tokens(tokens: Sequence[Sequence[int]]) -> int:
    """Return the tokens of a request. Raises ``Refused`` above a limit."""
    for position, one in enumerate(tokens):
        if len(one) > MAX_INPUT_TOKENS:
            raise _invalid(
                "input",
                f"Invalid 'input[{position}]': maximum input length is {MAX_INPUT_TOKENS} tokens, "
                f"however you requested {len(one)} tokens.",
            )
    total = sum(map(len, tokens))
    if total > MAX_REQUEST_TOKENS:
        raise _invalid(
            None,
            f"Requested {total} tokens, max {MAX_REQUEST_TOKENS} tokens per request",
            "max_tokens_per_request",
        )
    return total


def _data(vectors: Vector, encoding: str, effects: Effects) -> list[dict[str, Any]]:
    order = list(range(len(vectors)))
    match effects.corruption.kind if effects.corruption else None:
        case "wrong_count":
            order = order[:-1]
        case "shuffled":
            order = order[::-1]
        case "wrong_dimension":
            vectors = np.ascontiguousarray(vectors[:, :-1])
        case "nan":
            vectors[0, 0] = np.nan
    return [
        {"object": "embedding", "index": one, "embedding": _encoded(vectors[one], encoding)}
        for one in order
    ]


def _encoded(vector: Vector, encoding: str) -> object:
    if encoding == "float":
        return vector
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def _invalid(param: str | None, message: str, code: str | None = None) -> Refused:
    return Refused(400, message, code=code, param=param)
