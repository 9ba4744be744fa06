"""Filters on metadata, as conditions in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from altsync.errors import SinkFailure
from altsync.operations import ErrorKind

#: Fields that are columns: a filter on them does not read the metadata.
MARKS = ("version", "model", "content_hash")


def translated(where: Mapping[str, Any], parameters: dict[str, Any]) -> str:
    """Return a filter as a condition in SQL, and add its values to ``parameters``.

    A field that holds a list equals each of its values, as in Pinecone. Raises ``SinkFailure``
    for an operator that no query of altsync uses.
    """
    conditions = []
    for field, wanted in where.items():
        if field == "$and":
            conditions += [translated(one, parameters) for one in wanted]
        elif field.startswith("$"):
            raise _unknown_operator(field)
        elif isinstance(wanted, Mapping):
            conditions += [_compared(field, op, value, parameters) for op, value in wanted.items()]
        else:
            conditions.append(_compared(field, "$eq", wanted, parameters))
    return " AND ".join(f"({one})" for one in conditions) or "true"


def _compared(field: str, operator: str, value: Any, parameters: dict[str, Any]) -> str:
    if operator not in ("$eq", "$in"):
        raise _unknown_operator(operator)
    values = [value] if operator == "$eq" else list(value)
    names = []
    for one in values:
        name = f"filter_{len(parameters)}"
        parameters[name] = one if field in MARKS else orjson.dumps(one).decode()
        names.append(name)
    if field in MARKS:
        return " OR ".join(f"{field} = %({name})s" for name in names) or "false"
    parameters[path := f"filter_{len(parameters)}"] = field
    return (
        " OR ".join(f"metadata -> %({path})s::text @> %({name})s::jsonb" for name in names)
        or "false"
    )


def _unknown_operator(operator: str) -> SinkFailure:
    known = "equality, $eq, $in and $and"
    return SinkFailure(ErrorKind.ITEM, f"pgvector's filter knows {known}, not {operator}")
