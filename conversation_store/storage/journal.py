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
from conversation_store.storage.cipher import cipher_of, place
from conversation_store.storage.tables import conversation, now
from conversation_store.storage.tables import conversation_journal as table

_renew: Final = (
    update(conversation)
    .where(conversation.c.id == bindparam("of"), conversation.c.pending_token == bindparam("held"))
    .values(lease_until=now() + bindparam("lease", type_=conversation.c.lease_until.type))
)
_renew_sealed: Final = _renew.where(conversation.c.data_key == bindparam("sealed_under"))
_insert: Final = insert(table)
_here: Final = (table.c.conversation == bindparam("of"), table.c.position == bindparam("exchange"))
_there: Final = select(table.c.number).where(*_here, table.c.number == bindparam("piece"))
_pieces: Final = select(table.c.at, table.c.number, table.c.data).where(*_here).order_by(table.c.number)
_clear: Final = delete(table).where(*_here)


def write(
    connection: Connection, of: UUID, exchange: int, number: int, data: bytes, *, at: int, token: bytes, lease: int
) -> None:
    """
    Write one piece, and hold the exchange for *lease* microseconds more.

    Raises:
        LeaseLostError: Somebody else took the exchange over; nothing was written.
    """
    if not _renewed(connection, of, {"of": of.bytes, "held": token, "lease": lease}):
        raise LeaseLostError(of, exchange)
    if connection.execute(_there, {"of": of.bytes, "exchange": exchange, "piece": number}).first() is None:
        connection.execute(_insert, _row(connection, of, (exchange, number), at, data))


def _renewed(connection: Connection, of: UUID, held: dict[str, object]) -> bool:
    cipher = cipher_of(connection)
    if cipher is None:
        return connection.execute(_renew, held).rowcount == 1
    while True:
        under = {"sealed_under": cipher.writing(connection, of).number}
        if connection.execute(_renew_sealed, held | under).rowcount == 1:
            return True
        if not cipher.moved_on(connection, of):
            return False


def _row(connection: Connection, of: UUID, there: tuple[int, int], at: int, data: bytes) -> dict[str, object]:
    exchange, number = there
    cipher = cipher_of(connection)
    if cipher is not None:
        data = cipher.writing(connection, of).seal(place("arrived", exchange, number), data)
    return {"conversation": of.bytes, "position": exchange, "number": number, "at": at, "data": data}


def read(connection: Connection, of: UUID, exchange: int) -> bytes:
    """Read what had arrived of an answer."""
    return b"".join(data for _, data in pieces(connection, of, exchange))


def pieces(connection: Connection, of: UUID, exchange: int) -> list[tuple[int, bytes]]:
    """Read what had arrived of an answer, piece by piece, and when."""
    found = connection.execute(_pieces, {"of": of.bytes, "exchange": exchange}).all()
    cipher = cipher_of(connection)
    if cipher is None:
        return [(at, bytes(data)) for at, _, data in found]
    return [
        (at, cipher.open(connection, of, place("arrived", exchange, number), bytes(data))) for at, number, data in found
    ]


def put(connection: Connection, of: UUID, exchange: int, arrived: Sequence[tuple[int, bytes]]) -> None:
    """Write what had arrived of an answer by another database's journal, in the place of what is here."""
    clear(connection, of, exchange)
    rows = [_row(connection, of, (exchange, number), at, data) for number, (at, data) in enumerate(arrived)]
    if rows:
        connection.execute(_insert, rows)


def clear(connection: Connection, of: UUID, exchange: int) -> None:
    """Delete what the outcome holds now."""
    connection.execute(_clear, {"of": of.bytes, "exchange": exchange})
