"""
The journal: what has arrived of an answer that is still arriving, so that a crash loses nothing that was shown.

A piece is written by whoever holds the exchange, and renews the lease; the end of the exchange deletes it all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from conversation_store.errors import LeaseLostError
from conversation_store.storage.tables import conversation, now
from conversation_store.storage.tables import conversation_journal as table

_renew: Final = (
    update(conversation)
    .where(conversation.c.id == bindparam("of"), conversation.c.pending_token == bindparam("held"))
    .values(lease_until=now() + bindparam("lease", type_=conversation.c.lease_until.type))
)
_insert: Final = insert(table)
_here: Final = (table.c.conversation == bindparam("of"), table.c.position == bindparam("exchange"))
_there: Final = select(table.c.number).where(*_here, table.c.number == bindparam("piece"))
_read: Final = select(table.c.data).where(*_here).order_by(table.c.number)
_pieces: Final = select(table.c.at, table.c.data).where(*_here).order_by(table.c.number)
_clear: Final = delete(table).where(*_here)


def write(
    connection: Connection, of: UUID, exchange: int, number: int, data: bytes, *, at: int, token: bytes, lease: int
) -> None:
    """
    Write one piece, and hold the exchange for *lease* microseconds more.

    Raises:
        LeaseLostError: Somebody else took the exchange over; nothing was written.
    """
    if connection.execute(_renew, {"of": of.bytes, "held": token, "lease": lease}).rowcount != 1:
        raise LeaseLostError(of, exchange)
    if connection.execute(_there, {"of": of.bytes, "exchange": exchange, "piece": number}).first() is None:
        row = {"conversation": of.bytes, "position": exchange, "number": number, "at": at, "data": data}
        connection.execute(_insert, row)


def read(connection: Connection, of: UUID, exchange: int) -> bytes:
    """Read what had arrived of an answer."""
    return b"".join(connection.execute(_read, {"of": of.bytes, "exchange": exchange}).scalars())


def pieces(connection: Connection, of: UUID, exchange: int) -> list[tuple[int, bytes]]:
    """Read what had arrived of an answer, piece by piece, and when."""
    return [(at, bytes(data)) for at, data in connection.execute(_pieces, {"of": of.bytes, "exchange": exchange})]


def put(connection: Connection, of: UUID, exchange: int, arrived: Sequence[tuple[int, bytes]]) -> None:
    """Write what had arrived of an answer by another database's journal, in the place of what is here."""
    clear(connection, of, exchange)
    rows = [
        {"conversation": of.bytes, "position": exchange, "number": number, "at": at, "data": data}
        for number, (at, data) in enumerate(arrived)
    ]
    if rows:
        connection.execute(_insert, rows)


def clear(connection: Connection, of: UUID, exchange: int) -> None:
    """Delete what the outcome holds now."""
    connection.execute(_clear, {"of": of.bytes, "exchange": exchange})
