"""The local embeddings endpoint, driven by the real client."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI

from altsync.local.services.vectors import Vectors, start_vectors
from altsync.local.vectors.model import WEIGHTS_FILE, EmbeddingModel
from altsync.local.vectors.names import EMBEDDING_MODEL
from altsync.tokens import WORDLLAMA_FILE

TEXTS = [
    "Premier League football in England",
    "English soccer, top division",
    "Formula 1 car racing championship",
    "Grand Prix motor races",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vectors]:
    """A server of this module's own."""
    service = start_vectors(tmp_path_factory.mktemp("vectors"))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def client(server: Vectors) -> Iterator[OpenAI]:
    """The real client, pointed at the server."""
    with OpenAI(
        api_key=server.secret, base_url=server.openai_url, max_retries=0, timeout=20
    ) as client:
        yield client


def _embed(client: OpenAI, texts: list[str], **options: Any) -> np.ndarray[Any, Any]:
    answer = client.embeddings.create(model=EMBEDDING_MODEL, input=texts, **options)
    assert [one.index for one in answer.data] == list(range(len(texts)))
    return np.array([one.embedding for one in answer.data], np.float32)


def test_related_texts_score_above_unrelated_ones(client: OpenAI) -> None:
    """The vectors mean something: each pair of a subject is closer than any across."""
    vectors = _embed(client, TEXTS)
    cosine = vectors @ vectors.T
    across = max(cosine[0, 2], cosine[0, 3], cosine[1, 2], cosine[1, 3])
    assert min(cosine[0, 1], cosine[2, 3]) > across


def test_vectors_are_padded_to_1536_and_keep_their_cosines(client: OpenAI) -> None:
    """Unit vectors, 256 numbers and then zeros, with the cosines of the model itself."""
    vectors = _embed(client, TEXTS)
    short = _embed(client, TEXTS, dimensions=256)
    assert vectors.shape == (4, 1536)
    assert not vectors[:, 256:].any()
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    for a, b in combinations(range(4), 2):
        assert vectors[a] @ vectors[b] == pytest.approx(short[a] @ short[b], abs=1e-6)


def test_fewer_dimensions_are_still_unit_vectors(client: OpenAI) -> None:
    """Shortened vectors are scaled up again, as OpenAI's are."""
    vectors = _embed(client, TEXTS, dimensions=64)
    assert vectors.shape == (4, 64)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_base64_and_float_agree_exactly(client: OpenAI) -> None:
    """The client's own default, base64, holds the same numbers as a list of floats."""
    assert np.array_equal(
        _embed(client, TEXTS),
        _embed(client, TEXTS, encoding_format="float"),
    )


def test_a_text_has_the_same_vector_alone_and_in_a_batch(client: OpenAI) -> None:
    """Longer neighbours in a batch change nothing."""
    alone = _embed(client, [TEXTS[0]])
    batch = _embed(client, [TEXTS[0], "very long " * 500])
    assert np.array_equal(alone[0], batch[0])


def test_the_model_gives_what_its_library_gives() -> None:
    """Reading the files and averaging here equals WordLlama's own inference."""
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer
    from wordllama.inference import WordLlamaInference

    spec = importlib.util.find_spec("wordllama")
    assert spec is not None
    package = Path(spec.origin or "").parent
    library = WordLlamaInference(
        tokenizer=Tokenizer.from_file(str(package / WORDLLAMA_FILE)),
        embedding=load_file(package / WEIGHTS_FILE)["embedding.weight"],
    )
    texts = [*TEXTS, " ", "\n", "🏀 naïve façade", "word " * 700]
    model = EmbeddingModel()
    ours = model.embed(model.tokens(texts), 256)
    assert np.allclose(ours, library.embed(texts, norm=True), atol=1e-6)


def test_tokens_are_counted(client: OpenAI, server: Vectors) -> None:
    """Usage and the server's counter agree."""
    server.admin.reset_stats()
    answer = client.embeddings.create(model=EMBEDDING_MODEL, input=["one", "one two three"])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens > 3
    assert server.admin.stats().tokens == answer.usage.total_tokens
    assert server.admin.stats().records["openai.embeddings"] == 2


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        ({"input": ""}, None, "is invalid"),
        ({"input": ["fine", ""]}, None, "is invalid"),
        ({"input": []}, None, "is invalid"),
        ({"input": [1, 2, 3]}, None, "not tokens"),
        ({"input": ["x"] * 2049}, "array_above_max_length", "2048"),
        ({"input": "word " * 9000}, None, "8192 tokens"),
        ({"input": ["word " * 8000] * 40}, "max_tokens_per_request", "300000"),
        ({"input": "x", "dimensions": 1537}, None, "dimensions"),
        ({"input": "x", "dimensions": 0}, None, "dimensions"),
    ],
)
def test_a_request_past_a_limit_is_refused(
    client: OpenAI, request_: dict[str, Any], code: str | None, message: str
) -> None:
    """OpenAI's limits, which its client does not check, hold here too."""
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.embeddings.create(model=EMBEDDING_MODEL, **request_)
    assert caught.value.code == code


@pytest.mark.parametrize("model", ["text-embedding-3-small", "text-embedding-ada-002"])
def test_another_model_is_not_found(client: OpenAI, model: str) -> None:
    """A wrong model name fails as it does at OpenAI."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model=model, input="x")
    assert caught.value.code == "model_not_found"


def test_a_wrong_key_is_refused_and_not_repeated(client: OpenAI) -> None:
    """The error has OpenAI's code, and does not tell the key."""
    with pytest.raises(openai.AuthenticationError) as caught:
        client.with_options(api_key="not-the-key").embeddings.create(
            model=EMBEDDING_MODEL, input="x"
        )
    assert caught.value.code == "invalid_api_key"
    assert "not-the-key" not in f"{caught.value}{caught.value.body}"


def test_the_model_answers_before_anything_is_embedded(client: OpenAI) -> None:
    """`altsync doctor` retrieves the model, as this costs no tokens."""
    assert client.models.retrieve(EMBEDDING_MODEL).id == EMBEDDING_MODEL
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("text-embedding-3-small")
