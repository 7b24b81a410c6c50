"""
Find, check and run migrations. The only door to Alembic, which is imported when a migration runs and not before.
"""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from conversation_store.errors import SchemaMismatchError
from conversation_store.storage.engine import Database, translated
from conversation_store.storage.tables import REVISION, VERSION_TABLE, metadata, version

if TYPE_CHECKING:
    from alembic.config import Config

_lock: Final = threading.Lock()
"""Alembic keeps its context in globals of the process: one migration at a time."""

_ADVISORY_LOCK: Final = 0x636F6E76  # "conv": keeps two processes from migrating one PostgreSQL database at once


def location() -> Path:
    """Find the migrations: inside the installed package, else at the top of a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def current(connection: Connection) -> str | None:
    """Read which revision the database has; None where it has none of our tables."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    return connection.execute(select(version.c.version_num)).scalar()


def check(database: Database) -> None:
    """
    Make sure the database has this release's tables; make them in a SQLite file that is empty.

    Raises:
        SchemaMismatchError: It has other tables, older or newer ones, and what to do about it.
        DatabaseError: It cannot be read, or is no database.
    """
    with database.read() as connection:
        found = current(connection)
        empty = found is None and database.dialect == "sqlite" and not inspect(connection).get_table_names()
    if found == REVISION:
        return
    if empty and database.owned:
        database.write(_create)
        return
    raise mismatch(found, database)


def mismatch(found: str | None, database: Database) -> SchemaMismatchError:
    """Say what is wrong with a database's revision and what mends it."""
    if found is not None and found > REVISION:
        command = "it was written by a newer release; upgrade with: pip install --upgrade conversation_store"
    else:
        command = f"run: conversation-store db upgrade {database.url}"
    return SchemaMismatchError(found, REVISION, command)


def _create(connection: Connection) -> None:
    # A race of several processes opening a new file: the writers' lock is held now, so look again.
    if current(connection) is None:
        metadata.create_all(connection)
        version.create(connection)
        connection.execute(version.insert(), {"version_num": REVISION})


def configuration(connection: Connection | None = None) -> Config:
    """Configure Alembic for our migrations, in code: no ini file, no logging set up, our own version table."""
    from alembic.config import Config  # noqa: PLC0415 - see the module's docstring

    config = Config()
    config.set_main_option("script_location", str(location()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def upgrade(database: Database) -> None:
    """
    Bring a database to this release's revision, from nothing or from an older one.

    A host's own tables and Alembic history are not touched. Safe when several processes do it at once.

    Raises:
        SchemaMismatchError: It is newer than this release.
        DatabaseError: The database refused.
    """
    from alembic import command  # noqa: PLC0415 - see the module's docstring

    def run(connection: Connection) -> None:
        if database.dialect == "postgresql":
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        found = current(connection)
        if found is not None and found > REVISION:
            raise mismatch(found, database)
        if found != REVISION:
            command.upgrade(configuration(connection), "head")

    with _lock:
        try:
            database.write(run)
            if database.owned and database.dialect == "sqlite" and database.path is not None:
                database.engine.dispose()  # connections made from now on use the write-ahead log
        except SQLAlchemyError as error:
            raise translated(error) from None


def script(dialect: str) -> str:
    """Write the statements of all migrations for a dialect, for a database administrator to run."""
    from alembic import command  # noqa: PLC0415 - see the module's docstring

    out = io.StringIO()
    with _lock:
        config = configuration()
        config.output_buffer = out
        config.attributes["dialect"] = dialect
        command.upgrade(config, "head", sql=True)
    return out.getvalue()
