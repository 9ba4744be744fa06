"""The models whose vectors an installation keeps: the serving one, and the one beside it.

Both are in one row, that of the sink ``embedding`` in ``sink_state``. A transaction that exchanges
them moves all processes at once: workers read the row with each claim, queries with each question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from altsync.config import Settings
from altsync.contract import EMBEDDING, SHADOW
from altsync.db import Conn
from altsync.entities import Model


@dataclass(frozen=True, slots=True)
class Generation:
    """A model, and the prefix of the indexes that hold its vectors.

    ``prefix`` follows ALTSYNC_PREFIX in the names of indexes and tables; it is empty for the first
    generation. ``requests`` and ``tokens`` are the limits a minute of a move, None for no limit.
    """

    model: Model
    prefix: str = ""
    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Generations:
    """The serving generation, and the shadow that is kept in step with it, if there is one.

    ``moved``: a model was added once, so the database decides the dimensions, not the settings.
    """

    serving: Generation
    shadow: Generation | None = None
    moved: bool = False

    def of(self, sink: str) -> Generation | None:
        """Return the generation that a sink writes."""
        return self.shadow if sink.startswith(SHADOW) else self.serving


def generations_of(config: Mapping[str, Any]) -> Generations | None:
    """Return the generations of the configuration in ``sink_state``; None without a model."""
    if not config.get("model"):
        return None
    beside = config.get("shadow")
    return Generations(
        generation_of(config),
        generation_of(beside) if beside else None,
        "indexes" in config or beside is not None,
    )


def generation_of(config: Mapping[str, Any]) -> Generation:
    """Return the generation that a part of the configuration describes."""
    return Generation(
        Model(config["model"], config["dimensions"]),
        config.get("indexes", ""),
        config.get("requests"),
        config.get("tokens"),
    )


def read_generations(conn: Conn) -> Generations | None:
    """Return the generations of the database; None before the first migration."""
    row = conn.execute("SELECT config FROM sink_state WHERE sink = %s", (EMBEDDING,)).fetchone()
    return generations_of(row[0]) if row else None


def _config(path: str) -> str:
    return f"(SELECT config {path} FROM sink_state WHERE sink = '{EMBEDDING}')"


#: The serving model's name, the prefix of its indexes, and those of the shadow, in SQL. Each is
#: evaluated once a statement.
SERVING_MODEL = _config("->> 'model'")
SERVING_INDEXES = f"COALESCE({_config('''->> 'indexes' ''')}, '')"
SHADOW_MODEL = _config("-> 'shadow' ->> 'model'")
SHADOW_DIMENSIONS = f"({_config('''-> 'shadow' ->> 'dimensions' ''')})::int"
SHADOW_INDEXES = _config("-> 'shadow' ->> 'indexes'")


def model_of(row: str = "l") -> str:
    """Return SQL for the model that an entity is embedded by.

    An entity that was embedded by the shadow's model counts as embedded by the serving one: an
    exchange embeds the texts that it lacks. So no row is rewritten when the models are exchanged.
    """
    return (
        f"(CASE WHEN {row}.embedding_model = {SHADOW_MODEL} THEN {SERVING_MODEL} "
        f"ELSE {row}.embedding_model END)"
    )


def with_settings(settings: Settings, generation: Generation) -> Settings:
    """Return the settings that open a vector sink for a generation: its prefix and dimensions."""
    prefix = "-".join(part for part in (settings.altsync_prefix, generation.prefix) if part)
    changes = {
        "altsync_prefix": prefix,
        "altsync_embedding_dimensions": generation.model.dimensions,
    }
    return settings.model_copy(update=changes)


def without_limits(generation: Generation) -> Generation:
    """Return a generation as it is when it serves."""
    return replace(generation, requests=None, tokens=None)
