"""Bring a database to altsync's schema and to the catalogue's.

altsync's own tables follow numbered migrations. The catalogue's follow its classes: new tables,
new columns and new indexes are created. A change that would lose or rewrite data is refused; the
project writes a revision for it.
"""

from __future__ import annotations

import io
import json
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import produce_migrations, render_python_code
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, text
from sqlalchemy.dialects import postgresql
from sqlmodel import SQLModel

from altsync import db, models, revisions
from altsync.catalogue.catalogue import Catalogue
from altsync.catalogue.current import current
from altsync.contract import EMBEDDING
from altsync.errors import SchemaError


@dataclass(frozen=True, slots=True)
class Plan:
    """The changes of the catalogue's tables.

    ``statements`` are SQL, and ``changes`` name their tables, columns and indexes. ``refused`` and
    ``notes`` are messages with table and column; the notes name columns that are no longer
    declared, and stay.
    """

    statements: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def declared() -> MetaData:
    """Return the tables of altsync itself and of the current catalogue, and no others."""
    own = (
        one.__table__
        for one in vars(models).values()
        if isinstance(one, type) and issubclass(one, SQLModel) and hasattr(one, "__table__")
    )
    return _only([*own, *current().tables])


def migrate(url: str, revision: str = "head") -> Plan:
    """Migrate the schema to ``revision``, and with "head" the catalogue's tables to their classes.

    Return the changes of the catalogue's tables. Raises as ``revisions.migrate``, and
    ``SchemaError`` if data would be lost; then none of the catalogue's tables is changed.
    """
    done: list[Plan] = []

    def follow(connection: Connection) -> None:
        _run_revisions(connection, current())
        done.append(_apply(connection, current()))

    revisions.migrate(url, revision, follow if revision == "head" else None)
    return done[0] if done else Plan()


def plan(url: str) -> Plan:
    """Return the changes that ``migrate`` would make to the catalogue's tables. Write nothing."""
    with db.engine(url).connect() as connection:
        return _plan(connection, current())[0]


def _apply(connection: Connection, catalogue: Catalogue) -> Plan:
    planned, operations = _plan(connection, catalogue)
    if planned.refused:
        raise SchemaError(
            "the catalogue's tables cannot follow their classes without losing or rewriting data: "
            f"{'; '.join(planned.refused)}. altsync revision MESSAGE drafts a revision that does "
            "it; or put the declaration back"
        )
    runner = Operations(MigrationContext.configure(connection))
    for operation in operations:
        runner.invoke(operation)
    for statement in _missing_functions(connection, catalogue):
        connection.execute(text(statement))
    return planned


#: A function of an entity's row, which a query reads like a column: ``l.embedding_vector``.
_VECTOR_OF = f"""
CREATE FUNCTION embedding_vector({{table}}) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
RETURN (SELECT e.vector FROM embedding e
        WHERE e.model = $1.embedding_model AND e.text_hash = $1.embedding_text_hash
          AND e.dimensions = (SELECT (config ->> 'dimensions')::int FROM sink_state
                              WHERE sink = '{EMBEDDING}'))
"""


def _missing_functions(connection: Connection, catalogue: Catalogue) -> list[str]:
    names = {f"embedding_vector({kind})": kind for kind in catalogue.entity_types}
    found = connection.execute(
        text(
            "SELECT name FROM unnest(CAST(:names AS text[])) name "
            "WHERE to_regprocedure(name) IS NULL"
        ),
        {"names": list(names)},
    )
    missing = {row[0] for row in found}
    return [_VECTOR_OF.format(table=kind) for name, kind in names.items() if name in missing]


#: The table with the last revision of the project.
_VERSIONS = "catalogue_version"


def _revisions(catalogue: Catalogue) -> Path | None:
    """Return the folder of a project's revisions, which may not exist yet."""
    return catalogue.folder and catalogue.folder / "migrations"


def _run_revisions(connection: Connection, catalogue: Catalogue) -> None:
    """Run the project's new revisions, before tables are compared."""
    folder = _revisions(catalogue)
    if folder is None or not any(folder.glob("*.py")):
        return
    config = _config(folder)
    config.attributes.update(connection=connection, version_table=_VERSIONS)
    command.upgrade(config, "head")


def _config(folder: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(revisions.migrations_folder()))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_locations", str(folder))
    return config


def draft(url: str, message: str) -> Path:
    """Write a revision with all changes of the catalogue's tables. Return its file.

    Raises ``SchemaError`` if nothing differs, or if the catalogue is an installed package.
    """
    folder = _revisions(current())
    if folder is None or "site-packages" in folder.parts:
        raise SchemaError("the catalogue is an installed package, which has its own revisions")
    with db.engine(url).connect() as connection:
        found = _operations(connection, current())
    if not found:
        raise SchemaError("the tables are as the catalogue declares them: nothing to draft")
    folder.mkdir(exist_ok=True)
    previous = ScriptDirectory.from_config(_config(folder)).get_current_head()
    revision = f"{datetime.now(UTC):%Y%m%d%H%M%S}"
    words = re.sub(r"[^a-z0-9]+", "_", message.lower()).strip("_")[:40]
    file = folder / f"{revision}_{words or 'revision'}.py"
    code = str(render_python_code(ops.UpgradeOps(ops=found)))
    code = "\n".join(line for line in code.splitlines() if not line.strip().startswith("#"))
    indented = textwrap.indent(textwrap.dedent(code.replace("    ", "", 1)).strip(), "    ")
    title = json.dumps(message.rstrip(".") + ".", ensure_ascii=False)[1:-1]
    text = _DRAFT.format(message=title, revision=revision, previous=previous, code=indented)
    file.write_text(text, encoding="utf-8")
    return file


_DRAFT = '''"""{message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Text
from sqlalchemy.dialects import postgresql

revision = "{revision}"
down_revision = {previous!r}
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the changes that altsync migrate refuses. Save the data first."""
{code}


def downgrade() -> None:
    """Revert the changes."""
    raise NotImplementedError
'''


def _plan(connection: Connection, catalogue: Catalogue) -> tuple[Plan, list[ops.MigrateOperation]]:
    safe: list[ops.MigrateOperation] = []
    refused: list[str] = []
    notes: list[str] = []
    for operation in _operations(connection, catalogue):
        if isinstance(operation, ops.DropColumnOp) and not _is_needed(operation):
            column = f"{operation.table_name}.{operation.column_name}"
            notes.append(f"{column} is no longer declared, and stays")
            continue
        reason = _loses(operation)
        if reason is None:
            safe.append(operation)
        else:
            refused.append(reason)
    functions = (" ".join(one.split()) for one in _missing_functions(connection, catalogue))
    changes = tuple(filter(None, map(_named, safe)))
    return Plan((*_as_sql(safe), *functions), changes, tuple(refused), tuple(notes)), safe


def _named(operation: ops.MigrateOperation) -> str | None:
    """Return a message on a change; None for an index of a new table, which comes with it."""
    match operation:
        case ops.CreateTableOp():
            return f"new table {operation.table_name}"
        case ops.AddColumnOp():
            return f"new column {operation.table_name}.{operation.column.name}"
        case ops.CreateIndexOp():
            return f"new index {operation.index_name}"
        case _:
            return None


def _operations(connection: Connection, catalogue: Catalogue) -> list[ops.MigrateOperation]:
    """Return the differences between the classes and the database, table by table."""
    tables = {table.name: table for table in catalogue.tables}

    def is_ours(name: str | None, kind: str, parents: Any) -> bool:
        table = name if kind == "table" else parents.get("table_name")
        return kind == "schema" or table in tables

    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "include_name": is_ours}
    )
    script = produce_migrations(context, _only(tables.values()))
    found = list(_leaves(script.upgrade_ops))
    created = {one.index_name for one in found if isinstance(one, ops.CreateIndexOp)}

    def is_extra(one: ops.MigrateOperation) -> bool:
        """Return whether only the database has the index or constraint: it stays."""
        if isinstance(one, ops.DropIndexOp):
            return one.index_name not in created
        return isinstance(one, ops.DropConstraintOp)

    return [one for one in found if not is_extra(one)]


def _is_needed(operation: ops.DropColumnOp) -> bool:
    """Return whether every row needs a value of this column."""
    column = operation.to_column()
    return not column.nullable and column.server_default is None


def _only(tables: Any) -> MetaData:
    metadata = MetaData()
    for table in tables:
        table.to_metadata(metadata)
    return metadata


def _leaves(container: Any) -> Iterator[ops.MigrateOperation]:
    for operation in container.ops:
        if isinstance(operation, ops.OpContainer):
            yield from _leaves(operation)
        else:
            yield operation


def _loses(operation: ops.MigrateOperation) -> str | None:
    """Return why an operation would lose or rewrite data, or fail on existing rows, or None."""
    match operation:
        case ops.CreateTableOp() | ops.CreateIndexOp() | ops.CreateForeignKeyOp():
            return None
        case ops.AddColumnOp():
            column = operation.column
            if column.nullable or column.server_default is not None:
                return None
            return (
                f"{operation.table_name}.{column.name} is new and required: give the field a "
                "default, or make it optional"
            )
        case ops.DropColumnOp():
            return (
                f"{operation.table_name}.{operation.column_name} is no longer declared, and every "
                "row needs a value of it"
            )
        case ops.AlterColumnOp():
            what = "type" if operation.modify_type is not None else "nullability"
            return f"{operation.table_name}.{operation.column_name} has another {what}"
        case ops.DropIndexOp():
            return f"{operation.table_name}: the index {operation.index_name} is another one now"
        case ops.DropTableOp():
            return f"the table {operation.table_name} is no longer declared"
        case ops.CreateUniqueConstraintOp():
            columns = ", ".join(map(str, operation.columns))
            return f"{operation.table_name}: {columns} must be unique now"
        case _:
            return f"{type(operation).__name__} is not done without a migration"


def _as_sql(operations: Sequence[ops.MigrateOperation]) -> list[str]:
    buffer = io.StringIO()
    context = MigrationContext.configure(
        dialect=postgresql.dialect(),  # type: ignore[no-untyped-call]
        opts={"as_sql": True, "output_buffer": buffer},
    )
    runner = Operations(context)
    found: list[str] = []
    for operation in operations:
        runner.invoke(operation)
        found.append(" ".join(buffer.getvalue().split()).rstrip(";"))
        buffer.seek(0)
        buffer.truncate()
    return found
