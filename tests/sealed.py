"""Databases that are sealed, and the ways around the library that a hostile hand has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from attrs import evolve, field, frozen
from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text

from conversation_store import Fault, Seals, Store
from conversation_store.audit.keys import SigningKey
from conversation_store.audit.verification import verify
from conversation_store.record import chain
from conversation_store.storage.engine import Database
from conversation_store.storage.tables import metadata

SETTINGS: Final[Mapping[str, Any]] = {"model": "claude-sonnet-5-5", "max_tokens": 64}
NAME: Final = "example.com/bot"
KEY: Final = SigningKey(NAME, bytes(range(32)))
VERIFIER: Final = str(KEY.verifier)
TABLES: Final = ("conversation_log", "conversation_seal", "conversation_tile", "conversation_checkpoint")

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


@frozen
class Sealed:
    """
    A database, how it is sealed, and the way around the library.

    Attributes:
        url: The database.
        seals: How it is sealed.
        engine: Reaches it past the library, with no key between tables in the way.
    """

    url: str
    seals: Seals
    engine: Engine = field(repr=False)

    def store(self, **changes: Any) -> Store:
        """Open a store that seals, with these changes to how."""
        return Store(self.url, seal=evolve(self.seals, **changes))

    def seal(self, **changes: Any) -> str:
        """Seal everything, and give the checkpoint."""
        with self.store(**changes) as store:
            note = store.seal().note
        assert note is not None
        return note

    def say(self, key: str, *words: str) -> UUID:
        """Say words in a conversation, through a store that does not seal."""
        with Store(self.url) as store:
            chat = store.open(key, **SETTINGS)
            for each in words:
                chat.user(each)
            return chat.id

    def run(self, statement: str, **given: object) -> int:
        """Run a statement past the library."""
        with self.engine.begin() as connection:
            return connection.execute(text(statement), given).rowcount

    def one(self, statement: str, **given: object) -> Any:
        """Read one value past the library."""
        with self.engine.connect() as connection:
            value = connection.execute(text(statement), given).scalar()
        return bytes(value) if isinstance(value, memoryview) else value

    def verify(self, **given: Any) -> list[Fault]:
        """Verify everything with what an auditor has, in a store that has no memory."""
        with Store(self.url) as store:
            return list(store.verify(**given))

    def verify_chains(self) -> list[Fault]:
        """Verify every conversation's chain and nothing else."""
        database = Database.open(self.url)
        found = verify(database, "")
        database.close()
        return found

    def backup(self) -> Rows:
        """Read every row of every table of ours."""
        with self.engine.connect() as connection:
            return {
                name: [dict(row._mapping) for row in connection.execute(select(table))]
                for name, table in metadata.tables.items()
            }

    def restore(self, rows: Rows) -> None:
        """Put every row back as it was, and no other."""
        with self.engine.begin() as connection:
            for table in reversed(metadata.sorted_tables):
                connection.execute(table.delete())
            for table in metadata.sorted_tables:
                if rows[table.name]:
                    connection.execute(insert(table), list(rows[table.name]))

    def forget_seals(self) -> None:
        """Take every trace of sealing out of the database."""
        for table in TABLES:
            self.run(f"DELETE FROM {table}")
        self.run("UPDATE conversation SET sealed_length = 0")

    def rewrite(self, of: UUID, position: int, words: str) -> None:
        """Let a turn have said something else, and compute the whole chain anew."""
        body, salt = b'{"role":"user","content":"%s"}' % words.encode(), bytes(32)
        header = chain.draft("turn", at=0, salt=salt, fields={"origin": "human"}, body=body).header
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "UPDATE conversation_entry SET header = :h, body = :b, salt = :s "
                    "WHERE conversation = :c AND position = :p"
                ),
                {"h": header, "b": body, "s": salt, "c": of.bytes, "p": position},
            )
            rechain(connection, of)

    def truncate(self, of: UUID, length: int) -> None:
        """Cut a conversation's tail off, and put back what its row tells."""
        with self.engine.begin() as connection:
            given = {"c": of.bytes, "n": length}
            connection.execute(text("DELETE FROM conversation_entry WHERE conversation = :c AND position >= :n"), given)
            rechain(connection, of)

    def delete(self, of: UUID) -> None:
        """Delete a conversation whole."""
        for table in ("blob_use", "exchange", "journal", "key", "search", "entry"):
            self.run(f"DELETE FROM conversation_{table} WHERE conversation = :c", c=of.bytes)
        self.run("DELETE FROM conversation WHERE id = :c", c=of.bytes)


def rechain(connection: Connection, of: UUID) -> None:
    """Compute a conversation's digests from its headers, and bring its row up to them."""
    rows = connection.execute(
        text("SELECT position, at, kind, header FROM conversation_entry WHERE conversation = :c ORDER BY position"),
        {"c": of.bytes},
    ).all()
    digest = chain.genesis(of)
    for position, at, kind, header in rows:
        digest = chain.link(digest, chain.entry_digest(of, position, at, kind, bytes(header)))
        connection.execute(
            text("UPDATE conversation_entry SET digest = :d WHERE conversation = :c AND position = :p"),
            {"d": digest, "c": of.bytes, "p": position},
        )
    connection.execute(
        text("UPDATE conversation SET length = :n, head = :d, updated = :u WHERE id = :c"),
        {"n": len(rows), "d": digest, "u": rows[-1].at, "c": of.bytes},
    )


@contextmanager
def database(url: str, folder: Path, **given: Any) -> Iterator[Sealed]:
    """Give a database with a signing key and a memory in *folder*; what is given else is told to ``Seals``."""
    engine = create_engine(url)
    if engine.dialect.name == "postgresql":
        event.listen(engine, "begin", _without_foreign_keys)
    try:
        yield Sealed(url, Seals(**{"key": KEY, "memory": folder / "memory", **given}), engine)
    finally:
        engine.dispose()


def _without_foreign_keys(connection: Connection) -> None:
    connection.exec_driver_sql("SET LOCAL session_replication_role = replica")


def loosened(engine: Engine, tables: Sequence[str]) -> None:
    """Take every constraint away from tables of a SQLite file, as its owner can: then any column takes any value."""
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        for table in tables:
            connection.exec_driver_sql(f"CREATE TABLE loose AS SELECT * FROM {table}")
            columns = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(loose)")]
            connection.exec_driver_sql(f"DROP TABLE {table}")
            connection.exec_driver_sql(f"CREATE TABLE {table} ({', '.join(columns)})")
            connection.exec_driver_sql(f"INSERT INTO {table} SELECT * FROM loose")
            connection.exec_driver_sql("DROP TABLE loose")
