"""Faults of the vectors server, as the real clients see them."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from pinecone import Pinecone, ServerlessSpec
from pinecone._internal.config import RetryConfig
from pinecone.errors.exceptions import (
    ApiError,
    ForbiddenError,
    PineconeConnectionError,
    PineconeTimeoutError,
    RateLimitError,
    ServiceError,
    UnauthorizedError,
)
from starlette.requests import Request

from altsync.local.errors import LocalStackError
from altsync.local.services.vectors import Vectors, start_vectors
from altsync.local.vectors.admin import VectorsAdmin
from altsync.local.vectors.app import Handler
from altsync.local.vectors.faults import FaultRule
from altsync.local.vectors.names import EMBEDDING_MODEL
from altsync.local.vectors.wire import Refused

X, Y = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
SPEC = ServerlessSpec(cloud="aws", region="us-east-1")

#: Seconds for things that happen by themselves; far more than they need.
TIMEOUT = 10.0


def _spare_host() -> str:
    """Another loopback address than other tests use.

    The Pinecone client counts failures by host name for the whole process, and stops retrying
    after some fifty: faults on a shared address would change what other tests see.
    """
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.41", 0))
        except OSError:
            return "127.0.0.1"  # a system with a single loopback address
    return "127.0.0.41"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vectors]:
    """A server of this module's own, on an address of its own."""
    service = start_vectors(tmp_path_factory.mktemp("vectors"), host=_spare_host())
    yield service
    service.stop()


@pytest.fixture
def admin(server: Vectors) -> Iterator[VectorsAdmin]:
    """The server's faults and counters, clean before and after."""
    server.admin.clear()
    server.admin.reset_stats()
    yield server.admin
    server.admin.clear()


@pytest.fixture(scope="module")
def client(server: Vectors) -> Iterator[Pinecone]:
    """The real client, pointed at the server; without certificates it is made much faster."""
    with Pinecone(
        api_key=server.secret, host=server.url, timeout=TIMEOUT, ssl_verify=False
    ) as pinecone:
        pinecone.create_index("leagues", dimension=3, spec=SPEC)
        yield pinecone


@pytest.fixture
def retrying(client: Pinecone) -> Iterator[Any]:
    """The index as the client hands it out: three retries."""
    with client.index("leagues") as index:
        yield index


@pytest.fixture
def index(client: Pinecone) -> Iterator[Any]:
    """The index with the client's own retries off, so that one fault is one error."""
    with client.index("leagues") as handle:
        transport: Any = handle._http._client._transport
        transport._config = RetryConfig(max_retries=0)
        yield handle


@pytest.fixture(scope="module")
def embedder(server: Vectors) -> Iterator[OpenAI]:
    """The real OpenAI client, its own retries off, the model already loaded."""
    with OpenAI(
        api_key=server.secret, base_url=server.openai_url, max_retries=0, timeout=TIMEOUT
    ) as openai_client:
        openai_client.embeddings.create(model=EMBEDDING_MODEL, input="warm")
        yield openai_client


def _eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _run_server(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "altsync.local.vectors", "--port", "1", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def _has(index: Any, identity: str) -> bool:
    return identity in index.fetch(ids=[identity]).vectors


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ApiError),
        (401, UnauthorizedError),
        (403, ForbiddenError),
        (429, RateLimitError),
        (500, ServiceError),
        (503, ServiceError),
    ],
)
def test_pinecone_status(
    index: Any, admin: VectorsAdmin, status: int, error: type[ApiError]
) -> None:
    """An injected status is the client's own error, and nothing was written."""
    admin.set_faults([FaultRule("pinecone.upsert", "status", status=status, retry_after=2.0)])
    with pytest.raises(error) as caught:
        index.upsert(vectors=[(f"status-{status}", X)])
    assert caught.value.status_code == status
    assert caught.value.headers is not None
    assert caught.value.headers["retry-after"] == "2"
    assert not _has(index, f"status-{status}")
    assert admin.stats().injected == {"pinecone.upsert:status": 1}


def test_the_client_retries_by_itself(retrying: Any, admin: VectorsAdmin) -> None:
    """A fault with a count of one is healed by the client's own retry, which is counted."""
    admin.set_faults([FaultRule("pinecone.upsert", "status", status=503, count=1)])
    retrying.upsert(vectors=[("retried", X)])
    assert admin.stats().requests["pinecone.upsert"] == 2
    assert admin.fired() == [1]


def test_one_record_can_be_made_to_fail(index: Any, admin: VectorsAdmin) -> None:
    """A rule about an id fails each batch that holds it, and no other."""
    admin.set_faults([FaultRule("pinecone.upsert", "status", status=400, id="bad")])
    with pytest.raises(ApiError):
        index.upsert(vectors=[("good", X), ("bad", X)])
    index.upsert(vectors=[("good", X)])
    assert _has(index, "good")
    assert not _has(index, "bad")


def test_cut_closes_the_connection(index: Any, admin: VectorsAdmin) -> None:
    """The client sees a lost connection, and nothing was written."""
    admin.set_faults([FaultRule("pinecone.upsert", "cut")])
    with pytest.raises(PineconeConnectionError):
        index.upsert(vectors=[("cut", X)])
    assert not _has(index, "cut")


def test_hang_answers_nothing(index: Any, admin: VectorsAdmin) -> None:
    """The client gives up at its timeout; other requests are served meanwhile."""
    admin.set_faults([FaultRule("pinecone.upsert", "hang", seconds=1.0)])
    with pytest.raises(PineconeTimeoutError):
        index.upsert(vectors=[("hang", X)], timeout=0.2)
    assert not _has(index, "hang")


def test_timeout_after_apply_has_written(index: Any, admin: VectorsAdmin) -> None:
    """The client sees a timeout or a cut although the record is there."""
    admin.set_faults(
        [
            FaultRule("pinecone.upsert", "timeout_after_apply", seconds=3.0, count=1),
            FaultRule("pinecone.upsert", "timeout_after_apply"),
        ]
    )
    with pytest.raises(PineconeTimeoutError):
        index.upsert(vectors=[("stalled", X)], timeout=0.5)
    with pytest.raises(PineconeConnectionError):
        index.upsert(vectors=[("cut-after", X)])
    assert _has(index, "stalled")
    assert _has(index, "cut-after")


def test_apply_late_writes_over_newer_data(index: Any, admin: VectorsAdmin) -> None:
    """A failed request takes effect after a later one: the hole of a sink without conditions."""
    admin.set_faults([FaultRule("pinecone.upsert", "apply_late", seconds=0.3, status=503, count=1)])
    with pytest.raises(ServiceError):
        index.upsert(vectors=[("late", X, {"version": 1})])
    index.upsert(vectors=[("late", Y, {"version": 2})])
    assert index.fetch(ids=["late"]).vectors["late"].metadata == {"version": 2.0}
    _eventually(
        lambda: index.fetch(ids=["late"]).vectors["late"].metadata == {"version": 1.0},
    )


def test_lag_hides_a_write_for_a_while(client: Pinecone, admin: VectorsAdmin) -> None:
    """An acknowledged write is in no kind of read until the lag is over."""
    client.create_index("lag", dimension=3, spec=SPEC)
    index: Any = client.index("lag")
    index.upsert(vectors=[("old", X)], namespace="ns")
    admin.set_faults([FaultRule("pinecone.upsert", "lag", seconds=3600.0, index="lag")])
    index.upsert(vectors=[("new", X)], namespace="ns")
    seen = (
        list(index.fetch(ids=["old", "new"], namespace="ns").vectors),
        [match.id for match in index.query(vector=X, top_k=5, namespace="ns").matches],
        [item.id for page in index.list(namespace="ns") for item in page],
        index.describe_index_stats().namespaces["ns"].vector_count,
    )
    assert seen == (["old"], ["old"], ["old"], 1)
    assert admin.stats().injected == {"pinecone.upsert:lag": 1}


def test_lag_keeps_the_order_of_writes(index: Any, admin: VectorsAdmin) -> None:
    """A write without a lag does not overtake one with a lag."""
    admin.set_faults([FaultRule("pinecone.upsert", "lag", seconds=0.5, count=1)])
    index.upsert(vectors=[("order", X)], namespace="order")
    index.upsert(vectors=[("order", Y)], namespace="order")
    _eventually(lambda: bool(index.fetch(ids=["order"], namespace="order").vectors))
    assert index.fetch(ids=["order"], namespace="order").vectors["order"].values == Y


def test_latency_only_delays(index: Any, admin: VectorsAdmin) -> None:
    """A slow request that stays under the timeout succeeds, a slower one does not."""
    admin.set_faults([FaultRule("pinecone.fetch", "latency", seconds=0.3)])
    index.fetch(ids=["a"], timeout=TIMEOUT)
    with pytest.raises(PineconeTimeoutError):
        index.fetch(ids=["a"], timeout=0.1)


def test_faults_reach_the_control_plane(client: Pinecone, admin: VectorsAdmin) -> None:
    """A pattern covers every request of a vendor."""
    admin.set_faults([FaultRule("pinecone.*", "status", status=403)])
    with pytest.raises(ForbiddenError):
        client.describe_index("leagues")


@pytest.mark.parametrize(
    ("rule", "error", "code"),
    [
        ({"status": 429}, openai.RateLimitError, "rate_limit_exceeded"),
        (
            {"status": 429, "code": "insufficient_quota"},
            openai.RateLimitError,
            "insufficient_quota",
        ),
        ({"status": 401}, openai.AuthenticationError, "invalid_api_key"),
        ({"status": 400}, openai.BadRequestError, None),
        ({"status": 500}, openai.InternalServerError, None),
        ({"status": 503}, openai.InternalServerError, None),
    ],
)
def test_openai_status(
    embedder: OpenAI,
    admin: VectorsAdmin,
    rule: dict[str, Any],
    error: type[openai.APIStatusError],
    code: str | None,
) -> None:
    """An injected status is the client's own error with OpenAI's code."""
    admin.set_faults([FaultRule("openai.embeddings", "status", retry_after=2.0, **rule)])
    with pytest.raises(error) as caught:
        embedder.embeddings.create(model=EMBEDDING_MODEL, input="x")
    assert caught.value.code == code
    assert caught.value.response.headers["retry-after"] == "2"


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        (FaultRule("openai.embeddings", "cut"), openai.APIConnectionError),
        (FaultRule("openai.embeddings", "hang", seconds=1.0), openai.APITimeoutError),
    ],
)
def test_openai_without_an_answer(
    embedder: OpenAI, admin: VectorsAdmin, rule: FaultRule, error: type[Exception]
) -> None:
    """A cut and a timeout are told apart by the client."""
    admin.set_faults([rule])
    with pytest.raises(error):
        embedder.embeddings.create(model=EMBEDDING_MODEL, input="x", timeout=0.3)


def test_openai_answers_can_be_spoiled(embedder: OpenAI, admin: VectorsAdmin) -> None:
    """Wrong count, wrong order, wrong length and NaN all look like success to the client."""
    texts = ["one", "two", "three"]

    def data(kind: Any) -> list[Any]:
        admin.set_faults([FaultRule("openai.embeddings", kind)])
        return list(embedder.embeddings.create(model=EMBEDDING_MODEL, input=texts).data)

    admin.clear()
    right = embedder.embeddings.create(model=EMBEDDING_MODEL, input=texts).data
    assert len(data("wrong_count")) == 2
    assert {len(one.embedding) for one in data("wrong_dimension")} == {1535}
    assert [bool(np.isnan(one.embedding).any()) for one in data("nan")] == [True, False, False]
    shuffled = data("shuffled")
    assert [one.index for one in shuffled] == [2, 1, 0]
    assert sorted(shuffled, key=lambda one: one.index) == right


def test_one_text_can_be_made_to_fail(embedder: OpenAI, admin: VectorsAdmin) -> None:
    """A rule about a text fails each batch that holds it, and no other."""
    admin.set_faults([FaultRule("openai.embeddings", "status", status=400, text="poison")])
    with pytest.raises(openai.BadRequestError):
        embedder.embeddings.create(model=EMBEDDING_MODEL, input=["fine", "poison ivy"])
    embedder.embeddings.create(model=EMBEDDING_MODEL, input=["fine"])


def test_a_malformed_rule_is_refused_and_changes_nothing(admin: VectorsAdmin) -> None:
    """The rules in force stay when new ones cannot be understood."""
    admin.set_faults([FaultRule("*", "cut", count=0)])
    with pytest.raises(LocalStackError, match="kind must be one of"):
        admin._request("PUT", "/_faults", [{"scope": "*", "kind": "explode"}])
    assert admin.fired() == [0]


def test_the_servers_own_lag_is_the_default(tmp_path: Path) -> None:
    """A server started with a lag is eventually consistent by itself."""
    with (
        start_vectors(tmp_path, lag=0.5) as service,
        Pinecone(api_key=service.secret, host=service.url) as client,
    ):
        client.create_index("lagging", dimension=3, spec=SPEC)
        index = client.index("lagging")
        index.upsert(vectors=[("a", X)])
        _eventually(lambda: _has(index, "a"))
        # The fetches until then are the reads that did not see it.
        assert service.admin.stats().requests["pinecone.fetch"] > 1


def test_beyond_loopback_a_key_must_be_named(tmp_path: Path) -> None:
    """The server does not open itself to the network with a key that was not chosen."""
    everywhere = "0.0.0.0"  # noqa: S104 - it is refused
    ended = _run_server("--data", str(tmp_path), "--host", everywhere)
    assert ended.returncode == 2
    assert "--api-key" in ended.stderr


def test_faults_and_counters_need_the_key() -> None:
    """Other accounts of the machine reach loopback as well."""
    handler = Handler("the-key", lag=0)

    def request(*headers: tuple[bytes, bytes]) -> Request:
        return Request({"type": "http", "headers": list(headers)})

    with pytest.raises(Refused):
        handler.authenticate(request())
    with pytest.raises(Refused):
        handler.authenticate(request((b"api-key", b"another")))
    handler.authenticate(request((b"api-key", b"the-key")))


def test_two_servers_on_one_folder_are_refused(server: Vectors) -> None:
    """A second server would not see what the first one writes."""
    ended = _run_server("--data", str(server.folder / "data"))
    assert ended.returncode != 0
    assert "another vectors server" in ended.stderr


def test_headers_say_when_a_write_can_be_read(index: Any, admin: VectorsAdmin) -> None:
    """A query names the last write that it sees; each namespace counts its own writes."""
    first = index.upsert(vectors=[("a", X)], namespace="one").response_info.lsn_committed
    other = index.upsert(vectors=[("a", X)], namespace="two").response_info.lsn_committed
    assert (first, other) == (1, 1)
    admin.set_faults([FaultRule("pinecone.upsert", "lag", seconds=3600.0)])
    written = index.upsert(vectors=[("b", X)], namespace="one").response_info.lsn_committed
    before = index.query(vector=X, top_k=2, namespace="one")
    assert not before.response_info.is_reconciled(written)
    assert before.response_info.is_reconciled(first)
    assert index.query(vector=X, top_k=2, namespace="two").response_info.is_reconciled(other)
    admin.flush()
    after = index.query(vector=X, top_k=2, namespace="one")
    assert after.response_info.is_reconciled(written)
    assert {match.id for match in after.matches} == {"a", "b"}


def test_an_older_server_says_no_position(index: Any, admin: VectorsAdmin) -> None:
    admin.set_faults([FaultRule("pinecone.*", "bare")])
    assert index.upsert(vectors=[("a", X)]).response_info.lsn_committed is None
    assert index.query(vector=X, top_k=1).response_info.lsn_reconciled is None
