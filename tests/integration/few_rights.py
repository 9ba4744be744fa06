"""Roles of PostgreSQL that lack a right, and what a right is called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from altsync.local.services.postgres import Postgres
from tests.integration.database_fixture import eventually

SCHEMA = "GRANT USAGE ON SCHEMA public TO {role}"
TABLES = "GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"
SEQUENCES = "GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"

#: Statements that make a role by what it lacks.
LACKING: dict[str, Sequence[str]] = {
    "nothing": (SCHEMA, TABLES, SEQUENCES),
    "to write": (
        SCHEMA,
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
        "GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO {role}",
    ),
    "the schema": (TABLES, SEQUENCES, "REVOKE USAGE ON SCHEMA public FROM PUBLIC"),
    "the sequence": (SCHEMA, TABLES),
    "every table": (SCHEMA, SEQUENCES),
    "one table": (SCHEMA, TABLES, SEQUENCES, "REVOKE ALL ON sync_operation FROM {role}"),
    "temporary tables": (
        SCHEMA,
        TABLES,
        SEQUENCES,
        "REVOKE TEMPORARY ON DATABASE {database} FROM PUBLIC",
    ),
    "the database": ("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC",),
}


@dataclass(frozen=True, slots=True)
class Role:
    """A role, the address of the database for it, and a session of a superuser there."""

    name: str
    url: str
    admin: psycopg.Connection

    def grant(self, *statements: str) -> None:
        """Run statements about this role."""
        database = self.admin.info.dbname
        for statement in statements:
            self.admin.execute(statement.format(role=self.name, database=database).encode())


@contextmanager
def role_that_lacks(postgres: Postgres, url: str, lacking: str) -> Iterator[Role]:
    """Yield a role of its own that owns nothing and lacks one of ``LACKING``."""
    parts = urlsplit(url)
    name = f"role_{uuid4().hex[:12]}"
    superuser = urlsplit(postgres.superuser_url)._replace(path=parts.path).geturl()
    address = f"postgresql://{name}:secret@{parts.netloc.rpartition('@')[2]}{parts.path}"
    with psycopg.connect(superuser, autocommit=True) as admin:
        role = Role(name, address, admin)
        role.grant("CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        try:
            role.grant(*LACKING[lacking])
            yield role
        finally:
            role.grant(
                "GRANT USAGE ON SCHEMA public TO PUBLIC",
                "GRANT CONNECT, TEMPORARY ON DATABASE {database} TO PUBLIC",
                "DROP OWNED BY {role}",
                "DROP ROLE {role}",
            )
            process = admin.info.backend_pid
    # Other tests end every session, and may not end one of a superuser.
    with psycopg.connect(postgres.superuser_url, autocommit=True) as looker:
        ask = "SELECT 1 FROM pg_stat_activity WHERE pid = %s"
        eventually(lambda: looker.execute(ask, (process,)).fetchone() is None)
