"""Sinks and an embedder that do as they are told: real rules, scripted faults, no network."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from altsync.catalogue.current import entity_type
from altsync.contract import AlreadyNewer, Answer, RecordOutcome, SinkTraits, SinkVersion, Written
from altsync.embedding import Embedded
from altsync.entities import EntityType, Model, Row
from altsync.projection import digest, namespace


@dataclass(frozen=True, slots=True)
class Call:
    """One call to a sink, as it came in."""

    action: str
    rows: tuple[Row, ...]

    @property
    def keys(self) -> list[str]:
        """The keys of the records, in their order."""
        return [row.key for row in self.rows]


@dataclass(frozen=True, slots=True)
class Held:
    """A record of a sink; ``gone`` marks a tombstone."""

    version: int
    content_hash: str
    gone: bool = False


Place = tuple[EntityType, str]


def nothing(call: Call) -> None:
    """The script of a sink that always works."""


class FakeSink:
    """The base of all fakes: it records each call and follows a script.

    ``before`` sees a call before it is applied, ``after`` once it is; either may raise.
    ``size`` is how many rows go into one call. ``answer`` may change the outcomes.
    """

    traits: ClassVar[SinkTraits]

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.set_up = 0
        self.size = 10_000
        self.before: Callable[[Call], None] = nothing
        self.after: Callable[[Call], None] = nothing
        self.answer: Callable[[Call, tuple[RecordOutcome, ...]], tuple[RecordOutcome, ...]] = (
            _as_it_is
        )

    def setup(self) -> None:
        """Count it."""
        self.set_up += 1

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By count."""
        return [rows[i : i + self.size] for i in range(0, len(rows), self.size)]

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """Note, follow the script, apply."""
        call = self._begin("upsert", rows)
        outcomes = tuple(self.apply(row, model) for row in rows)
        return self._end(call, outcomes)

    def delete(self, rows: Sequence[Row]) -> Answer:
        """Note, follow the script, apply."""
        call = self._begin("delete", rows)
        outcomes = tuple(self.remove(row) for row in rows)
        return self._end(call, outcomes)

    def _begin(self, action: str, rows: Sequence[Row]) -> Call:
        call = Call(action, tuple(rows))
        self.calls.append(call)
        self.before(call)
        return call

    def _end(self, call: Call, outcomes: tuple[RecordOutcome, ...]) -> Answer:
        self.after(call)
        return Answer(self.answer(call, outcomes))

    def apply(self, row: Row, model: Model) -> RecordOutcome:
        """Hold one row."""
        raise NotImplementedError

    def remove(self, row: Row) -> RecordOutcome:
        """Let go of one row."""
        raise NotImplementedError

    def versions(self, entity_type: EntityType) -> Iterator[SinkVersion]:
        """Not asked for by these tests."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to let go of."""


def _as_it_is(call: Call, outcomes: tuple[RecordOutcome, ...]) -> tuple[RecordOutcome, ...]:
    return outcomes


class FakeGraph(FakeSink):
    """A guarded sink: an older version never overwrites a newer one, nor its tombstone."""

    traits: ClassVar[SinkTraits] = SinkTraits("neo4j", guarded=True, edges=True)

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[Place, Held] = {}

    def apply(self, row: Row, model: Model) -> RecordOutcome:
        """Unless a newer version, or the deletion of this one, is held."""
        there = self.held.get((row.entity_type, row.key))
        if there and (there.version, there.gone) > (row.graph_version, False):
            return AlreadyNewer(row.id, there.version)
        self.held[row.entity_type, row.key] = Held(row.graph_version, row.content_hash)
        return Written(row.id, row.graph_version, remote_id=f"node:{row.key}")

    def remove(self, row: Row) -> RecordOutcome:
        """Leave a tombstone."""
        there = self.held.get((row.entity_type, row.key))
        if there and not there.gone and there.version > row.graph_version:
            return AlreadyNewer(row.id, there.version)
        version = max(row.graph_version, there.version if there else 0)
        self.held[row.entity_type, row.key] = Held(version, row.content_hash, gone=True)
        return Written(row.id, row.graph_version)

    def living(self) -> dict[Place, Held]:
        """Return the records that are not deleted."""
        return {place: held for place, held in self.held.items() if not held.gone}


class FileGraph(FakeGraph):
    """A graph that outlives its process: it is kept in a file after each call."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        if file.exists():
            rows = json.loads(file.read_text())
            self.held = {(entity_type(t), k): Held(v, h, gone=g) for t, k, v, h, g in rows}

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """And keep it."""
        answer = super().upsert(rows, model)
        kept = [[t, k, h.version, h.content_hash, h.gone] for (t, k), h in self.held.items()]
        self._file.write_text(json.dumps(kept))
        return answer


class FakeIndex(FakeSink):
    """An unguarded sink with namespaces: the last write wins, whatever its version."""

    traits: ClassVar[SinkTraits] = SinkTraits("pinecone", needs_embedding=True)

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[EntityType, str, str], Held] = {}

    def split(self, rows: Sequence[Row], model: Model) -> list[Sequence[Row]]:
        """By namespace, then by count."""
        spaces = sorted({namespace(row) for row in rows})
        return [
            part
            for space in spaces
            for part in super(FakeIndex, self).split(
                [row for row in rows if namespace(row) == space], model
            )
        ]

    def apply(self, row: Row, model: Model) -> RecordOutcome:
        """Write, and leave the namespace where the row was written before."""
        space = namespace(row)
        self.held[row.entity_type, space, row.key] = Held(row.version, row.content_hash)
        if row.written_namespace not in (None, space):
            self.held.pop((row.entity_type, row.written_namespace or "", row.key), None)
        return Written(row.id, row.version, row.key, space)

    def land(self, row: Row) -> None:
        """A write that was given up on is applied after all, whatever is there by now."""
        self.held[row.entity_type, namespace(row), row.key] = Held(row.version, row.content_hash)

    def remove(self, row: Row) -> RecordOutcome:
        """Remove it from where it is and from where it would be."""
        for space in {row.written_namespace, namespace(row), *row.stale_namespaces} - {None}:
            self.held.pop((row.entity_type, space or "", row.key), None)
        return Written(row.id, row.version)


class WideIndex(FakeIndex):
    """An index that takes eight calls at once, of ``size`` rows each."""

    traits: ClassVar[SinkTraits] = SinkTraits("pinecone", needs_embedding=True, in_flight=8)

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size


class FileIndex(FakeIndex):
    """An index that outlives its process: it is kept in a file after each call."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        if file.exists():
            rows = json.loads(file.read_text())
            self.held = {(entity_type(t), s, k): Held(v, h) for t, s, k, v, h in rows}

    def upsert(self, rows: Sequence[Row], model: Model) -> Answer:
        """And keep it."""
        answer = super().upsert(rows, model)
        kept = [[t, s, k, h.version, h.content_hash] for (t, s, k), h in self.held.items()]
        self._file.write_text(json.dumps(kept))
        return answer


@dataclass(slots=True)
class FakeEmbedder:
    """Vectors made from the texts' hashes; counts how often each text was paid for."""

    paid: Counter[str] = field(default_factory=Counter)
    requests: list[list[str]] = field(default_factory=list)
    before: Callable[[Sequence[str]], None] = lambda texts: None
    after: Callable[[Sequence[str]], None] = lambda texts: None

    def embed(self, texts: Sequence[str], model: Model) -> Embedded:
        """One request."""
        self.before(texts)
        self.requests.append(list(texts))
        self.paid.update(texts)
        self.after(texts)
        return Embedded(tuple(vector_of(text, model) for text in texts), tokens=len(texts))


def file_embedder(file: Path) -> FakeEmbedder:
    """An embedder whose bill outlives its process: what was paid is kept in a file."""
    embedder = FakeEmbedder()
    if file.exists():
        embedder.paid.update(json.loads(file.read_text()))

    def keep(texts: Sequence[str]) -> None:
        file.write_text(json.dumps(list(embedder.paid.elements())))

    embedder.after = keep
    return embedder


def vector_of(text: str, model: Model) -> bytes:
    """The vector that ``FakeEmbedder`` gives a text: float32 little-endian."""
    seed = int(digest(f"{model.name} {text}".encode()), 16)
    return np.random.default_rng(seed).standard_normal(model.dimensions).astype("<f4").tobytes()
