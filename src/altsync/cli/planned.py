"""Planned costs as tables, and the planner of a command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from rich.console import RenderableType
from rich.progress import TaskID

from altsync.app import Application
from altsync.cli.bars import Bars
from altsync.cli.tables import Table, Text
from altsync.contract import SHADOW
from altsync.costs.planner import Plan, Planner
from altsync.db import Conn
from altsync.entities import EntityType, Model
from altsync.errors import SchemaError
from altsync.generations import read_generations
from altsync.planning import Progress
from altsync.policies import prices_of
from altsync.store.rows import records_by_namespace
from altsync.store.vectors import known_texts
from altsync.wording import dollars, plural


def planner_of(
    app: Application, conn: Conn, name: str | None = None, dimensions: int | None = None
) -> Planner:
    """Return a planner by the settings. ``name`` and ``dimensions`` are of another model.

    Raises ``ConfigurationError`` for a wrong file of prices, and ``SchemaError`` before the first
    migration.
    """
    found = read_generations(conn)
    if found is None:
        raise SchemaError("no sink is registered: run altsync migrate")
    serving = found.serving.model
    model = Model(name or serving.name, dimensions or serving.dimensions)
    made = partial(
        Planner,
        app.topology,
        prices=prices_of(app.settings.altsync_prices),
        stored=partial(known_texts, conn),
        held=partial(records_by_namespace, conn),
        batch=app.settings.altsync_batch_size,
        cut_long=app.settings.cut_long,
    )
    planner = made(model=model)
    if found.shadow is not None and model == serving:
        planner.beside = made(model=found.shadow.model)
    return planner


@contextmanager
def plan_bars() -> Iterator[Progress]:
    """Yield a function that advances a bar for each entity type."""
    with Bars() as bars:
        tasks: dict[EntityType, TaskID] = {}

        def advance(kind: EntityType, count: int) -> None:
            if kind not in tasks:
                tasks[kind] = bars.add_task(kind.value, total=None)
            bars.advance(tasks[kind], count)

        yield advance


def to_be_paid(plan: Plan) -> str:
    """Return the texts to embed, their tokens, and the total price as sentences."""
    texts = sum(counts.texts for counts in plan.types.values())
    if not texts:
        paid = "To be embedded: nothing, as every vector is stored already."
    elif plan.exact:
        paid = f"To be embedded: {plural(texts, 'text')} of {plural(plan.usage.tokens, 'token')}."
    else:
        paid = (
            f"To be embedded: {plural(texts, 'text')} of at most "
            f"{plural(plan.usage.tokens, 'token')} (their bytes)."
        )
    return f"{paid} {total(plan)}"


def plan_view(app: Application, plan: Plan) -> list[RenderableType]:
    """Return the tables of a plan, and the sentences below them."""
    if not any(one.writes or one.removals for one in plan.sinks) and not plan.too_long:
        return [Text("Nothing would be sent to a sink.", style="bold")]
    return [type_table(plan), sink_table(plan), *notes_of(app, plan)]


def type_table(plan: Plan) -> Table:
    """Return the changes and the texts by entity type."""
    numbers = ("written", "removed", "texts\nto embed", "texts\nstored", "tokens")
    table = Table("entity type", *numbers, numbers=numbers, names=("entity type",))
    for kind, counts in plan.types.items():
        row = (counts.written, counts.removed, counts.texts, counts.stored, counts.tokens)
        table.add_row(kind, *(f"{number:,}" for number in row))
    return table


def sink_table(plan: Plan) -> Table:
    """Return the operations, units and dollars by sink."""
    numbers = ("writes", "removals", "tokens", "read\nunits", "write\nunits", "dollars")
    table = Table("sink", *numbers, numbers=numbers, names=("sink",))
    for one in plan.sinks:
        if not one.writes and not one.removals:
            continue
        units = (one.usage.tokens, one.usage.read_units, one.usage.write_units)
        row = (one.writes, one.removals, *units)
        price = "no price" if one.dollars is None else dollars(one.dollars)
        table.add_row(one.sink, *(f"{number:,}" for number in row), price)
    return table


def notes_of(app: Application, plan: Plan) -> list[RenderableType]:
    """Return the total, and what the reader must know of it."""
    lines: list[RenderableType] = [Text(total(plan), style="bold")]
    if not plan.exact:
        lines.append(
            Text(
                f"Tokens are an upper bound, the bytes of the texts: the tokenizer of "
                f"{plan.model.name} is not known.",
                style="yellow",
            )
        )
    lines += [
        Text(f"too long: {one.entity_type} {one.key}: {one.over}", style="red")
        for one in plan.too_long
    ]
    if plan.too_long_count > len(plan.too_long):
        more = plan.too_long_count - len(plan.too_long)
        lines.append(Text(f"… and {plural(more, 'more text')} over the limit", style="red"))
    for one in plan.sinks:
        reason = app.disabled_reason(one.sink.removeprefix(SHADOW))
        if reason and (one.writes or one.removals):
            lines.append(
                Text(f"{one.sink} is disabled: {reason}. Its changes wait.", style="yellow")
            )
    return lines


def total(plan: Plan) -> str:
    """Return the total price as a sentence."""
    name = f"{plan.model.name}, {plan.model.dimensions:,} dimensions"
    if plan.dollars is None:
        return (
            f"Total: not known, as {plan.model.name} has no price: add it to a file, and name that "
            "in ALTSYNC_PRICES."
        )
    storage = plan.dollars_per_month
    more = f", and {dollars(storage)} a month for storage" if storage > 0 else ""
    less = f", and {dollars(-storage)} a month less for storage" if storage < 0 else ""
    return (
        f"Total: {dollars(plan.dollars)}{more}{less} ({name}; prices of {plan.prices.date}, "
        "before tax)."
    )
