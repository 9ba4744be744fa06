"""The common part of the vector indexes: how the vectors of one entity are shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from altsync.entities import Row
from altsync.projection import namespace
from altsync.protocols import Held, Shown
from altsync.wording import listed_fields, version_differs


def show_vectors(row: Row, found: Sequence[Held]) -> Shown:
    """Compare the vectors that an index holds of an entity with its row."""
    problem = _differs(row, found)
    fits = "no vector" if row.deleted else f"version {row.version}, by {row.embedding_model}"
    versions = tuple(one.version for one in found)
    return Shown(
        problem is None, problem or fits, tuple(found), tuple(vector_lines(found)), versions
    )


def _differs(row: Row, found: Sequence[Held]) -> str | None:
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
