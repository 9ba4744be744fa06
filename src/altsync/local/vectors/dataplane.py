"""Pinecone's data plane: what each request of an index means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from altsync.local.vectors import limits
from altsync.local.vectors.faults import Call
from altsync.local.vectors.filters import Predicate, compile_filter
from altsync.local.vectors.index import Index
from altsync.local.vectors.limits import VectorRecord, check_namespace
from altsync.local.vectors.store import Store
from altsync.local.vectors.wire import (
    Answer,
    Ask,
    Effects,
    Job,
    Refused,
    page_start,
    page_token,
)

#: Read units that a request reports; nothing is billed.
USAGE = {"readUnits": 1}


class DataPlane:
    """The operations on records. Each checks its request and returns what is to be done."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def upsert(self, ask: Ask) -> Job:
        """Insert or replace records."""
        if len(ask.body) > limits.MAX_UPSERT_BYTES:
            raise Refused(
                413,
                f"Error, message length too large: found {len(ask.body)} bytes, "
                f"the limit is: {limits.MAX_UPSERT_BYTES} bytes",
            )
        index, body, namespace = self._written(ask)
        records = limits.check_vectors(body.get("vectors"), index.dimension)

        def run(effects: Effects) -> Answer:
            index.upsert(namespace, records, effects.lag)
            return Answer({"upsertedCount": len(records)}, records=len(records))

        ids = [record.id for record in records]
        return Job(Call("pinecone.upsert", index.name, namespace, ids), run)

    def query(self, ask: Ask) -> Job:
        """The nearest records to a vector, or to a stored record's vector."""
        index, body, namespace = self._written(ask)
        size = body.get("topK")
        if not isinstance(size, int) or not 1 <= size <= limits.MAX_TOP_K:
            raise Refused(400, f"topK must be between 1 and {limits.MAX_TOP_K}, got {size!r}")
        vector, identity = body.get("vector"), body.get("id")
        if (vector is None) == (identity is None):
            raise Refused(400, "Exactly one of 'vector' and 'id' must be given")
        if identity is None:
            given = limits.check_values([vector], index.dimension)[0]
        else:
            limits.check_id(identity)
        predicate = _optional_filter(body.get("filter"))
        values = bool(body.get("includeValues"))

        def run(_effects: Effects) -> Answer:
            if identity is None:
                wanted = given
            else:
                stored = index.fetch(namespace, [identity])
                if not stored:
                    return Answer(_matches(body, []))
                wanted = stored[0].values
            found = index.query(namespace, wanted, size, predicate, values=values)
            return Answer(_matches(body, found), records=len(found))

        ids = [] if identity is None else [identity]
        return Job(Call("pinecone.query", index.name, namespace, ids), run)

    def fetch(self, ask: Ask) -> Job:
        """Records by id."""
        index = self._store.index(ask.path["index"])
        ids = limits.check_ids(list(ask.query.get("ids", ())))
        namespace = check_namespace(ask.one("namespace"))

        def run(_effects: Effects) -> Answer:
            found = index.fetch(namespace, ids)
            return Answer(_vectors(found, ask.one("namespace")), records=len(found))

        return Job(Call("pinecone.fetch", index.name, namespace, ids), run)

    def fetch_by_metadata(self, ask: Ask) -> Job:
        """One page of the records whose metadata match."""
        index, body, namespace = self._written(ask)
        if not body.get("filter"):
            raise Refused(400, "Empty filter provided for fetch by metadata request")
        predicate = compile_filter(body["filter"])
        size = limits.check_page(body.get("limit"), limits.MAX_METADATA_PAGE)
        after = page_start(body.get("paginationToken") or "")

        def run(_effects: Effects) -> Answer:
            ids = [one for one in index.matching(namespace, predicate) if one > after]
            found = index.fetch(namespace, ids[:size])
            payload = _vectors(found, body.get("namespace") or "")
            if len(ids) > size:
                payload["pagination"] = {"next": page_token(ids[size - 1])}
            return Answer(payload, records=len(found))

        return Job(Call("pinecone.fetch_by_metadata", index.name, namespace), run)

    def delete(self, ask: Ask) -> Job:
        """Delete by ids, by filter, or all of a namespace."""
        index, body, namespace = self._written(ask)
        everything, raw = body.get("deleteAll") is True, body.get("filter")
        if everything and (body.get("ids") or raw):
            raise Refused(400, "No explicit IDs or filter allowed when delete_all=true")
        if raw == {}:
            raise Refused(400, "Delete with empty metadata filter is not allowed")
        predicate = _optional_filter(raw)
        # Next to a filter the service does not look at ids.
        ids = [] if everything or predicate else limits.check_ids(body.get("ids"))

        def run(effects: Effects) -> Answer:
            if everything:
                index.delete_all(namespace, effects.lag)
                return Answer()
            doomed = index.matching(namespace, predicate) if predicate else ids
            index.delete(namespace, doomed, effects.lag)
            return Answer(records=len(doomed))

        return Job(Call("pinecone.delete", index.name, namespace, ids), run)

    def update(self, ask: Ask) -> Job:
        """Change one record by id, or metadata of all that match a filter."""
        index, body, namespace = self._written(ask)
        identity, raw, values = body.get("id"), body.get("filter"), body.get("values")
        if (identity is None) == (raw is None):
            raise Refused(400, "Exactly one of 'id' and 'filter' must be given")
        if raw == {}:
            raise Refused(400, "Update with empty metadata filter is not allowed")
        if raw is not None and values is not None:
            raise Refused(400, "Update by metadata request does not support updating vector values")
        if body.get("sparseValues"):
            raise Refused(400, "Index configuration does not support sparse values")
        predicate = _optional_filter(raw)
        ids = [] if identity is None else [limits.check_id(identity)]
        vector = None if values is None else limits.check_values([values], index.dimension)[0]
        metadata = limits.check_metadata(body.get("setMetadata"))
        dry = bool(body.get("dryRun"))

        def run(effects: Effects) -> Answer:
            chosen = index.matching(namespace, predicate) if predicate else ids
            if predicate is None or not dry:
                index.update(namespace, chosen, effects.lag, values=vector, metadata=metadata)
            payload = {} if predicate is None else {"matchedRecords": len(chosen)}
            return Answer(payload, records=len(chosen))

        return Job(Call("pinecone.update", index.name, namespace, ids), run)

    def list_ids(self, ask: Ask) -> Job:
        """One page of ids, in order."""
        index = self._store.index(ask.path["index"])
        namespace = check_namespace(ask.one("namespace"))
        prefix, size = ask.one("prefix"), limits.check_page(ask.one("limit"))
        after = page_start(ask.one("paginationToken"))

        def run(_effects: Effects) -> Answer:
            ids = index.page(namespace, prefix, after, size + 1)
            payload: dict[str, Any] = {
                "vectors": [{"id": one} for one in ids[:size]],
                "namespace": ask.one("namespace"),
                "usage": USAGE,
            }
            if len(ids) > size:
                payload["pagination"] = {"next": page_token(ids[size - 1])}
            return Answer(payload, records=len(ids[:size]))

        return Job(Call("pinecone.list", index.name, namespace), run)

    def stats(self, ask: Ask) -> Job:
        """Return how many records there are, by namespace."""
        index = self._store.index(ask.path["index"])
        if ask.json().get("filter"):
            raise Refused(400, "Serverless indexes do not support describing stats with a filter")

        def run(_effects: Effects) -> Answer:
            counts = index.counts()
            payload = {
                "namespaces": {name: {"vectorCount": count} for name, count in counts.items()},
                "dimension": index.dimension,
                "indexFullness": 0,
                "totalVectorCount": sum(counts.values()),
                "metric": index.metric,
                "vectorType": "dense",
            }
            return Answer(payload, records=len(counts))

        return Job(Call("pinecone.stats", index.name), run)

    def _written(self, ask: Ask) -> tuple[Index, Mapping[str, Any], str]:
        index = self._store.index(ask.path["index"])
        body = ask.json()
        return index, body, check_namespace(body.get("namespace"))


def _optional_filter(raw: object) -> Predicate | None:
    return compile_filter(raw) if raw else None


def _matches(body: Mapping[str, Any], found: Sequence[tuple[VectorRecord, float]]) -> object:
    metadata = bool(body.get("includeMetadata"))
    return {
        "matches": [
            {
                "id": record.id,
                "score": score,
                "values": record.values,
                **({"metadata": record.metadata} if metadata and record.metadata else {}),
            }
            for record, score in found
        ],
        "namespace": body.get("namespace") or "",
        "usage": USAGE,
    }


def _vectors(found: Sequence[VectorRecord], namespace: str) -> dict[str, Any]:
    return {
        "vectors": {
            record.id: {
                "id": record.id,
                "values": record.values,
                **({"metadata": record.metadata} if record.metadata else {}),
            }
            for record in found
        },
        "namespace": namespace,
        "usage": USAGE,
    }
