"""
The log of seals as rows: its leaves, tiles and checkpoints, and which conversations it does not cover whole.

Written by sealers and by nobody else, in transactions of their own. Several may be at it: the compare-and-set of
``grow`` decides between them. An append only makes its conversation's ``length`` pass its ``sealed_length``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from attrs import frozen
from sqlalchemy import BigInteger, Connection, Executable, bindparam, func, insert, select, tuple_, update
from sqlalchemy.exc import IntegrityError

from conversation_store.errors import SealError
from conversation_store.record import merkle
from conversation_store.record.seals import Sealed
from conversation_store.record.tiles import Place
from conversation_store.storage.engine import RolledBack
from conversation_store.storage.tables import (
    conversation,
    conversation_checkpoint,
    conversation_entry,
    conversation_log,
    conversation_seal,
    conversation_tile,
)

_DAMAGED: Final = "the log of seals is damaged: a column holds what nobody sealed; verify says where"


@frozen
class Log:
    """
    A log of seals.

    Attributes:
        number: From 1; the highest is the one that goes on.
        origin: Its name in checkpoints.
        size: How many leaves it has.
        frontier: The roots of its largest perfect subtrees, left to right.
    """

    number: int
    origin: str
    size: int = 0
    frontier: tuple[bytes, ...] = ()

    @property
    def root(self) -> bytes:
        """The root over all leaves."""
        return merkle.folded(self.frontier)


@frozen
class Leaf:
    """A leaf to be written: its bytes, and of which conversation and length it speaks."""

    data: bytes
    conversation: UUID | None = None
    length: int = 0


@frozen
class Kept:
    """
    A checkpoint as it is kept.

    Attributes:
        size: Leaves it covers.
        note: Its text and signatures.
        at: When it was signed, microseconds since the epoch, UTC, by the signer's clock.
        published_to: JSON: the names of the anchors that took it.
    """

    size: int
    note: bytes
    at: int
    published_to: bytes


_behind: Final = (
    select(conversation.c.id, conversation.c.length, conversation.c.head)
    .where(conversation.c.sealed_length < conversation.c.length)
    .order_by(conversation.c.id)
    # An append in progress is not waited for: its conversation's turn comes next time.
    .with_for_update(skip_locked=True, key_share=True)
)
_mark: Final = (
    update(conversation)
    .where(conversation.c.id == bindparam("of"), conversation.c.sealed_length < bindparam("sealed"))
    .values(sealed_length=bindparam("sealed"))
)
_grow: Final = (
    update(conversation_log)
    .where(conversation_log.c.log == bindparam("of"), conversation_log.c.size == bindparam("expected"))
    .values(size=bindparam("new_size"), frontier=bindparam("new_frontier"))
)
_rewrite: Final = (
    update(conversation_tile)
    .where(
        conversation_tile.c.log == bindparam("of"),
        conversation_tile.c.level == bindparam("at_level"),
        conversation_tile.c.number == bindparam("at_number"),
    )
    .values(hashes=bindparam("new_hashes"))
)


def newest_log(connection: Connection) -> Log | None:
    """Read the log that goes on; None where nothing was ever sealed."""
    found = connection.execute(select(conversation_log).order_by(conversation_log.c.log.desc()).limit(1)).first()
    if found is None:
        return None
    frontier = _bytes(found.frontier)
    peaks = tuple(frontier[start : start + merkle.HASH] for start in range(0, len(frontier), merkle.HASH))
    return Log(_number(found.log), _bytes(found.origin).decode(errors="replace"), _number(found.size), peaks)


def _bytes(value: object) -> bytes:
    """Take bytes as they are stored; SealError for anything else."""
    if not isinstance(value, bytes | memoryview):
        raise SealError(_DAMAGED)
    return bytes(value)


def _number(value: object) -> int:
    """Take a number from 0 on; SealError for anything else."""
    if not isinstance(value, int) or value < 0:
        raise SealError(_DAMAGED)
    return value


def put_log(connection: Connection, log: Log) -> None:
    """Begin a log; undoes the transaction, with the result None, where another sealer has."""
    row = {"log": log.number, "origin": log.origin.encode(), "size": log.size, "frontier": b"".join(log.frontier)}
    try:
        connection.execute(insert(conversation_log), row)
    except IntegrityError:
        raise RolledBack(None) from None


def behind(connection: Connection, limit: int) -> list[Sealed]:
    """Read the heads of conversations that the newest log does not cover whole, of all scopes, by id."""
    found = connection.execute(_behind.limit(limit))
    return [Sealed(UUID(bytes=bytes(each.id)), each.length, bytes(each.head)) for each in found]


def mark(connection: Connection, heads: Sequence[Sealed]) -> None:
    """Note which heads are sealed."""
    connection.execute(_mark, [{"of": each.conversation.bytes, "sealed": each.length} for each in heads])


def unmark_all(connection: Connection) -> None:
    """Let every conversation be sealed again, in a log that has just begun."""
    connection.execute(update(conversation).where(conversation.c.sealed_length != 0).values(sealed_length=0))


def grow(connection: Connection, log: Log, after: Log) -> None:
    """
    Bring a log's row from one size to the next: the sealers' compare-and-set.

    Undoes the transaction, with the result None, where another sealer was faster.
    """
    row = {
        "of": log.number,
        "expected": log.size,
        "new_size": after.size,
        "new_frontier": b"".join(after.frontier),
    }
    if connection.execute(_grow, row).rowcount != 1:
        raise RolledBack(None)


def put_leaves(connection: Connection, log: Log, leaves: Sequence[Leaf]) -> None:
    """Write leaves at the end of a log as it was before them."""
    rows = [
        {
            "log": log.number,
            "number": log.size + n,
            "conversation": None if leaf.conversation is None else leaf.conversation.bytes,
            "length": leaf.length,
            "leaf": leaf.data,
        }
        for n, leaf in enumerate(leaves)
    ]
    connection.execute(insert(conversation_seal), rows)


def put_tiles(connection: Connection, log: Log, changed: Mapping[Place, bytes], there: Mapping[Place, bytes]) -> None:
    """Write tiles that are new, and those that have grown; *there* are those that were there before."""
    for place in changed.keys() & there.keys():
        row = {"of": log.number, "at_level": place[0], "at_number": place[1], "new_hashes": changed[place]}
        connection.execute(_rewrite, row)
    new = [
        {"log": log.number, "level": level, "number": number, "hashes": data}
        for (level, number), data in changed.items()
        if (level, number) not in there
    ]
    if new:
        connection.execute(insert(conversation_tile), new)


def tiles(connection: Connection, log: int, places: Sequence[Place]) -> dict[Place, bytes]:
    """Read tiles by their places, in one statement; those that are not there are left out."""
    if not places:
        return {}
    tile = conversation_tile.c
    wanted = tuple_(tile.level, tile.number).in_([tuple(each) for each in places])
    found = connection.execute(select(tile.level, tile.number, tile.hashes).where(tile.log == log, wanted))
    return {(each.level, each.number): _bytes(each.hashes) for each in found}


def leaf_at(connection: Connection, log: int, number: int) -> bytes | None:
    """Read the bytes of one leaf; None where there is none."""
    seal = conversation_seal.c
    found = connection.execute(select(seal.leaf).where(seal.log == log, seal.number == number)).scalar()
    return None if found is None else _bytes(found)


def newest_seal(connection: Connection, log: int, of: UUID, size: int) -> tuple[int, bytes] | None:
    """Find the newest leaf that speaks of a conversation among the first *size*: its number and bytes."""
    seal = conversation_seal.c
    # The sum keeps planners without statistics from the primary key, which would read the whole log.
    covered = seal.number + 0 < size
    statement = (
        select(seal.number, seal.leaf)
        .where(seal.conversation == of.bytes, seal.log == log, covered)
        .order_by(seal.length.desc())
        .limit(1)
    )
    found = connection.execute(statement).first()
    return None if found is None else (_number(found.number), _bytes(found.leaf))


def newest_checkpoint(connection: Connection, log: int) -> Kept | None:
    """Read the newest checkpoint of a log; None where none was signed."""
    row = conversation_checkpoint
    found = connection.execute(select(row).where(row.c.log == log).order_by(row.c.size.desc()).limit(1)).first()
    if found is None:
        return None
    return Kept(_number(found.size), _bytes(found.note), _number(found.at), _bytes(found.published_to))


def put_checkpoint(connection: Connection, log: int, kept: Kept) -> bool:
    """Keep a checkpoint; False where there is one of this size already."""
    row = conversation_checkpoint.c
    known = select(row.size).where(row.log == log, row.size == kept.size)
    if connection.execute(known).first() is not None:
        return False
    given = {
        "log": log,
        "size": kept.size,
        "note": kept.note,
        "at": kept.at,
        "published_to": kept.published_to,
    }
    try:
        connection.execute(insert(conversation_checkpoint), given)
    except IntegrityError:
        raise RolledBack(False) from None
    return True


def mark_published(connection: Connection, log: int, size: int, names: bytes) -> None:
    """Note which anchors took a checkpoint: JSON, all of their names."""
    row = conversation_checkpoint
    connection.execute(update(row).where(row.c.log == log, row.c.size == size).values(published_to=names))


# --- as the rows lie, for verifying ------------------------------------------------------------------------------


def raw_logs(connection: Connection) -> list[Any]:
    """Read every log's row as it lies: number, origin, size, frontier; the oldest first."""
    row = conversation_log.c
    return _as_it_lies(connection, select(row.log, row.origin, row.size, row.frontier).order_by(row.log))


def raw_seals(connection: Connection, log: object, page: int) -> Iterator[Any]:
    """
    Read every leaf of a log as it lies, beside the digest of the entry that it speaks of, *page* rows at a time.

    Returns:
        number, conversation, length, leaf, digest, log; the digest None where the conversation has no such entry.
    """
    seal, entry = conversation_seal.c, conversation_entry.c
    # Looked up row by row: a planner without statistics would read every entry again for each page of a join.
    digest = (
        select(entry.digest)
        .where(entry.conversation == seal.conversation, entry.position == seal.length - 1)
        .scalar_subquery()
    )
    statement = (
        select(seal.number, seal.conversation, seal.length, seal.leaf, digest, seal.log)
        .where(seal.log == bindparam("of"))
        .order_by(seal.number)
    )
    return _pages(connection, statement, seal.number, {"of": log}, page)


def raw_tiles(connection: Connection, log: object, level: int, page: int) -> Iterator[Any]:
    """Read the tiles of one level of a log as they lie: number, hashes, level, log; *page* rows at a time."""
    tile = conversation_tile.c
    statement = (
        select(tile.number, tile.hashes, tile.level, tile.log)
        .where(tile.log == bindparam("of"), tile.level == bindparam("at"))
        .order_by(tile.number)
    )
    return _pages(connection, statement, tile.number, {"of": log, "at": level}, page)


def raw_leaves(connection: Connection, log: object, first: int, count: int) -> list[Any]:
    """Read the bytes of some leaves of a log as they lie, from a number on."""
    seal = conversation_seal.c
    statement = (
        select(seal.leaf)
        .where(seal.log == bindparam("of"), seal.number >= bindparam("first", type_=BigInteger))
        .order_by(seal.number)
        .limit(count)
    )
    return [leaf for (leaf,) in _as_it_lies(connection, statement, {"of": log, "first": first})]


def raw_tiles_elsewhere(connection: Connection, log: object, levels: int) -> int:
    """Count the tiles of a log that are on none of its levels."""
    tile = conversation_tile.c
    elsewhere = tile.level.not_in(range(levels)) | tile.level.is_(None)
    statement = select(func.count()).select_from(conversation_tile).where(tile.log == bindparam("of"), elsewhere)
    return int(_as_it_lies(connection, statement, {"of": log})[0][0])


def raw_checkpoints(connection: Connection, log: object) -> list[Any]:
    """Read every checkpoint of a log as it lies: size, note, at, published_to, log; the smallest first."""
    row = conversation_checkpoint.c
    statement = select(row.size, row.note, row.at, row.published_to, row.log).where(row.log == bindparam("of"))
    return _as_it_lies(connection, statement.order_by(row.size), {"of": log})


def raw_orphans(connection: Connection, logs: Sequence[int]) -> list[Any]:
    """Name the tables that hold rows of a log that is not there, and one of those logs each."""
    found = []
    for table in (conversation_seal, conversation_tile, conversation_checkpoint):
        statement = select(table.c.log).where(table.c.log.not_in(logs) | table.c.log.is_(None)).limit(1)
        found += [(table.name, each[0]) for each in _as_it_lies(connection, statement)]
    return found


def raw_marks(connection: Connection, log: object) -> list[Any]:
    """List the conversations whose row says something else of its seals than the log: id, what it says, what is."""
    seal = conversation_seal.c
    told = (
        select(seal.conversation, func.max(seal.length).label("sealed"))
        .where(seal.log == bindparam("of"), seal.conversation.is_not(None))
        .group_by(seal.conversation)
        .subquery()
    )
    sealed = func.coalesce(told.c.sealed, 0)
    statement = (
        select(conversation.c.id, conversation.c.sealed_length, sealed)
        .select_from(conversation.outerjoin(told, told.c.conversation == conversation.c.id))
        .where(conversation.c.sealed_length.is_distinct_from(sealed))
        .order_by(conversation.c.id)
    )
    return _as_it_lies(connection, statement, {"of": log})


def _as_it_lies(connection: Connection, statement: Executable, given: Mapping[str, object] | None = None) -> list[Any]:
    """Fetch rows past every type conversion: a hostile row must be looked at, not raise."""
    cursor = connection.execute(statement, given or {}).cursor
    return [] if cursor is None else [tuple(map(_plain, row)) for row in cursor.fetchall()]


def _plain(value: object) -> object:
    return bytes(value) if isinstance(value, memoryview) else value


def _pages(connection: Connection, statement: Any, key: Any, given: Mapping[str, object], page: int) -> Iterator[Any]:
    rows = _as_it_lies(connection, statement.limit(page), given)
    seen = 0
    while rows:
        yield from rows
        seen += len(rows)
        last = rows[-1][0]
        if len(rows) < page:
            return
        # A key that is no number cannot be gone on from; the rows are counted then.
        further = statement.where(key > last) if type(last) is int else statement.offset(seen)
        rows = _as_it_lies(connection, further.limit(page), given)
