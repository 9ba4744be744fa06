"""The explanation of one entity: its seed line, its vector, its stores, its checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from altsync.circuit.sinks import SinkHealth
from altsync.protocols import Shown
from altsync.why.history import EntityState, OperationRow

#: The finding for a row whose content does not fit its hashes.
EDITED = "edited by SQL: its content is not what its hashes are of"


@dataclass(frozen=True, slots=True)
class SeedLine:
    """The line of the seed folder that gives the entity.

    ``same``: PostgreSQL holds the line's content. It is None for a line that would be refused,
    for the reason ``refused``.
    """

    file: str
    line: int
    text: str
    same: bool | None = None
    refused: str | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector in PostgreSQL, and the cost of the wanted one.

    ``most_tokens`` is an upper bound of the text's tokens: its bytes. The tokens charged are
    recorded by batch (``delivery_batch``), not by entity. ``kept``: the wanted model's vector of
    the text is stored already, for this entity or another one, and costs nothing.
    """

    wanted_model: str | None
    model: str | None
    up_to_date: bool
    updated_at: datetime | None
    most_tokens: int
    kept: bool

    @property
    def gap(self) -> str:
        """Return how the vector differs from the wanted one."""
        if self.model is None:
            return "there is none yet"
        if self.model != self.wanted_model:
            return f"by {self.model}, not by {self.wanted_model}"
        return "of a former text"


@dataclass(frozen=True, slots=True)
class Check:
    """The comparison of one store. ``agrees`` is None if the store was not asked or failed."""

    store: str
    agrees: bool | None
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """One entity in every store. ``stores`` holds the records of the sinks, by name."""

    entity: EntityState
    seed: SeedLine | None
    embedding: Embedding
    stores: Mapping[str, Shown]
    checks: tuple[Check, ...]
    operations: tuple[OperationRow, ...]
    reasons: tuple[str, ...]

    @property
    def agrees(self) -> bool | None:
        """Return whether all stores agree, None when no store differs and not all were asked.

        The seed folder may be absent.
        """
        if any(check.agrees is False for check in self.checks):
            return False
        asked = (check.agrees for check in self.checks if check.store != "seed")
        return None if None in asked else True


@dataclass(frozen=True, slots=True)
class Unknown:
    """The reason why PostgreSQL has no such entity, and similar keys."""

    key: str
    reason: str
    near: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.reason}; did you mean {', '.join(self.near)}?" if self.near else self.reason


@dataclass(frozen=True, slots=True)
class DeliveryState:
    """The latest operations of an entity, and the state of each sink."""

    now: datetime
    live: Mapping[str, OperationRow]
    dead: Mapping[str, OperationRow]
    discarded: Mapping[str, OperationRow]
    health: Mapping[str, SinkHealth]
    disabled: Mapping[str, str | None]
    graph: Sequence[str] = ()
