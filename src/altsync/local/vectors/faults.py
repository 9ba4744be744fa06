"""Fault rules that can be switched on while the server runs."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

FaultKind = Literal[
    "latency",  # waits ``seconds``, then continues
    "lag",  # a write is stored at once and can be read ``seconds`` later
    "bare",  # answers without the positions of writes, as an older server
    "status",  # answers with an error and does nothing
    "cut",  # closes the connection without an answer
    "hang",  # answers nothing for ``seconds``, then cuts
    "timeout_after_apply",  # applies it, answers nothing for ``seconds``, then cuts
    "apply_late",  # answers ``status`` or cuts, and applies it ``seconds`` later
    "wrong_count",  # embeddings: one vector is missing
    "shuffled",  # embeddings: out of order, each with its right index
    "wrong_dimension",  # embeddings: one number short
    "nan",  # embeddings: the first vector holds a NaN
]

KINDS: tuple[str, ...] = get_args(FaultKind)

#: Kinds that combine with another one. Of the other kinds only the first match fires.
ADDED = frozenset({"latency", "lag", "bare"})

#: Kinds that corrupt an answer of the embeddings endpoint.
CORRUPTIONS = frozenset({"wrong_count", "shuffled", "wrong_dimension", "nan"})


@dataclass(frozen=True)
class FaultRule:
    """One fault: its condition and its effect. Raises ``ValueError`` for an invalid one.

    ``scope`` is an operation (``pinecone.upsert``, ``openai.embeddings``) or a pattern
    (``pinecone.*``, ``*``). ``index``, ``namespace``, ``id`` (a record's) and ``text`` (part of
    an embedding's input) restrict it. ``probability`` is for each call; ``count`` limits how
    often it fires. ``status``, ``code``, ``message`` and ``retry_after`` (seconds) are of an error
    answer, which has the vendor's format.
    """

    scope: str
    kind: FaultKind
    index: str | None = None
    namespace: str | None = None
    id: str | None = None
    text: str | None = None
    probability: float = 1.0
    count: int | None = None
    seconds: float = 0.0
    status: int | None = None
    code: str | None = None
    message: str | None = None
    retry_after: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.scope, str):
            raise ValueError(f"scope must be a string, not {self.scope!r}")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {self.kind!r}")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must be between 0 and 1, not {self.probability!r}")
        if self.seconds < 0 or (self.count is not None and self.count < 0):
            raise ValueError("seconds and count must not be negative")
        if self.status is not None and not 400 <= self.status <= 599:
            raise ValueError(f"status must be an error, 400 to 599, not {self.status!r}")
        if self.kind == "status" and self.status is None:
            raise ValueError("kind 'status' needs a status")

    def to_json(self) -> dict[str, Any]:
        """Return the rule as JSON, without fields at their default."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }


def rule_from_json(raw: object) -> FaultRule:
    """Return the rule of a request. Raises ``ValueError``."""
    if not isinstance(raw, Mapping):
        raise ValueError(f"a rule must be an object, not {type(raw).__name__}")
    known = {field.name for field in fields(FaultRule)}
    unknown = sorted(set(raw) - known)
    if unknown:
        raise ValueError(f"a rule has no field {', '.join(map(str, unknown))}")
    try:
        return FaultRule(**raw)
    except TypeError as error:
        raise ValueError(f"not a rule: {error}") from error


@dataclass(frozen=True)
class Call:
    """The target of a request: rules are compared with it."""

    operation: str
    index: str = ""
    namespace: str = ""
    ids: Collection[str] = ()
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Plan:
    """The faults of one call. Times are in seconds."""

    latency: float = 0.0
    lag: float | None = None
    fault: FaultRule | None = None
    #: The kinds of all rules that fired.
    kinds: tuple[str, ...] = ()


class Faults:
    """The active rules. Only the event loop's thread uses them."""

    def __init__(self) -> None:
        self._rules: list[FaultRule] = []
        self._fired: list[int] = []
        self._random = random.Random(0)  # noqa: S311 - repeatable faults, no secret

    def replace(self, rules: Sequence[FaultRule], seed: int = 0) -> None:
        """Replace all rules, and reset their counters."""
        self._rules = list(rules)
        self._fired = [0] * len(rules)
        self._random = random.Random(seed)  # noqa: S311

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rules, each with the number of times it fired."""
        return [
            {**asdict(rule), "fired": fired}
            for rule, fired in zip(self._rules, self._fired, strict=True)
        ]

    def plan(self, call: Call) -> Plan:
        """Return the faults of this call, and count the rules that fire."""
        latency, lag, fault = 0.0, None, None
        kinds: list[str] = []
        for position, rule in enumerate(self._rules):
            if fault is not None and rule.kind not in ADDED:
                continue
            if not self._fires(position, rule, call):
                continue
            kinds.append(rule.kind)
            match rule.kind:
                case "latency":
                    latency += rule.seconds
                case "lag":
                    lag = rule.seconds
                case "bare":
                    pass  # its kind says all
                case _:
                    fault = rule
        return Plan(latency, lag, fault, tuple(kinds))

    def _fires(self, position: int, rule: FaultRule, call: Call) -> bool:
        spent = rule.count is not None and self._fired[position] >= rule.count
        if spent or not _matches(rule, call) or self._random.random() >= rule.probability:
            return False
        self._fired[position] += 1
        return True


def _matches(rule: FaultRule, call: Call) -> bool:
    return (
        fnmatchcase(call.operation, rule.scope)
        and rule.index in (None, call.index)
        and rule.namespace in (None, call.namespace)
        and (rule.id is None or rule.id in call.ids)
        and (rule.text is None or any(rule.text in text for text in call.texts))
    )
