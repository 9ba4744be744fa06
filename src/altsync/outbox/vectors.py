"""Where the vectors of entities are: kept once, by what they embed."""

from __future__ import annotations

from altsync.records import EMBEDDING

#: The length of the vectors that all processes want, in SQL. Asked once a statement.
WANTED_DIMENSIONS = (
    f"(SELECT (config ->> 'dimensions')::int FROM sink_state WHERE sink = '{EMBEDDING}')"
)

# Looked up row by row, by the whole key: the plan of a join, or of an EXISTS, hangs on statistics
# that a first seed does not have, and the wrong one reads the whole table for each row.
_OF_AN_ENTITY = f"""
FROM embedding e WHERE e.model = l.embedding_model AND e.dimensions = {WANTED_DIMENSIONS}
  AND e.text_hash = l.embedding_text_hash
"""

#: The vector of the entity ``l``, or null, in SQL.
VECTOR = f"(SELECT e.vector {_OF_AN_ENTITY})"

#: Whether the entity ``l`` has one.
HAS_VECTOR = f"COALESCE((SELECT true {_OF_AN_ENTITY}), false)"
