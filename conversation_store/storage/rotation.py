"""
Conversations brought under another key: a first one, a new one, or one that shares nothing with what a backup holds.

It is done in short transactions while others write, and the order makes it safe. First the conversation's row names
the new key: from that commit on nobody writes under another one, because an append, a piece of a stream and a blob
each hold the row to the key they were encrypted under. Then page after page is encrypted again, under the key that
the row names at that moment, so that two rotations at once do not undo each other. Only then do the old keys go.
Broken off anywhere, it is gone on with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from sqlalchemy import Connection, exists, func, insert, literal, or_, select, tuple_, update

from conversation_store.errors import ConfigurationError
from conversation_store.storage import erasure, search
from conversation_store.storage.cipher import CONTENT, PLAIN, Cipher, DataKey, chunk_place, cipher_of, key_of, place
from conversation_store.storage.engine import Database
from conversation_store.storage.tables import (
    conversation,
    conversation_blob,
    conversation_blob_chunk,
    conversation_blob_use,
    conversation_data_key,
    conversation_entry,
    conversation_journal,
)

PAGE: Final = 64
"""Rows encrypted again in one transaction; a body has up to 1 MiB."""

CHUNKS: Final = 4
"""Chunks of blobs likewise."""

_entry: Final = conversation_entry.c
_use: Final = conversation_blob_use.c
_piece: Final = conversation_journal.c
_blob: Final = conversation_blob.c
_chunk: Final = conversation_blob_chunk.c
_content: Final = [_entry[name] for name in CONTENT]

_Page = Callable[[Connection, DataKey, Any], tuple[int, Any]]
"""Encrypts a page of rows again, those after a place: how many were, and the last one's place; None for no more."""


@frozen
class Rotated:
    """
    What was brought under another key.

    Attributes:
        conversations: How many were looked at.
        rows: How many rows of theirs were encrypted again.
    """

    conversations: int
    rows: int


def cipher_for(database: Database) -> Cipher:
    """
    Say what encrypts in a database.

    Raises:
        ConfigurationError: The store was opened without keys.
    """
    cipher = cipher_of(database.engine)
    if cipher is None:
        raise ConfigurationError("give the store a key ring: Store(…, keys=FileKeyRing(folder))")
    return cipher


def encrypt(database: Database, scope: str | None, seen: Callable[[int], None] = lambda _: None) -> Rotated:
    """
    Encrypt what is kept in plain, and go on with what was broken off.

    Args:
        database: Where.
        scope: The tenant; None for all.
        seen: Is told how many rows of each page were encrypted.

    Raises:
        ConfigurationError: The store was opened without keys.
        KeyMissingError, CiphertextError: Something cannot be read; what was done before stays.
    """
    cipher, counts = cipher_for(database), []
    for of in _conversations(database, scope):
        counts.append(_walk(database, cipher, of, seen))
        cipher.destroy_given_up(database, of)
    return Rotated(len(counts), sum(counts))


def rewrap(database: Database, scope: str | None) -> Rotated:
    """
    Wrap every data key by a new key of the ring and destroy the old ones; no content is touched.

    Raises:
        As ``encrypt``.
    """
    cipher, count = cipher_for(database), 0
    for of in _conversations(database, scope, encrypted=True):
        database.write(partial(cipher.rewrap, of=of))
        cipher.destroy_given_up(database, of)
        count += 1
    return Rotated(count, 0)


def renew(database: Database, scope: str | None, seen: Callable[[int], None] = lambda _: None) -> Rotated:
    """
    Encrypt everything again under new data keys; a conversation in which that was broken off is gone on with.

    Raises:
        As ``encrypt``.
    """
    cipher, counts = cipher_for(database), []
    for of in _conversations(database, scope, encrypted=True):
        database.write(partial(_succeed_once, cipher=cipher, of=of))
        counts.append(_walk(database, cipher, of, seen))
        cipher.destroy_given_up(database, of)
    return Rotated(len(counts), sum(counts))


def shred(connection: Connection, of: UUID) -> bool:
    """
    Give up every key of a conversation whose content was just taken, in the same transaction.

    What is left, who erased it and why, is encrypted under a new key, wrapped by a new one of the ring. The old ones
    are destroyed there by ``Cipher.destroy_given_up``, once this is committed.

    Returns:
        Whether it is encrypted at all.
    """
    cipher = cipher_of(connection)
    if cipher is None:
        return False
    key = cipher.succeed(connection, of, shred=True)
    _drop_unused(connection, of)
    for page in _PAGES:
        last: Any = ()
        while last is not None:
            _, last = page(connection, key, last)
    cipher.retire(connection, of, shred=True)
    return True


def _conversations(database: Database, scope: str | None, *, encrypted: bool = False) -> Iterator[UUID]:
    row = conversation.c
    chosen = select(row.id).order_by(row.id).limit(PAGE)
    if scope is not None:
        chosen = chosen.where(row.scope == scope.encode())
    if encrypted:
        chosen = chosen.where(row.data_key != PLAIN)
    last = b""
    while True:
        with database.read() as connection:
            page = [bytes(each) for each in connection.execute(chosen.where(row.id > last)).scalars()]
        yield from (UUID(bytes=each) for each in page)
        if not page:
            return
        last = page[-1]


def _succeed_once(connection: Connection, cipher: Cipher, of: UUID) -> None:
    held = select(func.count()).where(
        conversation_data_key.c.conversation == of.bytes, conversation_data_key.c.wrapped.is_not(None)
    )
    cipher.holding(connection, of)
    if connection.execute(held).scalar() == 1:
        cipher.succeed(connection, of)


def _walk(database: Database, cipher: Cipher, of: UUID, seen: Callable[[int], None]) -> int:
    """Bring all of a conversation under the key it is written under; how many rows were not."""
    key = database.write(partial(_begin, cipher=cipher, of=of))
    count = 0
    for page in _PAGES:
        last: Any = ()
        while last is not None:
            done, last = database.write(partial(_under_current, cipher=cipher, of=of, page=page, last=last))
            seen(done)
            count += done
    database.write(partial(_end, cipher=cipher, key=key))
    return count


def _begin(connection: Connection, cipher: Cipher, of: UUID) -> DataKey:
    key = cipher.holding(connection, of)
    search.clear(connection, of)
    row = conversation.c
    connection.execute(update(conversation).where(row.id == of.bytes).values(indexed_length=row.length))
    return key


def _under_current(connection: Connection, cipher: Cipher, of: UUID, page: _Page, last: Any) -> tuple[int, Any]:
    return page(connection, cipher.holding(connection, of), last)


def _end(connection: Connection, cipher: Cipher, key: DataKey) -> None:
    of = key.conversation
    if cipher.holding(connection, of) == key:  # otherwise somebody rotates again, and their walk comes to its own end
        cipher.retire(connection, of)


# --- pages -----------------------------------------------------------------------------------------------------------


def _entries(connection: Connection, key: DataKey, last: Any) -> tuple[int, Any]:
    of = key.conversation
    statement = (
        select(_entry.position, *_content)
        .where(_entry.conversation == of.bytes, or_(*(each.is_not(None) for each in _content)))
        .order_by(_entry.position)
        .limit(PAGE)
        .with_for_update()
    )
    rows = connection.execute(statement.where(*(_entry.position > each for each in last))).all()
    done = 0
    for position, *values in rows:
        content = dict(zip(CONTENT, map(_plain, values), strict=True))
        changed = _again(connection, key, {place(name, position): value for name, value in content.items()})
        if changed != list(content.values()):
            here = (_entry.conversation == of.bytes, _entry.position == position)
            connection.execute(update(conversation_entry).where(*here).values(dict(zip(CONTENT, changed, strict=True))))
            done += 1
    return done, (rows[-1].position,) if len(rows) == PAGE else None


def _again(connection: Connection, key: DataKey, values: dict[bytes, bytes | None]) -> list[bytes | None]:
    cipher = cipher_of(connection)
    if cipher is None:
        return list(values.values())
    return [cipher.again(connection, key, where, value) for where, value in values.items()]


def _pieces(connection: Connection, key: DataKey, last: Any) -> tuple[int, Any]:
    of = key.conversation
    statement = (
        select(_piece.position, _piece.number, _piece.data)
        .where(_piece.conversation == of.bytes)
        .order_by(_piece.position, _piece.number)
        .limit(PAGE)
        .with_for_update()
    )
    rows = connection.execute(_after(statement, (_piece.position, _piece.number), last)).all()
    done = 0
    for position, number, data in rows:
        changed = _again(connection, key, {place("arrived", position, number): _plain(data)})
        if changed != [data]:
            here = (_piece.conversation == of.bytes, _piece.position == position, _piece.number == number)
            connection.execute(update(conversation_journal).where(*here).values(data=changed[0]))
            done += 1
    return done, tuple(rows[-1][:2]) if len(rows) == PAGE else None


def _uses(connection: Connection, key: DataKey, last: Any) -> tuple[int, Any]:
    of = key.conversation
    statement = (
        select(_use.position, _use.number, _use.scope, _use.digest, _use.salt)
        .where(_use.conversation == of.bytes)
        .order_by(_use.position, _use.number)
        .limit(CHUNKS)
        .with_for_update()
    )
    rows = connection.execute(_after(statement, (_use.position, _use.number), last)).all()
    done = 0
    for position, number, scope, digest, salt in rows:
        where, values = place("use", position, number), {}
        if key_of(bytes(salt)) == PLAIN:
            values["digest"] = _taken_over(connection, key, bytes(scope), bytes(digest))
            values["salt"] = key.seal(where, bytes(salt) + bytes(digest))
        elif key_of(bytes(salt)) != key.number:
            values["salt"] = _again(connection, key, {where: bytes(salt)})[0] or b""
        if values:
            here = (_use.conversation == of.bytes, _use.position == position, _use.number == number)
            connection.execute(update(conversation_blob_use).where(*here).values(values))
            done += 1
        if "digest" in values:
            erasure.drop_unused(connection, [(bytes(scope), bytes(digest))])
    return done, tuple(rows[-1][:2]) if len(rows) == CHUNKS else None


def _taken_over(connection: Connection, key: DataKey, scope: bytes, digest: bytes) -> bytes:
    """Copy a blob that is kept in plain into one of the conversation's own, unless it is there; its name."""
    name = key.address(digest)
    known = select(_blob.size).where(_blob.scope == scope, _blob.digest == name)
    if connection.execute(known).first() is None:
        told = select(conversation_blob).where(_blob.scope == scope, _blob.digest == digest)
        row = dict(connection.execute(told).mappings().one())
        connection.execute(insert(conversation_blob), row | {"digest": name, "conversation": key.conversation.bytes})
        number = 0
        one = select(_chunk.data).where(_chunk.scope == scope, _chunk.digest == digest)
        while (data := connection.execute(one.where(_chunk.number == number)).scalar()) is not None:
            sealed = key.seal(chunk_place(name, number), bytes(data))
            chunk = {"scope": scope, "digest": name, "number": number, "data": sealed}
            connection.execute(insert(conversation_blob_chunk), chunk)
            number += 1
    return name


def _chunks(connection: Connection, key: DataKey, last: Any) -> tuple[int, Any]:
    statement = (
        select(_chunk.scope, _chunk.digest, _chunk.number, _chunk.data)
        .join(conversation_blob, (_blob.scope == _chunk.scope) & (_blob.digest == _chunk.digest))
        .where(_blob.conversation == key.conversation.bytes)
        .order_by(_chunk.scope, _chunk.digest, _chunk.number)
        .limit(CHUNKS)
    )
    rows = connection.execute(_after(statement, (_chunk.scope, _chunk.digest, _chunk.number), last)).all()
    done = 0
    for scope, name, number, data in rows:
        changed = _again(connection, key, {chunk_place(bytes(name), number): _plain(data)})
        if changed != [data]:
            here = (_chunk.scope == scope, _chunk.digest == name, _chunk.number == number)
            connection.execute(update(conversation_blob_chunk).where(*here).values(data=changed[0]))
            done += 1
    return done, tuple(rows[-1][:3]) if len(rows) == CHUNKS else None


_PAGES: Final[tuple[_Page, ...]] = (_entries, _pieces, _uses, _chunks)


def _plain(value: Any) -> bytes | None:
    return None if value is None else bytes(value)


def _after(statement: Any, columns: tuple[Any, ...], last: Any) -> Any:
    return statement.where(tuple_(*columns) > tuple_(*map(literal, last))) if last else statement


def _drop_unused(connection: Connection, of: UUID) -> None:
    """Delete a conversation's own blobs that no entry uses: what was kept for a turn that was never said."""
    used = exists().where(_use.scope == _blob.scope, _use.digest == _blob.digest)
    unused = select(_blob.scope, _blob.digest).where(_blob.conversation == of.bytes, ~used)
    erasure.drop_unused(connection, [(bytes(scope), bytes(digest)) for scope, digest in connection.execute(unused)])
