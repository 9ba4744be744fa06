"""Work out what planned changes cost, before anything is written. Pure, but for ``stored``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any
from uuid import UUID

from altsync.contract import EMBEDDING, SHADOW, Topology, Usage, imported
from altsync.costs.prices import Prices
from altsync.declarations import declaration, namespace_column
from altsync.entities import EntityType, Model, Row
from altsync.projection import embedding_text
from altsync.protocols import Estimate
from altsync.tokens import INPUT_LIMITS, TooLong, count_tokens, most_tokens

#: Texts over the model's limit that a plan names.
NAMED = 20

#: Bytes of a GB of storage.
GB = 10**9

#: The former namespace of each entity in each sink that keeps it, by sink and id.
Namespaces = Mapping[str, Mapping[UUID, str | None]]

#: No sink holds an entity as it will be.
NONE_CURRENT: Mapping[UUID, Sequence[str]] = {}


@dataclass(slots=True)
class TypeCounts:
    """Planned changes of one entity type.

    ``texts`` are to be embedded and paid. ``stored`` texts have a vector already, or are equal to
    another text of the plan. ``tokens`` are those of ``texts``.
    """

    written: int = 0
    removed: int = 0
    texts: int = 0
    stored: int = 0
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class SinkCost:
    """Planned operations of one sink, and their price. None: the model has no known price.

    ``stored_bytes`` is what its service keeps more than now; below 0, less.
    """

    sink: str
    writes: int
    removals: int
    usage: Usage
    dollars: Decimal | None
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class LongText:
    """A text over the model's limit, which is not embedded."""

    entity_type: str
    key: str
    over: TooLong


@dataclass(frozen=True, slots=True)
class Plan:
    """Planned changes and their cost. Nothing has been written.

    ``exact``: tokens are counted by the model's tokenizer; else they are an upper bound.
    ``too_long`` names some of the texts that ``too_long_count`` counts.
    """

    model: Model
    exact: bool
    types: Mapping[str, TypeCounts]
    sinks: Sequence[SinkCost]
    prices: Prices
    too_long: Sequence[LongText] = ()
    too_long_count: int = 0

    @property
    def usage(self) -> Usage:
        """Return the units of all sinks."""
        return sum((one.usage for one in self.sinks), Usage())

    @property
    def dollars(self) -> Decimal | None:
        """Return the price of all sinks; None if one is not known."""
        known = [one.dollars for one in self.sinks if one.dollars is not None]
        return sum(known, Decimal()) if len(known) == len(self.sinks) else None

    @property
    def dollars_per_month(self) -> Decimal:
        """Return the price of the added storage for a month; below 0 if it shrinks."""
        return sum(one.stored_bytes for one in self.sinks) * self.prices.gb_month / GB

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object that scripts read."""
        return {
            "model": asdict(self.model),
            "exact": self.exact,
            "entities": {kind: asdict(counts) for kind, counts in self.types.items()},
            "sinks": [
                {
                    "sink": one.sink,
                    "writes": one.writes,
                    "removals": one.removals,
                    **asdict(one.usage),
                    "stored_bytes": one.stored_bytes,
                    "dollars": _number(one.dollars),
                }
                for one in self.sinks
            ],
            **asdict(self.usage),
            "dollars": _number(self.dollars),
            "dollars_per_month": _number(self.dollars_per_month),
            "prices_of": self.prices.date,
            "too_long": self.too_long_count,
        }


def _number(amount: Decimal | None) -> float | None:
    return None if amount is None else float(amount)


@dataclass(slots=True)
class _Operations:
    writes: int = 0
    removals: int = 0


@dataclass(slots=True)
class Planner:
    """Adds up planned changes by entity type and sink.

    ``stored`` returns those of some text hashes that have a vector of the model, ``held`` the
    number of an entity type's records in a sink by namespace. ``cut_long``:
    texts over the model's limit are cut, not refused. Memory grows by 100 bytes a text.
    ``beside`` is the planner of a second model, whose indexes are kept in step with seeds.
    """

    topology: Topology
    model: Model
    prices: Prices
    stored: Callable[[Model, Sequence[str]], set[str]]
    held: Callable[[EntityType, str], Mapping[str, int]]
    batch: int = 500
    cut_long: bool = False
    beside: Planner | None = None
    types: dict[str, TypeCounts] = field(default_factory=lambda: defaultdict(TypeCounts))
    _operations: dict[str, _Operations] = field(default_factory=lambda: defaultdict(_Operations))
    _estimates: dict[str, Estimate] = field(default_factory=dict)
    _texts: set[int] = field(default_factory=set)
    _asked: set[tuple[EntityType, str]] = field(default_factory=set)
    _exact: bool = True
    _too_long: list[LongText] = field(default_factory=list)
    _too_long_count: int = 0

    def __post_init__(self) -> None:
        for sink in self.topology.names:
            path = declaration(sink).estimate
            if path:
                self._estimates[sink] = imported(path)(self.batch)

    @property
    def spaced(self) -> list[str]:
        """Return the sinks that keep the namespace of each entity."""
        return [sink for sink in self.topology.vector if namespace_column(sink)]

    def write(
        self,
        kind: EntityType,
        rows: Sequence[Row],
        namespaces: Namespaces,
        sinks: Iterable[str] | None = None,
        *,
        current: Mapping[UUID, Sequence[str]] = NONE_CURRENT,
    ) -> None:
        """Add entities of one type that are to be written, as they will be.

        Each has the text and model of its present vector. ``sinks`` are those to write to, by
        default all. The embedding is added where a sink waits for it. ``current`` are the sinks
        that hold an entity as it will be, by its id.
        """
        self.types[kind].written += len(rows)
        if self.beside is not None and sinks is None:
            # The ledger, too, counts each write to the other indexes as that of a new record.
            vector = self.topology.vector
            followed = [row for row in rows if set(vector) - set(current.get(row.id, ()))]
            self.beside.write(kind, followed, {}, [EMBEDDING, *vector], current=current)
        names = self.topology.names if sinks is None else list(sinks)
        waits = any(self.topology.traits(n).needs_embedding or n == EMBEDDING for n in names)
        # The embedding sink looks for the vector of each row that it is given.
        named = sinks is not None and EMBEDDING in names
        unembedded = [r for r in rows if named or not r.is_embedded_by(self.model.name)]
        failing: set[UUID] = set()
        if EMBEDDING in self.topology.names and waits and unembedded:
            self._operations[EMBEDDING].writes += len(unembedded)
            failing = self._embed(kind, unembedded)
        for sink in names:
            traits = self.topology.traits(sink)
            if traits.embeds or not traits.takes(kind):
                continue
            if traits.follows is not None:
                written = [row for row in unembedded if row.id not in failing]
            elif traits.needs_embedding:
                written = [row for row in rows if row.id not in failing]
            else:
                written = list(rows)
            written = [row for row in written if sink not in current.get(row.id, ())]
            self._operations[sink].writes += len(written)
            if traits.follows in self._estimates:
                self._ask(kind, traits.follows, written)
            self._estimate(sink, written, namespaces, removing=False)

    def remove(self, kind: EntityType, rows: Sequence[Row], namespaces: Namespaces) -> None:
        """Add entities of one type that are to be removed from every sink."""
        self.types[kind].removed += len(rows)
        for sink in [*self.topology.direct, *self.topology.vector]:
            self._operations[sink].removals += len(rows)
            self._estimate(sink, rows, namespaces, removing=True)

    def _estimate(
        self, sink: str, rows: Sequence[Row], namespaces: Namespaces, *, removing: bool
    ) -> None:
        estimate = self._estimates.get(sink)
        if estimate is None:
            return
        spaces = namespaces.get(sink, {})
        for row in rows:
            placed = replace(row, written_namespace=spaces.get(row.id))
            if removing:
                estimate.remove(placed, self.model)
            else:
                estimate.write(placed, self.model)

    def _ask(self, kind: EntityType, index: str, rows: Sequence[Row]) -> None:
        """Add a question to an index for each row, whose vector is new."""
        estimate = self._estimates[index]
        if (kind, index) not in self._asked:
            self._asked.add((kind, index))
            estimate.hold(kind, self.held(kind, index))
        for row in rows:
            estimate.ask(row, self.model)

    def _embed(self, kind: EntityType, rows: Sequence[Row]) -> set[UUID]:
        """Count the texts of rows once each; return the rows whose texts are too long."""
        counts = self.types[kind]
        known = self.stored(self.model, [row.text_hash for row in rows])
        limit = INPUT_LIMITS.get(self.model.name)
        failing: set[UUID] = set()
        for row in rows:
            name = hash(row.text_hash)  # 64 bits
            if row.text_hash in known or name in self._texts:
                counts.stored += 1
                continue
            text = embedding_text(row.content)
            tokens = count_tokens(text, self.model.name)
            if tokens is None:
                self._exact = False
                tokens = most_tokens(text)
            elif limit is not None and tokens > limit.tokens:
                if not self.cut_long:
                    failing.add(row.id)
                    self._note_long(
                        LongText(kind, row.key, TooLong(self.model.name, tokens, limit.tokens))
                    )
                    continue
                tokens = limit.tokens
            self._texts.add(name)
            counts.texts += 1
            counts.tokens += tokens
        return failing

    def _note_long(self, one: LongText) -> None:
        self._too_long_count += 1
        if len(self._too_long) < NAMED:
            self._too_long.append(one)

    def plan(self) -> Plan:
        """Return the plan of all that was added."""
        costs = []
        for sink in self.topology.names:
            done, estimate = self._operations[sink], self._estimates.get(sink)
            usage = estimate.usage() if estimate else Usage()
            if sink == EMBEDDING:
                usage = Usage(tokens=sum(counts.tokens for counts in self.types.values()))
            costs.append(
                SinkCost(
                    sink,
                    done.writes,
                    done.removals,
                    usage,
                    self.prices.dollars(usage, self.model.name),
                    estimate.stored_bytes() if estimate else 0,
                )
            )
        beside = self.beside.plan() if self.beside is not None else None
        if beside is not None:
            costs += [replace(one, sink=SHADOW + one.sink) for one in beside.sinks if one.writes]
        return Plan(
            self.model,
            self._exact and (beside is None or beside.exact),
            dict(self.types),
            costs,
            self.prices,
            tuple(self._too_long),
            self._too_long_count,
        )
