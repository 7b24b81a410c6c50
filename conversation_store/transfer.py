"""
Conversations out of a database and into another one: what was written there is written here, and proved first.

Both ways it goes line by line: an export holds a page of the log at a time, an import one line. What an import has
read of a conversation lies in a temporary file until all of it is proved; then it is written in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from hashlib import sha256
from tempfile import SpooledTemporaryFile, TemporaryFile
from typing import IO, Any, Final, Literal, Self, TypeAlias, get_args
from uuid import UUID

from attrs import Factory, define, evolve, field, frozen
from sqlalchemy import Connection

from conversation_store.api.request import Part, Request, joined
from conversation_store.audit import derived
from conversation_store.audit.derived import Began, Exchanges
from conversation_store.audit.faults import Fault, named, part_faults, shown
from conversation_store.errors import BusyError, CodecError, ContentError, LineError, NotFoundError, TransferError
from conversation_store.formats import html, jsonl, markdown, messages
from conversation_store.formats.jsonl import Arrived, Begun, Closing, Ended, Facts, Logged, Opening, Piece
from conversation_store.formats.messages import Message
from conversation_store.formats.reading import Cover, Erased, Verdict
from conversation_store.history import History, settings_at, turn_draft
from conversation_store.history import turns as read_turns
from conversation_store.preflight import Said, plan
from conversation_store.record import canonical, chain
from conversation_store.record.chain import Entry
from conversation_store.record.erasure import Gone
from conversation_store.record.turns import PREFILL_MARK, Origin, Turn, fields_of
from conversation_store.record.view import Span
from conversation_store.storage import blobs, identity, journal, ledger, log
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database
from conversation_store.storage.log import Head, Kept, Use
from conversation_store.storage.tables import KEY_BYTES, NO_TOKEN

PAGE: Final = 64
"""Entries read or written at a time."""

_IN_MEMORY: Final = 1024 * 1024
_LINES_IN_MEMORY: Final = 8 * 1024 * 1024
_OF_EXCHANGES: Final = frozenset({"settings", "request", "outcome"})
"""Kinds of entries from which the rows of exchanges are derived, beside the turn after an outcome."""
_COUNTED: Final = ("conversations", "entries", "blobs")


# --- out -----------------------------------------------------------------------------------------------------------


def every_id(database: Database, scope: str) -> Iterator[UUID]:
    """List the conversations of a scope, a page at a time."""
    last = None
    while True:
        with database.read() as connection:
            page = log.ids_after(connection, scope, last, PAGE)
        if not page:
            return
        yield from page
        last = page[-1]


def lines(database: Database, scope: str, conversations: Iterable[UUID], counted: Done) -> Iterator[bytes]:
    """
    Write conversations as lines, each after those it was forked from; see ``formats.jsonl``.

    *counted* is told how many entries are written.

    Raises:
        NotFoundError: There is no such conversation in this scope.
    """
    told: set[bytes] = set()
    done: set[UUID] = set()
    entries, head = 0, None
    yield jsonl.write(Opening(jsonl.VERSION))
    for each in conversations:
        for one in _with_parents(database, each, done):
            with database.read() as connection:
                kept = log.find(connection, scope, one)
                arrived = _arrived(connection, kept)
            if kept is None:
                raise NotFoundError(str(one))
            yield jsonl.write(Begun(one, kept.key, kept.forked_from))
            yield from _entries(database, kept, told, counted)
            yield from map(jsonl.write, arrived)
            yield jsonl.write(Ended(one, kept.head.length, kept.head.digest))
            entries, head = entries + kept.head.length, kept.head.digest
            done.add(one)
    yield jsonl.write(Closing(len(done), entries, len(told), head))


def _with_parents(database: Database, of: UUID, done: set[UUID]) -> list[UUID]:
    """List a conversation and what it was forked from, the oldest first, but for what was written."""
    found: list[UUID] = []
    each: UUID | None = of
    while each is not None and each not in done:
        found.append(each)
        with database.read() as connection:
            each = log.parent_of(connection, each)
    return found[::-1]


def _arrived(connection: Connection, kept: Kept | None) -> list[Arrived]:
    if kept is None or kept.head.token == NO_TOKEN:
        return []
    position = kept.head.pending_position
    return [Arrived(position, at, data) for at, data in journal.pieces(connection, kept.id, position)]


def _entries(database: Database, kept: Kept, told: set[bytes], counted: Done) -> Iterator[bytes]:
    for first in range(0, kept.head.length, PAGE):
        last = min(first + PAGE, kept.head.length) - 1
        with database.read() as connection:
            page = log.read(connection, kept.id, first, last)
            used = blobs.used(connection, kept.id, first, last)
        counted.entries += len(page)
        for entry in page:
            uses = used.get(entry.position, ())
            for blob in uses:
                if blob.digest not in told:
                    told.add(blob.digest)
                    yield from _blob(database, blob)
            yield jsonl.write(Logged(entry, [(blob.digest, blob.salt) for blob in uses]))


def _blob(database: Database, blob: Blob) -> Iterator[bytes]:
    seen = blob.media
    measures = () if seen is None else (seen.width, seen.height, seen.pages)
    yield jsonl.write(Facts(blob.digest, blob.media_type, blob.size, *measures))
    for data in blobs.chunks(database, blob):
        yield jsonl.write(Piece(blob.digest, data))


@define
class Done:
    """How many entries are written, of how many."""

    entries: int = 0
    of: int = 0

    @property
    def share(self) -> float:
        """The share that is done, from 0 to 1; 0 where nobody counts."""
        return min(1.0, self.entries / self.of) if self.of else 0.0


class Export(Iterator[bytes]):
    """
    A conversation on its way elsewhere: iterate it once for its bytes.

    Attributes:
        lost: What the form has no place for, and how often it was left out; known once all was read.
        betas: What goes into the header of the call that makes a batch of it; empty for the other forms.
        faults: What is wrong with the record, where a verdict was asked for.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        lost: Mapping[str, int] | None = None,
        *,
        betas: Sequence[str] = (),
        done: Done | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        self._pieces = pieces
        self._done = Done() if done is None else done
        self.betas = tuple(betas)
        self.faults = tuple(faults)
        self.lost: Mapping[str, int] = {} if lost is None else lost

    def __next__(self) -> bytes:
        return next(self._pieces)

    @property
    def share(self) -> float:
        """How much of it is written, from 0 to 1, by the entries it is made of."""
        return self._done.share


Form: TypeAlias = Literal["jsonl", "messages", "batch", "openai", "markdown", "html"]
FORMS: Final[tuple[str, ...]] = get_args(Form)


def written(database: Database, scope: str, conversations: Iterable[UUID], entries: int) -> Export:
    """Write conversations, of so many entries in all, as ``lines`` does."""
    counted = Done(of=entries)
    return Export(lines(database, scope, conversations, counted), done=counted)


def export(history: History, form: Form, custom_id: str | None = None, faults: Sequence[Fault] | None = None) -> Export:
    """
    Write one conversation; see ``Conversation.export``.

    Raises:
        ContentError: There is no such form, or the conversation is nothing for it.
        RuleViolationError: The API would refuse what is to go into a batch.
    """
    if form not in FORMS:
        raise ContentError("form", f"is one of {', '.join(FORMS)}")
    if faults is not None and form != "html":
        raise ContentError("verdict", "stands above a transcript as html, and in nothing else")
    history.refresh()
    counted = Done(of=history.head.length)
    if form == "jsonl":
        return written(history.database, history.kept.scope, [history.id], history.head.length)
    if form == "messages":
        return Export(messages.array(_wires(turns_of(history, counted))), done=counted)
    if form == "batch":
        return _batch(history, custom_id)
    if form == "openai":
        lost: dict[str, int] = {}
        system = canonical.object_of(history.settings.body).get("system")
        return Export(messages.chat_completions(system, turns_of(history, counted), lost), lost, done=counted)
    kept = history.kept
    settings = canonical.object_of(history.settings.body)
    cover = Cover(id=history.id, key=kept.key, title=kept.title, settings=settings)
    turns = shown_by(history, counted)
    if form == "markdown":
        return Export(markdown.written(cover, turns), done=counted)
    verdict = None if faults is None else _verdict(history, faults)
    return Export(html.written(cover, turns, verdict), done=counted, faults=faults or ())


def _verdict(history: History, faults: Sequence[Fault]) -> Verdict:
    told = [
        (each.conversation, each.position, f"{each.code}: expected {each.expected}, found {each.found}")
        for each in faults
    ]
    with history.database.read() as connection:
        requests = len(ledger.read_all(connection, history.id))
    return Verdict(at=identity.now(), entries=history.head.length, requests=requests, faults=told)


def _wires(turns: Iterable[Turn]) -> Iterator[bytes]:
    """Give the messages that turns make, one in memory at a time."""
    parts = (Part(b'"gather":true' in turn.header, turn.role, (turn.wire,)) for turn in turns)
    for pieces in joined(parts):
        yield b"".join(piece for piece in pieces if isinstance(piece, bytes))


def _batch(history: History, custom_id: str | None) -> Export:
    planned = plan(history, Said(overrides={}, sending=False))
    shown = history.messages if planned.shown is None else planned.shown.messages
    request = shown.request(
        [],
        messages.batch_settings(planned.settings),
        version=planned.request.version,
        betas=planned.request.betas,
        secrets={},
        markers=planned.markers,
    )
    name = f"{history.id.hex}-{history.head.length}" if custom_id is None else custom_id
    return Export(messages.batch(name, _told(request)), betas=request.betas)


def _told(request: Request) -> Iterator[bytes]:
    for piece in request.pieces:
        if isinstance(piece, bytes):
            yield piece
        else:
            yield from piece


def turns_of(history: History, counted: Done) -> Iterator[Turn]:
    """Read the turns of the view, a page at a time; *counted* is told of how many entries they are."""
    return (each for each in shown_by(history, counted, erased=False) if isinstance(each, Turn))


def shown_by(history: History, counted: Done, *, erased: bool = True) -> Iterator[Turn | Erased]:
    """Read the turns of the view, as ``turns_of``, and where one of them was erased, what is left to say of it."""
    length = history.head.length
    counted.of = sum(span.upto(length) - span.first + 1 for span in history.view[0])
    for span in history.view[0]:
        last = span.upto(length)
        for first in range(span.first, last + 1, PAGE):
            page = evolve(span, first=first, last=min(first + PAGE - 1, last))
            with history.database.read() as connection:
                found: list[Turn | Erased] = [*read_turns(history.database, connection, (page,), length)]
                if erased:
                    found += _erased(connection, page)
            counted.entries += page.upto(length) - first + 1
            yield from sorted(found, key=lambda each: each.position)


def _erased(connection: Connection, span: Span) -> list[Erased]:
    return [
        Erased(position, at, str(fields_of(header).get("origin")), span.conversation)
        for position, at, header in log.read_erased(connection, span.conversation, span.first, span.upto(0))
        if PREFILL_MARK not in header
    ]


# --- in ------------------------------------------------------------------------------------------------------------


@frozen(kw_only=True)
class Taken:
    """
    A conversation that was imported.

    Attributes:
        id: The conversation.
        key: The host's name for it, None for none.
        length: How many entries its log has now.
        added: How many of them were not here before.
    """

    id: UUID
    key: str | None
    length: int
    added: int


def load(database: Database, scope: str, given: Iterable[bytes]) -> list[Taken]:
    """
    Read lines that ``lines`` wrote, prove them, and write their conversations; each whole or not at all.

    Raises:
        TransferError: Something was not taken. It has every fault, and what was taken all the same.
        DatabaseError: The database refused; the conversations before are written.
    """
    with _Reader(database, scope) as reader:
        for number, line in enumerate(given, 1):
            if line.strip():
                reader.take(number, line)
        reader.close_up()
        if reader.faults:
            raise TransferError(faults=reader.faults, taken=reader.taken)
        return reader.taken


def append_messages(history: History, given: Sequence[Message], source: str) -> int:
    """
    Append messages from elsewhere to a conversation that holds the first of them, or none, already.

    Returns:
        How many of them were new.

    Raises:
        TransferError: Those that are here are others, or the conversation went on since.
        ConflictError, BusyError: Somebody else is at it; nothing was written.
    """
    here = [
        turn for turn in turns_of(history, Done()) if turn.origin is Origin.IMPORTED and turn.conversation == history.id
    ]
    for turn, message in zip(here, given, strict=False):
        if turn.wire != message.wire:
            fault = LineError(message.line, f"turn {turn.position} was imported otherwise", history.id)
            raise TransferError(faults=[fault])
    new = given[len(here) :]
    if not new:
        return 0
    if here and len(history.messages) > len(here):
        fault = LineError(new[0].line, "the conversation went on after what was imported", history.id)
        raise TransferError(faults=[fault])
    history.refuse_busy()
    at = identity.now()
    drafts, uses = [], {}
    for n, message in enumerate(new):
        kept = history.detached(message.wire, at)
        uses[n] = kept.blobs
        told = {"file": source or None, "line": message.line, **message.beside}
        about = {"source": {name: value for name, value in told.items() if value is not None}}
        drafts.append(turn_draft({"origin": Origin.IMPORTED.value}, kept, at, about))
    history.append(drafts, uses)
    return len(new)


class _RefusedError(Exception):
    """Why a conversation that is proved cannot be written here."""


def _temporary() -> IO[bytes]:
    return SpooledTemporaryFile(max_size=_IN_MEMORY)


# --- blobs on their way --------------------------------------------------------------------------------------------


@frozen
class _Waiting:
    """A blob that was read and proved: what is known of it, and where its bytes lie."""

    facts: Facts
    start: int


@define
class _Blobs:
    """Blobs as their lines are read, in a temporary file until a conversation that uses them is written."""

    known: dict[bytes, _Waiting] = field(factory=dict, init=False)
    _file: IO[bytes] = field(factory=_temporary, init=False)
    _now: tuple[Facts, int, Any] | None = field(default=None, init=False)
    _end: int = field(default=0, init=False)

    def begin(self, facts: Facts) -> None:
        """Begin with a blob."""
        self._now = (facts, self._end, sha256())

    def add(self, piece: Piece) -> None:
        """
        Take the next bytes.

        Raises:
            CodecError: They are another blob's.
        """
        if self._now is None or self._now[0].digest != piece.digest:
            raise CodecError("this piece follows no line of its blob")
        self._now[2].update(piece.data)
        self._file.seek(self._end)
        self._file.write(piece.data)
        self._end += len(piece.data)

    def settle(self) -> str | None:
        """End the blob that was read; say what is wrong with it."""
        if self._now is None:
            return None
        (facts, start, state), self._now = self._now, None
        if state.digest() != facts.digest or self._end - start != facts.size:
            return f"the blob {facts.digest.hex()} is not whole, or not what its digest says"
        self.known[facts.digest] = _Waiting(facts, start)
        return None

    def pieces(self, blob: _Waiting) -> Iterator[bytes]:
        """Read a blob again."""
        for start in range(0, blob.facts.size, blobs.CHUNK):
            self._file.seek(blob.start + start)
            yield self._file.read(min(blobs.CHUNK, blob.facts.size - start))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


# --- reading ----------------------------------------------------------------------------------------------------

_Used: TypeAlias = tuple[Entry, Sequence[tuple[bytes, bytes]]]
"""An entry, and for each blob it uses the digest and the salt of that use."""


@define
class _Lines:
    """The entries of a log until they are written: the first as they were read, what is more as lines in a file."""

    _read: list[_Used] = Factory(list)
    _size: int = 0
    _file: IO[bytes] | None = None

    def add(self, found: Logged, line: bytes) -> None:
        """Keep the next entry, which was read from a line."""
        self._size += len(line)
        if self._size <= _LINES_IN_MEMORY:
            self._read.append((found.entry, found.uses))
            return
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115 - closed by close()
        self._file.write(line if line.endswith(b"\n") else line + b"\n")

    def __iter__(self) -> Iterator[_Used]:
        """Give the entries and what they use, from the first; may be done again."""
        yield from self._read
        if self._file is not None:
            self._file.seek(0)
            yield from (
                (found.entry, found.uses) for line in self._file if isinstance(found := jsonl.read(line), Logged)
            )

    def close(self) -> None:
        """Let go of them."""
        self._read = []
        if self._file is not None:
            self._file.close()


@define
class _Log:
    """
    A conversation as far as its lines were read: where its log stands, and what its row will tell.

    ``lines`` holds them until they are written, ``missing`` what an ``erased`` entry has to explain.
    """

    begun: Begun
    line: int
    links: chain.Links
    digest: bytes
    length: int = 0
    view: int = 0
    settings: int = 0
    token: bytes = NO_TOKEN
    pending: int = -1
    lines: _Lines = Factory(_Lines)
    trusted: bool = True
    broken: bool = False
    first_at: int = 0
    last_at: int = 0
    title: str | None = None
    metadata: bytes | None = None
    parent: tuple[int, bytes] | None = None
    blobs: set[bytes] = Factory(set)
    arrived: list[Arrived] = Factory(list)
    missing: list[tuple[Fault, bool, int]] = Factory(list)
    erased: list[Mapping[str, Any]] = Factory(list)

    @property
    def head(self) -> Head:
        """Where it stands."""
        return Head(
            length=self.length,
            digest=self.digest,
            view_position=self.view,
            settings_position=self.settings,
            token=self.token,
            pending_position=self.pending,
        )


@define
class _Reader:
    """Reads lines in their order; keeps what is proved and what is wrong."""

    database: Database
    scope: str
    faults: list[LineError] = field(factory=list, init=False)
    taken: list[Taken] = field(factory=list, init=False)
    _number: int = field(default=0, init=False)
    _opened: bool = field(default=False, init=False)
    _closed: bool = field(default=False, init=False)
    _now: _Log | None = field(default=None, init=False)
    _counts: dict[str, int] = field(factory=lambda: dict.fromkeys(_COUNTED, 0), init=False)
    _blobs: _Blobs = field(factory=_Blobs, init=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._blobs.close()
        if self._now is not None:
            self._now.lines.close()

    def take(self, number: int, line: bytes) -> None:
        """Take one line, or note what is wrong with it."""
        self._number = number
        try:
            self._take(jsonl.read(line), line)
        except (CodecError, ContentError) as error:
            self._fault(str(error))
            if not self._opened:
                raise TransferError(faults=self.faults, taken=[]) from None

    def close_up(self) -> None:
        """Notice where the lines were cut off."""
        self._number += 1
        self._settle_blob()
        if self._now is not None:
            self._fault("the lines end within a conversation")
        elif not self._closed:
            self._fault("the last line is missing: something was cut off")

    def _fault(self, message: str) -> None:
        now = self._now
        if now is not None:
            now.broken = True
        self.faults.append(LineError(self._number, message, None if now is None else now.begun.conversation))

    def _take(self, found: jsonl.Line, line: bytes) -> None:
        if not self._opened and not isinstance(found, Opening):
            raise CodecError("the first line names the format, and this one does not")
        if self._closed:
            raise CodecError("nothing follows the line that counts")
        if not isinstance(found, Piece):
            self._settle_blob()
        match found:
            case Logged():  # nearly every line
                self._log(found, line)
            case Opening():
                self._opened = True
            case Begun():
                self._begin(found)
            case Facts():
                self._blobs.begin(found)
                self._counts["blobs"] += 1
            case Piece():
                self._blobs.add(found)
            case Arrived():
                self._current().arrived.append(found)
            case Ended():
                self._end(found)
            case Closing():
                self._close(found)

    def _settle_blob(self) -> None:
        message = self._blobs.settle()
        if message is not None:
            self._fault(message)

    def _current(self) -> _Log:
        if self._now is None:
            raise CodecError("this line belongs to no conversation")
        return self._now

    def _begin(self, begun: Begun) -> None:
        before = self._now
        if before is not None:
            self._fault("the conversation before has no end")
            before.lines.close()
        self._now = _Log(
            begun,
            self._number,
            chain.Links(begun.conversation.bytes),
            chain.genesis(begun.conversation),
        )
        # What is told twice is told once too often: which of the two is meant nobody knows.
        self._now.broken = before is not None and before.begun.conversation == begun.conversation
        self._counts["conversations"] += 1
        if begun.key is not None and len(begun.key.encode()) > KEY_BYTES:
            raise CodecError(f"a key has at most {KEY_BYTES} bytes")

    def _log(self, found: Logged, line: bytes) -> None:
        now, entry = self._current(), found.entry
        self._counts["entries"] += 1
        before, head, trusted = now.length, now.digest, now.trusted
        # Go on from what is told, so that one change is one fault.
        now.length, now.digest, now.trusted = entry.position + 1, entry.digest, True
        now.lines.add(found, line)
        if entry.kind not in chain.KINDS:
            raise CodecError(f"expected a kind of entry, found {shown(entry.kind)}")
        if entry.position != before and trusted:
            raise CodecError(f"entry {before} was to follow, not {entry.position}")
        digest = now.links.after(head, entry.position, entry.at, entry.kind, entry.header)
        if trusted and digest != entry.digest:
            raise CodecError("the digest is not that of this entry after the one before")
        fields = fields_of(entry.header) if found.fields is None else found.fields
        for fault in part_faults(now.begun.conversation, entry, fields):
            if fault.code != "missing":
                raise CodecError(f"{fault.code}: the header commits to {fault.expected}, found {fault.found}")
            now.missing.append((fault, entry.salt is entry.body is entry.about is None, self._number))
        if entry.kind == "erased":
            now.erased.append(fields)
        self._uses(now, found, fields)
        _note(now, entry, fields)

    def _uses(self, now: _Log, found: Logged, fields: Mapping[str, Any]) -> None:
        committed = named(fields)
        if committed and not found.uses and found.entry.salt is None:
            return  # what is missing of it is looked at as a whole
        if len(committed) != len(found.uses):
            raise CodecError(f"the header names {len(committed)} blobs, the line {len(found.uses)}")
        for expected, (digest, salt) in zip(committed, found.uses, strict=True):
            blob = self._blobs.known.get(digest)
            if blob is None:
                raise CodecError(f"no line before has the blob {digest.hex()}")
            if chain.part(salt, blob.facts.media_type, digest).hex() != expected:
                raise CodecError(f"the header does not commit to the blob {digest.hex()}")
            now.blobs.add(digest)

    def _end(self, ended: Ended) -> None:
        now = self._current()
        stands = (now.begun.conversation, now.length, now.digest)
        if (ended.conversation, ended.length, ended.head) != stands:
            self._fault("the conversation's length or head is another one than its entries make")
        if not now.length:
            self._fault("a conversation has at least one entry")
        self._settle_missing(now)
        try:
            if not now.broken:
                self.taken.append(self._written(now))
        except (_RefusedError, BusyError) as refused:
            self._fault(str(refused))
        finally:
            now.lines.close()
            self._now = None

    def _settle_missing(self, now: _Log) -> None:
        """Take for erased what an ``erased`` entry names; anything else that is missing is a fault of its line."""
        gone = Gone.read(now.erased)
        for fault, whole, line in now.missing:
            part = "request" if fault.expected == "a request_salt" else "content"
            if not (gone.holds(part, fault.position) and (whole or part == "request")):
                now.broken = True
                message = f"missing: the header commits to {fault.expected}, found {fault.found}"
                self.faults.append(LineError(line, message, now.begun.conversation))

    def _close(self, closing: Closing) -> None:
        if self._now is not None:
            self._fault("the conversation before has no end")
            self._now.lines.close()
            self._now = None
        self._closed = True
        told = (closing.conversations, closing.entries, closing.blobs)
        if told != tuple(self._counts[name] for name in _COUNTED):
            raise CodecError("the counts are others than those of the lines: something is missing")

    # --- writing what is proved ------------------------------------------------------------------------------------

    def _written(self, now: _Log) -> Taken:
        at, of = identity.now(), now.begun.conversation
        for digest in now.blobs:
            blob = self._blobs.known[digest]
            facts = blob.facts
            as_kept = Blob(self.scope.encode(), digest, facts.size, facts.media_type)
            measures = {"width": facts.width, "height": facts.height, "pages": facts.pages}
            pieces = partial(self._blobs.pieces, blob)
            if blobs.put_known(self.database, self.scope, as_kept, measures, pieces, of=of, at=at) != facts.media_type:
                raise _RefusedError(f"the blob {digest.hex()} is kept here as something else than {facts.media_type}")
        if now.pending >= 0:
            # Whoever was at it is not here: it reads as unknown, and recover() takes it over.
            now.token = identity.new_token()
        added = self.database.write(partial(_write, scope=self.scope, now=now))
        self.database.appended()
        with self.database.read() as connection:
            kept = log.find(connection, self.scope, now.begun.conversation)
        if kept is None:
            raise NotFoundError(str(now.begun.conversation))
        return Taken(id=kept.id, key=kept.key, length=kept.head.length, added=added)


def _note(now: _Log, entry: Entry, fields: Mapping[str, Any]) -> None:
    """Note what the conversation's row tells after an entry."""
    position = entry.position
    now.last_at = entry.at
    if position == 0:
        now.first_at = entry.at
        _note_parent(now, entry, fields)
    if entry.kind == "view" and "once" not in fields:
        now.view = position
    elif entry.kind == "settings":
        now.settings = position
    elif entry.kind == "request":
        now.pending = position
    elif entry.kind == "outcome":
        now.pending = -1
    elif entry.kind == "labelled" and entry.body is not None:
        said = canonical.object_of(entry.body)
        title, metadata = said.get("title"), said.get("metadata")
        now.title = title if isinstance(title, str) else None
        now.metadata = None if metadata is None else canonical.dumps(metadata)


def _note_parent(now: _Log, entry: Entry, fields: Mapping[str, Any]) -> None:
    if entry.kind != "opened":
        raise CodecError("the first entry of a log is of kind opened")
    parent = fields.get("parent")
    try:
        known = None if parent is None else (UUID(parent["conversation"]), parent["length"], parent["digest"])
        if (None if known is None else known[0]) != now.begun.parent:
            raise CodecError("the entry names another parent than the line before")
        if known is not None:
            now.parent = (int(known[1]), bytes.fromhex(known[2]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, CodecError):
            raise
        raise CodecError("the entry does not say how it was forked") from None


def _write(connection: Connection, scope: str, now: _Log) -> int:
    """Write a conversation that is proved, or what is new of it; nothing where all of it is here."""
    of = now.begun.conversation
    kept = log.find(connection, scope, of)
    if kept is None:
        _refuse_new(connection, scope, now)
        log.put_row(
            connection,
            of,
            scope,
            now.head,
            at=now.first_at,
            updated=now.last_at,
            key=now.begun.key,
            forked_from=now.begun.parent,
        )
        first, pending = 0, None
    else:
        first = kept.head.length
        shared = min(first, now.length) - 1
        here = log.digest_at(connection, of, shared)
        if next((entry.digest for entry, _ in now.lines if entry.position == shared), None) != here:
            raise _RefusedError("another log is here under this id: the two part before the shorter one ends")
        if now.length <= first:
            return 0
        if kept.head.token != NO_TOKEN and not kept.lease_over:
            raise BusyError(of, kept.lease_until)
        if not log.put_head(connection, of, kept.head, now.head, now.last_at):
            raise BusyError(of, kept.lease_until)
        pending = kept.head.pending_position if kept.head.token != NO_TOKEN else None
    _write_entries(connection, scope, now, first, pending)
    log.label(connection, of, now.title, now.metadata)
    if now.pending >= 0:
        journal.put(connection, of, now.pending, [(each.at, each.data) for each in now.arrived])
    return now.length - first


def _refuse_new(connection: Connection, scope: str, now: _Log) -> None:
    if log.is_taken(connection, now.begun.conversation):
        raise _RefusedError("a conversation of another scope has this id")
    if now.begun.key is not None and log.find(connection, scope, now.begun.key) is not None:
        raise _RefusedError(f"another conversation has the key {now.begun.key!r} here")
    if now.begun.parent is not None and now.parent is not None:
        length, digest = now.parent
        if log.find(connection, scope, now.begun.parent) is None:
            raise _RefusedError(f"it was forked from {now.begun.parent}, which is neither here nor before it")
        if log.digest_at(connection, now.begun.parent, length - 1) != digest:
            raise _RefusedError(f"it was forked from another log than that of {now.begun.parent} here")


def _write_entries(connection: Connection, scope: str, now: _Log, first: int, pending: int | None) -> None:
    of = now.begun.conversation
    open_now = None if pending is None else ledger.read(connection, of, pending)
    deriving = Exchanges(of, lambda position: settings_at(connection, of, position).body, open_now)
    page: list[Entry] = []
    uses: list[Use] = []
    for entry, used in now.lines:
        if entry.position < first:
            continue
        page.append(entry)
        uses += [
            Use(entry=entry.position, number=number, digest=digest, salt=salt)
            for number, (digest, salt) in enumerate(used)
        ]
        if len(page) == PAGE:
            _write_page(connection, scope, deriving, page, uses)
            page, uses = [], []
    if page:
        _write_page(connection, scope, deriving, page, uses)
    _put_exchanges(connection, deriving.settle())


def _write_page(
    connection: Connection, scope: str, deriving: Exchanges, page: Sequence[Entry], uses: Sequence[Use]
) -> None:
    log.put_entries(connection, deriving.conversation, scope, page, uses)
    for entry in page:
        if entry.kind not in _OF_EXCHANGES and not deriving.waits:
            continue
        try:
            _put_exchanges(connection, deriving.take(entry))
        except (LookupError, TypeError, ValueError, AttributeError):
            raise _RefusedError(f"what entry {entry.position} tells of an exchange cannot be read") from None


def _put_exchanges(connection: Connection, told: Iterable[Began | derived.Ended]) -> None:
    """Write the rows of exchanges as the log tells them."""
    for each in told:
        if isinstance(each, Began):
            ledger.begin(connection, each.exchange)
            continue
        ledger.finish(connection, each.exchange, each.outcome)
        if each.outcome is not None:
            journal.clear(connection, each.exchange.conversation, each.exchange.position)
