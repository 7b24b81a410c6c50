"""
Transcripts from elsewhere into conversations: what is new is appended, what differs is told, nothing is doubled.

An importer reads, this module writes: a conversation at a time, a bounded number of turns in a transaction.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from io import BytesIO
from os import PathLike
from pathlib import Path
from tempfile import NamedTemporaryFile, SpooledTemporaryFile
from typing import Any, BinaryIO, Final, Literal, TypeAlias, get_args
from uuid import UUID

from attrs import define, field, frozen
from sqlalchemy import Connection

from conversation_store import attachments, exchanges, views
from conversation_store.api.request import Settings
from conversation_store.attachments import Detached
from conversation_store.errors import (
    BusyError,
    CodecError,
    ConfigurationError,
    ConflictError,
    ContentError,
    ConversationStoreError,
    LeaseLostError,
    UnknownOutcomeError,
)
from conversation_store.formats import (
    agent_sessions,
    bodies,
    chat_completions,
    claude_ai,
    claude_code,
    langchain,
    llm,
    pydantic_ai,
)
from conversation_store.formats.documents import Document, first_values
from conversation_store.formats.rows import Tables
from conversation_store.formats.transcripts import LeftOut, Reading, Refused, Told, Transcript, text
from conversation_store.history import History, Options, settings_draft, turn_draft
from conversation_store.record import canonical, chain
from conversation_store.record.chain import Entry, draft
from conversation_store.record.turns import Origin
from conversation_store.record.view import Span
from conversation_store.storage import identity, log
from conversation_store.storage.blobs import Blob
from conversation_store.storage.engine import Database
from conversation_store.storage.foreign import BEGINNING, ForeignTables
from conversation_store.storage.log import Head
from conversation_store.storage.tables import KEY_BYTES
from conversation_store.transfer import PAGE, Taken

Form: TypeAlias = Literal[
    "messages", "claude-code", "claude-ai", "llm", "openai", "openai-agents", "langchain", "pydantic-ai"
]
FORMS: Final[tuple[str, ...]] = get_args(Form)
"""Whose transcripts can be imported."""

LISTED: Final = 10_000
"""Refusals that a report lists; those after them are counted."""

_TURNS: Final = 256
_BYTES: Final = 4 * 1024 * 1024
_KINDS: Final = 100
_IN_MEMORY: Final = 8 * 1024 * 1024
_LOOKED_AT: Final = 50

Source: TypeAlias = "str | PathLike[str] | bytes | BinaryIO | Sequence[Any] | Mapping[str, Any]"
"""The path of a file, its bytes, an open file, or the values that JSON would give."""


@frozen(kw_only=True)
class Imported:
    """
    What became of a source.

    Attributes:
        form: Whose form it was read as.
        taken: The conversations, new and old, in the order of the source; ``added`` is in turns.
        added: Turns that were not here before.
        here: Turns that were here already, and are the same.
        refused: What was not taken, in the order it was met; the first 10,000.
        more: How many were refused after those.
        left_out: What is no message in the source's own terms, and how often.
    """

    form: str
    taken: Sequence[Taken]
    added: int
    here: int
    refused: Sequence[Refused]
    more: int
    left_out: Mapping[str, int]


def _silent(_read: int) -> None:
    """Tell nobody."""


@frozen(kw_only=True)
class Terms:
    """
    How a caller wants a source to be taken.

    Attributes:
        form: Whose form it has; None to find out.
        key: The key of its one conversation.
        prefix: What the keys of its conversations begin with, before the source's own ids; None for the form.
        system: Whether system messages are taken, as turns of the role ``system``.
        progress: Is told how many bytes of the source were read; of tables, how many of messages.
    """

    form: str | None = None
    key: str | None = None
    prefix: str | None = None
    system: bool = False
    progress: Callable[[int], None] = _silent


_TEXTS: Final[Mapping[str, Any]] = {
    each.FORM: each
    for each in (bodies, claude_code, claude_ai, chat_completions, agent_sessions, langchain, pydantic_ai)
}
_TABLES: Final[Mapping[str, Any]] = {each.FORM: each for each in (llm, agent_sessions, langchain)}


def take(database: Database, scope: str, options: Options, source: Source, terms: Terms) -> Imported:
    """
    Import a source; see ``Store.import_from``.

    Raises:
        ContentError: There is no such form or file, the form cannot be told, or a key is needed.
        CodecError: The source is nothing that could be read at all.
        DatabaseError: The database refused; what was written before stays.
    """
    if terms.form is not None and terms.form not in FORMS:
        raise ContentError("form", f"is one of {', '.join(FORMS)}")
    with ExitStack() as held:
        with _told_of_the_source():
            opened = _opened(source, held)
            form, reading = _reading(opened, terms, held)
        counted = terms.progress if opened.path is not None else _silent
        return _Import(database, scope, options, terms, form, opened.name, counted).run(reading)


def _reading(opened: _Opened, terms: Terms, held: ExitStack) -> tuple[str, Reading]:
    if opened.path is not None:
        tables = held.enter_context(ForeignTables(opened.path))
        what = "this SQLite file has no table that an importer knows"
        form = _chosen(_fitting_tables(tables), terms.form, list(_TABLES), what)
        return form, _TABLES[form].read(tables)
    document = Document(opened.file, opened.name, terms.progress)
    what = "this is no transcript that an importer knows"
    fitting = [terms.form] if terms.form and terms.form in _TEXTS else _fitting_text(document)
    form = _chosen(fitting, terms.form, list(_TEXTS), what)
    return form, _TEXTS[form].read(document)


# --- the source ----------------------------------------------------------------------------------------------------


def forms_of(source: Source) -> Sequence[str]:
    """
    Say which forms a source may have; of a text, those that the most of its first values fit.

    Raises:
        ContentError: It cannot be read.
        CodecError: It is a SQLite file, and damaged.
    """
    with _told_of_the_source(), ExitStack() as held:
        opened = _opened(source, held)
        if opened.path is not None:
            return _fitting_tables(held.enter_context(ForeignTables(opened.path)))
        return _fitting_text(Document(opened.file))


@contextmanager
def _told_of_the_source() -> Iterator[None]:
    try:
        yield
    except ConversationStoreError:
        raise
    except (OSError, ValueError) as error:
        raise ContentError("source", f"cannot be read: {getattr(error, 'strerror', None) or error}") from None


@frozen
class _Opened:
    """A source as a file that can be read twice, what it is called, and where it lies if it is of SQLite."""

    file: BinaryIO
    name: str
    path: Path | None


def _opened(source: Source, held: ExitStack) -> _Opened:
    file, name, path = _file(source, held)
    file.seek(0)
    if file.read(len(BEGINNING)) != BEGINNING:
        return _Opened(file, name, None)
    return _Opened(file, name, path if path is not None else _written_down(file, held))


def _file(source: Source, held: ExitStack) -> tuple[BinaryIO, str, Path | None]:
    path: Path | None
    if isinstance(source, (str, PathLike)):
        path = Path(source)
        return held.enter_context(path.open("rb")), text(path.name), path
    if isinstance(source, (bytes, bytearray)):
        return BytesIO(source), "", None
    if isinstance(source, (Sequence, Mapping)):
        return BytesIO(canonical.dumps(source, "source")), "", None
    if not hasattr(source, "read"):
        raise ContentError("source", f"give a path, bytes, an open file or values, not a {type(source).__name__}")
    named = getattr(source, "name", None)
    path = Path(named) if isinstance(named, str) and not named.startswith("<") else None
    if source.seekable():
        return source, "" if path is None else text(path.name), path
    return _spooled(source, held), "", None


def _spooled(source: BinaryIO, held: ExitStack) -> BinaryIO:
    """Keep what comes by once, so that it can be read again."""
    copy = held.enter_context(SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115 - held by the stack
    shutil.copyfileobj(source, copy)
    return copy  # type: ignore[return-value]


def _written_down(file: BinaryIO, held: ExitStack) -> Path:
    """Write a SQLite file down that came as bytes."""
    copy = held.enter_context(NamedTemporaryFile(suffix=".db"))  # noqa: SIM115 - held by the stack
    file.seek(0)
    shutil.copyfileobj(file, copy)
    copy.flush()
    return Path(copy.name)


def _fitting_tables(tables: Tables) -> Sequence[str]:
    return [name for name, form in _TABLES.items() if form.fits_tables(tables)]


def _fitting_text(document: Document) -> Sequence[str]:
    values = first_values(document, _LOOKED_AT)
    counts = {name: sum(1 for value in values if form.fits(value)) for name, form in _TEXTS.items()}
    most = max(counts.values(), default=0)
    return [name for name, count in counts.items() if most and count == most]


def _chosen(fitting: Sequence[str], wanted: str | None, possible: Sequence[str], otherwise: str) -> str:
    if wanted is not None:
        if wanted not in fitting:
            raise ContentError("form", f"{otherwise}, or not one of the form {wanted}")
        return wanted
    if not fitting:
        raise ContentError("form", f"{otherwise}; say which it is: {', '.join(possible)}")
    if len(fitting) > 1:
        raise ContentError("form", f"it may be any of {', '.join(fitting)}: say which")
    return fitting[0]


# --- writing -------------------------------------------------------------------------------------------------------


@frozen
class _Known:
    """A turn that was imported before: the digest of its bytes (None once erased), and where it stands."""

    digest: bytes | None
    position: int


@define
class _Import:
    database: Database
    scope: str
    options: Options
    terms: Terms
    form: str
    name: str
    progress: Callable[[int], None]
    taken: list[Taken] = field(factory=list, init=False)
    added: int = field(default=0, init=False)
    here: int = field(default=0, init=False)
    refused: list[Refused] = field(factory=list, init=False)
    more: int = field(default=0, init=False)
    left_out: Counter[str] = field(factory=Counter, init=False)
    _read: int = field(default=0, init=False)
    _first: str | None = field(default=None, init=False)
    _met: int = field(default=0, init=False)

    def run(self, reading: Reading) -> Imported:
        """Take all there is."""
        try:
            for found in reading:
                if isinstance(found, Transcript):
                    self._transcript(found)
                else:
                    self.note(found)
        except (CodecError, OSError) as error:
            self.note(Refused("the source", f"what follows cannot be read: {error}"))
        return Imported(
            form=self.form,
            taken=self.taken,
            added=self.added,
            here=self.here,
            refused=self.refused,
            more=self.more,
            left_out=dict(self.left_out),
        )

    def count(self, told: Told) -> None:
        """Count what was read of tables, where nobody knows how far into the file that is."""
        self._read += len(told.wire)
        self.progress(self._read)

    def note(self, found: Refused | LeftOut) -> None:
        """Note what was not taken."""
        if isinstance(found, LeftOut):
            kind = found.kind if found.kind in self.left_out or len(self.left_out) < _KINDS else "something else"
            self.left_out[kind] += found.count
        elif len(self.refused) < LISTED:
            self.refused.append(found)
        else:
            self.more += 1

    def _transcript(self, transcript: Transcript) -> None:
        self._met += 1
        try:
            key = self._key(transcript.id)
        except _NoKeyError as error:
            self.note(Refused(transcript.id or f"conversation {self._met}", str(error), transcript.id))
            return
        writer = _Writer(self, transcript, key)
        try:
            writer.run()
        except (BusyError, ConfigurationError, ConflictError, LeaseLostError, UnknownOutcomeError) as error:
            self.note(Refused(transcript.id or key, str(error), transcript.id))
        self.added += writer.added
        self.here += writer.here
        if writer.history is not None:
            at = writer.history
            self.taken.append(Taken(id=at.id, key=at.kept.key, length=at.head.length, added=writer.added))

    def _key(self, name: str | None) -> str:
        """Name a conversation: by the caller's key, or by what the source calls it."""
        if self._met == 1:
            self._first = name
        if self.terms.key is not None:
            if self._met == 1:
                return _as_key(self.terms.key)
            if name is None or not self._first or not name.startswith(f"{self._first}/"):
                raise _NoKeyError("a key names one conversation, and the source has more: give a prefix")
            return _as_key(self.terms.key + name.removeprefix(self._first))
        prefix = f"{self.form}:" if self.terms.prefix is None else self.terms.prefix
        if name is None:
            if not self.name:
                raise ContentError("key", "the source does not name its conversation: give a key")
            name = self.name if self._met == 1 else f"{self.name}#{self._met}"
        return _as_key(prefix + name)


class _NoKeyError(Exception):
    """Why a conversation can have no key."""


def _as_key(key: str) -> str:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise _NoKeyError("its key would be no text") from None
    if not 0 < size <= KEY_BYTES:
        raise _NoKeyError(f"its key would have {size} bytes; a key has 1 to {KEY_BYTES}")
    return key


@define
class _Writer:
    """Writes one transcript: compares what is here, and appends what is new, some turns at a time."""

    of: _Import
    transcript: Transcript
    key: str
    history: History | None = field(default=None, init=False)
    added: int = field(default=0, init=False)
    here: int = field(default=0, init=False)
    _known: dict[int, _Known] = field(factory=dict, init=False)
    _went_on: bool = field(default=False, init=False)
    _batch: list[tuple[int, Told]] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)
    _new: UUID = field(factory=identity.new_id, init=False)
    _cut: Callable[[History], tuple[Span, ...]] | None = field(default=None, init=False)

    def run(self) -> None:
        """Take every piece, up to one that differs from what is here."""
        self._find()
        try:
            self._take_all()
        except (CodecError, OSError) as error:
            reason = f"what follows cannot be read: {error}"
            self.of.note(Refused(self.transcript.id or self.key, reason, self.transcript.id))
        self._flush()

    def _take_all(self) -> None:
        number = 0
        for piece in self.transcript.pieces:
            if isinstance(piece, Told):
                self.of.count(piece)
            if isinstance(piece, Told) and (piece.role != "system" or self.of.terms.system):
                if not self._take(number, piece):
                    break
                number += 1
            elif isinstance(piece, Told):
                reason = "a system message is taken only where the caller says so: system=True"
                self.of.note(Refused(piece.place, reason, self.transcript.id))
            else:
                self.of.note(piece)

    def _find(self) -> None:
        with self.of.database.read() as connection:
            kept = log.find(connection, self.of.scope, self.key)
        if kept is not None:
            self.history = History(self.of.database, kept, self.of.options)
            self._read_known(self.history)

    def _read_known(self, history: History) -> None:
        """Read which turns were imported before, and whether others were said since; a page at a time."""
        number = -1
        for first in range(0, history.head.length, PAGE):
            with self.of.database.read() as connection:
                page = log.read(connection, history.id, first, min(first + PAGE, history.head.length) - 1)
            for entry in page:
                fields = canonical.object_of(entry.header) if entry.kind == "turn" else {}
                if fields.get("origin") != Origin.IMPORTED.value:
                    self._went_on |= entry.kind == "turn"
                    continue
                number = fields.get("number", number + 1)
                digest = None if entry.body is None else sha256(history.turn(entry).wire).digest()
                self._known[number] = _Known(digest, entry.position)

    def _take(self, number: int, told: Told) -> bool:
        """Take a turn; False where nothing after it can be taken either."""
        known = self._known.get(number)
        if known is not None and known.digest in {None, sha256(told.wire).digest()}:
            self.here += 1
            return True
        if self._went_on:
            return self._refuse(told, "the conversation here has other turns than those imported")
        if known is not None and self.history is not None:
            if not self._has_grown(self.history, known, told):
                return self._refuse(told, f"turn {known.position} was imported otherwise; what follows is not taken")
            place = (self.history.id, known.position)
            self._known = {}
            self._go_on_from(lambda history: views.without_after(views.now(history), place))
        elif told.restarts and number:
            self._go_on_from(lambda _history: ())
        self._batch.append((number, told))
        self._size += len(told.wire)
        if len(self._batch) >= _TURNS or self._size >= _BYTES:
            self._flush()
        return True

    def _refuse(self, told: Told, reason: str) -> bool:
        self.of.note(Refused(told.place, reason, self.transcript.id))
        return False

    def _has_grown(self, history: History, known: _Known, told: Told) -> bool:
        """Say whether the source only wrote on at a turn: its blocks begin as they did, and are more."""
        before = history.turn(history.entry(known.position))
        if not told.grows or before.role != told.role:
            return False
        if not any(span.holds(history.id, known.position) for span in history.view[0]):
            return False
        old, new = canonical.object_of(before.wire)["content"], canonical.object_of(told.wire)["content"]
        return isinstance(old, list) and isinstance(new, list) and new[: len(old)] == old

    def _go_on_from(self, cut: Callable[[History], tuple[Span, ...]]) -> None:
        self._flush()
        self._cut = cut

    # --- a batch ---------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        batch, self._batch, self._size = self._batch, [], 0
        if not batch:
            return
        at = identity.now()
        drafts: list[Entry] = []
        uses: dict[int, Sequence[Blob]] = {}
        for number, told in batch:
            kept = self._detached(told.wire, at)
            if kept.blobs:
                uses[len(drafts)] = kept.blobs
            drafts.append(self._draft(number, told, kept, at))
        if self.history is None:
            self.history = self._create(drafts, uses, at)
        elif self._cut is not None:
            first = self.history.head.length
            spans = (*self._cut(self.history), Span(self.history.id, first, first + len(drafts) - 1))
            views.change(self.history, spans, drafts, uses)
        else:
            self.history.append(drafts, uses)
        self._cut = None
        self.added += len(drafts)

    def _detached(self, wire: bytes, at: int) -> Detached:
        into = self._new if self.history is None else self.history.id
        return attachments.detach(self.of.database, self.of.scope, into, wire, at=at, salt=identity.new_salt)

    def _draft(self, number: int, told: Told, kept: Detached, at: int) -> Entry:
        source = {"form": self.of.form, "file": self.of.name or None, "place": told.place, **told.beside}
        about = {"source": {name: value for name, value in source.items() if value is not None}}
        return turn_draft({"origin": Origin.IMPORTED.value, "number": number}, kept, at, about)

    def _create(self, turns: Sequence[Entry], uses: Mapping[int, Sequence[Blob]], at: int) -> History:
        """Make the conversation and its first turns in one transaction."""
        self.of.options.set_model(self.transcript.settings.get("model"))
        settings = self._settings()
        new, title = self._new, self.transcript.title
        opened = draft("opened", at=at, salt=identity.new_salt(), fields={"format": 1}, about={"key": self.key})
        drafts = [opened, settings_draft(settings, at)]
        if title is not None:
            body = canonical.dumps({"title": title, "metadata": None})
            drafts.append(draft("labelled", at=at, salt=identity.new_salt(), fields={}, body=body))
        uses = {len(drafts) + n: blobs for n, blobs in uses.items()}
        head = Head(length=0, digest=chain.genesis(new))
        commit = exchanges.prepare(new, head, [*drafts, *turns], scope=self.of.scope, uses=uses, settings=1)
        made = self.of.database.write(
            partial(_create, commit=commit, key=self.key, title=title), partial(log.is_there_or_none, commit=commit)
        )
        with self.of.database.read() as connection:
            kept = log.find(connection, self.of.scope, self.key)
        if not made or kept is None:
            raise ConflictError(new if kept is None else kept.id, 0, 0 if kept is None else kept.head.length)
        return History(self.of.database, kept, self.of.options)

    def _settings(self) -> Settings:
        """Take the source's settings, but for those that are none."""
        settings = Settings()
        for name, value in self.transcript.settings.items():
            try:
                settings, _ = settings.updated({name: value})
            except ContentError as error:
                self.of.note(Refused(self.transcript.id or self.key, str(error), self.transcript.id))
        return settings


def _create(connection: Connection, commit: log.Commit, key: str, title: str | None) -> bool:
    made = log.create(connection, commit, key=key)
    if title is not None:
        log.label(connection, commit.conversation, title, None)
    return made
