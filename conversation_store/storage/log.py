"""
The log: append at a version, read spans.

No statement here reads a number of rows that grows with a history it was not asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Literal
from uuid import UUID

from attrs import frozen
from sqlalchemy import ColumnElement, Connection, Row, Select, bindparam, case, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from conversation_store.errors import BusyError, ConflictError, DatabaseError, LeaseLostError, NotFoundError
from conversation_store.record import chain
from conversation_store.record.chain import Entry
from conversation_store.storage.blobs import GONE
from conversation_store.storage.cipher import PLAIN, cipher_of, opened_labels, place
from conversation_store.storage.engine import Compiled, RolledBack
from conversation_store.storage.tables import (
    NO_TOKEN,
    conversation,
    conversation_blob_use,
    conversation_entry,
    conversation_key,
    now,
)

LAST: Final = (1 << 63) - 1
"""As the end of a span: all there is."""


@frozen(kw_only=True)
class Head:
    """
    Where a log stands: what the next append must find, and what it leaves.

    Attributes:
        length: Entries; the next position.
        digest: The last entry's digest.
        view_position: The entry that tells the current view; 0 is the ``opened`` entry.
        settings_position: The current ``settings`` entry.
        token: Whose the pending exchange is; zeros for none.
        pending_position: Its request entry; -1 for none.
    """

    length: int
    digest: bytes
    view_position: int = 0
    settings_position: int = 0
    token: bytes = NO_TOKEN
    pending_position: int = -1


@frozen(kw_only=True)
class Kept:
    """
    A conversation's row.

    Attributes:
        id: The conversation.
        scope: The tenant it belongs to.
        key: The host's name for it, None for none.
        title: What people call it, None for none.
        metadata: JSON bytes, None for none.
        head: Where its log stands.
        lease_until: End of the pending exchange's lease, by the database's clock; 0 for none.
        lease_owner: The process that holds it.
        lease_over: Whether the database's clock has passed it.
        created: Microseconds since the epoch; ``updated`` likewise.
    """

    id: UUID
    scope: str
    key: str | None
    title: str | None
    metadata: bytes | None
    head: Head
    lease_until: int
    lease_owner: str
    lease_over: bool
    forked_from: UUID | None
    created: int
    updated: int


@frozen(kw_only=True)
class Use:
    """A blob used by an entry: the entry's place in its append, and the blob."""

    entry: int
    number: int
    digest: bytes
    salt: bytes


@frozen(kw_only=True)
class Commit:
    """
    An append, prepared: everything in it is decided, so that writing it twice is writing it once.

    Attributes:
        conversation: Whose log.
        before: What must be there.
        after: What will be there.
        entries: The new entries, chained.
        uses: The blobs they use.
        scope: The tenant whose blobs those are.
        lease: Microseconds for which the pending exchange is leased from now on; None leaves lease and
            owner as they are, 0 ends them.
        owner: Who holds the lease.
    """

    conversation: UUID
    before: Head
    after: Head
    entries: Sequence[Entry]
    uses: Sequence[Use] = ()
    scope: str = ""
    lease: int | None = None
    owner: str = ""


_PAGE: Final = 1024
"""Rows of a history that are in memory at a time."""

_changed: Final = (
    update(conversation)
    .where(
        conversation.c.id == bindparam("of"),
        conversation.c.length == bindparam("expected"),
        conversation.c.pending_token == bindparam("held"),
    )
    .values(
        length=bindparam("new_length"),
        head=bindparam("new_head"),
        view_position=bindparam("new_view"),
        settings_position=bindparam("new_settings"),
        updated=bindparam("at"),
    )
)
_pending: Final[dict[str, Any]] = {
    "pending_token": bindparam("new_token"),
    "pending_position": bindparam("new_pending"),
    "lease_until": case(
        (bindparam("lease", type_=conversation.c.length.type) > 0, now() + bindparam("lease")),
        else_=0,
    ),
    "lease_owner": bindparam("new_owner"),
}
_compare_and_set: Final = Compiled(_changed)
_compare_and_set_pending: Final = Compiled(_changed.values(_pending))
# A key that was rotated away must not be written under; and what is encrypted never comes into the search index.
_changed_sealed: Final = _changed.where(conversation.c.data_key == bindparam("sealed_under")).values(
    indexed_length=bindparam("new_length")
)
_compare_and_set_sealed: Final = Compiled(_changed_sealed)
_compare_and_set_pending_sealed: Final = Compiled(_changed_sealed.values(_pending))
_insert_entries: Final = Compiled(insert(conversation_entry))
_insert_uses: Final = insert(conversation_blob_use)
_last_digest: Final = select(conversation_entry.c.digest).where(
    conversation_entry.c.conversation == bindparam("of"),
    conversation_entry.c.position == bindparam("position"),
)
_standing: Final = select(conversation.c.length, conversation.c.pending_token, conversation.c.lease_until).where(
    conversation.c.id == bindparam("of")
)
_row: Final = select(
    conversation,
    conversation_key.c.key,
    (conversation.c.lease_until <= now()).label("lease_over"),
).select_from(conversation.outerjoin(conversation_key, conversation_key.c.conversation == conversation.c.id))
_row_by_id: Final = _row.where(conversation.c.id == bindparam("of"), conversation.c.scope == bindparam("in_scope"))
_row_by_key: Final = _row.where(
    conversation_key.c.scope == bindparam("in_scope"), conversation_key.c.key == bindparam("named")
)
_newest: Final = _row.where(conversation.c.scope == bindparam("in_scope")).order_by(
    conversation.c.updated.desc(), conversation.c.id.desc()
)
_entry_columns: Final = (
    conversation_entry.c.position,
    conversation_entry.c.kind,
    conversation_entry.c.at,
    conversation_entry.c.header,
    conversation_entry.c.body,
    conversation_entry.c.about,
    conversation_entry.c.salt,
    conversation_entry.c.request_salt,
    conversation_entry.c.digest,
)
_span: Final = (
    select(*_entry_columns)
    .where(
        conversation_entry.c.conversation == bindparam("of"),
        conversation_entry.c.position >= bindparam("first"),
        conversation_entry.c.position <= bindparam("last"),
    )
    .order_by(conversation_entry.c.position)
)
_turns: Final = (
    select(conversation_entry.c.position, conversation_entry.c.header, conversation_entry.c.body)
    .where(
        conversation_entry.c.conversation == bindparam("of"),
        conversation_entry.c.position >= bindparam("first"),
        conversation_entry.c.position <= bindparam("last"),
        conversation_entry.c.kind == "turn",
        conversation_entry.c.body.is_not(None),
    )
    .order_by(conversation_entry.c.position)
)
_erased_turns: Final = (
    select(conversation_entry.c.position, conversation_entry.c.at, conversation_entry.c.header)
    .where(
        conversation_entry.c.conversation == bindparam("of"),
        conversation_entry.c.position >= bindparam("first"),
        conversation_entry.c.position <= bindparam("last"),
        conversation_entry.c.kind == "turn",
        conversation_entry.c.body.is_(None),
    )
    .order_by(conversation_entry.c.position)
)
_of_kind: Final = _span.where(conversation_entry.c.kind == bindparam("kind"))
_turn_entries: Final = _span.where(conversation_entry.c.kind == "turn", conversation_entry.c.body.is_not(None))


def append(connection: Connection, commit: Commit) -> bool:
    """
    Write a prepared append: the compare-and-set first, then its rows.

    Returns:
        False where these very rows were in the log already (an earlier try whose commit was in doubt).

    Raises:
        ConflictError: The log has another length; somebody else appended.
        BusyError: An exchange is pending that is not this append's.
        LeaseLostError: The append's exchange was taken over.
        NotFoundError: The conversation is gone.
        DatabaseError: ``erased``: a blob that it uses is gone; nothing was written.
    """
    after = commit.after
    row = {
        "of": commit.conversation.bytes,
        "expected": commit.before.length,
        "held": commit.before.token,
        "new_length": after.length,
        "new_head": after.digest,
        "new_view": after.view_position,
        "new_settings": after.settings_position,
        "at": commit.entries[-1].at,
    }
    if commit.lease is None:
        changed = _set(connection, commit.conversation, row, _compare_and_set, _compare_and_set_sealed)
    else:
        row |= {
            "new_token": after.token,
            "new_pending": after.pending_position,
            "lease": commit.lease,
            "new_owner": commit.owner,
        }
        changed = _set(connection, commit.conversation, row, _compare_and_set_pending, _compare_and_set_pending_sealed)
    if changed != 1:
        if is_there(connection, commit):
            return False
        raise _what_is_in_the_way(connection, commit)
    _insert_all(connection, commit.conversation, commit.scope, commit.entries, _placed(commit))
    return True


def _placed(commit: Commit) -> Iterable[tuple[int, Use]]:
    return ((commit.entries[use.entry].position, use) for use in commit.uses)


def _set(connection: Connection, of: UUID, row: dict[str, Any], plain: Compiled, sealed: Compiled) -> int:
    cipher = cipher_of(connection)
    if cipher is None:
        return plain.run(connection, row)
    while True:
        changed = sealed.run(connection, row | {"sealed_under": cipher.writing(connection, of).number})
        if changed == 1 or not cipher.moved_on(connection, of):
            return changed


def _insert_all(
    connection: Connection, of: UUID, scope: str, entries: Sequence[Entry], uses: Iterable[tuple[int, Use]]
) -> None:
    """Write entries, and the blobs they use by the position of the entry."""
    own = of.bytes
    rows = [row_of(own, entry) for entry in entries]
    used = [_use_row(of, scope, position, use) for position, use in uses]
    cipher = cipher_of(connection)
    if cipher is not None:
        rows = [cipher.sealed(connection, of, row) for row in rows]
        used = [cipher.sealed_use(connection, of, row) for row in used]
    _insert_entries.run(connection, *rows)
    _use(connection, used)


def _use(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write which blobs an append uses; the keys between the tables hold those that are there."""
    if not rows:
        return
    try:
        connection.execute(_insert_uses, rows)
    except IntegrityError:
        raise DatabaseError("erased", GONE) from None


def is_there(connection: Connection, commit: Commit) -> bool:
    """Say whether an append is in the log: our own digest at its last position, salts included, means ours."""
    found = connection.execute(
        _last_digest, {"of": commit.conversation.bytes, "position": commit.entries[-1].position}
    ).scalar()
    return found == commit.entries[-1].digest


def is_there_or_none(connection: Connection, commit: Commit) -> Literal[True] | None:
    """Say the same as ``Database.write`` asks it."""
    return True if is_there(connection, commit) else None


def _what_is_in_the_way(connection: Connection, commit: Commit) -> Exception:
    found = connection.execute(_standing, {"of": commit.conversation.bytes}).first()
    if found is None:
        return NotFoundError(str(commit.conversation))
    length, token, lease_until = found
    if token != commit.before.token:
        if commit.before.token != NO_TOKEN:
            return LeaseLostError(commit.conversation, commit.before.pending_position)
        return BusyError(commit.conversation, lease_until)
    return ConflictError(commit.conversation, commit.before.length, length)


def row_of(of: bytes, entry: Entry) -> dict[str, Any]:
    """Write an entry of a conversation, given the bytes of its id, as a row."""
    return {
        "conversation": of,
        "position": entry.position,
        "kind": entry.kind,
        "at": entry.at,
        "salt": entry.salt,
        "request_salt": entry.request_salt,
        "digest": entry.digest,
        "header": entry.header,
        "about": entry.about,
        "body": entry.body,
    }


def _use_row(of: UUID, scope: str, position: int, use: Use) -> dict[str, Any]:
    return {
        "conversation": of.bytes,
        "position": position,
        "number": use.number,
        "scope": scope.encode(),
        "digest": use.digest,
        "salt": use.salt,
    }


def create(connection: Connection, commit: Commit, *, key: str | None, forked_from: UUID | None = None) -> bool:
    """
    Write a new conversation: its row, its first entries and the blobs they use, its key.

    Returns:
        False where the key is taken (or these very rows are there already): read the conversation by key.

    Raises:
        DatabaseError: As ``append``.
    """
    try:
        put_row(
            connection,
            commit.conversation,
            commit.scope,
            commit.after,
            at=commit.entries[-1].at,
            key=key,
            forked_from=forked_from,
        )
        _insert_all(connection, commit.conversation, commit.scope, commit.entries, _placed(commit))
    except IntegrityError:
        raise RolledBack(False) from None
    return True


def put_row(
    connection: Connection,
    of: UUID,
    scope: str,
    head: Head,
    *,
    at: int,
    key: str | None,
    forked_from: UUID | None = None,
    updated: int | None = None,
) -> None:
    """Write a conversation's row and its key, but none of its entries."""
    cipher = cipher_of(connection)
    data_key = PLAIN if cipher is None else cipher.first(of).number
    connection.execute(
        insert(conversation),
        {
            "id": of.bytes,
            "scope": scope.encode(),
            "length": head.length,
            "head": head.digest,
            "view_position": head.view_position,
            "settings_position": head.settings_position,
            "pending_token": head.token,
            "pending_position": head.pending_position,
            "lease_until": 0,
            "lease_owner": "",
            "forked_from": None if forked_from is None else forked_from.bytes,
            "indexed_length": 0 if cipher is None else head.length,
            "sealed_length": 0,
            "created": at,
            "updated": at if updated is None else updated,
            "data_key": data_key,
        },
    )
    if cipher is not None:
        cipher.keep(connection, of)
    if key is not None:
        named = {"scope": scope.encode(), "key": key.encode(), "conversation": of.bytes}
        connection.execute(insert(conversation_key), named)


def put_entries(connection: Connection, of: UUID, scope: str, entries: Sequence[Entry], uses: Sequence[Use]) -> None:
    """Write entries as they were in another database; their row is written by ``put_row`` and ``put_head``."""
    _insert_all(connection, of, scope, entries, ((use.entry, use) for use in uses))


def put_head(connection: Connection, of: UUID, before: Head, after: Head, at: int) -> bool:
    """Bring a conversation's row to where its log now ends; False where it does not stand as *before* any more."""
    row = {
        "of": of.bytes,
        "expected": before.length,
        "held": before.token,
        "new_length": after.length,
        "new_head": after.digest,
        "new_view": after.view_position,
        "new_settings": after.settings_position,
        "new_token": after.token,
        "new_pending": after.pending_position,
        "lease": 0,
        "new_owner": "",
        "at": at,
    }
    return _set(connection, of, row, _compare_and_set_pending, _compare_and_set_pending_sealed) == 1


def is_taken(connection: Connection, of: UUID) -> bool:
    """Say whether a conversation has this id, in whatever scope."""
    return connection.execute(select(conversation.c.id).where(conversation.c.id == of.bytes)).first() is not None


def digest_at(connection: Connection, of: UUID, position: int) -> bytes | None:
    """Read the digest of one entry; None where there is none."""
    found = connection.execute(_last_digest, {"of": of.bytes, "position": position}).scalar()
    return None if found is None else bytes(found)


def stood(connection: Connection, of: UUID, length: int, digest: bytes) -> bool:
    """
    Say whether a log, when it had *length* entries, had the head *digest*, as far as its rows tell.

    One row is read; that the entries before it make this digest is for verifying to say.
    """
    if length <= 0:
        return length == 0 and digest == chain.genesis(of)
    return digest_at(connection, of, length - 1) == digest


def ids_after(connection: Connection, scope: str, last: UUID | None, limit: int) -> list[UUID]:
    """List conversations of a scope by id, the next *limit* after one."""
    statement = select(conversation.c.id).where(conversation.c.scope == scope.encode())
    if last is not None:
        statement = statement.where(conversation.c.id > last.bytes)
    found = connection.execute(statement.order_by(conversation.c.id).limit(limit)).scalars()
    return [UUID(bytes=bytes(each)) for each in found]


def count_entries(connection: Connection, scope: str) -> int:
    """Count the entries of all logs of a scope, from the conversations' rows."""
    statement = select(func.sum(conversation.c.length)).where(conversation.c.scope == scope.encode())
    return int(connection.execute(statement).scalar() or 0)


def find(connection: Connection, scope: str, which: str | UUID) -> Kept | None:
    """Read a conversation's row by key or by id, within a scope."""
    if isinstance(which, UUID):
        found = connection.execute(_row_by_id, {"of": which.bytes, "in_scope": scope.encode()}).first()
    else:
        found = connection.execute(_row_by_key, {"named": which.encode(), "in_scope": scope.encode()}).first()
    return None if found is None else _kept(connection, found)


def parent_of(connection: Connection, of: UUID) -> UUID | None:
    """Say which conversation one was forked from; None for one that is no fork."""
    found = connection.execute(select(conversation.c.forked_from).where(conversation.c.id == of.bytes)).scalar()
    return None if found is None else UUID(bytes=bytes(found))


def forks_of(connection: Connection, of: UUID) -> list[UUID]:
    """List the conversations forked from one, oldest first."""
    statement = select(conversation.c.id).where(conversation.c.forked_from == of.bytes).order_by(conversation.c.id)
    return [UUID(bytes=bytes(each)) for each in connection.execute(statement).scalars()]


def newest(
    connection: Connection,
    scope: str,
    limit: int,
    after: tuple[int, UUID] | None,
    *,
    key_prefix: str | None = None,
    since: int | None = None,
    pending: bool | None = None,
    labelled: bool = False,
) -> list[Kept]:
    """
    Read the rows of a scope, the last changed first.

    Args:
        connection: Reads them.
        scope: The tenant.
        limit: How many at most.
        after: (updated, id) of the last row seen.
        key_prefix: What the key begins with.
        since: Changed then or later.
        pending: Whether an exchange is pending.
        labelled: Only those with a title or metadata.
    """
    row, key = conversation.c, conversation_key.c.key
    statement = _newest.limit(limit)
    if after is not None:
        updated, last = after
        statement = statement.where((row.updated < updated) | ((row.updated == updated) & (row.id < last.bytes)))
    if key_prefix is not None:
        statement = statement.where(*beginning(key, key_prefix.encode()))
    if since is not None:
        statement = statement.where(row.updated >= since)
    if pending is not None:
        statement = statement.where(row.pending_position >= 0 if pending else row.pending_position < 0)
    if labelled:
        statement = statement.where(row.title.is_not(None) | row.metadata.is_not(None))
    found = connection.execute(statement, {"in_scope": scope.encode()}).all()
    return [_kept(connection, each) for each in found]


def beginning(of: ColumnElement[bytes], prefix: bytes) -> list[ColumnElement[bool]]:
    """Say that bytes begin with some, so that an index serves; UTF-8 has no byte 255."""
    end = [of < prefix[:-1] + bytes([prefix[-1] + 1])] if prefix else []
    return [of >= prefix, *end]


def _kept(connection: Connection, row: Row[Any]) -> Kept:
    title, told = (
        opened_labels(connection, row.id, row.title, row.metadata) if row.data_key else (row.title, row.metadata)
    )
    return Kept(
        id=UUID(bytes=bytes(row.id)),
        scope=bytes(row.scope).decode(),
        key=None if row.key is None else bytes(row.key).decode(),
        title=None if title is None else bytes(title).decode(),
        metadata=told,
        head=Head(
            length=row.length,
            digest=bytes(row.head),
            view_position=row.view_position,
            settings_position=row.settings_position,
            token=bytes(row.pending_token),
            pending_position=row.pending_position,
        ),
        lease_until=row.lease_until,
        lease_owner=row.lease_owner,
        lease_over=bool(row.lease_over),
        forked_from=None if row.forked_from is None else UUID(bytes=bytes(row.forked_from)),
        created=row.created,
        updated=row.updated,
    )


def label(connection: Connection, of: UUID, title: str | None, metadata: bytes | None) -> None:
    """Bring the row's title and metadata up to what its newest ``labelled`` entry says."""
    told = {"title": None if title is None else title.encode(), "metadata": metadata}
    cipher = cipher_of(connection)
    if cipher is not None:
        key = cipher.writing(connection, of)
        told = {name: None if value is None else key.seal(place(name), value) for name, value in told.items()}
    connection.execute(update(conversation).where(conversation.c.id == of.bytes), told)


def read(connection: Connection, of: UUID, first: int, last: int) -> list[Entry]:
    """Read the entries of a span, both ends included, in order."""
    return _entries(connection, of, _span, {"first": first, "last": last})


def read_turns(connection: Connection, of: UUID, first: int, last: int) -> list[Entry]:
    """Read the turns of a span that were not erased; prefills are among them."""
    return _entries(connection, of, _turn_entries, {"first": first, "last": last})


def read_erased(connection: Connection, of: UUID, first: int, last: int) -> list[tuple[int, int, bytes]]:
    """Read (position, time, header) of a span's turns that were erased."""
    found = connection.execute(_erased_turns, {"of": of.bytes, "first": first, "last": last})
    return [(position, at, bytes(header)) for position, at, header in found]


def read_kind(connection: Connection, of: UUID, kind: str, first: int, last: int = LAST) -> list[Entry]:
    """Read the entries of one kind in a span."""
    return _entries(connection, of, _of_kind, {"kind": kind, "first": first, "last": last})


def read_wires(connection: Connection, of: UUID, first: int, last: int) -> Iterator[Sequence[tuple[int, bytes, bytes]]]:
    """Read (position, header, body) of a span's turns, page by page: the path of every request, so plain tuples."""
    cursor = connection.execute(_turns, {"of": of.bytes, "first": first, "last": last}).cursor
    cipher = cipher_of(connection)
    while cursor is not None and (page := cursor.fetchmany(_PAGE)):
        yield (
            page
            if cipher is None
            else [
                (position, header, cipher.open(connection, of, place("body", position), body))
                for position, header, body in page
            ]
        )


def _entries(connection: Connection, of: UUID, statement: Select[Any], given: dict[str, Any]) -> list[Entry]:
    found = [_entry(row) for row in connection.execute(statement, given | {"of": of.bytes})]
    cipher = cipher_of(connection)
    return found if cipher is None else [cipher.opened(connection, of, entry) for entry in found]


def _entry(row: Any) -> Entry:
    return Entry(
        position=row.position,
        kind=row.kind,
        at=row.at,
        header=row.header,
        body=row.body,
        about=row.about,
        salt=row.salt,
        request_salt=row.request_salt,
        digest=row.digest,
    )
