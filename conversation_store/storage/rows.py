"""
Rows as they lie, in the order of their conversations: for verifying.

They are read past every type conversion, because a hostile hand may have put anything into any column: what is
found must be looked at, and not raise. Every statement reads in the order of a key, so that nothing is sorted and
nothing is held but a page; those of one scope go along its conversations and read no other's rows.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeAlias, TypeGuard
from uuid import UUID

from attrs import frozen
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    FromClause,
    Select,
    Table,
    and_,
    bindparam,
    cast,
    func,
    or_,
    select,
    tuple_,
)

from conversation_store.errors import EncryptionError
from conversation_store.record import chain
from conversation_store.record.unread import Unread
from conversation_store.storage.cipher import (
    CONTENT,
    PLAIN,
    Cipher,
    chunk_place,
    cipher_of,
    key_of,
    place,
)
from conversation_store.storage.tables import (
    conversation,
    conversation_blob,
    conversation_blob_chunk,
    conversation_blob_use,
    conversation_entry,
    conversation_exchange,
    conversation_key,
)

PAGE: Final = 100
"""Rows read at a time; a body has up to 1 MiB."""

_CONTENT: Final = 6
"""Columns of an entry before its content."""

CHUNKS: Final = 4
"""Chunks of blobs read at a time; each has 1 MiB."""

Row: TypeAlias = tuple[Any, ...]

# An index of the scope would give the conversations in another order than that of their logs.
_of_scope: Final = func.coalesce(conversation.c.scope, conversation.c.scope) == bindparam("in_scope")
_of_one: Final = and_(conversation.c.id == bindparam("of"), conversation.c.scope == bindparam("in_scope"))


@frozen
class Reading:
    """
    A table read in the order of its key: all rows of a scope, those of one conversation, and those from a position on.

    Attributes:
        names: What the columns are called.
        all: The statement for a scope.
        one: The statement for one conversation.
        since: The same from a position on; it leaves out what has no number for a position.
        key: The columns of the order, by name; they are among *names*.
        columns: The same as columns.
        opened: Decrypts a row; None where nothing in it ever is encrypted.
    """

    names: Sequence[str]
    all: Select[Any]
    one: Select[Any]
    since: Select[Any]
    key: Sequence[str]
    columns: Sequence[ColumnElement[Any]]
    opened: Callable[[Opening, Row], Row] | None = None


@frozen
class Opening:
    """
    Decrypts values as they lie; what cannot be decrypted becomes ``Unread``, because nothing that is found may raise.
    """

    connection: Connection
    cipher: Cipher

    def value(self, of: object, where: bytes, value: object) -> object:
        """Decrypt a value of a conversation."""
        if key_of(value) == PLAIN or not isinstance(value, bytes) or not _is_id(of):
            return value
        try:
            return self.cipher.open(self.connection, UUID(bytes=of), where, value)
        except EncryptionError as error:
            return Unread(error.message)

    def conversation(self, row: Row) -> Row:
        """Decrypt a conversation's title and metadata."""
        own, scope, title, metadata, *others = row
        return (
            own,
            scope,
            self.value(own, place("title"), title),
            self.value(own, place("metadata"), metadata),
            *others,
        )

    def entry(self, row: Row) -> Row:
        """Decrypt an entry's content."""
        own, position = row[:2]
        if type(position) is not int:
            return row
        content = zip(CONTENT, row[_CONTENT:], strict=True)
        return (*row[:_CONTENT], *(self.value(own, place(name, position), value) for name, value in content))

    def use(self, row: Row) -> Row:
        """Decrypt what the use of a blob has beside it, and put the digest in the place of the name."""
        own, position, number, scope, digest, salt, *others = row
        if type(position) is not int or type(number) is not int or key_of(salt) == PLAIN:
            return row
        both = self.value(own, place("use", position, number), salt)
        if isinstance(both, bytes):
            salt, digest = both[: chain.DIGEST], both[chain.DIGEST :]
            return (own, position, number, scope, digest, salt, *others)
        return (own, position, number, scope, digest, both, *others)

    def chunk(self, row: Row) -> Row:
        """Decrypt a chunk of a blob."""
        name, number, data, owner = row
        if owner is None or type(number) is not int or not isinstance(name, bytes):
            return (name, number, data)
        return (name, number, self.value(owner, chunk_place(name, number), data))


def _is_id(value: object) -> TypeGuard[bytes]:
    return isinstance(value, bytes) and len(value) == len(UUID(int=0).bytes)


def unreadable(connection: Connection, of: bytes, data_key: object = None) -> str | None:
    """
    Say why the content of an encrypted conversation cannot be read as a whole; None where it can.

    *data_key* is the number that its row tells, where that is known.
    """
    cipher = cipher_of(connection)
    if cipher is None:
        return "the store was opened without keys"
    try:
        keys = cipher.looked_at(connection, UUID(bytes=of))
    except EncryptionError as error:
        return error.message
    known = data_key is None or any(key.number == data_key for key in keys)
    return None if known else "the data key that its row names is not there"


def has_keys(connection: Connection, of: bytes) -> bool:
    """Say whether a conversation has data keys, as far as a store with keys looks."""
    cipher = cipher_of(connection)
    try:
        return cipher is not None and bool(cipher.wrapped(connection, UUID(bytes=of)))
    except EncryptionError:
        return True


def name_of(connection: Connection, of: bytes, digest: bytes) -> bytes:
    """Say under what name a conversation keeps a blob encrypted, by the SHA-256 of its bytes."""
    cipher = cipher_of(connection)
    try:
        return digest if cipher is None else cipher.all(connection, UUID(bytes=of))[0].address(digest)
    except EncryptionError:
        return digest  # it has no keys: nothing of it is encrypted, or its own fault was told


def kept_as(connection: Connection, of: bytes, scope: bytes, digest: bytes) -> bytes:
    """Say under what a blob is kept that a conversation uses, by the SHA-256 of its bytes: that, or a name for it."""
    name = name_of(connection, of, digest)
    return name if name != digest and blob(connection, scope, name) is not None else digest


def _reading(
    columns: Sequence[ColumnElement[Any]],
    joined: FromClause,
    key: Sequence[ColumnElement[Any]],
    position: ColumnElement[Any] | None = None,
    opened: Callable[[Opening, Row], Row] | None = None,
) -> Reading:
    every = select(*columns).select_from(joined).where(_of_scope)
    one = select(*columns).select_from(joined).where(_of_one)
    since = one if position is None else one.where(position >= bindparam("first", type_=BigInteger))
    names = [column.key or "" for column in columns]
    return Reading(names, every, one, since, [column.key or "" for column in key], key, opened)


_row: Final = conversation.c
_entry: Final = conversation_entry.c
_use: Final = conversation_blob_use.c
_exchange: Final = conversation_exchange.c
_key: Final = conversation_key.c

CONVERSATIONS: Final = _reading(
    [*_row, _entry.digest],
    conversation.outerjoin(
        conversation_entry, and_(_entry.conversation == _row.id, _entry.position == _row.length - 1)
    ),
    [_row.id],
    opened=Opening.conversation,
)
"""The rows of conversations, each with the stored digest of its last entry."""

KEYS: Final = _reading(
    [_key.conversation, _key.scope, _key.key],
    conversation.join(conversation_key, _key.conversation == _row.id),
    [_key.conversation],
)

_links: Final = [_entry.conversation, _entry.position, _entry.kind, _entry.at, _entry.header, _entry.digest]
_with_entries: Final = conversation.join(conversation_entry, _entry.conversation == _row.id)
_entry_order: Final = [_entry.conversation, _entry.position]

LINKS: Final = _reading(_links, _with_entries, _entry_order, _entry.position)
"""Of each entry what the chain goes by."""

ENTRIES: Final = _reading(
    [*_links, *(_entry[name] for name in CONTENT)],
    _with_entries,
    _entry_order,
    _entry.position,
    Opening.entry,
)

EXCHANGES: Final = _reading(
    list(_exchange),
    conversation.join(conversation_exchange, _exchange.conversation == _row.id),
    [_exchange.conversation, _exchange.position],
    _exchange.position,
)

USES: Final = _reading(
    [
        *(_use.conversation, _use.position, _use.number, _use.scope, _use.digest, _use.salt),
        *(conversation_blob.c.media_type, conversation_blob.c.size),
    ],
    conversation.join(conversation_blob_use, _use.conversation == _row.id).outerjoin(
        conversation_blob, and_(conversation_blob.c.scope == _use.scope, conversation_blob.c.digest == _use.digest)
    ),
    [_use.conversation, _use.position, _use.number],
    _use.position,
    Opening.use,
)


def read(
    connection: Connection,
    reading: Reading,
    scope: str,
    of: bytes | None = None,
    first: int | None = None,
    *,
    seen: Callable[[int], None] = lambda _: None,
) -> Iterator[Row]:
    """
    Read the rows of a scope, or of one of its conversations, in the order of their key.

    Args:
        connection: Reads them; it is in ``as_they_lie``.
        reading: Which table.
        scope: The tenant.
        of: One conversation alone; None for all.
        first: The first position that is wanted; None for all, whatever they are.
        seen: Is told after each page how many rows it had.
    """
    given: dict[str, object] = {"in_scope": scope.encode()}
    statement = reading.all
    if of is not None:
        statement = reading.one if first is None else reading.since
        given |= {"of": of} if first is None or reading.since is reading.one else {"of": of, "first": first}
    found = _paged(connection, statement, reading, given, seen=seen)
    return _opened(connection, found, reading.opened)


def _opened(
    connection: Connection, found: Iterator[Row], opened: Callable[[Opening, Row], Row] | None
) -> Iterator[Row]:
    cipher = cipher_of(connection)
    return found if cipher is None or opened is None else map(partial(opened, Opening(connection, cipher)), found)


def _paged(
    connection: Connection,
    statement: Select[Any],
    reading: Reading,
    given: Mapping[str, object],
    page: int = PAGE,
    *,
    seen: Callable[[int], None] = lambda _: None,
) -> Iterator[Row]:
    if connection.dialect.name == "sqlite":
        # One statement, because what lies in a key need not be of its type: a page could not begin after it.
        cursor = connection.execute(statement.order_by(*reading.columns), given).cursor
        while cursor is not None and (rows := cursor.fetchmany(page)):
            yield from rows
            seen(len(rows))
        return
    ordered = statement.order_by(*reading.columns).limit(page)
    after = statement.where(
        tuple_(*reading.columns)
        > tuple_(*[bindparam(f"after_{n}", type_=column.type) for n, column in enumerate(reading.columns)])
    )
    following = after.order_by(*reading.columns).limit(page)
    places = [reading.names.index(name) for name in reading.key]
    rows = fetched(connection, ordered, given)
    while rows:
        yield from rows
        seen(len(rows))
        if len(rows) < page:
            return
        last = {f"after_{n}": rows[-1][place] for n, place in enumerate(places)}
        rows = fetched(connection, following, {**given, **last})


def fetched(connection: Connection, statement: Select[Any], given: Mapping[str, object]) -> list[Row]:
    """Read all rows of a statement as they lie."""
    cursor = connection.execute(statement, given).cursor
    rows: list[Row] = [] if cursor is None else list(cursor.fetchall())
    return [tuple(map(_plain, row)) for row in rows] if connection.dialect.name != "sqlite" else rows


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview) else value


_text: Final = partial(str, encoding="utf-8", errors="surrogateescape")


@contextmanager
def as_they_lie(connection: Connection) -> Iterator[Connection]:
    """Let SQLite give text that is no UTF-8 as well, with lone surrogates where it is not, and not raise."""
    driver: Any = connection.connection.driver_connection
    if not isinstance(driver, sqlite3.Connection):
        yield connection
        return
    before = driver.text_factory
    driver.text_factory = _text
    try:
        yield connection
    finally:
        driver.text_factory = before


# --- blobs -----------------------------------------------------------------------------------------------------------

_blob: Final = conversation_blob.c
_chunk: Final = conversation_blob_chunk.c
_used_by_one: Final = select(_use.digest).where(
    _use.conversation == bindparam("of"), _use.scope == bindparam("in_scope")
)
_blobs: Final = select(
    *(_blob.digest, _blob.media_type, _blob.size, _blob.width, _blob.height, _blob.pages, _blob.conversation)
).where(_blob.scope == bindparam("in_scope"))
_chunks: Final = (
    select(_chunk.digest, _chunk.number, _chunk.data, _blob.conversation)
    .select_from(conversation_blob.join(conversation_blob_chunk))
    .where(_blob.scope == bindparam("in_scope"))
)
BLOBS: Final = Reading(
    ["digest", "media_type", "size", "width", "height", "pages", "conversation"],
    _blobs,
    _blobs.where(_blob.digest.in_(_used_by_one)),
    _blobs.where(_blob.digest.in_(_used_by_one)),
    ["digest"],
    [_blob.digest],
)
CHUNKS_OF_BLOBS: Final = Reading(
    ["digest", "number", "data", "conversation"],
    _chunks,
    _chunks.where(_blob.digest.in_(_used_by_one)),
    _chunks.where(_blob.digest.in_(_used_by_one)),
    ["digest", "number"],
    [_blob.digest, _chunk.number],
    Opening.chunk,
)
_one_blob: Final = _blobs.where(_blob.digest == bindparam("of"))
_one_chunk: Final = (
    select(_chunk.digest, _chunk.number, _chunk.data, _blob.conversation)
    .select_from(conversation_blob.join(conversation_blob_chunk))
    .where(
        _chunk.scope == bindparam("in_scope"), _chunk.digest == bindparam("of"), _chunk.number == bindparam("number")
    )
)


def blobs(connection: Connection, scope: str, of: bytes | None = None) -> Iterator[Row]:
    """Read what is known of each blob of a scope, or of those one conversation uses, by digest; whose it is, last."""
    return _read_blobs(connection, BLOBS, scope, of, PAGE)


def chunks(connection: Connection, scope: str, of: bytes | None = None) -> Iterator[Row]:
    """Read the chunks of the same blobs, by digest and number, which come first; a chunk of no blob is none."""
    found = _read_blobs(connection, CHUNKS_OF_BLOBS, scope, of, CHUNKS)
    return _opened(connection, found, CHUNKS_OF_BLOBS.opened)


def _read_blobs(connection: Connection, reading: Reading, scope: str, of: bytes | None, page: int) -> Iterator[Row]:
    given: dict[str, object] = {"in_scope": scope.encode()}
    if of is None:
        return _paged(connection, reading.all, reading, given, page)
    return _paged(connection, reading.one, reading, {**given, "of": of}, page)


def blob(connection: Connection, scope: bytes, digest: bytes) -> Row | None:
    """Read what is known of one blob; None for nothing."""
    found = fetched(connection, _one_blob, {"in_scope": scope, "of": digest})
    return found[0] if found else None


def chunks_of(connection: Connection, scope: bytes, digest: bytes) -> Iterator[bytes]:
    """Read one blob, a chunk at a time."""
    number = 0
    while rows := fetched(connection, _one_chunk, {"in_scope": scope, "of": digest, "number": number}):
        yield from (row[2] for row in _opened(connection, iter(rows[:1]), Opening.chunk))
        number += 1


# --- single values ---------------------------------------------------------------------------------------------------

_one_entry: Final = select(_entry.digest, _entry.body, _entry.about, _entry.salt, _entry.request_salt).where(
    _entry.conversation == bindparam("of"), _entry.position == bindparam("at_position")
)
_spanned: Final = select(_entry.position).where(
    _entry.conversation == bindparam("of"),
    _entry.position >= bindparam("first", type_=BigInteger),
    _entry.position <= bindparam("last", type_=BigInteger),
)
_held: Final = {
    "content": _spanned.where(or_(*(each.is_not(None) for each in (_entry.body, _entry.about, _entry.salt)))),
    "request": _spanned.where(_entry.request_salt.is_not(None)),
}
_lengths: Final = select(func.coalesce(func.sum(cast(_row.length, Float)), 0.0)).where(_of_scope)


def entry(connection: Connection, of: bytes, position: int) -> Row | None:
    """Read (digest, body, about, salt, request_salt) of one entry; None where there is none."""
    found = fetched(connection, _one_entry, {"of": of, "at_position": position})
    return found[0] if found else None  # its digest is all that is asked for: the rest may be encrypted


def held(connection: Connection, of: bytes, what: str, first: int, last: int) -> list[int]:
    """List the positions of a span, both ends included, whose ``content`` or whose ``request`` salt is still there."""
    found = fetched(connection, _held[what], {"of": of, "first": first, "last": last})
    return [position for (position,) in found]


def count(connection: Connection, scope: str) -> int:
    """Say how many entries the logs of a scope have, as their rows tell: about, and for showing how far one is."""
    found = fetched(connection, _lengths, {"in_scope": scope.encode()})[0][0]
    return int(found) if isinstance(found, float) and 0 <= found < 1 << 63 else 0


# --- what belongs to nobody ------------------------------------------------------------------------------------------


def _unknown(table: Table) -> Select[Any]:
    """Name the conversations of a table's rows that have no row of their own."""
    own = table.c.conversation
    # Not min(): PostgreSQL has had one for bytes only since version 18.
    first = select(own).where(own.is_not(None)).order_by(own).limit(1).scalar_subquery()
    seen = select(first.label("id")).cte("seen", recursive=True)
    after = select(own).where(own > seen.c.id).order_by(own).limit(1).scalar_subquery()
    seen = seen.union_all(select(after).where(seen.c.id.is_not(None)))
    known = select(conversation.c.id).where(conversation.c.id == seen.c.id).exists()
    return select(seen.c.id).where(seen.c.id.is_not(None), ~known)


_strays: Final = {
    table.name: _unknown(table)
    for table in (conversation_entry, conversation_exchange, conversation_blob_use, conversation_key)
}
_elsewhere: Final = (
    select(_key.conversation)
    .join(conversation, _row.id == _key.conversation)
    .where(_key.scope == bindparam("in_scope"), _row.scope.is_distinct_from(_key.scope))
)


def strays(connection: Connection, scope: str) -> list[Row]:
    """
    Name what has entries, exchanges, uses or keys and no row, or a key in a scope that is not its own, as (table, id).

    A table is asked once for each of its conversations, not for each of its rows.
    """
    found = [(name, each) for name, statement in _strays.items() for (each,) in fetched(connection, statement, {})]
    rows = fetched(connection, _elsewhere, {"in_scope": scope.encode()})
    return [*found, *((conversation_key.name, each) for (each,) in rows)]
