"""Errors that differ by numbers and ids alone, as SQL on a row of the outbox."""

from __future__ import annotations

#: What stands in a pattern for what differs.
MASK = "…"

#: What an error looks like without what differs from record to record: the entity's own key in
#: quotes, UUIDs, long hexadecimal ids, and numbers. A status code says what went wrong and stays:
#: `` [400]`` as Pinecone's adapter writes it, ``answered 429`` as the embedder's does.
PATTERN_OF = r"""
regexp_replace(regexp_replace(
  replace(replace({error}, '''' || entity_key || '''', '''…'''),
          '"' || entity_key || '"', '"…"'),
  '[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}'
  || '|\m(?=[a-f]*[0-9])[0-9a-f]{{16,}}\M', '…', 'g'),
  '(?<![0-9.])(?!(?<= \[)[1-5][0-9][0-9]\])(?!(?<=answered )[1-5][0-9][0-9]\M)[0-9]+(\.[0-9]+)?',
  '…', 'g')
"""

#: The hash by which dead operations are grouped. Revision 0002 fills it for those of before.
GROUP_OF = "md5(sink || ' ' || {kind} || ' ' || " + PATTERN_OF + ")"

PATTERN = PATTERN_OF.format(error="last_error")
GROUP = GROUP_OF.format(error="last_error", kind="error_kind")
