"""The embedder: requests within the limits, answers checked, errors told apart.

The SDK is the real one; only the server at the other end is canned.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from altsync import embedding
from altsync.embedding import (
    MAX_INPUTS,
    MAX_REQUEST_TOKENS,
    Embedded,
    request_sizes,
    request_slices,
)
from altsync.entities import Model
from altsync.errors import SinkFailure
from altsync.openai_embedder import OpenAIEmbedder, decode
from altsync.operations import ErrorKind
from altsync.tokens import most_tokens
from tests.contract.doubles import Canned, CannedServer, canned_server, closed_port, json_answer

MODEL = Model("some-model", 3)
KEY = "sk-planted-planted"

#: Seconds: long for a loopback server, short for a person.
TIMEOUT = 5.0


@pytest.fixture(scope="module")
def _server() -> Iterator[CannedServer]:
    with canned_server() as server:
        yield server


@pytest.fixture(scope="module")
def _client(_server: CannedServer) -> Iterator[OpenAIEmbedder]:
    client = OpenAIEmbedder(KEY, base_url=f"{_server.url}/v1", timeout=TIMEOUT)
    yield client
    client.close()


@pytest.fixture
def server(_server: CannedServer) -> CannedServer:
    """A server that has heard nothing yet."""
    _server.requests.clear()
    _server.answer = Canned(500)
    return _server


@pytest.fixture
def client(_client: OpenAIEmbedder, server: CannedServer) -> OpenAIEmbedder:
    """The embedder, pointed at the server."""
    return _client


def floats(*numbers: float) -> bytes:
    """Numbers as PostgreSQL holds them."""
    return np.array(numbers, "<f4").tobytes()


def base64_of(*numbers: float) -> str:
    """Numbers as the provider sends them."""
    return base64.b64encode(floats(*numbers)).decode()


def answer(*vectors: Any, usage: dict[str, int] | None = None) -> Canned:
    """The provider's answer with these vectors in order."""
    data = [{"object": "embedding", "index": i, "embedding": v} for i, v in enumerate(vectors)]
    tokens = usage or {"prompt_tokens": 11, "total_tokens": 11}
    return json_answer({"object": "list", "data": data, "model": "some-model", "usage": tokens})


def refusal(status: int, *, code: str | None = None, **headers: str) -> Canned:
    """An error in the provider's form."""
    error = {"message": "this is why", "type": "some_type", "param": None, "code": code}
    return json_answer({"error": error}, status, **headers)


def failure_of(client: OpenAIEmbedder, *texts: str) -> SinkFailure:
    """The error that embedding raises."""
    with pytest.raises(SinkFailure) as caught:
        client.embed(texts or ("a text",), MODEL)
    return caught.value


# --- requests ---------------------------------------------------------------------------------


def test_a_request_asks_for_all_texts_in_base64(
    client: OpenAIEmbedder, server: CannedServer
) -> None:
    """One request: the model's name, the texts in order, and no dimensions for other models."""
    server.answer = answer(base64_of(1, 0, 0), base64_of(0, 1, 0))
    found = client.embed(["one", "two"], MODEL)
    assert found == Embedded((floats(1, 0, 0), floats(0, 1, 0)), 11)
    ((path, body),) = server.requests
    assert path == "/v1/embeddings"
    assert json.loads(body) == {
        "model": "some-model",
        "input": ["one", "two"],
        "encoding_format": "base64",
    }


def test_models_that_shorten_are_told_how_far(client: OpenAIEmbedder, server: CannedServer) -> None:
    """The third generation of OpenAI's models takes a number of dimensions."""
    server.answer = answer(base64_of(1, 2))
    client.embed(["one"], Model("text-embedding-3-small", 2))
    assert json.loads(server.requests[0][1])["dimensions"] == 2


@pytest.mark.parametrize(
    ("text", "tokens"), [("abc", 3), ("é", 2), ("🏆", 4), ("", 0), ("a" * 9000, 9000)]
)
def test_a_text_has_no_more_tokens_than_bytes(text: str, tokens: int) -> None:
    """The bound needs no vocabulary from the network."""
    assert most_tokens(text) == tokens


def test_requests_are_cut_by_count() -> None:
    """2,048 inputs are allowed, the next one begins another request."""
    assert list(request_slices([1] * (MAX_INPUTS + 1))) == [slice(0, 2048), slice(2048, 2049)]
    assert list(request_slices([1] * MAX_INPUTS)) == [slice(0, 2048)]


def test_requests_are_cut_by_tokens() -> None:
    """300,000 tokens are allowed in one request, over all its inputs."""
    assert list(request_slices([100_000] * 4)) == [slice(0, 3), slice(3, 4)]
    assert list(request_slices([150_000, 150_000, 1])) == [slice(0, 2), slice(2, 3)]


def requests_of(texts: list[str], model: str) -> int:
    return len(list(request_slices(request_sizes(texts, model))))


@pytest.mark.parametrize(
    ("text", "by_bytes", "exact"),
    [("word " * 100, 1, 1), ("word " * 400, 4, 1), ("word " * 2000, 17, 4), ("日本" * 300, 4, 1)],
    ids=["100 words", "400 words", "2,000 words", "600 characters"],
)
def test_a_batch_is_packed_by_exact_tokens(text: str, by_bytes: int, exact: int) -> None:
    """500 texts, as one batch has. The tokenizer of another model is not known."""
    texts = [text] * 500
    assert requests_of(texts, "another-model") == by_bytes
    assert requests_of(texts, "text-embedding-3-small") == exact


def test_tokens_are_counted_only_if_the_bound_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[str] = []
    monkeypatch.setattr(embedding, "count_tokens", lambda text, model: counted.append(text))
    assert request_sizes(["x" * 1000] * 300, "text-embedding-3-small") == [1000] * 300
    assert counted == []
    request_sizes(["x" * 1000] * 301, "text-embedding-3-small")
    assert len(counted) == 301


def test_a_text_that_is_cut_counts_as_what_is_sent() -> None:
    assert request_sizes(["日" * 200_000], "text-embedding-3-small") == [8192]


def test_a_text_too_large_for_any_request_goes_alone() -> None:
    """It is refused by itself, and takes no other text with it."""
    assert list(request_slices([1, 400_000, 1])) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_nothing_needs_no_request() -> None:
    """No texts, no slices."""
    assert list(request_slices([])) == []


@given(st.lists(st.integers(0, 350_000), max_size=60), st.integers(1, 10))
def test_slices_cover_everything_within_the_limits(sizes: list[int], inputs: int) -> None:
    """Every text is in exactly one request, in order, and no request could be refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedding, "MAX_INPUTS", inputs)
        slices = list(request_slices(sizes))
    parts = [sizes[cut] for cut in slices]
    assert [size for part in parts for size in part] == sizes
    assert all(0 < len(part) <= inputs for part in parts)
    assert all(sum(part) <= MAX_REQUEST_TOKENS or len(part) == 1 for part in parts)


# --- answers ----------------------------------------------------------------------------------


def test_vectors_are_matched_by_their_index(client: OpenAIEmbedder, server: CannedServer) -> None:
    """The order of the answer is not the order of the texts."""
    data = [
        {"object": "embedding", "index": i, "embedding": base64_of(i + 1, 0, 0)} for i in (2, 0, 1)
    ]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    server.answer = json_answer({"object": "list", "data": data, "model": "m", "usage": usage})
    found = client.embed(["a", "b", "c"], MODEL)
    assert found.vectors == (floats(1, 0, 0), floats(2, 0, 0), floats(3, 0, 0))


@pytest.mark.parametrize(
    ("indexes", "vectors"),
    [
        ([0], "1 vector"),
        ([0, 1, 2], "3 vectors"),
        ([0, 0], "2 vectors"),
        ([1, 2], "2 vectors"),
        ([0, 5], "2 vectors"),
    ],
)
def test_a_wrong_count_or_index_is_refused(
    client: OpenAIEmbedder, server: CannedServer, indexes: list[int], vectors: str
) -> None:
    """One vector for each text, or none is taken."""
    data = [{"object": "embedding", "index": i, "embedding": base64_of(1, 0, 0)} for i in indexes]
    usage = {"prompt_tokens": 3, "total_tokens": 3}
    server.answer = json_answer({"object": "list", "data": data, "model": "m", "usage": usage})
    failure = failure_of(client, "a", "b")
    assert failure.kind is ErrorKind.UNKNOWN
    assert failure.reason == f"the embedder answered {vectors} for 2 texts"


@pytest.mark.parametrize("vector", [base64_of(1, 2, 3), [1.0, 2.0, 3.0], [1, 2, 3]])
def test_vectors_come_as_base64_or_as_numbers(vector: str | list[float]) -> None:
    """Both forms are float32, little-endian, four bytes a number."""
    assert decode(vector, 3) == floats(1, 2, 3)


def test_base64_keeps_every_bit() -> None:
    """Nothing is rounded on the way, negative zero and the smallest numbers included."""
    exact = floats(-0.0, 1.1754943508222875e-38, 3.4028234663852886e38)
    assert decode(base64.b64encode(exact).decode(), 3) == exact


@pytest.mark.parametrize("vector", [base64_of(1, 2), base64_of(1, 2, 3, 4), [1.0], "", []])
def test_a_wrong_length_is_the_sinks_fault(vector: str | list[float]) -> None:
    """The model is set up wrongly, whichever text it was: no record becomes a dead letter."""
    with pytest.raises(SinkFailure, match="dimensions, 3 are wanted") as caught:
        decode(vector, 3)
    assert caught.value.kind is ErrorKind.SINK


@pytest.mark.parametrize(
    "vector",
    [
        base64_of(1, float("nan"), 0),
        base64_of(1, float("inf"), 0),
        base64_of(1, float("-inf"), 0),
        base64_of(0, 0, 0),
        base64_of(-0.0, 0, 0),
        [1.0, float("nan"), 0.0],
        [0.0, 0.0, 0.0],
    ],
)
def test_a_vector_without_direction_is_refused(vector: str | list[float]) -> None:
    """NaN, infinity and zero have no cosine; they never reach a store."""
    with pytest.raises(SinkFailure, match="without direction") as caught:
        decode(vector, 3)
    assert caught.value.kind is ErrorKind.UNKNOWN


@pytest.mark.parametrize(
    "vector", ["%%%", "AAAA=AAA", "é", "AAAAA", [[1, 2], [3, 4], [5, 6]], ["a", "b", "c"], None]
)
def test_what_is_no_vector_is_refused(vector: Any) -> None:
    """Broken base64 and anything that is not a flat list of numbers."""
    with pytest.raises(SinkFailure):
        decode(vector, 3)


def test_broken_bytes_are_told_from_a_wrong_dimension() -> None:
    """Thirteen bytes are no vector of three numbers, and the message does not say they are."""
    with pytest.raises(SinkFailure) as caught:
        decode(base64.b64encode(b"\x01" * 13).decode(), 3)
    assert "3 dimensions, 3 are wanted" not in caught.value.reason


def test_one_bad_vector_refuses_the_answer(client: OpenAIEmbedder, server: CannedServer) -> None:
    """Nothing of an answer that holds a NaN is taken."""
    server.answer = answer(base64_of(1, 0, 0), base64_of(float("nan"), 0, 0))
    assert failure_of(client, "a", "b").kind is ErrorKind.UNKNOWN


@pytest.mark.parametrize(
    "canned",
    [
        Canned(200, b"<html>Log in to the hotel's network</html>", {"content-type": "text/html"}),
        Canned(200, b"{nope", {"content-type": "application/json"}),
        json_answer(None),
        json_answer([]),
        json_answer({}),
        json_answer({"data": "x"}),
        json_answer({"data": [{"index": 0, "embedding": None}]}),
        Canned(200, b"not gzip", {"content-encoding": "gzip"}),
        Canned(302, b"", {"location": "/elsewhere"}),
    ],
    ids=["html", "json", "null", "list", "empty", "text", "vector", "gzip", "redirect"],
)
def test_an_answer_in_no_known_form_is_a_failure(
    client: OpenAIEmbedder, server: CannedServer, canned: Canned
) -> None:
    """Proxies and half-compatible servers: nothing but SinkFailure leaves, and no text dies."""
    server.answer = canned
    assert failure_of(client).kind is not ErrorKind.ITEM


def test_an_answer_without_usage_costs_nothing_known(
    client: OpenAIEmbedder, server: CannedServer
) -> None:
    """Servers that do not count tokens are still embedders."""
    data = [{"object": "embedding", "index": 0, "embedding": base64_of(1, 0, 0)}]
    server.answer = json_answer({"object": "list", "data": data, "model": "m"})
    assert client.embed(["a"], MODEL) == Embedded((floats(1, 0, 0),), 0)


# --- errors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind", "timed_out"),
    [
        (400, ErrorKind.ITEM, False),
        (401, ErrorKind.SINK, False),
        (403, ErrorKind.SINK, False),
        (404, ErrorKind.SINK, False),
        (408, ErrorKind.SINK, False),
        (409, ErrorKind.SINK, False),
        (413, ErrorKind.ITEM, False),
        (422, ErrorKind.ITEM, False),
        (429, ErrorKind.SINK, False),
        (500, ErrorKind.SINK, True),
        (502, ErrorKind.SINK, True),
        (503, ErrorKind.SINK, True),
        (504, ErrorKind.SINK, True),
    ],
)
def test_every_status_is_somebodys_fault(
    client: OpenAIEmbedder, server: CannedServer, status: int, kind: ErrorKind, timed_out: bool
) -> None:
    """A refused or too large text is the record's, a key or model the sink's, 5xx perhaps both.

    One request each: the SDK's own retries are off.
    """
    server.answer = refusal(status)
    failure = failure_of(client)
    assert (failure.kind, failure.timed_out, failure.retry_after) == (kind, timed_out, None)
    assert str(status) in failure.reason
    assert "this is why" in failure.reason
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_retry_after_is_kept(client: OpenAIEmbedder, server: CannedServer, status: int) -> None:
    """The provider knows best when to come again."""
    server.answer = refusal(status, retry_after="17.5")
    assert failure_of(client).retry_after == 17.5


@pytest.mark.parametrize("value", ["soon", "Wed, 21 Oct 2026 07:28:00 GMT", ""])
def test_a_retry_after_that_is_no_number_is_left_out(
    client: OpenAIEmbedder, server: CannedServer, value: str
) -> None:
    """The breaker's own delay serves then."""
    server.answer = refusal(429, retry_after=value)
    assert failure_of(client).retry_after is None


@pytest.mark.parametrize("value", ["nan", "inf", "-5"])
def test_a_retry_after_that_makes_no_sense_is_left_out(
    client: OpenAIEmbedder, server: CannedServer, value: str
) -> None:
    """A time that PostgreSQL cannot add, or that lies in the past, is none."""
    server.answer = refusal(429, retry_after=value)
    assert failure_of(client).retry_after is None


@pytest.mark.parametrize("code", ["insufficient_quota", "rate_limit_exceeded"])
def test_an_empty_account_is_told_from_a_rate_limit(
    client: OpenAIEmbedder, server: CannedServer, code: str
) -> None:
    """Both answer 429; the reason that people read names which one it is."""
    server.answer = refusal(429, code=code)
    failure = failure_of(client)
    assert failure.kind is ErrorKind.SINK
    assert code in failure.reason


def test_an_embedder_that_is_not_there() -> None:
    """No server listens: the sink's fault, and nothing was sent."""
    client = OpenAIEmbedder(KEY, base_url=f"http://127.0.0.1:{closed_port()}/v1", timeout=TIMEOUT)
    failure = failure_of(client)
    assert (failure.kind, failure.outcome_unknown, failure.timed_out) == (
        ErrorKind.SINK,
        False,
        False,
    )
    assert "no connection to the embedder" in failure.reason
    client.close()


def test_an_embedder_that_hangs() -> None:
    """The call ends by its timeout; a text may be the cause, so it is timed_out."""
    with canned_server() as server:
        server.silent = True
        client = OpenAIEmbedder(KEY, base_url=f"{server.url}/v1", timeout=0.3)
        failure = failure_of(client)
        assert (failure.kind, failure.timed_out) == (ErrorKind.SINK, True)
        assert failure.reason == "the embedder did not answer in time"
        assert len(server.requests) == 1
        client.close()


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_the_key_is_in_no_reason(client: OpenAIEmbedder, server: CannedServer, status: int) -> None:
    """The reason repeats no part of the request, even if the provider's error does."""
    server.answer = refusal(status)
    assert KEY not in failure_of(client).reason
