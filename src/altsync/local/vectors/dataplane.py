"""Pinecone's data plane: the requests to one index that altsync makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from altsync.local.vectors import limits
from altsync.local.vectors.faults import Call
from altsync.local.vectors.filters import compile_filter
from altsync.local.vectors.indexes import Indexes
from altsync.local.vectors.limits import VectorRecord, check_namespace
from altsync.local.vectors.wire import (
    Answer,
    ApiRequest,
    Effects,
    Job,
    Refused,
    page_start,
    page_token,
)

#: Read units that an answer reports. Nothing is charged.
USAGE = {"readUnits": 1}

#: Headers of Pinecone: the log sequence number of a write, and the one that a query has seen.
#: https://docs.pinecone.io/guides/index-data/check-data-freshness
WRITTEN, INDEXED = "x-pinecone-request-lsn", "x-pinecone-max-indexed-lsn"


class DataPlane:
    """Operations on records. Each checks its request, and returns the work as a ``Job``."""

    def __init__(self, indexes: Indexes) -> None:
        self._indexes = indexes

    def upsert(self, request: ApiRequest) -> Job:
        """Insert or replace records."""
        if len(request.body) > limits.MAX_UPSERT_BYTES:
            raise Refused(
                413,
                f"Error, message length too large: found {len(request.body)} bytes, "
                f"the limit is: {limits.MAX_UPSERT_BYTES} bytes",
            )
        index, body = self._indexes.index(request.path["index"]), request.json()
        namespace = check_namespace(body.get("namespace"))
        records = limits.check_vectors(body.get("vectors"), index.dimension)

        def run(effects: Effects) -> Answer:
            headers = _committed(index.upsert(namespace, records, effects.lag))
            return Answer({"upsertedCount": len(records)}, records=len(records), headers=headers)

        ids = [record.id for record in records]
        return Job(Call("pinecone.upsert", index.name, namespace, ids), run)

    def query(self, request: ApiRequest) -> Job:
        """Find the records nearest to a vector, or to the vector of a stored record."""
        index, body = self._indexes.index(request.path["index"]), request.json()
        namespace = check_namespace(body.get("namespace"))
        size = body.get("topK")
        if not isinstance(size, int) or not 1 <= size <= limits.MAX_TOP_K:
            raise Refused(400, f"topK must be between 1 and {limits.MAX_TOP_K}, got {size!r}")
        vector, identity = body.get("vector"), body.get("id")
        if (vector is None) == (identity is None):
            raise Refused(400, "Exactly one of 'vector' and 'id' must be given")
        ids = [] if identity is None else [limits.check_id(identity)]
        given = [] if ids else [limits.check_values([vector], index.dimension)[0]]
        predicate = compile_filter(body["filter"]) if body.get("filter") else None
        values, metadata = bool(body.get("includeValues")), bool(body.get("includeMetadata"))

        def run(_effects: Effects) -> Answer:
            seen = index.position(namespace)  # before the query, which may see more
            wanted = given or [record.values for record in index.fetch(namespace, ids)]
            found = [
                pair
                for one in wanted
                for pair in index.query(namespace, one, size, predicate, values=values)
            ]
            matches = [
                {**_shown(record, metadata=metadata), "score": score} for record, score in found
            ]
            payload = {
                "matches": matches,
                "namespace": body.get("namespace") or "",
                "usage": USAGE,
            }
            return Answer(payload, records=len(found), headers={INDEXED: str(seen)})

        return Job(Call("pinecone.query", index.name, namespace, ids), run)

    def fetch(self, request: ApiRequest) -> Job:
        """Return records by id."""
        index = self._indexes.index(request.path["index"])
        ids = limits.check_ids(list(request.query.get("ids", ())))
        namespace = check_namespace(request.parameter("namespace"))

        def run(_effects: Effects) -> Answer:
            found = index.fetch(namespace, ids)
            payload = {
                "vectors": {record.id: _shown(record) for record in found},
                "namespace": request.parameter("namespace"),
                "usage": USAGE,
            }
            return Answer(payload, records=len(found))

        return Job(Call("pinecone.fetch", index.name, namespace, ids), run)

    def delete(self, request: ApiRequest) -> Job:
        """Delete records by id, or all of a namespace."""
        index, body = self._indexes.index(request.path["index"]), request.json()
        namespace = check_namespace(body.get("namespace"))
        if body.get("filter") is not None:
            raise Refused(400, "This server deletes by ids, or all records of a namespace")
        everything = body.get("deleteAll") is True
        if everything and body.get("ids"):
            raise Refused(400, "No explicit IDs or filter allowed when delete_all=true")
        ids: Sequence[str] = () if everything else limits.check_ids(body.get("ids"))

        def run(effects: Effects) -> Answer:
            if everything:
                written = index.delete_all(namespace, effects.lag)
            else:
                written = index.delete(namespace, ids, effects.lag)
            return Answer(records=len(ids), headers=_committed(written))

        return Job(Call("pinecone.delete", index.name, namespace, ids), run)

    def list_ids(self, request: ApiRequest) -> Job:
        """Return one page of ids, in order."""
        index = self._indexes.index(request.path["index"])
        namespace = check_namespace(request.parameter("namespace"))
        prefix, size = request.parameter("prefix"), limits.check_page(request.parameter("limit"))
        after = page_start(request.parameter("paginationToken"))

        def run(_effects: Effects) -> Answer:
            ids = index.page(namespace, prefix, after, size + 1)
            payload: dict[str, Any] = {
                "vectors": [{"id": one} for one in ids[:size]],
                "namespace": request.parameter("namespace"),
                "usage": USAGE,
            }
            if len(ids) > size:
                payload["pagination"] = {"next": page_token(ids[size - 1])}
            return Answer(payload, records=len(ids[:size]))

        return Job(Call("pinecone.list", index.name, namespace), run)

    def stats(self, request: ApiRequest) -> Job:
        """Count the records, by namespace."""
        index = self._indexes.index(request.path["index"])
        if request.json().get("filter"):
            raise Refused(400, "Serverless indexes do not support describing stats with a filter")

        def run(_effects: Effects) -> Answer:
            counts = index.counts()
            payload = {
                "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
                "dimension": index.dimension,
                "indexFullness": 0,
                "totalVectorCount": sum(counts.values()),
                "metric": "cosine",
                "vectorType": "dense",
            }
            return Answer(payload, records=len(counts))

        return Job(Call("pinecone.stats", index.name), run)

    def delete_namespace(self, request: ApiRequest) -> Job:
        """Delete a namespace with its records."""
        index = self._indexes.index(request.path["index"])
        name = check_namespace(request.path["namespace"])

        def run(effects: Effects) -> Answer:
            index.drop_namespace(name, effects.lag)
            return Answer()

        return Job(Call("pinecone.delete_namespace", index.name, name), run)


def _committed(position: int) -> dict[str, str]:
    """Return the header with the position of a write."""
    return {WRITTEN: str(position)}


def _shown(record: VectorRecord, *, metadata: bool = True) -> dict[str, Any]:
    shown = {"id": record.id, "values": record.values}
    return {**shown, "metadata": record.metadata} if metadata and record.metadata else shown
