"""
Taking content out of the log: what stands at which position, and the statements that set it to NULL.

Headers and commitments stay, so that the chain stays valid. Nothing here reads a body.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from sqlalchemy import BigInteger, Connection, bindparam, delete, exists, func, or_, select, update
from sqlalchemy.exc import IntegrityError

from conversation_store.storage import search
from conversation_store.storage.engine import RolledBack
from conversation_store.storage.tables import (
    conversation,
    conversation_blob,
    conversation_blob_chunk,
    conversation_blob_use,
    conversation_entry,
    conversation_exchange,
    conversation_journal,
    conversation_key,
)

PAGE: Final = 500
"""Positions named in one statement."""

_entry = conversation_entry.c
_exchange = conversation_exchange.c
_use = conversation_blob_use.c
_there: Final = or_(_entry.body.is_not(None), _entry.about.is_not(None), _entry.salt.is_not(None))
_size: Final = func.coalesce(func.length(_entry.body), 0) + func.coalesce(func.length(_entry.about), 0)


@frozen
class Standing:
    """An entry whose content is there: its kind, its header, the bytes of its body and about."""

    kind: str
    header: bytes
    size: int


@frozen
class Try:
    """What became of a request: its outcome's position, the turn made of it, the exchange it tries again."""

    outcome: int | None
    turn: int | None
    retry_of: int | None


def _pages(positions: Iterable[int]) -> Iterator[list[int]]:
    ordered = sorted(positions)
    yield from (ordered[n : n + PAGE] for n in range(0, len(ordered), PAGE))


def headers(connection: Connection, of: UUID, kinds: Sequence[str]) -> list[tuple[int, str, bytes, bool]]:
    """Read (position, kind, header, whether it has a request_salt) of the entries of some kinds, in order."""
    statement = (
        select(_entry.position, _entry.kind, _entry.header, _entry.request_salt.is_not(None))
        .where(_entry.conversation == of.bytes, _entry.kind.in_(kinds))
        .order_by(_entry.position)
    )
    return [
        (position, kind, bytes(header), bool(salt)) for position, kind, header, salt in connection.execute(statement)
    ]


def tries(connection: Connection, of: UUID) -> dict[int, Try]:
    """Read what became of every request, by its position."""
    statement = select(_exchange.position, _exchange.outcome, _exchange.turn, _exchange.retry_of)
    rows = connection.execute(statement.where(_exchange.conversation == of.bytes))
    return {position: Try(*told) for position, *told in rows}


def standing(connection: Connection, of: UUID, positions: Collection[int] | None) -> dict[int, Standing]:
    """Say which of some entries (None: of all) have content that is there."""
    statement = (
        select(_entry.position, _entry.kind, _entry.header, _size)
        .where(_entry.conversation == of.bytes, _there)
        .order_by(_entry.position)
    )
    pages = [statement] if positions is None else [statement.where(_entry.position.in_(p)) for p in _pages(positions)]
    return {
        position: Standing(kind, bytes(header), int(size))
        for page in pages
        for position, kind, header, size in connection.execute(page)
    }


def kinds(connection: Connection, of: UUID, positions: Collection[int]) -> dict[int, str]:
    """Say of what kind some entries are, whether their content is there or not."""
    statement = select(_entry.position, _entry.kind).where(_entry.conversation == of.bytes)
    return {
        position: kind
        for page in _pages(positions)
        for position, kind in connection.execute(statement.where(_entry.position.in_(page)))
    }


def said_before(connection: Connection, of: UUID, at: int) -> set[int]:
    """List the turns recorded before a time, microseconds since the epoch, whose content is there."""
    statement = select(_entry.position).where(
        _entry.conversation == of.bytes, _entry.kind == "turn", _entry.at < bindparam("at", at, BigInteger), _there
    )
    return set(connection.execute(statement).scalars())


def take(connection: Connection, of: UUID, content: Collection[int], request: Collection[int]) -> list[Any]:
    """
    Set content and request salts to NULL, and delete blob uses and what the index knows of it.

    Returns:
        (scope, digest) of the blobs that were used.
    """
    here = conversation_entry.c.conversation == of.bytes
    blobs: list[Any] = []
    for page in _pages(content):
        connection.execute(
            update(conversation_entry).where(here, _entry.position.in_(page)).values(body=None, about=None, salt=None)
        )
        used = (_use.conversation == of.bytes, _use.position.in_(page))
        blobs += [(bytes(scope), bytes(digest)) for scope, digest in connection.execute(_uses().where(*used))]
        connection.execute(delete(conversation_blob_use).where(*used))
    for page in _pages(request):
        connection.execute(update(conversation_entry).where(here, _entry.position.in_(page)).values(request_salt=None))
    search.wipe(connection, of, content)
    return blobs


def _uses() -> Any:
    return select(_use.scope, _use.digest).distinct()


def drop_unused(connection: Connection, blobs: Iterable[tuple[bytes, bytes]]) -> list[int]:
    """
    Delete those of some blobs that no entry uses any more.

    Returns:
        Their sizes.

    Raises:
        RolledBack: Somebody began to use one of them meanwhile; look again.
    """
    gone: list[int] = []
    blob, chunk = conversation_blob.c, conversation_blob_chunk.c
    for scope, digest in sorted(set(blobs)):
        used = exists().where(_use.scope == scope, _use.digest == digest)
        size = connection.execute(
            select(blob.size).where(blob.scope == scope, blob.digest == digest, ~used).with_for_update()
        ).scalar()
        if size is None:
            continue
        try:
            connection.execute(delete(conversation_blob_chunk).where(chunk.scope == scope, chunk.digest == digest))
            connection.execute(delete(conversation_blob).where(blob.scope == scope, blob.digest == digest))
        except IntegrityError:
            raise RolledBack(None) from None
        gone.append(size)
    return gone


def unused_after(connection: Connection, taken: Mapping[UUID, Collection[int]]) -> list[int]:
    """Say how large the blobs are that nobody uses once some entries, by conversation, have lost their content."""
    going: dict[tuple[bytes, bytes], int] = {}
    for of, positions in taken.items():
        for page in _pages(positions):
            counted = (
                select(_use.scope, _use.digest, func.count())
                .where(_use.conversation == of.bytes, _use.position.in_(page))
                .group_by(_use.scope, _use.digest)
            )
            for scope, digest, count in connection.execute(counted):
                place = (bytes(scope), bytes(digest))
                going[place] = going.get(place, 0) + count
    sizes: list[int] = []
    blob = conversation_blob.c
    for (scope, digest), count in going.items():
        all_uses = select(func.count()).where(_use.scope == scope, _use.digest == digest).scalar_subquery()
        one = select(blob.size).where(blob.scope == scope, blob.digest == digest, all_uses == count)
        sizes += connection.execute(one).scalars()
    return sizes


def forget_arrived(connection: Connection, of: UUID, requests: Collection[int]) -> None:
    """Delete what the journal has of some requests."""
    journal = conversation_journal.c
    for page in _pages(requests):
        connection.execute(
            delete(conversation_journal).where(journal.conversation == of.bytes, journal.position.in_(page))
        )


def forget_key(connection: Connection, of: UUID) -> None:
    """Delete a conversation's key."""
    connection.execute(delete(conversation_key).where(conversation_key.c.conversation == of.bytes))


def forget_idempotency(connection: Connection, of: UUID) -> None:
    """Delete the idempotency keys of a conversation's exchanges."""
    here = _exchange.conversation == of.bytes
    connection.execute(update(conversation_exchange).where(here).values(idempotency_key=None))


def turns_marked(connection: Connection, of: UUID, mark: bytes, first: int) -> list[int]:
    """List the turns from a position on whose header has some bytes in it."""
    statement = select(_entry.position, _entry.header).where(
        _entry.conversation == of.bytes, _entry.position >= first, _entry.kind == "turn", _entry.body.is_not(None)
    )
    return [position for position, header in connection.execute(statement) if mark in bytes(header)]


def last_changed(connection: Connection, scope: str, before: int | None, after: UUID | None, limit: int) -> list[UUID]:
    """List conversations of a scope by id, the next *limit* after one; only those last changed before a time."""
    row = conversation.c
    statement = select(row.id).where(row.scope == scope.encode())
    if before is not None:
        statement = statement.where(row.updated < bindparam("before", before, BigInteger))
    if after is not None:
        statement = statement.where(row.id > after.bytes)
    found = connection.execute(statement.order_by(row.id).limit(limit)).scalars()
    return [UUID(bytes=bytes(each)) for each in found]


def anything(connection: Connection, of: UUID) -> bool:
    """Say whether a turn or the settings of a conversation hold something still."""
    statement = select(_entry.position).where(_entry.conversation == of.bytes, _entry.kind.in_(("turn", "settings")))
    return connection.execute(statement.where(_there).limit(1)).first() is not None
