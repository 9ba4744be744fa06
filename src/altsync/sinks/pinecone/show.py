"""Show the vectors of one entity for ``why``, and check the service for ``doctor``."""

from __future__ import annotations

from pinecone import Pinecone, RetryConfig

from altsync.config import Settings
from altsync.entities import Row
from altsync.projection import namespace
from altsync.protocols import Held, Reads, Shown
from altsync.sinks.pinecone.write import Sink
from altsync.sinks.vectors import is_current, show_vectors
from altsync.wording import plural


def show(sink: Sink, row: Row) -> Shown:
    """Fetch an entity's vector from its present and its right namespace. Raises ``SinkFailure``."""
    spaces = dict.fromkeys([namespace(row), row.written_namespace])
    found = (sink.find(row.entity_type, row.key, one) for one in spaces if one is not None)

    def current(held: Held) -> bool:
        stored = sink.fetch(row.entity_type, held.namespace, [held.key], Reads())
        return any(is_current(row, one) for one in stored)

    return show_vectors(row, [held for held in found if held is not None], current)


def check(settings: Settings, sink: Sink, timeout: float) -> str:
    """Return how many indexes the key may list. Raises what the SDK raises."""
    assert settings.pinecone_api_key is not None
    with Pinecone(
        api_key=settings.pinecone_api_key.get_secret_value(),
        host=settings.pinecone_controller_host,
        timeout=timeout,
        retry_config=RetryConfig(max_retries=0),
    ) as client:
        count = len(list(client.indexes.list()))
    place = settings.pinecone_controller_host or "api.pinecone.io"
    return f"{plural(count, 'index', 'indexes')} at {place}"
