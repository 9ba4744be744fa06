"""The contract of a sink.

A sink is a module of this package with a class called ``Sink``, a function
``open_sink(settings, vectors)``, and ``SETTING``, the variable that switches it on. It mirrors
rows idempotently, reports an outcome for every record, and translates its driver's errors at
its own module: nothing but ``SinkFailure`` leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol, TypeVar

from altsync.records import Answer, EntityType, Model, Row, SinkTraits, SinkVersion

T = TypeVar("T")


class Ask(Protocol):
    """How a read is asked for: once, or again when it fails."""

    def __call__(self, call: Callable[[], T]) -> T:
        """Return what ``call`` returns. Raises ``SinkFailure``."""
        ...


def once(call: Callable[[], T]) -> T:
    """Ask, and leave it at that."""
    return call()


class VectorStore(Protocol):
    """Where vectors are kept by the hash of their text."""

    def known(self, model: Model, hashes: Sequence[str]) -> set[str]:
        """Return those of ``hashes`` that are there."""
        ...

    def keep(self, model: Model, vectors: Mapping[str, bytes]) -> None:
        """Keep vectors (float32 little-endian), at once and for good."""
        ...

    def forget(self, hashes: Sequence[str]) -> None:
        """Remove vectors of every model."""
        ...

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Return what each living entity has embedded."""
        ...


class Sink(Protocol):
    """One mirror of PostgreSQL."""

    traits: ClassVar[SinkTraits]

    def setup(self) -> None:
        """Create indexes and constraints. Safe to repeat, and at once."""
        ...

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """Cut rows of one type into what goes out in one call each, by count and bytes."""
        ...

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Write rows of one type in one call.

        Raises ``SinkFailure`` when the call failed as a whole.
        """
        ...

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Remove deleted rows of one type in one call, as of their versions.

        Raises ``SinkFailure`` when the call failed as a whole.
        """
        ...

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Return what the sink holds, as a stream."""
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...
