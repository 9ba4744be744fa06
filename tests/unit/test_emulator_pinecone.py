"""The local Pinecone API, driven by the real client, against answers written by hand."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pinecone import Pinecone, ServerlessSpec
from pinecone.errors.exceptions import (
    ApiError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PayloadTooLargeError,
    UnauthorizedError,
)

from altsync.local.services.vectors import Vectors, start_vectors

SPEC = ServerlessSpec(cloud="aws", region="us-east-1")
X, Y, Z = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]

_names = (f"index-{number}" for number in count())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vectors]:
    """A server of this module's own."""
    service = start_vectors(tmp_path_factory.mktemp("vectors"))
    yield service
    service.stop()


@pytest.fixture(scope="module")
def client(server: Vectors) -> Iterator[Pinecone]:
    """The real client, pointed at the server; without certificates it is made much faster."""
    with Pinecone(api_key=server.secret, host=server.url, ssl_verify=False) as pinecone:
        yield pinecone


@pytest.fixture
def index(client: Pinecone) -> Iterator[Any]:
    """A fresh index of three dimensions."""
    yield from _index(client)


def _index(client: Pinecone, dimension: int = 3) -> Iterator[Any]:
    model = client.create_index(next(_names), dimension=dimension, spec=SPEC)
    with client.index(host=model.host or "") as handle:
        yield handle


def _ids(response: Any) -> list[str]:
    return [match.id for match in response.matches]


def test_an_index_lives_from_create_to_delete(client: Pinecone) -> None:
    """The control plane makes, shows, protects, lists and deletes an index."""
    name = next(_names)
    assert not client.has_index(name)
    made = client.create_index(name, dimension=7, spec=SPEC, tags={"a": "b"})
    assert (made.dimension, made.metric, made.status.ready) == (7, "cosine", True)
    assert client.has_index(name)
    assert name in client.list_indexes().names()
    with pytest.raises(ConflictError, match="already exists"):
        client.create_index(name, dimension=7, spec=SPEC)

    client.configure_index(name, deletion_protection="enabled", tags={"a": "", "c": "d"})
    assert client.describe_index(name).deletion_protection == "enabled"
    assert client.describe_index(name).tags == {"c": "d"}
    with pytest.raises(ForbiddenError, match="Deletion protection"):
        client.delete_index(name)

    client.configure_index(name, deletion_protection="disabled")
    client.delete_index(name)
    assert not client.has_index(name)
    with pytest.raises(NotFoundError):
        client.describe_index(name)


def test_a_deleted_index_comes_back_empty(client: Pinecone) -> None:
    """Deleting an index deletes its records too."""
    name = next(_names)
    client.create_index(name, dimension=3, spec=SPEC)
    client.index(name).upsert(vectors=[("a", X)])
    client.delete_index(name)
    client.create_index(name, dimension=3, spec=SPEC)
    assert client.index(name).describe_index_stats().total_vector_count == 0


def test_a_wrong_key_is_refused_and_not_repeated(server: Vectors, index: Any) -> None:
    """Both planes compare the key, and the error does not tell it."""
    with Pinecone(api_key="not-the-key", host=server.url) as stranger:
        with pytest.raises(UnauthorizedError) as control:
            stranger.list_indexes()
        with pytest.raises(UnauthorizedError) as data:
            stranger.index(host=index.host).query(id="a", top_k=1)
    assert "not-the-key" not in f"{control.value}{control.value.body}{data.value}{data.value.body}"


def test_upsert_overwrites_and_fetch_returns_what_was_stored(index: Any) -> None:
    """A record is replaced as a whole; absent ids are left out of the answer."""
    index.upsert(vectors=[("a", X, {"v": 1, "old": True}), ("b", Y)], namespace="ns")
    assert index.upsert(vectors=[("a", Z, {"v": 2})], namespace="ns").upserted_count == 1
    found = index.fetch(ids=["a", "b", "unknown"], namespace="ns")
    assert {key: (one.values, one.metadata) for key, one in found.vectors.items()} == {
        "a": (Z, {"v": 2.0}),
        "b": (Y, None),
    }
    assert found.namespace == "ns"
    assert index.fetch(ids=["a"], namespace="other").vectors == {}


def test_values_come_back_as_the_float32_they_were(client: Pinecone) -> None:
    """Nothing of a float32 vector is lost on the way in and out."""
    vector = np.random.default_rng(1).standard_normal(1536).astype(np.float32)
    for index in _index(client, dimension=1536):
        index.upsert(vectors=[("a", vector.tolist())])
        back = np.array(index.fetch(ids=["a"]).vectors["a"].values, np.float32)
        assert np.array_equal(back, vector)


def test_query_ranks_by_cosine(index: Any) -> None:
    """The length of a vector does not matter, the best comes first."""
    index.upsert(
        vectors=[
            ("same", [2.0, 0.0, 0.0]),
            ("near", [8.0, 6.0, 0.0]),
            ("right-angle", Y),
            ("opposite", [-1.0, 0.0, 0.0]),
        ]
    )
    matches = index.query(vector=X, top_k=10).matches
    assert [(match.id, round(match.score, 5)) for match in matches] == [
        ("same", 1.0),
        ("near", 0.8),
        ("right-angle", 0.0),
        ("opposite", -1.0),
    ]
    assert _ids(index.query(vector=X, top_k=2)) == ["same", "near"]


@pytest.mark.parametrize("metric", ["dotproduct", "euclidean"])
def test_another_metric_is_refused(client: Pinecone, metric: str) -> None:
    """The server has indexes by cosine alone, and does not pretend to have others."""
    with pytest.raises(ApiError, match="metric cosine only"):
        client.create_index(next(_names), dimension=3, metric=metric, spec=SPEC)


def test_query_by_id_filters_and_shows_what_is_asked_for(index: Any) -> None:
    """A stored vector can be the query; values and metadata come only when wanted."""
    index.upsert(
        vectors=[("a", X, {"tier": 1}), ("b", [1.0, 1.0, 0.0], {"tier": 2}), ("c", Y, {"tier": 2})]
    )
    assert _ids(index.query(id="a", top_k=5)) == ["a", "b", "c"]
    assert _ids(index.query(id="unknown", top_k=5)) == []
    plain = index.query(vector=X, top_k=1).matches[0]
    assert (plain.values, plain.metadata) == ([], None)
    full = index.query(
        vector=X, top_k=1, filter={"tier": {"$gt": 1}}, include_values=True, include_metadata=True
    ).matches[0]
    assert (full.id, full.values, full.metadata) == ("b", [1.0, 1.0, 0.0], {"tier": 2.0})


def test_namespaces_are_apart(index: Any) -> None:
    """The same id in two namespaces is two records."""
    index.upsert(vectors=[("a", X)], namespace="one")
    index.upsert(vectors=[("a", Y), ("b", Z)], namespace="two")
    index.upsert(vectors=[("c", Z)])
    stats = index.describe_index_stats()
    assert {name: one.vector_count for name, one in stats.namespaces.items()} == {
        "__default__": 1,
        "one": 1,
        "two": 2,
    }
    assert (stats.total_vector_count, stats.dimension, stats.metric) == (4, 3, "cosine")
    assert _ids(index.query(vector=X, top_k=5, namespace="one")) == ["a"]
    assert list(index.fetch(ids=["c"], namespace="__default__").vectors) == ["c"]


def test_a_namespace_is_deleted_with_its_records(index: Any) -> None:
    """Names with slashes and dots survive in the URL."""
    for name in ("..", "a/b"):
        index.upsert(vectors=[("a", X)], namespace=name)
        index.delete_namespace(name=name)
        assert name not in index.describe_index_stats().namespaces
        with pytest.raises(NotFoundError):
            index.delete_namespace(name=name)


def test_delete_by_ids_and_all(index: Any) -> None:
    """Absent ids are no error, an absent namespace is."""
    index.upsert(vectors=[(f"r{n}", X, {"n": n}) for n in range(6)], namespace="ns")
    index.delete(ids=["r0", "r4", "r5", "absent"], namespace="ns")
    assert [item.id for page in index.list(namespace="ns") for item in page] == ["r1", "r2", "r3"]
    index.delete(delete_all=True, namespace="ns")
    assert index.describe_index_stats().namespaces["ns"].vector_count == 0
    with pytest.raises(NotFoundError, match="Namespace not found"):
        index.delete(ids=["r1"], namespace="nowhere")


def test_list_pages_through_ids_with_a_prefix(index: Any) -> None:
    """Pages hold 100 ids at most, come in order, and miss none."""
    ids = [f"league#{n:04d}" for n in range(250)]
    index.upsert(vectors=[(one, X) for one in (*ids, "other")], namespace="ns")
    pages = [[item.id for item in page] for page in index.list(prefix="league#", namespace="ns")]
    assert [len(page) for page in pages] == [100, 100, 50]
    assert [one for page in pages for one in page] == ids
    assert len(index.list_paginated(namespace="ns", limit=7).vectors) == 7


def test_a_thousand_ids_are_fetched_at_once(index: Any) -> None:
    """The client puts all ids into the address, of 64 KiB at most: 60 characters for each."""
    ids = [f"{n:04d}".ljust(60, "x") for n in range(1000)]
    index.upsert(vectors=[(one, X) for one in ids])
    assert len(index.fetch(ids=ids).vectors) == 1000
    with pytest.raises(ApiError, match="at most 1000"):
        index.fetch(ids=[str(n) for n in range(1001)])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([("a", [1.0, 0.0])], "does not match the dimension"),
        ([("a", [0.0, 0.0, 0.0])], "at least one non-zero value"),
        ([("a", [float("nan"), 0.0, 0.0])], "finite"),
        ([("a", [1e39, 0.0, 0.0])], "finite"),
        ([("a", ["1", "2", "3"])], "finite"),
        ([("", X)], "1 to 512 characters"),
        ([("x" * 513, X)], "1 to 512 characters"),
        ([("a", X, {"text": "x" * 41_000})], "exceeds the limit of 40960 bytes"),
        ([("a", X, {"$x": 1})], "start with"),
        ([(f"r{n}", X) for n in range(1001)], "maximum batch size 1000"),
        ([], "non-empty"),
        ([("fine", X), ("a", [1.0, 0.0])], "does not match the dimension"),
    ],
)
def test_an_upsert_past_a_limit_is_refused_as_a_whole(
    index: Any, vectors: list[Any], message: str
) -> None:
    """The service's limits hold here too, and a refused batch leaves nothing behind."""
    with pytest.raises(ApiError, match=message) as caught:
        index.upsert(vectors=vectors)
    assert caught.value.status_code == 400
    assert index.describe_index_stats().total_vector_count == 0


def test_an_upsert_past_two_megabytes_is_refused(client: Pinecone) -> None:
    """The body's size counts: 100 vectors of 1,536 printed in full are 3 MB."""
    rows = np.random.default_rng(2).standard_normal((100, 1536)).astype(np.float32).tolist()
    for index in _index(client, dimension=1536):
        with pytest.raises(PayloadTooLargeError):
            index.upsert(vectors=[(str(n), row) for n, row in enumerate(rows)])
        assert index.upsert(vectors=[(str(n), rows[n]) for n in range(60)]).upserted_count == 60


def test_stats_with_a_filter_are_refused(index: Any) -> None:
    """A serverless index does not count by filter."""
    with pytest.raises(ApiError, match="filter"):
        index.describe_index_stats(filter={"a": 1})


def test_acknowledged_writes_survive_kill_9(tmp_path: Path) -> None:
    """Acknowledged writes survive a kill and a restart of the server."""
    with (
        start_vectors(tmp_path) as service,
        Pinecone(api_key=service.secret, host=service.url) as client,
    ):
        client.create_index("kept", dimension=3, spec=SPEC)
        index = client.index("kept")
        index.upsert(vectors=[(f"r{n}", X, {"n": n}) for n in range(50)], namespace="ns")
        index.delete(ids=["r0"], namespace="ns")
        index.upsert(vectors=[("r1", Y, {"n": 1, "m": "x"})], namespace="ns")
        pid, port = service.pid, service.port
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        service.start()
        service.wait_ready()
        assert (service.port, service.pid == pid) == (port, False)
        assert index.describe_index_stats().namespaces["ns"].vector_count == 49
        record = index.fetch(ids=["r1"], namespace="ns").vectors["r1"]
        assert (record.values, record.metadata) == (Y, {"n": 1.0, "m": "x"})
        assert _ids(index.query(vector=Y, top_k=1, namespace="ns")) == ["r1"]


def test_many_threads_at_once(index: Any) -> None:
    """Writers and readers of one namespace do not disturb each other."""
    stop = threading.Event()

    def write(writer: int) -> None:
        for batch in range(5):
            ids = [f"{writer}-{batch}-{n}" for n in range(20)]
            index.upsert(vectors=[(one, X) for one in ids], namespace="busy")
            index.delete(ids=ids[:5], namespace="busy")

    def read() -> None:
        while not stop.is_set():
            index.query(vector=X, top_k=50, namespace="busy")

    with ThreadPoolExecutor(6) as pool:
        reader = pool.submit(read)
        for writer in [pool.submit(write, number) for number in range(4)]:
            writer.result()
        stop.set()
        reader.result()
    assert index.describe_index_stats().namespaces["busy"].vector_count == 4 * 5 * 15


def test_counters_tell_requests_records_and_bytes(server: Vectors, index: Any) -> None:
    """The server counts what it was asked for since the last reset."""
    server.admin.reset_stats()
    index.upsert(vectors=[("a", X), ("b", Y)])
    with pytest.raises(ApiError):
        index.upsert(vectors=[("a", [1.0])])
    index.query(vector=X, top_k=1)
    stats = server.admin.stats()
    assert stats.requests == {"pinecone.upsert": 2, "pinecone.query": 1}
    assert stats.failures == {"pinecone.upsert": 1}
    assert stats.records["pinecone.upsert"] == 2
    assert stats.bytes["pinecone.upsert"] > 50
    assert stats.injected == {}
