"""The common part of the vector indexes: how the vectors of one entity are shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from altsync.entities import Row
from altsync.projection import namespace, vector_metadata
from altsync.protocols import Held, Shown, StoredVector
from altsync.wording import listed_fields, version_differs

#: Greatest difference of equal numbers: an index may round, and returns doubles.
TOLERANCE = 1e-6

#: Marks of a vector that change with each version of its row.
VERSION_MARKS = ("version", "content_hash")


def content_differs(
    row: Row, metadata: Mapping[str, Any], values: Sequence[float], *, but: Sequence[str] = ()
) -> bool:
    """Return whether metadata, without the names of ``but``, or numbers differ from the row."""
    wanted = vector_metadata(row, row.embedding_model or "")
    found = {name: _plain(value) for name, value in metadata.items() if name not in but}
    if found != {name: value for name, value in wanted.items() if name not in but}:
        return True
    if row.vector is None:
        return False  # drift of the embedding: there is no vector to compare with
    numbers, vector = np.asarray(values, "<f4"), np.frombuffer(row.vector, "<f4")
    return numbers.shape != vector.shape or not np.allclose(
        numbers, vector, rtol=TOLERANCE, atol=TOLERANCE
    )


def is_current(row: Row, held: StoredVector) -> bool:
    """Return whether an older vector is as the row wants it: only other fields have changed."""
    return (
        0 < (held.version or 0) < row.version
        and row.vector is not None
        and row.embedding_text_hash == row.text_hash
        and not content_differs(row, held.metadata, held.values, but=VERSION_MARKS)
    )


def _plain(value: object) -> object:
    """Return a whole number as int: the index returns doubles."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def show_vectors(
    row: Row, found: Sequence[Held], current: Callable[[Held], bool] = lambda held: False
) -> Shown:
    """Compare the vectors that an index holds of an entity with its row.

    ``current`` returns whether an older vector is as the row wants it.
    """
    problem = _differs(row, found, current)
    fits = "no vector" if row.deleted else f"version {row.version}, by {row.embedding_model}"
    versions = tuple(one.version for one in found)
    return Shown(
        problem is None, problem or fits, tuple(found), tuple(vector_lines(found)), versions
    )


def _differs(row: Row, found: Sequence[Held], current: Callable[[Held], bool]) -> str | None:
    """Return how the vectors differ from their row, None where they do not."""
    if row.deleted:
        return "the vector is still there" if found else None
    if not found:
        return "no vector"
    if [held.namespace for held in found] != [namespace(row)]:
        there = ", ".join(held.namespace or "the default" for held in found)
        return f"in the namespace {there}, not in {namespace(row) or 'the default'} alone"
    (held,) = found
    if held.version is None:
        return "a vector that altsync did not write"
    if held.version < row.version and current(held):
        return None
    if held.version != row.version:
        return version_differs(held.version, row.version)
    if held.model != row.embedding_model:
        return f"by {held.model}, PostgreSQL's is by {row.embedding_model}"
    if held.content_hash != row.content_hash:
        return "the version fits, and its content does not"
    return None


def vector_lines(found: Sequence[Held]) -> Iterator[str]:
    """Describe vectors for people."""
    for held in found:
        space = held.namespace or "the default namespace"
        yield f"{held.index} / {space} / {held.key}: {held.dimensions} dimensions"
        yield from listed_fields(held.metadata)
