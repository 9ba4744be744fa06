"""Change the embedding model: estimate the cost, then enqueue the embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from altsync.catalogue.current import entity_types
from altsync.circuit.sinks import want_model, wanted_model
from altsync.contract import Topology
from altsync.db import Conn, Database
from altsync.entities import EntityType, Model
from altsync.errors import AltsyncError, ConfigurationError, SchemaError
from altsync.generations import read_generations
from altsync.outbox.upkeep import reembed_page
from altsync.store.unembedded import unembedded


@dataclass(frozen=True, slots=True)
class Plan:
    """The work until one model has embedded everything.

    ``rows`` by type are not embedded by it; ``in_progress`` of them have an operation already.
    ``texts`` are charged. The other rows share a text, or their vectors are stored.
    """

    model: Model
    wanted: Model
    rows: dict[EntityType, int]
    in_progress: int
    texts: int

    @property
    def total(self) -> int:
        """Return the number of rows of all types."""
        return sum(self.rows.values())

    @property
    def is_done(self) -> bool:
        """Return whether nothing is left to enqueue."""
        return self.model == self.wanted and self.total == self.in_progress

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            **asdict(self),
            "rows": {kind.value: count for kind, count in self.rows.items()},
        }


def plan(conn: Conn, model: Model) -> Plan:
    """Return the work that ``start`` would enqueue. Reads every entity.

    Raises ``ConfigurationError`` when the vectors would have another length.
    """
    found = wanted_model(conn)
    if found is None:
        raise SchemaError("no sink is registered: run altsync migrate")
    wanted = Model(*found)
    generations = read_generations(conn)
    if generations is not None and generations.shadow is not None:
        raise AltsyncError(
            f"{generations.shadow.model.name} is kept beside {wanted.name}: altsync model status "
            "shows it, and altsync model drop ends it"
        )
    if model.dimensions != wanted.dimensions:
        raise ConfigurationError(
            f"the settings ask for {model.dimensions} dimensions, the database and its vector "
            f"indexes have {wanted.dimensions}, and an index keeps its dimensions: set "
            f"ALTSYNC_EMBEDDING_DIMENSIONS={wanted.dimensions}, or start with a new database and "
            "new indexes"
        )
    missing = unembedded(conn, model)
    return Plan(model, wanted, dict(missing.rows), missing.in_progress, missing.texts)


def start(database: Database, topology: Topology, model: Model) -> Iterator[int]:
    """Set the wanted model, and enqueue what it has not embedded; yield the rows of each page.

    Safe to repeat and to interrupt: a second run finds what is left.
    """
    with database.transaction() as conn:
        want_model(conn, model.name)
    for kind in entity_types():
        after = None
        while True:
            with database.transaction() as conn:
                count, after = reembed_page(conn, topology, kind, after=after)
            yield count
            if after is None:
                break
