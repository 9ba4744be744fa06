"""The id of a database's installation, in ``sink_state.config``."""

from __future__ import annotations

import psycopg

from altsync.contract import Installation
from altsync.db import Conn

#: Key of ``sink_state.config``, in one row, with the id and its time.
_KEY = "installation"

#: Characters of a database's name in the mark. Pinecone's tags have at most 120.
NAME_LENGTH = 100

_MAKE = f"""
UPDATE sink_state SET config = config || jsonb_build_object('{_KEY}', jsonb_build_object(
  'id', gen_random_uuid(),
  'since', to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')))
WHERE sink = (SELECT min(sink) FROM sink_state) AND NOT config ? '{_KEY}'
  AND NOT EXISTS (SELECT 1 FROM sink_state WHERE config ? '{_KEY}')
"""

_READ = f"""
SELECT config -> '{_KEY}' ->> 'id', config -> '{_KEY}' ->> 'since' FROM sink_state
WHERE config ? '{_KEY}' ORDER BY sink LIMIT 1
"""


def make_installation(conn: Conn) -> None:
    """Create the id of this database, unless it has one. Two concurrent callers create one."""
    conn.execute(_MAKE)


def _marked(conn: Conn) -> tuple[str, str] | None:
    """Return the id and its time, which are created if they are missing."""
    found = conn.execute(_READ).fetchone()
    if found is None:
        make_installation(conn)
        found = conn.execute(_READ).fetchone()
    return found


def installation_id(conn: Conn) -> str:
    """Return the id of this database's installation. It is created if it is missing."""
    found = _marked(conn)
    return "" if found is None else found[0]


def installation(conn: Conn) -> Installation | None:
    """Return this installation; None before the first ``altsync migrate``.

    Needs a connection in autocommit mode: a role may lack the right to read the system identifier.
    """
    found = _marked(conn)
    if found is None:
        return None
    row = conn.execute("SELECT current_database(), current_schema()").fetchone()
    assert row is not None
    database = row[0] if row[1] in (None, "public") else f"{row[0]}.{row[1]}"
    return Installation(found[0], found[1], _printable(database), _system(conn))


def _printable(name: str) -> str:
    """Return a name as printable ASCII, which is all that Pinecone's tags can hold."""
    return "".join(c if c.isascii() and c.isprintable() else "?" for c in name)[:NAME_LENGTH]


def _system(conn: Conn) -> str:
    """Return PostgreSQL's system identifier, or "" if the role may not read it."""
    try:
        row = conn.execute("SELECT system_identifier::text FROM pg_control_system()").fetchone()
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedFunction):
        return ""
    return str(row[0]) if row else ""
