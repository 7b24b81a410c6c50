"""
The schema, column by column. Changing it needs a migration; a test holds the two together.

Every primary key begins with the conversation (blobs and keys: with the scope), every id is made by the
client, every time is integer microseconds since the epoch, UTC. Bodies are bytes and never JSON or text
columns, because engines reorder, normalise or refuse what is inside those.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import (
    BINARY,
    DDL,
    VARBINARY,
    BigInteger,
    Column,
    Connection,
    Dialect,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    event,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

REVISION: Final = "0005"
"""The schema revision this release reads and writes."""

VERSION_TABLE: Final = "conversation_store_version"
"""Where the revision is kept; a host's own ``alembic_version`` is never touched."""

SCOPE_BYTES: Final = 255
KEY_BYTES: Final = 512
IDEMPOTENCY_KEY_BYTES: Final = 255
WRAPPING_KEY_BYTES: Final = 255
SALT_BYTES: Final = 160
"""Room for a salt of 32 bytes, and for one that is encrypted together with a SHA-256."""
ORIGIN_BYTES: Final = 255
NO_TOKEN: Final = bytes(16)
"""The pending token of a conversation without a pending exchange."""


class _LongBlob(LargeBinary):
    """MariaDB's type, by its name: to import its dialect would take longer than to import all of this package."""

    __visit_name__ = "LONGBLOB"


class _LongText(Text):
    __visit_name__ = "LONGTEXT"


class _TextVector(TypeEngine[str]):
    __visit_name__ = "TSVECTOR"


class TextQuery(TypeEngine[str]):
    """PostgreSQL's type of what is looked for in a text."""

    __visit_name__ = "TSQUERY"


def _fixed(length: int) -> TypeEngine[bytes]:
    return LargeBinary(length).with_variant(BINARY(length), "mysql", "mariadb")


def _varying(length: int) -> TypeEngine[bytes]:
    return LargeBinary(length).with_variant(VARBINARY(length), "mysql", "mariadb")


def _bytes() -> TypeEngine[bytes]:
    return LargeBinary().with_variant(_LongBlob(), "mysql", "mariadb")


def _words() -> TypeEngine[str]:
    return Text().with_variant(_TextVector(), "postgresql").with_variant(_LongText(), "mysql", "mariadb")


def _finds_words(*_: object, dialect: Dialect, **__: object) -> bool:
    return dialect.name != "sqlite"  # which has FTS5


metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

conversation: Final = Table(
    "conversation",
    metadata,
    Column("id", _fixed(16), nullable=False),
    Column("scope", _varying(SCOPE_BYTES), nullable=False),
    Column("title", _bytes(), comment="UTF-8; derived from the newest labelled entry"),
    Column("metadata", _bytes(), comment="JSON; derived from the newest labelled entry"),
    Column("length", BigInteger, nullable=False, comment="entries in the log; the next position"),
    Column("head", _fixed(32), nullable=False, comment="digest of the last entry"),
    Column("view_position", BigInteger, nullable=False, comment="the entry that tells the current view"),
    Column("settings_position", BigInteger, nullable=False, comment="the current settings entry"),
    Column("pending_token", _fixed(16), nullable=False, comment="whose the pending exchange is; zeros: none"),
    Column("pending_position", BigInteger, nullable=False, comment="its request entry; -1: none"),
    Column("lease_until", BigInteger, nullable=False, comment="by the database's clock; 0: none"),
    Column("lease_owner", String(200), nullable=False, comment="boot id, process and start time of the owner"),
    Column("forked_from", _fixed(16)),
    Column("indexed_length", BigInteger, nullable=False, comment="entries the search index knows"),
    Column("sealed_length", BigInteger, nullable=False, comment="entries covered by a seal"),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column(
        "data_key",
        BigInteger,
        nullable=False,
        server_default=text("0"),
        comment="the data key that new content is encrypted under; 0: none",
    ),
    PrimaryKeyConstraint("id"),
    Index(None, "scope", "updated", "id"),
    Index(None, "forked_from"),
    Index(
        "ix_conversation_behind",
        "scope",
        "id",
        sqlite_where=text("indexed_length < length"),
    ),
    Index(
        "ix_conversation_unsealed",
        "id",
        sqlite_where=text("sealed_length < length"),
    ),
)

conversation_key: Final = Table(
    "conversation_key",
    metadata,
    Column("scope", _varying(SCOPE_BYTES), nullable=False),
    Column("key", _varying(KEY_BYTES), nullable=False, comment="UTF-8, never normalised"),
    Column("conversation", _fixed(16), nullable=False),
    PrimaryKeyConstraint("scope", "key"),
    ForeignKeyConstraint(["conversation"], ["conversation.id"]),
    Index(None, "conversation", unique=True),
    sqlite_with_rowid=False,
)

conversation_entry: Final = Table(
    "conversation_entry",
    metadata,
    Column("conversation", _fixed(16), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("salt", _varying(SALT_BYTES)),
    Column("request_salt", _varying(SALT_BYTES)),
    Column("digest", _fixed(32), nullable=False),
    Column("header", _bytes(), nullable=False),
    Column("about", _bytes()),
    Column("body", _bytes()),
    PrimaryKeyConstraint("conversation", "position"),
    ForeignKeyConstraint(["conversation"], ["conversation.id"]),
    sqlite_with_rowid=False,
)

conversation_exchange: Final = Table(
    "conversation_exchange",
    metadata,
    Column("conversation", _fixed(16), nullable=False),
    Column("position", BigInteger, nullable=False, comment="of the request entry"),
    Column("state", String(16), nullable=False),
    Column("model", String(200), nullable=False),
    Column("served_by", String(200)),
    Column("begun", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Column("body_length", BigInteger, nullable=False),
    Column("sent_by", String(16), nullable=False),
    Column("streamed", SmallInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("maybe_billed", SmallInteger, nullable=False),
    Column("idempotency_key", _varying(IDEMPOTENCY_KEY_BYTES), comment="NULL on retries"),
    Column("retry_of", BigInteger, comment="position of the first exchange of its chain of retries"),
    Column("outcome", BigInteger, comment="position of the outcome entry"),
    Column("turn", BigInteger, comment="position of the model's turn"),
    Column("message_id", String(200)),
    Column("request_id", String(200)),
    Column("stop_reason", String(64)),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_creation_input_tokens", BigInteger, nullable=False),
    Column("cache_read_input_tokens", BigInteger, nullable=False),
    Column("usage", _bytes(), comment="the usage object as received"),
    Column("cost", BigInteger, comment="picodollars; NULL: not known"),
    Column("unpriced", SmallInteger, comment="1: the cost leaves something out"),
    Column("price", _bytes(), comment="as the outcome keeps it"),
    Column("work_input", BigInteger, comment="tokens over all iterations; NULL: not counted"),
    Column("work_write_5m", BigInteger),
    Column("work_write_1h", BigInteger),
    Column("work_read", BigInteger),
    Column("work_output", BigInteger),
    Column("web_searches", BigInteger),
    Column("web_fetches", BigInteger),
    Column("code_executions", BigInteger),
    PrimaryKeyConstraint("conversation", "position"),
    ForeignKeyConstraint(["conversation"], ["conversation.id"]),
    Index(None, "conversation", "idempotency_key", unique=True),
    Index(None, "conversation", "retry_of"),
    sqlite_with_rowid=False,
)

conversation_blob: Final = Table(
    "conversation_blob",
    metadata,
    Column("scope", _varying(SCOPE_BYTES), nullable=False),
    Column("digest", _fixed(32), nullable=False, comment="SHA-256 of the bytes"),
    Column("media_type", String(100), nullable=False, comment="read from the bytes"),
    Column("size", BigInteger, nullable=False),
    Column("width", Integer, comment="pixels"),
    Column("height", Integer, comment="pixels"),
    Column("pages", Integer),
    Column("created", BigInteger, nullable=False),
    Column("conversation", _fixed(16), comment="whose alone it is, encrypted; NULL: the scope's"),
    PrimaryKeyConstraint("scope", "digest"),
    Index(None, "conversation"),
)

conversation_blob_chunk: Final = Table(
    "conversation_blob_chunk",
    metadata,
    Column("scope", _varying(SCOPE_BYTES), nullable=False),
    Column("digest", _fixed(32), nullable=False),
    Column("number", Integer, nullable=False),
    Column("data", _bytes(), nullable=False, comment="1 MiB, the last one less"),
    PrimaryKeyConstraint("scope", "digest", "number"),
    ForeignKeyConstraint(["scope", "digest"], ["conversation_blob.scope", "conversation_blob.digest"]),
)

conversation_blob_use: Final = Table(
    "conversation_blob_use",
    metadata,
    Column("conversation", _fixed(16), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("number", Integer, nullable=False, comment="which of the entry's splices, from 0"),
    Column("scope", _varying(SCOPE_BYTES), nullable=False),
    Column("digest", _fixed(32), nullable=False),
    Column("salt", _varying(SALT_BYTES), nullable=False),
    PrimaryKeyConstraint("conversation", "position", "number"),
    ForeignKeyConstraint(
        ["conversation", "position"], ["conversation_entry.conversation", "conversation_entry.position"]
    ),
    ForeignKeyConstraint(
        ["scope", "digest"],
        ["conversation_blob.scope", "conversation_blob.digest"],
        ondelete="RESTRICT",
    ),
    Index(None, "scope", "digest"),
)

conversation_data_key: Final = Table(
    "conversation_data_key",
    metadata,
    Column("conversation", _fixed(16), nullable=False),
    Column("number", BigInteger, nullable=False, autoincrement=False, comment="random: never two keys of one number"),
    Column("wrapping_key", _varying(WRAPPING_KEY_BYTES), nullable=False, comment="its name in the host's key ring"),
    Column("wrapped", _bytes(), comment="NULL: given up, its wrapping key is to be destroyed"),
    PrimaryKeyConstraint("conversation", "number"),
    ForeignKeyConstraint(["conversation"], ["conversation.id"]),
)
"""The data keys of encrypted conversations, each wrapped by a key outside the database (``storage/keyring.py``)."""

conversation_journal: Final = Table(
    "conversation_journal",
    metadata,
    Column("conversation", _fixed(16), nullable=False),
    Column("position", BigInteger, nullable=False, comment="of the request entry"),
    Column("number", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("data", _bytes(), nullable=False, comment="bytes of a stream, as they arrived"),
    PrimaryKeyConstraint("conversation", "position", "number"),
    ForeignKeyConstraint(["conversation"], ["conversation.id"]),
)

conversation_search: Final = Table(
    "conversation_search",
    metadata,
    Column(
        "number",
        BigInteger().with_variant(Integer(), "sqlite"),
        nullable=False,
        autoincrement=False,
        comment="the entry's time, and its place among those of one time: newest is highest",
    ),
    Column("conversation", _fixed(16), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("words", _words(), nullable=False, comment="as record/words.py tells them apart"),
    PrimaryKeyConstraint("number"),
    Index(None, "conversation", "position", unique=True),
    Index("ix_conversation_search_words", "words").ddl_if(callable_=_finds_words),
)
"""The search index: derived, and never written with an entry. It can be emptied, or dropped and made again."""

conversation_log: Final = Table(
    "conversation_log",
    metadata,
    Column("log", Integer, nullable=False, autoincrement=False, comment="from 1; the newest goes on"),
    Column("origin", _varying(ORIGIN_BYTES), nullable=False, comment="UTF-8; the first line of its checkpoints"),
    Column("size", BigInteger, nullable=False, comment="leaves; the sealers' compare-and-set"),
    Column("frontier", _bytes(), nullable=False, comment="roots of the largest perfect subtrees, left to right"),
    PrimaryKeyConstraint("log"),
)
"""A log of seals: which conversation had which head, over the whole database. Written outside the append path."""

conversation_seal: Final = Table(
    "conversation_seal",
    metadata,
    Column("log", Integer, nullable=False),
    Column("number", BigInteger, nullable=False, comment="of the leaf, from 0"),
    Column("conversation", _fixed(16), comment="NULL: the leaf speaks of none"),
    Column("length", BigInteger, nullable=False, comment="entries it had; 0 where there is no conversation"),
    Column("leaf", _bytes(), nullable=False, comment="the bytes that are hashed"),
    PrimaryKeyConstraint("log", "number"),
    Index(None, "log", "conversation", "length"),
    sqlite_with_rowid=False,
)

conversation_tile: Final = Table(
    "conversation_tile",
    metadata,
    Column("log", Integer, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("hashes", _bytes(), nullable=False, comment="up to 256, 32 bytes each; a full tile never changes"),
    PrimaryKeyConstraint("log", "level", "number"),
)

conversation_checkpoint: Final = Table(
    "conversation_checkpoint",
    metadata,
    Column("log", Integer, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("note", _bytes(), nullable=False, comment="as signed"),
    Column("at", BigInteger, nullable=False, comment="by the signer's clock"),
    Column("published_to", _bytes(), nullable=False, comment="JSON: the names of the anchors that took it"),
    PrimaryKeyConstraint("log", "size"),
    sqlite_with_rowid=False,
)

SEARCH_FTS: Final = "conversation_search_fts"
"""On SQLite, FTS5 over the words of ``conversation_search``; its own tables are named after it."""

FTS_TABLES: Final = frozenset({SEARCH_FTS, *(f"{SEARCH_FTS}_{each}" for each in ("data", "idx", "docsize", "config"))})

# The words are told apart already: to the tokenizer `ascii` all but ASCII's white space and signs is a letter.
_MAKE_FTS: Final = (
    f"CREATE VIRTUAL TABLE {SEARCH_FTS} USING fts5"
    "(words, content='conversation_search', content_rowid='number', tokenize='ascii')"
)
_make_fts: Final = DDL(_MAKE_FTS)  # type: ignore[no-untyped-call]
_drop_fts: Final = DDL(f"DROP TABLE IF EXISTS {SEARCH_FTS}")  # type: ignore[no-untyped-call]
event.listen(conversation_search, "after_create", _make_fts.execute_if(dialect="sqlite"))
event.listen(conversation_search, "before_drop", _drop_fts.execute_if(dialect="sqlite"))

_ELSEWHERE: Final[Mapping[str, Mapping[str, tuple[str, str]]]] = {
    "postgresql": {
        "ix_conversation_behind": ("where", "indexed_length < length"),
        "ix_conversation_unsealed": ("where", "sealed_length < length"),
        "ix_conversation_search_words": ("using", "gin"),
    },
    "mysql": {"ix_conversation_search_words": ("prefix", "FULLTEXT")},
    "mariadb": {"ix_conversation_search_words": ("prefix", "FULLTEXT")},
}
"""What an index is beside its columns, by dialect: to give it with the index would import every one of them."""


@event.listens_for(metadata, "before_create")
def _tell_indexes(_: MetaData, connection: Connection, **__: object) -> None:
    told = _ELSEWHERE.get(connection.dialect.name, {})
    for index in (each for table in metadata.tables.values() for each in table.indexes if each.name in told):
        name, value = told[str(index.name)]
        index.dialect_options[connection.dialect.name][name] = text(value) if name == "where" else value


version: Final = Table(
    VERSION_TABLE,
    MetaData(),
    Column("version_num", String(32), nullable=False),
)
"""Alembic's own table, for reading; Alembic writes it."""

OURS: Final = frozenset({*metadata.tables, VERSION_TABLE})


def include_name(name: str | None, type_: str, parent_names: object) -> bool:  # noqa: ARG001
    """
    Keep a host's Alembic autogenerate from proposing to drop this library's tables.

    Give it to ``context.configure(include_name=...)`` in the host's ``env.py``.
    """
    return type_ != "table" or name not in OURS | FTS_TABLES


class month(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it stands for
    """The month of a time in microseconds, UTC, as a number: 202611."""

    type = BigInteger()
    inherit_cache = True


@compiles(month)
def _month_sqlite(element: FunctionElement[int], compiler: SQLCompiler, **options: Any) -> str:
    day = f"date({compiler.process(element.clauses, **options)} / 1000000, 'unixepoch')"
    return f"CAST(substr({day}, 1, 4) || substr({day}, 6, 2) AS INTEGER)"


@compiles(month, "postgresql")
def _month_postgresql(element: FunctionElement[int], compiler: SQLCompiler, **options: Any) -> str:
    at = f"(to_timestamp({compiler.process(element.clauses, **options)} / 1000000) AT TIME ZONE 'UTC')"
    return f"CAST(EXTRACT(YEAR FROM {at}) * 100 + EXTRACT(MONTH FROM {at}) AS BIGINT)"


@compiles(month, "mysql", "mariadb")
def _month_mariadb(element: FunctionElement[int], compiler: SQLCompiler, **options: Any) -> str:
    at = compiler.process(element.clauses, **options)
    return f"EXTRACT(YEAR_MONTH FROM DATE_ADD('1970-01-01', INTERVAL {at} DIV 1000000 SECOND))"


class now(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it stands for
    """The database's clock in microseconds: leases are set and judged by it alone."""

    type = BigInteger()
    inherit_cache = True


@compiles(now)
def _now_sqlite(*_: object, **__: object) -> str:
    return "CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER)"


@compiles(now, "postgresql")
def _now_postgresql(*_: object, **__: object) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)"


@compiles(now, "mysql", "mariadb")
def _now_mariadb(*_: object, **__: object) -> str:
    return "CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED)"
