"""SQL that groups errors which differ in numbers and ids only."""

from __future__ import annotations

#: The placeholder of a pattern.
MASK = "…"

#: An error's text without the parts that differ between records: the entity's quoted key, UUIDs,
#: long hexadecimal ids, and numbers. Status codes stay, as they name the cause: `` [400]`` in
#: Pinecone's errors, ``answered 429`` in the embedder's.
PATTERN_OF = r"""
regexp_replace(regexp_replace(
  replace(replace({error}, '''' || entity_key || '''', '''…'''),
          '"' || entity_key || '"', '"…"'),
  '[0-9a-fA-F]{{8}}(-[0-9a-fA-F]{{4}}){{3}}-[0-9a-fA-F]{{12}}'
  || '|\m(?=[a-f]*[0-9])[0-9a-f]{{16,}}\M', '…', 'g'),
  '(?<![0-9.])(?!(?<= \[)[1-5][0-9][0-9]\])(?!(?<=answered )[1-5][0-9][0-9]\M)[0-9]+(\.[0-9]+)?',
  '…', 'g')
"""

#: The hash by which dead operations are grouped. Revision 0002 fills it for earlier rows.
GROUP_OF = "md5(sink || ' ' || {kind} || ' ' || " + PATTERN_OF + ")"

PATTERN = PATTERN_OF.format(error="last_error")
GROUP = GROUP_OF.format(error="last_error", kind="error_kind")
