"""
The search index: which entries hold which words. Derived from the log, and caught up with it after the fact.

Nothing here runs inside an append. A conversation's row says how many of its entries are known
(``indexed_length``); whoever searches reads what is new, tells its words apart (``record/words.py``), and writes
them in short transactions of its own, of ``ENTRIES`` entries at most. Several processes may do so at once: who comes
second finds the row changed and goes on elsewhere. A fault of the index is never one of the log.

One row holds an entry's words: on SQLite as text under FTS5, on PostgreSQL as a ``tsvector`` under GIN, on MariaDB
as text under FULLTEXT. What can be asked for besides words (scope, role, origin, model) is among the words too, as
words that no text can hold. The index names entries that may be meant; the log's own bytes decide.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final, Literal, TypeAlias
from uuid import UUID

from attrs import evolve, field, frozen
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    cast,
    column,
    delete,
    func,
    insert,
    inspect,
    literal_column,
    select,
    table,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError

from conversation_store.errors import CodecError, DatabaseError
from conversation_store.record import words
from conversation_store.record.erasure import runs
from conversation_store.record.turns import fields_of, role_of
from conversation_store.record.words import Phrase, Query, Snippet
from conversation_store.storage.cipher import PLAIN
from conversation_store.storage.engine import Database, RolledBack
from conversation_store.storage.log import LAST, beginning
from conversation_store.storage.tables import (
    SEARCH_FTS,
    TextQuery,
    conversation,
    conversation_blob_chunk,
    conversation_blob_use,
    conversation_entry,
    conversation_exchange,
    conversation_key,
    conversation_search,
)

logger: Final = logging.getLogger("conversation_store")

ENTRIES: Final = 128
"""Entries that one transaction adds to the index at most."""

BYTES: Final = 1024 * 1024
"""Bytes of text after which a transaction takes no further entry."""

BEST_OF: Final = 20_000
"""How many entries, the newest of those found, are put in order when the best are asked for."""

Order: TypeAlias = Literal["newest", "best"]

_KINDS: Final = ("turn", "labelled")
_PAGE: Final = 32
_TIES: Final = 2048
"""Numbers to a microsecond; where more entries have one time, those after it move on by that little."""
_LATEST: Final = (1 << 63) // _TIES - 1
_SLACK: Final = 1_000_000
"""Microseconds by which a number may be off its time."""
_MARK: Final = "\ue000"
"""What the words that are no text begin with: a character that is in no word of a text."""
_LONG: Final = _MARK + "long"
_POSITIONS: Final = 16_383
_TIMES: Final = 255
_TSVECTOR: Final = 1_000_000
_ENGINE_WORDS: Final = 32
"""Words of a phrase that the database is asked for; the rest is compared here."""
_TRIES: Final = 5

_fts: Final = table(SEARCH_FTS, column("rowid"), column("words"))
_behind: Final = and_(conversation.c.indexed_length < conversation.c.length, conversation.c.data_key == PLAIN)
_entry: Final = conversation_entry.c
_next: Final = (
    select(_entry.position, _entry.kind, _entry.at, _entry.header, _entry.body)
    .where(
        _entry.conversation == bindparam("of"),
        _entry.position >= bindparam("first"),
        _entry.position < bindparam("length"),
        _entry.kind.in_(_KINDS),
        _entry.body.is_not(None),
    )
    .order_by(_entry.position)
    .limit(_PAGE)
)
_not_gone: Final = (
    select(_entry.position)
    .where(
        _entry.conversation == bindparam("of"),
        _entry.position.in_(bindparam("positions", expanding=True)),
        _entry.body.is_not(None),
    )
    .with_for_update(read=True)
)
_models_of: Final = select(conversation_exchange.c.model, conversation_exchange.c.served_by).where(
    conversation_exchange.c.conversation == bindparam("of"), conversation_exchange.c.position == bindparam("request")
)
_indexed: Final = conversation_search.c
_here: Final = (
    _indexed.conversation == bindparam("of"),
    _indexed.position >= bindparam("first"),
    _indexed.position <= bindparam("last"),
)
_any_here: Final = select(_indexed.number).where(*_here).limit(1)
_delete_here: Final = delete(conversation_search).where(*_here)
_delete_words: Final = text(
    f"INSERT INTO {SEARCH_FTS} ({SEARCH_FTS}, rowid, words) SELECT 'delete', number, words "  # noqa: S608 - our own name
    "FROM conversation_search WHERE conversation = :of AND position >= :first AND position <= :last"
)
_highest: Final = select(func.max(_indexed.number)).where(
    _indexed.number >= bindparam("low"), _indexed.number < bindparam("end")
)
_taken: Final = select(_indexed.number).where(_indexed.number.in_(bindparam("numbers", expanding=True)))
_move: Final = (
    update(conversation)
    .where(conversation.c.id == bindparam("of"), conversation.c.indexed_length == bindparam("first"))
    .values(indexed_length=bindparam("upto"))
)


# --- catching up -------------------------------------------------------------------------------------------------


@frozen
class _Row:
    position: int
    at: int
    facets: tuple[str, ...]
    words: list[str]


@frozen
class _Step:
    conversation: bytes
    first: int
    upto: int
    rows: list[_Row]


def behind(connection: Connection, scope: str | None) -> int:
    """Count the entries that the index does not know yet, of one scope or of all."""
    missing = func.coalesce(func.sum(conversation.c.length - conversation.c.indexed_length), 0)
    return int(connection.execute(_in_scope(select(missing).where(_behind), scope)).scalar() or 0)


def catch_up(database: Database, scope: str | None, *, seconds: float | None = None) -> int:
    """
    Add to the index what it does not know, the newest conversations first.

    Args:
        database: Where.
        scope: The tenant; None for all.
        seconds: After how long to stop; None goes on to the end.

    Returns:
        How many entries it added, those without words included.

    Raises:
        DatabaseError: The database cannot be written. What was added stays.
    """
    until = None if seconds is None else time.monotonic() + seconds
    added = lost = 0
    while until is None or time.monotonic() < until:
        with database.read() as connection:
            steps = _steps(connection, scope)
        if not steps:
            break
        written = _written(database, steps)
        lost = 0 if written else lost + 1
        added += written
        if lost >= _TRIES:
            break  # somebody else is at it
    return added


def _in_scope(statement: Any, scope: str | None) -> Any:
    return statement if scope is None else statement.where(conversation.c.scope == scope.encode())


def _steps(connection: Connection, scope: str | None) -> list[_Step]:
    """Read what comes next, and tell its words apart."""
    chosen = select(conversation.c.id, conversation.c.scope, conversation.c.indexed_length, conversation.c.length)
    lagging = _in_scope(chosen.where(_behind), scope).order_by(conversation.c.id.desc()).limit(ENTRIES)
    steps: list[_Step] = []
    entries = size = 0
    for of, owner, first, length in connection.execute(lagging).all():
        rows: list[_Row] = []
        upto = first
        while upto < length and entries < ENTRIES and size < BYTES:
            found = _entries(connection, of, upto, length)
            whole = len(found) < _PAGE
            for entry in found:
                row = _row(connection, bytes(of), bytes(owner), entry)
                rows.append(row)
                entries, size = entries + 1, size + sum(map(len, row.words))
                upto = entry.position + 1
                if entries >= ENTRIES or size >= BYTES:
                    break
            else:
                upto = length if whole else upto
        if upto > first:
            steps.append(_Step(bytes(of), first, upto, rows))
        if entries >= ENTRIES or size >= BYTES:
            break
    return steps


def _entries(connection: Connection, of: bytes, first: int, length: int) -> Sequence[Any]:
    return connection.execute(_next, {"of": of, "first": first, "length": length}).all()


def _row(connection: Connection, of: bytes, scope: bytes, entry: Row[Any]) -> _Row:
    facets = [_facet("s", scope)]
    if entry.kind == "turn":
        role, origin, request = _made(entry)
        facets += [_facet("r", role.encode("utf-8", "replace")), _facet("o", origin.encode("utf-8", "replace"))]
        facets += [_facet("m", model.encode()) for model in _models(connection, of, request)]
    said = text_of(connection, of, entry)
    return _Row(entry.position, entry.at, tuple(facets), words.indexed(said))


def _facet(kind: str, value: bytes) -> str:
    return f"{_MARK}{kind}{hashlib.blake2b(value, digest_size=8).hexdigest()}"


def _made(entry: Any) -> tuple[str, str, int | None]:
    """Read the role and origin of a turn and which request it answers, whatever its bytes are."""
    try:
        role = role_of(entry.body)
        fields = fields_of(entry.header)
    except (CodecError, KeyError, ValueError):
        return "", "", None
    request = fields.get("request")
    return role, str(fields.get("origin", "")), request if isinstance(request, int) else None


def _models(connection: Connection, of: bytes, request: int | None) -> set[str]:
    if request is None:
        return set()
    found = connection.execute(_models_of, {"of": of, "request": request}).first()
    return set() if found is None else {each for each in found if each}


def text_of(connection: Connection, of: bytes, entry: Any) -> str:
    """Read what can be searched in an entry; of a long string that is kept as a blob its beginning."""
    body = entry.body
    if b'"splices"' in entry.header:
        body = _with_beginnings(connection, of, entry)
    return words.said(body)


def _with_beginnings(connection: Connection, of: bytes, entry: Any) -> bytes:
    use, chunk = conversation_blob_use.c, conversation_blob_chunk.c
    body: bytes = entry.body
    try:
        cuts = [
            (int(offset), n) for n, (offset, _, kind) in enumerate(fields_of(entry.header)["splices"]) if kind == "raw"
        ]
    except (CodecError, KeyError, TypeError, ValueError):
        return body
    for offset, number in reversed(cuts):
        data = connection.execute(
            select(chunk.data)
            .join(conversation_blob_use, and_(use.scope == chunk.scope, use.digest == chunk.digest))
            .where(use.conversation == of, use.position == entry.position, use.number == number, chunk.number == 0)
        ).scalar()
        begun = bytes(data or b"")[: words.CLIPPED].decode("utf-8", "ignore").encode()
        escape = begun.rfind(b"\\", -6)
        if escape >= 0:  # never end inside \u1234, nor after one half of two backslashes
            begun = begun[:escape].rstrip(b"\\")
        body = body[:offset] + begun + body[offset:]
    return body


def _written(database: Database, steps: list[_Step]) -> int:
    """Write steps in one transaction; where the database refuses them, row by row, and what it refuses as empty."""
    try:
        return database.write(partial(_write, steps=steps))
    except DatabaseError as error:
        if error.reason != "refused":
            raise
    written = 0
    for piece in (piece for step in steps for piece in _pieces(step)):
        try:
            written += database.write(partial(_write, steps=[piece]))
        except DatabaseError as error:
            if error.reason != "refused" or not piece.rows:
                raise
            of, position = UUID(bytes=piece.conversation), piece.rows[0].position
            logger.warning("entry %s of conversation %s cannot be searched: %s", position, of, error)
            empty = evolve(piece, rows=[evolve(row, words=[]) for row in piece.rows])
            written += database.write(partial(_write, steps=[empty]))
    return written


def _pieces(step: _Step) -> Iterator[_Step]:
    first = step.first
    for row in step.rows:
        yield evolve(step, first=first, upto=row.position + 1, rows=[row])
        first = row.position + 1
    if first < step.upto:
        yield evolve(step, first=first, rows=[])


def _write(connection: Connection, steps: list[_Step]) -> int:
    chosen = select(conversation.c.id, conversation.c.indexed_length)
    known = connection.execute(chosen.where(conversation.c.id.in_([step.conversation for step in steps]))).all()
    lengths = {bytes(of): length for of, length in known}
    meant = sorted(
        (step for step in steps if lengths.get(step.conversation) == step.first), key=lambda step: step.conversation
    )
    rows = []
    for step in meant:
        clear(connection, UUID(bytes=step.conversation), step.first, step.upto - 1, for_good=False)
        kept = _not_erased(connection, step)
        rows += [(step.conversation, row) for row in step.rows if row.position in kept]
    try:
        _insert(connection, rows)
    except IntegrityError:  # another process chose the same number, or added the same entry
        raise RolledBack(0) from None
    # Last, because an append waits for these rows from here on to the commit.
    for step in meant:
        moved = connection.execute(_move, {"of": step.conversation, "first": step.first, "upto": step.upto})
        if moved.rowcount != 1:
            raise RolledBack(0)
    return sum(step.upto - step.first for step in meant)


def _not_erased(connection: Connection, step: _Step) -> set[int]:
    """Say which entries still have their words, and keep an erasure waiting until the index can tell it of them."""
    if not step.rows:
        return set()
    positions = [row.position for row in step.rows]
    return set(connection.execute(_not_gone, {"of": step.conversation, "positions": positions}).scalars())


def _insert(connection: Connection, rows: list[tuple[bytes, _Row]]) -> None:
    if not rows:
        return
    numbers = _numbers(connection, [row.at for _, row in rows])
    dialect = connection.dialect.name
    values = [
        {"number": number, "conversation": of, "position": row.position, "words": _stored(dialect, row)}
        for number, (of, row) in zip(numbers, rows, strict=True)
    ]
    connection.execute(insert(conversation_search), values)
    if dialect == "sqlite":
        connection.execute(insert(_fts), [{"rowid": value["number"], "words": value["words"]} for value in values])


def _numbers(connection: Connection, times: Sequence[int]) -> list[int]:
    """Choose a number for each of some entries: by time, and those of one time in the order they come."""
    firsts = [min(max(at, 0), _LATEST) * _TIES for at in times]
    numbers: list[int] = []
    chosen: set[int] = set()
    newest: dict[int, int] = {}
    for first in firsts:
        mine = newest[first] + 1 if first in newest else _free(connection, first)
        newest[first] = mine = _after(mine, chosen)
        chosen.add(mine)
        numbers.append(mine)
    # Where very many are of one time they run into those of the next.
    while taken := set(connection.execute(_taken, {"numbers": numbers}).scalars()):
        for n, mine in enumerate(numbers):
            if mine in taken:
                numbers[n] = _after(mine, chosen)
                chosen.add(numbers[n])
    return numbers


def _after(number: int, taken: set[int]) -> int:
    while number in taken:
        number += 1
    return number


def _free(connection: Connection, first: int) -> int:
    room = _TIES
    while True:
        highest = connection.execute(_highest, {"low": first, "end": first + room}).scalar()
        if highest is None or highest < first + room - 1:
            return first if highest is None else int(highest) + 1
        room *= 2


def _stored(dialect: str, row: _Row) -> Any:
    if dialect == "postgresql":
        return _tsvector(row)
    if dialect == "sqlite":
        return " ".join((*row.facets, *row.words))
    return " ".join(map(_padded, (*row.facets, *row.words)))


def _padded(word: str) -> str:
    """Write a word so that FULLTEXT takes it, however short or common it is."""
    return f"{word}__"


def _tsvector(row: _Row) -> str:
    """Write words as a ``tsvector``; where it cannot hold every place of every word, it says so."""
    places: dict[str, list[int]] = {}
    for n, word in enumerate(row.words, start=1):
        places.setdefault(word, []).append(n)
    size = sum(len(word.encode()) + 4 + 2 * len(at) for word, at in places.items())
    whole = len(row.words) <= _POSITIONS and all(len(at) <= _TIMES for at in places.values())
    facets = row.facets if whole else (*row.facets, _LONG)
    if size > _TSVECTOR or not whole:
        said = [f"'{word}'" for word in places]
    else:
        said = [f"'{word}':{','.join(map(str, at))}" for word, at in places.items()]
    return " ".join([*(f"'{facet}'" for facet in facets), *said])


# --- clearing ----------------------------------------------------------------------------------------------------


def clear(connection: Connection, of: UUID, first: int = 0, last: int = LAST, *, for_good: bool = True) -> int:
    """
    Take the entries of a span out of the index, in the caller's transaction; the log is to be erased in the same.

    Args:
        connection: In a transaction that writes.
        of: The conversation.
        first: The first position.
        last: The last one.
        for_good: Leave nothing of their words in SQLite's file. FTS5 does so by itself from SQLite 3.42 on; before,
            the whole index is put in order, which takes as long as it is large.

    Returns:
        How many entries it held.
    """
    return _cleared(connection, of, [(first, last)], for_good=for_good)


def wipe(connection: Connection, of: UUID, positions: Iterable[int]) -> int:
    """Take entries out of the index for good, as ``clear`` does a span; the index is put in order once at most."""
    return _cleared(connection, of, [(first, last) for first, last in runs(positions)], for_good=True)


def _cleared(connection: Connection, of: UUID, spans: Iterable[tuple[int, int]], *, for_good: bool) -> int:
    sqlite = connection.dialect.name == "sqlite"
    secure = sqlite and for_good and sqlite3.sqlite_version_info >= (3, 42)
    held = 0
    for first, last in spans:
        here = {"of": of.bytes, "first": first, "last": last}
        if sqlite:
            if connection.execute(_any_here, here).first() is None:
                continue
            if secure and not held:
                _tell_fts(connection, "secure-delete", 1)
            connection.execute(_delete_words, here)
        held += connection.execute(_delete_here, here).rowcount
    if held and sqlite and for_good and not secure:
        _tell_fts(connection, "optimize")
    return held


def _tell_fts(connection: Connection, command: str, rank: int | None = None) -> None:
    into = f"INSERT INTO {SEARCH_FTS} ({SEARCH_FTS}, rank) VALUES (:command, :rank)"  # noqa: S608 - our own name
    connection.execute(text(into), {"command": command, "rank": rank})


def rebuild(
    database: Database, scope: str | None, *, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> int:
    """
    Make the index anew from the log: of one scope, or of all; its tables too, where they are gone.

    Searching goes on meanwhile and finds what it found before. Broken off, it is finished by whoever searches next.

    Args:
        database: Where.
        scope: The tenant; None for all.
        progress: Is told how many entries of how many are known.

    Returns:
        How many entries were read.
    """
    database.write(_make)
    with database.read() as connection:
        known = list(
            connection.execute(_in_scope(select(conversation.c.id), scope).order_by(conversation.c.id)).scalars()
        )
    for n in range(0, len(known), ENTRIES):
        chosen = known[n : n + ENTRIES]
        database.write(partial(_forget, chosen=chosen))
    with database.read() as connection:
        total = behind(connection, scope)
    done = 0
    progress(done, total)
    while added := catch_up(database, scope, seconds=0.2):
        done += added
        progress(min(done, total), total)
    return done


def _forget(connection: Connection, chosen: Sequence[bytes]) -> None:
    plain = and_(conversation.c.id.in_(chosen), conversation.c.data_key == PLAIN)
    connection.execute(update(conversation).where(plain).values(indexed_length=0))


def _make(connection: Connection) -> None:
    there = set(inspect(connection).get_table_names())
    wanted = {conversation_search.name, *((SEARCH_FTS,) if connection.dialect.name == "sqlite" else ())}
    if not wanted <= there:
        conversation_search.drop(connection, checkfirst=True)
        if connection.dialect.name == "sqlite":
            connection.execute(text(f"DROP TABLE IF EXISTS {SEARCH_FTS}"))
        conversation_search.create(connection)


# --- searching ---------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Wanted:
    """
    What an entry must be besides what it says.

    Attributes:
        role: Of a turn.
        origin: Of a turn.
        model: That was asked or that answered: turns that a model wrote.
        since: Microseconds since the epoch; ``until`` likewise, not included.
        key_prefix: What the conversation's key begins with.
    """

    role: str | None = None
    origin: str | None = None
    model: str | None = None
    since: int | None = None
    until: int | None = None
    key_prefix: str | None = None

    def facets(self, scope: str) -> list[str]:
        """Write what can be asked of the index itself as words."""
        asked = (("s", scope), ("r", self.role), ("o", self.origin), ("m", self.model))
        return [_facet(kind, value.encode("utf-8", "replace")) for kind, value in asked if value is not None]


@frozen
class Place:
    """
    Where a page ended.

    Attributes:
        number: Of the last entry; where the best come first, of the newest that was in the order.
        offset: How many of that order were looked at.
    """

    number: int
    offset: int = 0


@frozen(kw_only=True)
class Found:
    """An entry that was meant, and where the next page begins after it."""

    conversation: UUID
    key: str | None
    position: int
    role: str | None
    origin: str | None
    at: int
    snippet: Snippet
    rank: float | None
    place: Place


@frozen
class Search:
    """
    A search of one scope.

    Attributes:
        scope: The tenant.
        query: What is looked for.
        wanted: What else must be.
    """

    scope: str
    query: Query
    wanted: Wanted = field(factory=Wanted)

    def newest(self, connection: Connection, limit: int, after: Place | None = None) -> list[Found]:
        """Find the newest entries, and those older than the last of a page."""
        found: list[Found] = []
        number, _, asked = self._asked(connection)
        low, high = self._range(after)
        size = max(limit, _PAGE)
        while self.query.groups and len(found) < limit:
            statement = select(number).where(asked, number >= low, number < high).order_by(number.desc()).limit(size)
            numbers = list(connection.execute(statement).scalars())
            for each, row in self._rows(connection, numbers):
                snippet = self._meant(connection, row)
                if snippet is not None:
                    found.append(_found(row, snippet, None, Place(each)))
                    if len(found) == limit:
                        break
            if len(numbers) < size:
                break
            high, size = numbers[-1], min(size * 2, 1024)
        return found

    def best(self, connection: Connection, limit: int, after: Place | None = None) -> list[Found]:
        """Find the best of the newest ``BEST_OF`` entries; what is added while they are paged stays out."""
        number, rank, asked = self._asked(connection)
        low, high = self._range(None)
        if after is not None:
            high = after.number + 1
        some = select(number.label("number"), rank.label("rank")).where(asked, number >= low, number < high)
        inner = some.order_by(number.desc()).limit(BEST_OF).subquery()
        offset = 0 if after is None else after.offset
        found: list[Found] = []
        top = None if after is None else after.number
        size = max(limit, _PAGE)
        while self.query.groups and len(found) < limit:
            if top is None:
                top = connection.execute(select(func.max(inner.c.number))).scalar()
                if top is None:
                    break
            ordered = select(inner.c.number, inner.c.rank).order_by(inner.c.rank, inner.c.number.desc())
            ranks = connection.execute(ordered.limit(size).offset(offset)).all()
            rows = dict(self._rows(connection, [each for each, _ in ranks]))
            for n, (each, score) in enumerate(ranks, start=1):
                snippet = self._meant(connection, rows[each]) if each in rows else None
                if snippet is not None:
                    found.append(_found(rows[each], snippet, -float(score), Place(top, offset + n)))
                    if len(found) == limit:
                        break
            if len(ranks) < size:
                break
            offset += size
        return found

    def _range(self, after: Place | None) -> tuple[int, int]:
        wanted = self.wanted
        low = 0 if wanted.since is None else min(max(wanted.since - _SLACK, 0), _LATEST) * _TIES
        high = LAST if wanted.until is None else min(max(wanted.until + _SLACK, 0), _LATEST) * _TIES
        return low, high if after is None else min(high, after.number)

    def _asked(self, connection: Connection) -> tuple[ColumnElement[int], ColumnElement[Any], ColumnElement[bool]]:
        """Say for a database what to read, how good it is (lower is better) and what to ask for."""
        facets = self.wanted.facets(self.scope)
        dialect = connection.dialect.name
        row = conversation_search.c
        if dialect == "sqlite":
            asked: Any = text(f"{SEARCH_FTS} MATCH :query").bindparams(query=_fts_query(facets, self.query))
            return _fts.c.rowid, literal_column("rank"), asked
        if dialect == "postgresql":
            query = cast(_tsquery(facets, self.query), TextQuery)
            return row.number, -func.ts_rank(row.words, query), row.words.op("@@")(query)
        score: Any = text("MATCH (words) AGAINST (:query IN BOOLEAN MODE)").bindparams(
            query=_boolean(facets, self.query)
        )
        return row.number, literal_column("0"), score

    def _rows(self, connection: Connection, numbers: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Read the entries of some numbers, in their order; those of other scopes and keys are not among them."""
        row, entry, key = conversation_search.c, conversation_entry.c, conversation_key.c
        statement = (
            select(
                row.number, entry.conversation, entry.position, entry.kind, entry.at, entry.header, entry.body, key.key
            )
            .select_from(conversation_search)
            .join(conversation, conversation.c.id == row.conversation)
            .join(conversation_entry, and_(entry.conversation == row.conversation, entry.position == row.position))
            .outerjoin(conversation_key, key.conversation == row.conversation)
            .where(
                conversation.c.scope == self.scope.encode(),
                conversation.c.data_key == PLAIN,
                entry.body.is_not(None),
                row.number.in_(bindparam("numbers", expanding=True, type_=BigInteger())),
            )
        )
        wanted = self.wanted
        if wanted.since is not None:
            statement = statement.where(entry.at >= wanted.since)
        if wanted.until is not None:
            statement = statement.where(entry.at < wanted.until)
        if wanted.key_prefix is not None:
            statement = statement.where(*beginning(key.key, wanted.key_prefix.encode()))
        for n in range(0, len(numbers), _PAGE):
            chosen = list(numbers[n : n + _PAGE])
            rows = {each.number: each for each in connection.execute(statement, {"numbers": chosen})}
            yield from ((each, rows[each]) for each in chosen if each in rows)

    def _meant(self, connection: Connection, row: Any) -> Snippet | None:
        role, origin, _ = _made(row) if row.kind == "turn" else (None, None, None)
        if self.wanted.role not in (None, role) or self.wanted.origin not in (None, origin):
            return None
        said = text_of(connection, bytes(row.conversation), row)
        marks = self.query.marks(said)
        return None if marks is None else words.snippet(said, marks)


def _found(row: Any, snippet: Snippet, rank: float | None, place: Place) -> Found:
    role, origin, _ = _made(row) if row.kind == "turn" else (None, None, None)
    return Found(
        conversation=UUID(bytes=bytes(row.conversation)),
        key=None if row.key is None else bytes(row.key).decode(),
        position=row.position,
        role=role,
        origin=origin,
        at=row.at,
        snippet=snippet,
        rank=rank,
        place=place,
    )


def _short(phrase: Phrase) -> Phrase:
    if len(phrase.words) <= _ENGINE_WORDS:
        return phrase
    return Phrase(phrase.words[:_ENGINE_WORDS])


def _safely_without(query: Query) -> list[Phrase]:
    """Choose what a database may leave out by itself: single whole words; the rest is compared here."""
    return [phrase for phrase in query.without if len(phrase.words) == 1 and not phrase.prefix]


def _fts_query(facets: Sequence[str], query: Query) -> str:
    """Write a query for FTS5; a word holds neither quotes nor signs."""

    def phrase(given: Phrase) -> str:
        short = _short(given)
        return f'"{" ".join(short.words)}"{"*" if short.prefix else ""}'

    asked = [f'("{facet}")' for facet in facets]
    asked += [f"({' OR '.join(map(phrase, group))})" for group in query.groups]
    without = _safely_without(query)
    wanted = f"({' AND '.join(asked)})"
    return f"{wanted} NOT ({' OR '.join(map(phrase, without))})" if without else wanted


def _tsquery(facets: Sequence[str], query: Query) -> str:
    """Write a query for PostgreSQL; a text too long for places is found by its words."""

    def quoted(word: str) -> str:
        return f"'{word}'"

    def phrase(given: Phrase, joined: str) -> str:
        short = _short(given)
        return f"({joined.join(map(quoted, short.words))}{':*' if short.prefix else ''})"

    def groups(joined: str) -> str:
        return " & ".join(f"({' | '.join(phrase(each, joined) for each in group)})" for group in query.groups)

    asked = [f"'{facet}'" for facet in facets]
    asked += [f"(({groups(' <-> ')}) | ('{_LONG}' & {groups(' & ')}))"]
    asked += [f"!'{each.words[0]}'" for each in _safely_without(query)]
    return " & ".join(asked)


def _boolean(facets: Sequence[str], query: Query) -> str:
    """Write a query for FULLTEXT in boolean mode."""

    def phrase(given: Phrase) -> str:
        short = _short(given)
        said = list(map(_padded, short.words[:-1] if short.prefix else short.words))
        if said:
            return f'"{" ".join(said)}"'
        return f"{short.words[-1]}*"

    asked = [f"+{_padded(facet)}" for facet in facets]
    asked += [f"+({' '.join(map(phrase, group))})" for group in query.groups]
    return " ".join([*asked, *(f"-{_padded(each.words[0])}" for each in _safely_without(query))])
