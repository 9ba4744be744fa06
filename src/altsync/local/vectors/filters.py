"""Pinecone's metadata filters as functions.

A list of strings matches a value that it contains. ``$ne`` and ``$nin`` are the opposites of
``$eq`` and ``$in``, so records without the field match them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from altsync.local.vectors.wire import Refused

Metadata = Mapping[str, Any]
Predicate = Callable[[Metadata], bool]

#: Values of one ``$in`` or ``$nin``, by the service's limit.
MAX_LIST = 10_000

_MISSING = object()


def compile_filter(raw: object) -> Predicate:
    """Return a function that matches a record's metadata. Raises ``Refused``."""
    if not isinstance(raw, Mapping):
        raise _illegal("the filter", raw)
    return _every([_clause(str(key), condition) for key, condition in raw.items()])


def _clause(key: str, condition: object) -> Predicate:
    if key in ("$and", "$or"):
        return _junction(key, condition)
    if key.startswith("$"):
        raise Refused(400, f"{key} is not a valid operator at this place of a filter")
    if not isinstance(condition, Mapping):
        return _test(key, "$eq", condition)
    if not condition:
        raise _illegal(f"field {key}", condition)
    return _every([_test(key, str(operator), operand) for operator, operand in condition.items()])


def _every(parts: Sequence[Predicate]) -> Predicate:
    if len(parts) == 1:
        return parts[0]  # most filters have one part: this saves a call for each record
    return lambda metadata: all(part(metadata) for part in parts)


def _junction(operator: str, operands: object) -> Predicate:
    if not isinstance(operands, Sequence) or isinstance(operands, str) or not operands:
        raise Refused(400, f"{operator} must have a non-empty list of filters")
    parts = [compile_filter(operand) for operand in operands]
    combine = all if operator == "$and" else any
    return lambda metadata: combine(part(metadata) for part in parts)


def _test(field: str, operator: str, operand: Any) -> Predicate:
    match operator:
        case "$eq" | "$ne":
            _require(_is_scalar(operand), field, operator, operand)
            return _membership(field, [operand], wanted=operator == "$eq")
        case "$in" | "$nin":
            _require(_is_list(operand), field, operator, operand)
            return _membership(field, operand, wanted=operator == "$in")
        case "$gt" | "$gte" | "$lt" | "$lte":
            _require(_is_number(operand), field, operator, operand)
            return _comparison(field, operator, operand)
        case "$exists":
            _require(isinstance(operand, bool), field, operator, operand)
            return lambda metadata: (field in metadata) is operand
    raise Refused(400, f"{operator} is not a valid operator for field {field}")


def _membership(field: str, operands: Sequence[Any], *, wanted: bool) -> Predicate:
    # Python's True equals 1; the service's does not.
    keys = frozenset(map(_key, operands))

    def holds(metadata: Metadata) -> bool:
        value = metadata.get(field, _MISSING)
        if isinstance(value, list):
            return any(_key(one) in keys for one in value) is wanted
        return (_key(value) in keys) is wanted

    return holds


def _comparison(field: str, operator: str, operand: float) -> Predicate:
    tests: Mapping[str, Callable[[float], bool]] = {
        "$gt": lambda value: value > operand,
        "$gte": lambda value: value >= operand,
        "$lt": lambda value: value < operand,
        "$lte": lambda value: value <= operand,
    }
    test = tests[operator]

    def holds(metadata: Metadata) -> bool:
        value = metadata.get(field)
        return _is_number(value) and test(value)  # type: ignore[arg-type]

    return holds


def _key(value: Any) -> tuple[bool, Any]:
    return isinstance(value, bool), value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float | bool)


def _is_list(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MAX_LIST and all(map(_is_scalar, value))


def _require(legal: bool, field: str, operator: str, operand: object) -> None:
    if not legal:
        raise _illegal(f"{operator} of field {field}", operand)


def _illegal(where: str, operand: object) -> Refused:
    return Refused(400, f"illegal condition for {where}, got {str(operand)[:100]}")
