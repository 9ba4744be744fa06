"""Migrate altsync's own tables, and check the revision that they are at."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from altsync import __version__, rights
from altsync.db import Conn, check_encoding, connect, engine
from altsync.errors import SchemaError

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection as SqlConnection

#: Seconds between two tries to get the lock of migrations.
MIGRATION_POLL = 0.2

#: The comment that names the release that migrated last.
_COMMENT = "SELECT obj_description(to_regclass('alembic_version'), 'pg_class')"


def migrations_folder() -> Path:
    """Return the folder of migrations: in the installed package, or beside the sources.

    Raises ``FileNotFoundError`` when neither holds them.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "migrations", package.parents[1] / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise FileNotFoundError("no migrations in the package or beside the sources")


def migrate(
    url: str, revision: str = "head", follow: Callable[[SqlConnection], None] | None = None
) -> None:
    """Bring the schema to ``revision``. A second process waits until the first has finished.

    ``follow`` is then called with the same connection, before another process may migrate.

    Raises psycopg's errors, and ``SchemaError`` for a revision of another release or an encoding
    other than UTF-8.
    """
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    with connect(url, name="altsync-migrate") as conn:
        check_encoding(conn)
        current = schema_revision(conn)
        if current is not None and not _is_known(current):
            raise SchemaError(_from_another_release(conn, current))
    try:
        _migrate(url, revision, follow)
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise error.orig from None
        raise
    except CommandError as error:
        raise SchemaError(f"the schema cannot be migrated: {error}") from None


def _migrate(url: str, revision: str, follow: Callable[[SqlConnection], None] | None) -> None:
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import text

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    with engine(url).connect() as connection:
        # Polled: a session that waits for a lock holds a snapshot, and an index that is built
        # concurrently waits for every snapshot, this one included.
        wanted = text("SELECT pg_try_advisory_lock(hashtext('altsync.migrate'))")
        while not connection.execute(wanted).scalar():
            connection.commit()
            time.sleep(MIGRATION_POLL)
        connection.commit()
        config.attributes["connection"] = connection
        if revision in ("head", "heads") or not revision.startswith("-"):
            command.upgrade(config, revision)
        else:
            command.downgrade(config, revision)
        # An older release reads this comment, and names the release to install.
        comment = f"altsync {__version__}"
        if connection.scalar(text(_COMMENT)) != comment:
            connection.execute(text(f"COMMENT ON TABLE alembic_version IS '{comment}'"))
        connection.commit()
        if follow is not None:
            follow(connection)
            connection.commit()


def schema_head() -> str | None:
    """Return the revision that this release needs. Raises ``FileNotFoundError``."""
    return _scripts().get_current_head()


def _scripts() -> ScriptDirectory:
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(migrations_folder()))


@cache
def own_revision() -> str:
    """Return the same as ``schema_head``, from the numbered file names, without Alembic's import.

    Raises ``FileNotFoundError``.
    """
    files = (migrations_folder() / "versions").glob("[0-9]*_*.py")
    return max(file.name.partition("_")[0] for file in files)


def schema_revision(conn: Conn) -> str | None:
    """Return the revision of the database, or None before the first migration.

    Raises ``InsufficientPrivilege`` when the role may not see it.
    """
    if conn.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
        hidden = rights.hidden_schema(conn)
        if hidden is not None:
            raise rights.denied(f"schema {hidden}", conn.info.user)
        return None
    row = conn.execute("SELECT version_num FROM alembic_version").fetchone()
    return row[0] if row else None


def check_schema(conn: Conn) -> str:
    """Return the schema's revision. Raises ``SchemaError`` unless it is that of this release."""
    check_encoding(conn)
    current, head = schema_revision(conn), schema_head()
    if current == head and current is not None:
        return current
    if current is not None and not _is_known(current):
        raise SchemaError(_from_another_release(conn, current))
    raise SchemaError(
        f"the schema is at {current or 'nothing'}, not at {head}: run altsync migrate"
    )


def _is_known(revision: str) -> bool:
    return revision in {one.revision for one in _scripts().walk_revisions()}


def _from_another_release(conn: Conn, current: str) -> str:
    row = conn.execute(_COMMENT).fetchone()
    release = str(row[0]) if row and str(row[0]).startswith("altsync ") else "a newer altsync"
    return (
        f"the database was migrated by {release}, to revision {current}; this is altsync "
        f"{__version__}, which knows {schema_head()} as the last one: install {release}"
    )
