"""Pinecone's requests about namespaces."""

from __future__ import annotations

from typing import Any

from altsync.local.vectors import limits
from altsync.local.vectors.faults import Call
from altsync.local.vectors.names import DEFAULT_NAMESPACE
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


class NamespacePlane:
    """The operations on namespaces."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, ask: Ask) -> Job:
        """Make an empty namespace."""
        index = self._store.index(ask.path["index"])
        name = limits.check_id(ask.json().get("name"), "Namespace")

        def run(effects: Effects) -> Answer:
            index.create_namespace(name, effects.lag)
            return Answer(_described(name, 0))

        return Job(Call("pinecone.create_namespace", index.name, name), run)

    def describe(self, ask: Ask) -> Job:
        """One namespace; the default one always exists."""
        index = self._store.index(ask.path["index"])
        name = limits.check_namespace(ask.path["namespace"])

        def run(_effects: Effects) -> Answer:
            counts = {DEFAULT_NAMESPACE: 0, **index.counts()}
            if name not in counts:
                raise Refused(404, "Namespace not found")
            return Answer(_described(name, counts[name]))

        return Job(Call("pinecone.describe_namespace", index.name, name), run)

    def list_all(self, ask: Ask) -> Job:
        """One page of namespaces, in order."""
        index = self._store.index(ask.path["index"])
        size = limits.check_page(ask.one("limit"))
        after = page_start(ask.one("paginationToken"))

        def run(_effects: Effects) -> Answer:
            counts = {
                name: count
                for name, count in index.counts().items()
                if name.startswith(ask.one("prefix"))
            }
            names = [name for name in counts if name > after]
            payload: dict[str, Any] = {
                "namespaces": [_described(name, counts[name]) for name in names[:size]],
                "total_count": len(counts),
            }
            if len(names) > size:
                payload["pagination"] = {"next": page_token(names[size - 1])}
            return Answer(payload, records=len(names[:size]))

        return Job(Call("pinecone.list_namespaces", index.name), run)

    def delete(self, ask: Ask) -> Job:
        """Delete a namespace with its records."""
        index = self._store.index(ask.path["index"])
        name = limits.check_namespace(ask.path["namespace"])

        def run(effects: Effects) -> Answer:
            index.drop_namespace(name, effects.lag)
            return Answer()

        return Job(Call("pinecone.delete_namespace", index.name, name), run)


def _described(name: str, count: int) -> dict[str, Any]:
    return {"name": name, "record_count": str(count)}  # the service sends the count as text
