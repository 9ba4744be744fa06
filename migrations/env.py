"""Alembic's entry: runs the migrations on the connection that the caller hands over."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection
from sqlmodel import SQLModel

import altsync.models  # noqa: F401  (registers the tables)
from altsync.catalogue.current import current
from altsync.config import read_settings
from altsync.db import engine


def _run(connection: Connection) -> None:
    current()  # registers the catalogue's tables
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        compare_server_default=True,
        # Revisions of a project, beside its catalogue, have a table of their own.
        version_table=context.config.attributes.get("version_table", "alembic_version"),
    )
    with context.begin_transaction():
        context.run_migrations()


def _connect_and_run() -> None:
    with engine(read_settings().require_database_url(direct=True)).connect() as connection:
        _run(connection)


given = context.config.attributes.get("connection")
if given is None:
    _connect_and_run()
else:
    _run(given)
