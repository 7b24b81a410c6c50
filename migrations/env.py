"""
Run the migrations on a connection that the caller hands over, or write them as SQL.

No ini file is read and no logging is configured: inside a host's process both are the host's.
"""

from alembic import context
from sqlalchemy import Connection, create_engine

from conversation_store.storage.tables import OURS, VERSION_TABLE, metadata


def _ours(name: str | None, kind: str, _parents: object) -> bool:
    return kind != "table" or name in OURS


def _configure_and_run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_name=_ours,
        render_as_batch=True,
        transaction_per_migration=False,
    )
    with context.begin_transaction():
        context.run_migrations()


def main() -> None:
    """Choose between a given connection, a URL from the command line, and SQL on paper."""
    options = context.get_x_argument(as_dictionary=True)
    connection = context.config.attributes.get("connection")
    if context.is_offline_mode():
        context.configure(
            dialect_name=context.config.attributes.get("dialect", "postgresql"),
            target_metadata=metadata,
            version_table=VERSION_TABLE,
            literal_binds=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    elif connection is not None:
        _configure_and_run(connection)
    else:
        with create_engine(options["url"]).begin() as made:
            _configure_and_run(made)


main()
