"""
Attachments' bytes, once per scope, decoded, in chunks of 1 MiB; where they are encrypted, once per conversation.

An encrypted blob belongs to one conversation, because its key does: were it shared, either shredding one conversation
would take it from the others, or a key outside of all of them could still read it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from typing import Final
from uuid import UUID

from attrs import evolve, field, frozen
from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from conversation_store.errors import AttachmentError, DatabaseError, KeyMissingError
from conversation_store.record import media
from conversation_store.record.media import Media
from conversation_store.storage.cipher import Cipher, chunk_place, cipher_of
from conversation_store.storage.engine import Database, RolledBack
from conversation_store.storage.tables import (
    conversation_blob,
    conversation_blob_chunk,
    conversation_blob_use,
)

CHUNK: Final = 1024 * 1024
"""Bytes in a row: what every engine takes at its default settings."""

GONE: Final = "an attachment was erased meanwhile; attach it again"

UNNAMED: Final = "application/octet-stream"


@frozen
class Blob:
    """
    A blob in use: whose, which, how long.

    Attributes:
        scope: The tenant it belongs to.
        digest: SHA-256 of its bytes.
        size: Bytes.
        media_type: As read from its bytes.
        salt: The salt this use is committed under.
        media: What its header tells of it; None where it is no picture and no document, or damaged.
        owner: The conversation it is encrypted for; None where it is kept in plain, for the whole scope.
        name: Under what it is kept then, in the place of its digest.
        load: Makes its bytes again, as long as they are to be used for the first time; None after.
    """

    scope: bytes
    digest: bytes
    size: int
    media_type: str
    salt: bytes = b""
    media: Media | None = None
    owner: UUID | None = None
    name: bytes = b""
    load: Callable[[], bytes] | None = field(default=None, eq=False, repr=False)

    @property
    def kept_as(self) -> bytes:
        """Under what it is kept: its digest, or its name in the conversation it is encrypted for."""
        return self.digest if self.owner is None else self.name


_known: Final = select(conversation_blob.c.size).where(
    conversation_blob.c.scope == bindparam("in_scope"), conversation_blob.c.digest == bindparam("of")
)
_kind: Final = select(conversation_blob.c.media_type).where(
    conversation_blob.c.scope == bindparam("in_scope"), conversation_blob.c.digest == bindparam("of")
)
_chunk: Final = select(conversation_blob_chunk.c.data).where(
    conversation_blob_chunk.c.scope == bindparam("in_scope"),
    conversation_blob_chunk.c.digest == bindparam("of"),
    conversation_blob_chunk.c.number == bindparam("wanted"),
)
_uses: Final = (
    select(
        conversation_blob_use.c.position,
        conversation_blob_use.c.number,
        conversation_blob_use.c.scope,
        conversation_blob_use.c.digest,
        conversation_blob.c.size,
        conversation_blob.c.media_type,
        conversation_blob_use.c.salt,
        conversation_blob.c.width,
        conversation_blob.c.height,
        conversation_blob.c.pages,
        conversation_blob.c.conversation,
    )
    .join(
        conversation_blob,
        (conversation_blob.c.scope == conversation_blob_use.c.scope)
        & (conversation_blob.c.digest == conversation_blob_use.c.digest),
    )
    .where(
        conversation_blob_use.c.conversation == bindparam("of"),
        conversation_blob_use.c.position >= bindparam("first"),
        conversation_blob_use.c.position <= bindparam("last"),
    )
    .order_by(conversation_blob_use.c.position, conversation_blob_use.c.number)
)


def media_type(data: bytes) -> str:
    """Say what bytes are, from the bytes alone, so that one blob has one type wherever it is used."""
    return media.sniff(data) or UNNAMED


def _measured(data: bytes) -> Media | None:
    try:
        return media.measure(data) if media.sniff(data) else None
    except AttachmentError:
        return None  # kept as it came; only what a caller attaches is refused, and that was done before


def put(database: Database, scope: str, of: UUID, data: bytes, at: int) -> Blob:
    """
    Keep bytes, once; what is there already is not written again.

    Args:
        database: Where.
        scope: The tenant.
        of: The conversation that will use them: whose alone they are where content is encrypted.
        data: The bytes.
        at: When.

    Raises:
        DatabaseError: The database refused.
    """
    blob = Blob(scope.encode(), sha256(data).digest(), len(data), media_type(data), media=_measured(data))
    cipher = cipher_of(database.engine)
    if cipher is not None:
        pieces = partial(_cut, data)
        measures = _told(blob.media)
        work = partial(_put_sealed, cipher=cipher, of=of, blob=blob, measures=measures, pieces=pieces, at=at)
        return database.write(work)

    def write(connection: Connection) -> bool:
        if connection.execute(_known, {"in_scope": blob.scope, "of": blob.digest}).first() is not None:
            return False
        try:
            connection.execute(
                insert(conversation_blob),
                {
                    "scope": blob.scope,
                    "digest": blob.digest,
                    "media_type": blob.media_type,
                    "size": blob.size,
                    **_told(blob.media),
                    "created": at,
                },
            )
            for number, piece in enumerate(_cut(data)):
                chunk = {"scope": blob.scope, "digest": blob.digest, "number": number, "data": piece}
                connection.execute(insert(conversation_blob_chunk), chunk)
        except IntegrityError:
            raise RolledBack(False) from None  # another writer kept the same bytes a moment ago
        return True

    with database.read() as connection:
        known = connection.execute(_known, {"in_scope": blob.scope, "of": blob.digest}).first() is not None
    if not known:
        database.write(write)
    return blob


def _cut(data: bytes) -> Iterator[bytes]:
    return (data[start : start + CHUNK] for start in range(0, len(data), CHUNK))


def _told(found: Media | None) -> dict[str, int | None]:
    return {name: None if found is None else getattr(found, name) for name in ("width", "height", "pages")}


def _put_sealed(
    connection: Connection,
    *,
    cipher: Cipher,
    of: UUID,
    blob: Blob,
    measures: Mapping[str, int | None],
    pieces: Callable[[], Iterable[bytes]],
    at: int,
) -> Blob:
    """Keep a blob encrypted for one conversation; its media type is that under which it is kept."""
    key = cipher.holding(connection, of)
    name = key.address(blob.digest)
    found = connection.execute(_kind, {"in_scope": blob.scope, "of": name}).scalar()
    blob = evolve(blob, owner=of, name=name, media_type=blob.media_type if found is None else str(found))
    if found is not None:
        return blob
    row = {"scope": blob.scope, "digest": name, "media_type": blob.media_type, "size": blob.size}
    try:
        connection.execute(insert(conversation_blob), {**row, **measures, "created": at, "conversation": of.bytes})
        for number, piece in enumerate(pieces()):
            data = key.seal(chunk_place(name, number), piece)
            connection.execute(
                insert(conversation_blob_chunk),
                {"scope": blob.scope, "digest": name, "number": number, "data": data},
            )
    except IntegrityError:
        raise RolledBack(blob) from None  # another writer kept the same bytes a moment ago
    return blob


def put_known(
    database: Database,
    scope: str,
    blob: Blob,
    measures: Mapping[str, int | None],
    pieces: Callable[[], Iterable[bytes]],
    *,
    of: UUID,
    at: int,
) -> str:
    """
    Keep a blob as another database kept it; in pieces, never whole in memory.

    Args:
        database: Where it is kept.
        scope: The tenant.
        blob: Its digest, which the caller has made sure of, its size and its media type.
        measures: Its ``width``, ``height`` and ``pages``.
        pieces: Gives its bytes, ``CHUNK`` at a time; called again where the transaction is.
        of: The conversation that will use it.
        at: When.

    Returns:
        The media type under which it is kept; that of a blob that was there already may be another one.
    """
    cipher = cipher_of(database.engine)
    if cipher is not None:
        work = partial(_put_sealed, cipher=cipher, of=of, blob=blob, measures=measures, pieces=pieces, at=at)
        return database.write(work).media_type
    where = {"in_scope": scope.encode(), "of": blob.digest}

    def write(connection: Connection) -> str | None:
        found = connection.execute(_kind, where).scalar()
        if found is not None:
            return str(found)
        row = {"scope": scope.encode(), "digest": blob.digest, "media_type": blob.media_type, "size": blob.size}
        try:
            connection.execute(insert(conversation_blob), {**row, **measures, "created": at})
            for number, data in enumerate(pieces()):
                chunk = {"scope": scope.encode(), "digest": blob.digest, "number": number, "data": data}
                connection.execute(insert(conversation_blob_chunk), chunk)
        except IntegrityError:
            raise RolledBack(None) from None  # another writer kept the same bytes a moment ago
        return blob.media_type

    with database.read() as connection:
        known = connection.execute(_kind, where).scalar()
    return str(known) if known is not None else database.write(write) or blob.media_type


def used(connection: Connection, of: UUID, first: int, last: int) -> dict[int, list[Blob]]:
    """Read the blobs that the entries of a span use: position to blobs, in the order of the entry's splices."""
    found: dict[int, list[Blob]] = {}
    for position, number, scope, digest, size, kind, salt, *measures, owner in connection.execute(
        _uses, {"of": of.bytes, "first": first, "last": last}
    ).all():
        told = Media(kind, *measures) if kind != UNNAMED else None
        blob = Blob(bytes(scope), bytes(digest), size, kind, bytes(salt), told)
        if owner is not None:
            blob = _opened(connection, of, position, number, blob)
        found.setdefault(position, []).append(blob)
    return found


def _opened(connection: Connection, of: UUID, position: int, number: int, blob: Blob) -> Blob:
    cipher = cipher_of(connection)
    if cipher is None:
        raise KeyMissingError(
            of, f"blob of entry {position}", "it is encrypted, and the store was opened without keys=…"
        )
    salt, digest = cipher.opened_use(connection, of, position, number, blob.salt)
    return evolve(blob, digest=digest, salt=salt, owner=of, name=blob.digest)


def chunks(database: Database, blob: Blob) -> Iterator[bytes]:
    """
    Read a blob, 1 MiB at a time; each chunk on a connection of its own, so none is held while it is sent.

    Raises:
        DatabaseError: ``erased``: it is not there.
    """
    for number in range((blob.size + CHUNK - 1) // CHUNK):
        with database.read() as connection:
            where = {"in_scope": blob.scope, "of": blob.kept_as, "wanted": number}
            data = connection.execute(_chunk, where).scalar()
            if data is None:
                raise DatabaseError("erased", GONE)
            if blob.owner is not None:
                data = opened_chunk(connection, blob.owner, blob.name, number, data)
        yield data


def opened_chunk(connection: Connection, owner: UUID, name: bytes, number: int, data: bytes) -> bytes:
    """
    Decrypt a chunk of a blob that is encrypted for a conversation.

    Raises:
        KeyMissingError, CiphertextError: It cannot be.
    """
    cipher = cipher_of(connection)
    if cipher is None:
        raise KeyMissingError(owner, "blob", "it is encrypted, and the store was opened without keys=…")
    opened: bytes = cipher.open(connection, owner, chunk_place(name, number), bytes(data))
    return opened
