"""Writes beside delivery: repairs of verify, adoption of nodes, housekeeping."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import structlog
from neo4j import ManagedTransaction

from altsync.entities import EntityType
from altsync.sinks.neo4j import client
from altsync.sinks.neo4j.read import Reader
from altsync.sinks.neo4j.statements import (
    ADOPT_NODES,
    DELETE_NODE,
    DELETE_WITHOUT_KEY,
    FORGET_DELETIONS,
    FORGET_STUBS,
    FORGET_TOMBSTONES,
    RESET_NODE_VERSIONS,
    RESET_TOMBSTONE_VERSIONS,
    cypher,
    stub_labels,
)

log = structlog.get_logger(__name__)

#: Hours that a deletion is remembered, so that a late upsert finds it.
TOMBSTONE_HOURS = 24


class Repairs(Reader):
    """The repairs of a sink. Each raises ``SinkFailure``."""

    def remove_without_key(self, entity_type: EntityType, ids: Sequence[str]) -> None:
        """Remove nodes by the graph's ids, unless they have a key now."""
        statement = cypher(DELETE_WITHOUT_KEY, entity_type)
        self._run(partial(client.execute, statement=statement, ids=list(ids)))

    def adopt_nodes(self, entity_type: EntityType, keys: Sequence[str]) -> int:
        """Mark other programs' nodes of ``keys`` as altsync's; return how many there were."""
        statement = cypher(ADOPT_NODES, entity_type)
        (found,) = self._run(partial(client.records, statement=statement, keys=sorted(keys)))
        return int(found["count"])

    def reset_versions(self, entity_type: EntityType, keys: Sequence[str], highest: int) -> None:
        """Reset versions that are no number or above ``highest``, which would refuse every write.

        A node gets version 0, a tombstone is deleted.
        """
        kind = entity_type
        of_nodes = cypher(RESET_NODE_VERSIONS, kind)

        def work(tx: ManagedTransaction) -> None:
            client.execute(tx, statement=of_nodes, keys=sorted(keys), highest=highest)
            stones_of = sorted(f"{kind.label}:{key}" for key in keys)
            client.execute(tx, statement=RESET_TOMBSTONE_VERSIONS, keys=stones_of, highest=highest)

        self._run(work)

    def remove(self, entity_type: EntityType, keys: Sequence[str], version: int) -> None:
        """Remove nodes that are not above ``version``, and leave tombstones of it."""
        rows = [{"key": key, "version": version} for key in sorted(keys)]
        statement = cypher(DELETE_NODE, entity_type)
        self._run(partial(client.execute, statement=statement, rows=rows))

    def forget_deletions(self, entity_type: EntityType, keys: Sequence[str]) -> None:
        """Remove the tombstones of ``keys``. Nothing may be on its way to them any more."""
        stones = sorted(f"{entity_type.label}:{key}" for key in keys)
        self._run(partial(client.execute, statement=FORGET_DELETIONS, keys=stones))

    def forget_tombstones(self) -> None:
        """Remove old tombstones, and stubs without edges."""
        milliseconds = TOMBSTONE_HOURS * 3600 * 1000
        self._run(partial(client.execute, statement=FORGET_TOMBSTONES, milliseconds=milliseconds))
        for label in stub_labels():
            statement = FORGET_STUBS.format(label=label)
            (found,) = self._run(partial(client.records, statement=statement))
            if found["count"]:
                log.info("stubs.removed", label=label, count=found["count"])
