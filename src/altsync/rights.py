"""Name the right that a role of PostgreSQL lacks."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import Connection
from psycopg.errors import InsufficientPrivilege
from psycopg.rows import TupleRow

#: The sequence that versions come from.
_VERSIONS = "entity_version"


def hidden_schema(conn: Connection[TupleRow]) -> str | None:
    """Return the schema with altsync's tables, if the search path names it without USAGE."""
    row = conn.execute(
        """
        SELECT n.nspname
        FROM regexp_split_to_table(current_setting('search_path'), ',') part,
             replace(btrim(part, ' "'), '$user', current_user::text) AS wanted,
             pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
        WHERE n.nspname = wanted AND c.relname = 'alembic_version'
          AND NOT has_schema_privilege(n.oid, 'USAGE')
        """
    ).fetchone()
    return row[0] if row else None


def denied(what: str, role: str) -> InsufficientPrivilege:
    """Return PostgreSQL's error for an object that the role may not use."""
    return with_role(InsufficientPrivilege(f"permission denied for {what}"), role)


def with_role(error: InsufficientPrivilege, role: str) -> InsufficientPrivilege:
    """Attach a role to an error, for the GRANT in its message."""
    error.__dict__["altsync_role"] = role
    return error


def missing_rights(
    conn: Connection[TupleRow], tables: Sequence[str]
) -> list[InsufficientPrivilege]:
    """Return an error for each kind of right that seeding and delivery need and lack."""
    row = conn.execute(
        """
        SELECT ARRAY(
          SELECT name FROM unnest(%(tables)s::text[]) name
          WHERE NOT (has_table_privilege(name, 'SELECT') AND has_table_privilege(name, 'INSERT')
                 AND has_table_privilege(name, 'UPDATE') AND has_table_privilege(name, 'DELETE'))
          ORDER BY name),
          has_sequence_privilege(%(versions)s, 'USAGE')
          AND has_sequence_privilege(%(versions)s, 'SELECT')
        """,
        {"tables": list(tables), "versions": _VERSIONS},
    ).fetchone()
    assert row is not None
    names, may_count = row
    objects = [f"table {', '.join(names)}"] if names else []
    objects += [] if may_count else [f"sequence {_VERSIONS}"]
    return [denied(what, conn.info.user) for what in objects]
