"""Alembic's entry: runs the migrations on the connection that the caller hands over."""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection, create_engine, pool
from sqlmodel import SQLModel

import altsync.models  # noqa: F401  (registers the tables)


def _run(connection: Connection) -> None:
    context.configure(
        connection=connection, target_metadata=SQLModel.metadata, compare_server_default=True
    )
    with context.begin_transaction():
        context.run_migrations()


def _connect_and_run() -> None:
    url = os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://", 1)
    with create_engine(url, poolclass=pool.NullPool).connect() as connection:
        _run(connection)


given = context.config.attributes.get("connection")
if given is None:
    _connect_and_run()
else:
    _run(given)
