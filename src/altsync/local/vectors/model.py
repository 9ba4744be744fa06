"""The embedding model: averages of WordLlama's token vectors, without a network."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from altsync.local.errors import LocalStackError
from altsync.local.vectors.limits import Vector
from altsync.tokens import wordllama_tokenizer

#: Dimensions of the model. Longer vectors are padded with zeros, which keeps every cosine.
MODEL_DIMENSION = 256

WEIGHTS_FILE = Path("weights") / "l2_supercat_256.safetensors"


class EmbeddingModel:
    """Embeds texts as unit vectors.

    It does not use the package's ``load()``, which reads another folder and then the network,
    nor its ``embed()``, which pads all texts of a batch to the longest: one long text would need
    a gigabyte. The average of each text alone is the same.
    """

    def __init__(self) -> None:
        from safetensors.numpy import load_file

        spec = importlib.util.find_spec("wordllama")
        self._tokenizer = wordllama_tokenizer()
        if spec is None or spec.origin is None or self._tokenizer is None:
            raise LocalStackError("wordllama is not installed: pip install 'altsync[local]'")
        package = Path(spec.origin).parent
        self._weights: Vector = load_file(package / WEIGHTS_FILE)["embedding.weight"]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token numbers of each text."""
        encoded: list[Any] = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    def embed(
        self, tokens: Sequence[Sequence[int]], dimensions: int, most: int = MODEL_DIMENSION
    ) -> Vector:
        """Return one float32 unit vector for each text, which must have a token.

        ``most`` numbers of it differ from zero.
        """
        rows = np.stack(
            [self._weights[list(one)].astype(np.float32).mean(axis=0) for one in tokens]
        )
        kept = rows[:, : min(dimensions, most)]
        vectors = np.zeros((len(rows), dimensions), np.float32)
        lengths = np.linalg.norm(kept, axis=1, keepdims=True)
        vectors[:, : kept.shape[1]] = kept / np.maximum(lengths, np.float32(1e-12))
        return vectors
