"""
Attachments' bytes, once per scope, decoded, in chunks of 1 MiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import sha256
from typing import Final
from uuid import UUID

from attrs import field, frozen
from sqlalchemy import Connection, bindparam, insert, select
from sqlalchemy.exc import IntegrityError

from conversation_store.errors import AttachmentError, DatabaseError
from conversation_store.record import media
from conversation_store.record.media import Media
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
        load: Makes its bytes again, as long as they are to be used for the first time; None after.
    """

    scope: bytes
    digest: bytes
    size: int
    media_type: str
    salt: bytes = b""
    media: Media | None = None
    load: Callable[[], bytes] | None = field(default=None, eq=False, repr=False)


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
        conversation_blob_use.c.scope,
        conversation_blob_use.c.digest,
        conversation_blob.c.size,
        conversation_blob.c.media_type,
        conversation_blob_use.c.salt,
        conversation_blob.c.width,
        conversation_blob.c.height,
        conversation_blob.c.pages,
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


def put(database: Database, scope: str, data: bytes, at: int) -> Blob:
    """
    Keep bytes, once; what is there already is not written again.

    Raises:
        DatabaseError: The database refused.
    """
    blob = Blob(scope.encode(), sha256(data).digest(), len(data), media_type(data), media=_measured(data))

    def write(connection: Connection) -> bool:
        if connection.execute(_known, {"in_scope": blob.scope, "of": blob.digest}).first() is not None:
            return False
        found = blob.media
        try:
            connection.execute(
                insert(conversation_blob),
                {
                    "scope": blob.scope,
                    "digest": blob.digest,
                    "media_type": blob.media_type,
                    "size": blob.size,
                    "width": found and found.width,
                    "height": found and found.height,
                    "pages": found and found.pages,
                    "created": at,
                },
            )
            for number, start in enumerate(range(0, len(data), CHUNK)):
                connection.execute(
                    insert(conversation_blob_chunk),
                    {
                        "scope": blob.scope,
                        "digest": blob.digest,
                        "number": number,
                        "data": data[start : start + CHUNK],
                    },
                )
        except IntegrityError:
            raise RolledBack(False) from None  # another writer kept the same bytes a moment ago
        return True

    with database.read() as connection:
        known = connection.execute(_known, {"in_scope": blob.scope, "of": blob.digest}).first() is not None
    if not known:
        database.write(write)
    return blob


def put_known(
    database: Database,
    scope: str,
    blob: Blob,
    measures: Mapping[str, int | None],
    pieces: Callable[[], Iterable[bytes]],
    *,
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
        at: When.

    Returns:
        The media type under which it is kept; that of a blob that was there already may be another one.
    """
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
    for position, scope, digest, size, kind, salt, *measures in connection.execute(
        _uses, {"of": of.bytes, "first": first, "last": last}
    ):
        told = Media(kind, *measures) if kind != UNNAMED else None
        blob = Blob(bytes(scope), bytes(digest), size, kind, bytes(salt), told)
        found.setdefault(position, []).append(blob)
    return found


def chunks(database: Database, blob: Blob) -> Iterator[bytes]:
    """
    Read a blob, 1 MiB at a time; each chunk on a connection of its own, so none is held while it is sent.

    Raises:
        DatabaseError: ``erased``: it is not there.
    """
    for number in range((blob.size + CHUNK - 1) // CHUNK):
        with database.read() as connection:
            data = connection.execute(_chunk, {"in_scope": blob.scope, "of": blob.digest, "wanted": number}).scalar()
        if data is None:
            raise DatabaseError("erased", GONE)
        yield data
