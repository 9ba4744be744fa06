"""The embedding model: WordLlama's token vectors, averaged, with no network at all."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from altsync.local.errors import LocalStackError
from altsync.local.vectors.limits import Vector
from altsync.tokens import wordllama_tokenizer

#: Numbers the model gives; longer vectors are filled up with zeros, which keeps every cosine.
MODEL_DIMENSION = 256

WEIGHTS_FILE = Path("weights") / "l2_supercat_256.safetensors"


class EmbeddingModel:
    """Texts to unit vectors.

    The files are read here and not by the package's own ``load()``, which looks in another
    folder and then on the network. Its ``embed()`` pads all texts of a batch to the longest,
    which needs a gigabyte for one long text; averaging each by itself gives the same numbers.
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
        """Token numbers of each text."""
        encoded: list[Any] = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [one.ids for one in encoded]

    def embed(self, tokens: Sequence[Sequence[int]], dimensions: int) -> Vector:
        """One unit vector for each text, float32; a text must have one token at least."""
        rows = np.stack(
            [self._weights[list(one)].astype(np.float32).mean(axis=0) for one in tokens]
        )
        kept = rows[:, : min(dimensions, MODEL_DIMENSION)]
        vectors = np.zeros((len(rows), dimensions), np.float32)
        lengths = np.linalg.norm(kept, axis=1, keepdims=True)
        vectors[:, : kept.shape[1]] = kept / np.maximum(lengths, np.float32(1e-12))
        return vectors
