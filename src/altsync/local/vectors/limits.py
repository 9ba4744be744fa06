"""Pinecone's limits, by its documentation and its client (API version 2026-07)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from altsync.local.vectors.names import DEFAULT_NAMESPACE
from altsync.local.vectors.wire import Refused

#: Bytes of one upsert request: "2 MB".
MAX_UPSERT_BYTES = 2 * 1024 * 1024
#: Records of one upsert, ids of one fetch or delete.
MAX_BATCH = 1_000
#: Matches of one query.
MAX_TOP_K = 10_000
#: Ids of one page at most, and by default.
MAX_PAGE = 100
#: Characters of an id, a prefix or a namespace's name; ASCII without NUL.
MAX_NAME = 512
#: Bytes of one record's metadata as JSON: "40 KB".
MAX_METADATA_BYTES = 40 * 1024
#: Numbers of one vector.
MAX_DIMENSION = 20_000

#: Characters of an index's name.
MAX_INDEX_NAME = 45
_INDEX_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")

Vector = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class VectorRecord:
    """One stored vector."""

    id: str
    values: Vector
    metadata: Mapping[str, Any] | None


def check_index_name(name: object) -> str:
    """Return a valid name of an index. Raises ``Refused``."""
    if not isinstance(name, str) or len(name) > MAX_INDEX_NAME or not _INDEX_NAME.fullmatch(name):
        raise Refused(
            400,
            f"Name must consist of 1 to {MAX_INDEX_NAME} lower case alphanumeric characters or "
            "'-', and must start and end with an alphanumeric character",
        )
    return name


def check_id(value: object, what: str = "Vector ID") -> str:
    """Return a valid id. Raises ``Refused``."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        raise Refused(400, f"{what} must be a string of 1 to {MAX_NAME} characters")
    if not value.isascii() or "\0" in value:
        raise Refused(400, f"{what} must be ASCII without null characters, but got {value[:64]!r}")
    return value


def check_ids(values: object) -> list[str]:
    """Return the ids of one fetch or delete. Raises ``Refused``."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise Refused(400, "ids must be a non-empty list")
    if len(values) > MAX_BATCH:
        raise Refused(400, f"{len(values)} ids were given, at most {MAX_BATCH} are allowed")
    return [check_id(value) for value in values]


def check_namespace(value: object) -> str:
    """Return a namespace's name; the default one for none. Raises ``Refused``."""
    if value in (None, ""):
        return DEFAULT_NAMESPACE
    return check_id(value, "Namespace")


def check_page(value: object) -> int:
    """Return a page size. Raises ``Refused``."""
    if value in (None, ""):
        return MAX_PAGE
    text = str(value)
    if not text.isdecimal() or not 1 <= int(text) <= MAX_PAGE:
        raise Refused(400, f"limit must be between 1 and {MAX_PAGE}, got {text[:20]}")
    return int(text)


def check_metadata(raw: object) -> Mapping[str, Any] | None:
    """Return metadata with numbers as floats, without nulls. Raises ``Refused``."""
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        raise Refused(400, "Metadata must be an object")
    kept = {key: _metadata_value(key, value) for key, value in raw.items() if value is not None}
    size = len(orjson.dumps(kept))
    if size > MAX_METADATA_BYTES:
        raise Refused(
            400,
            f"Metadata size is {size} bytes, which exceeds the limit of "
            f"{MAX_METADATA_BYTES} bytes per vector",
        )
    return kept


def _metadata_value(key: str, value: object) -> object:
    if key.startswith("$") or not key:
        raise Refused(400, f"Metadata key {key!r} must not be empty or start with $")
    if isinstance(value, bool | str):
        return value
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    shown = orjson.dumps(value).decode()
    raise Refused(
        400,
        "Metadata value must be a string, number, boolean or list of strings, "
        f"got '{shown[:16]}{'...' if len(shown) > 16 else ''}' for field '{key}'",
    )


def check_vectors(raw: object, dimension: int) -> list[VectorRecord]:
    """Return the records of one upsert. Raises ``Refused`` if one of them is wrong."""
    if not isinstance(raw, list) or not raw:
        raise Refused(400, "vectors must be a non-empty list")
    if len(raw) > MAX_BATCH:
        raise Refused(
            400,
            f"The requested batch size {len(raw)} exceeds the maximum batch size {MAX_BATCH}",
        )
    if not all(isinstance(one, dict) for one in raw):
        raise Refused(400, "every vector must be an object")
    ids = [check_id(one.get("id")) for one in raw]
    if any(one.get("sparseValues") for one in raw):
        raise Refused(400, "Index configuration does not support sparse values")
    matrix = check_values([one.get("values") for one in raw], dimension)
    zeros = np.flatnonzero(~matrix.any(axis=1))
    if len(zeros):
        raise Refused(
            400,
            "Dense vectors must contain at least one non-zero value. "
            f"Vector ID '{ids[zeros[0]]}' contains only zeros",
        )
    metadata = [check_metadata(one.get("metadata")) for one in raw]
    return [VectorRecord(*one) for one in zip(ids, matrix, metadata, strict=True)]


def check_values(rows: Sequence[object], dimension: int) -> Vector:
    """Return dense vectors as a float32 matrix. Raises ``Refused``."""
    for row in rows:
        if not isinstance(row, list):
            raise Refused(400, "values must be a list of numbers")
        if len(row) != dimension:
            raise Refused(
                400,
                f"Vector dimension {len(row)} does not match the dimension of the index "
                f"{dimension}",
            )
    return _numbers(rows)


def _numbers(rows: Sequence[object]) -> Vector:
    try:
        numbers = np.array(rows)
        # No dtype is given: NumPy would convert strings and nulls to it.
        legal = numbers.dtype.kind in "fiu"
        with np.errstate(over="ignore"):
            matrix = numbers.astype(np.float32) if legal else np.empty(0, np.float32)
    except (ValueError, OverflowError):
        legal = False
    if not legal or not np.isfinite(matrix).all():
        raise Refused(400, "values must be finite 32-bit floating point numbers")
    return matrix
